"""What the compile worker's children do with a unit; each task leaves its answer in its folder.

Raises, of every task: whatever says nothing of the unit.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import tvm

from tapml_nb import tensorfile
from tapml_nb.compile import cache, toolchain
from tapml_nb.compile.extraction import extract
from tapml_nb.compile.fusion import decide
from tapml_nb.compile.kernel import KernelCode, shortened
from tapml_nb.compile.lowering import Lowered, UnsupportedLowering, is_relax, lower
from tapml_nb.compile.sources import SOURCE_KINDS
from tapml_nb.compile.trouble import CompilerTrouble, in_words, trouble_in
from tapml_nb.compile.unit import OPEN, READING, STAGE, read_unit, script_of, stage_of

_MESSAGE_LIMIT = 2000
"""Characters of a compiler's message that are kept."""


def compile_unit(key: str, folder: Path, target: Any) -> None:
    """Compile the unit of a cache folder and leave the kernel, or the failure, beside it."""

    def fail(reason: Literal["unsupported", "error"], message: str) -> None:
        failure = cache.Failure(reason, message, stage_of(folder) == OPEN)
        cache.write_json(folder / cache.ERROR, asdict(failure))

    try:
        lowered = lower(read_unit(folder), target, key)
        if lowered.kernel.launches:
            _build(lowered, target, folder)
    except UnsupportedLowering as error:
        fail("unsupported", str(error))
    except Exception as error:
        fail("error", _about_unit(error, folder))
    else:
        if lowered.constants:
            cache.write_file(folder / cache.CONSTANTS, tensorfile.dump(lowered.constants))
        cache.write_json(folder / cache.KERNEL, lowered.kernel.to_json())
    (folder / STAGE).unlink(missing_ok=True)
    cache.seal(folder, key)


def _build(lowered: Lowered, target: Any, folder: Path) -> None:
    """Leave the code of PrimFuncs in a cache folder, in the form that the target loads."""
    kind = target.kind.name
    if kind in SOURCE_KINDS:
        if lowered.kernel.is_open:
            raise UnsupportedLowering(
                f"it leaves sizes open; launches on {kind} are worked out when it is compiled"
            )
        package = extract(lowered.functions, lowered.kernel, target)
        cache.write_file(folder / cache.SOURCES, package.dump().encode())
        return
    library = tvm.tirx.build(lowered.functions, target)
    if kind == "c":
        source = folder / "kernel.c"
        cache.write_file(source, library.inspect_source().encode())
        toolchain.compile_c(source, folder / cache.OBJECT)
    elif kind == "cuda":
        try:
            library.export_library(str(folder / cache.LIBRARY))
        except RuntimeError as error:  # the code is compiled: it is only wrapped for the host
            raise CompilerTrouble(_message(error)) from None
    else:
        cache.write_file(folder / cache.OBJECT, _object_code(library))


def _object_code(library: Any) -> bytes:
    """The object file of a library, by way of memory: LLVM exits where a disk is full."""
    file = os.memfd_create("object")
    try:
        library.write_to_file(f"/proc/self/fd/{file}", "o")
        return os.pread(file, os.fstat(file).st_size, 0)
    finally:
        os.close(file)


def describe_unit(key: str, folder: Path, target: Any) -> None:
    """Leave the code of a cache folder's unit beside it; every stage before the next begins, so
    that it is there even if that kills this process."""
    code = KernelCode("", "", "", target.kind.name, "")

    def reached(stage: str, text: str) -> None:
        nonlocal code
        code = replace(code, **{stage: shortened(text)})
        cache.write_json(folder / cache.CODE, asdict(code))

    try:
        module = read_unit(folder)
        reached("relax" if is_relax(module) else "tir", module.script(show_meta=False))
        lowered = lower(module, target, key)
        if not lowered.kernel.launches:
            reached("message", "launches nothing: the results are views or constants")
            return
        reached("tir", lowered.functions.script(show_meta=False))
        reached("source", _source_text(lowered, target))
    except UnsupportedLowering as error:
        if error.module is not None:
            reached("tir", error.module.script(show_meta=False))
        reached("message", " ".join(str(error).split()))
    except Exception as error:
        reached("message", _about_unit(error, folder))


def _source_text(lowered: Lowered, target: Any) -> str:
    """What TVM generates for PrimFuncs, as text."""
    kind = target.kind.name
    if kind in SOURCE_KINDS:
        package = extract(lowered.functions, lowered.kernel, target)
        return "\n".join(part.source for part in package.device.values())
    library = tvm.tirx.build(lowered.functions, target)
    if kind == "cuda":
        return "\n".join(part.inspect_source() for part in library.imports)
    text: str = library.inspect_source("ll" if kind == "llvm" else "")  # or it shows nothing
    return text


def fuse_model(key: str, folder: Path, target: Any) -> None:
    """Leave what the target fuses of a folder's unit, or its compiler's message."""
    try:
        fusion = decide(read_unit(folder), target)
        answer: dict[str, Any] = {"kernels": fusion.kernels, "folded": fusion.folded}
    except Exception as error:
        answer = {"error": _about_unit(error, folder)}
    cache.write_json(folder / cache.FUSION, answer)


def print_unit(key: str, folder: Path, target: Any) -> None:
    """Leave a unit as text: TVM's JSON, and TVMScript if that is read back as the same."""
    texts = {"json": "", "script": "", "error": ""}
    try:
        module = read_unit(folder)
        texts["json"] = str(tvm.ir.save_json(module))
        texts["script"] = script_of(module)
    except Exception as error:
        texts["error"] = _about_unit(error, folder)
    cache.write_json(folder / cache.TEXTS, texts)


def carry_out(task: str, key: str, folder: Path, target: Any) -> str:
    """Do a task with one unit; why that could not be done, for no fault of the unit's, or empty."""
    tasks: dict[str, Callable[[str, Path, Any], None]] = {
        "compile": compile_unit,
        "describe": describe_unit,
        "fuse": fuse_model,
        "write": print_unit,
    }
    try:
        tasks[task](key, folder, target)
    except Exception as error:
        return _trouble(error) or _message(error)
    return ""


def _about_unit(error: Exception, folder: Path) -> str:
    """What the compiler says of a unit; raises the error again if it says nothing of it."""
    if _trouble(error):
        raise error
    message = _message(error)
    unread = stage_of(folder) == READING
    return f"TVM cannot read the unit: {message}" if unread else message


def _trouble(error: Exception) -> str:
    """Why an error says nothing of the code; empty if it does."""
    if isinstance(error, OSError):
        return in_words(error)
    if isinstance(error, CompilerTrouble | toolchain.ToolMissing):
        return str(error)
    if isinstance(error, MemoryError | ImportError) or trouble_in(str(error)):
        return _message(error)
    return ""


def _message(error: BaseException) -> str:
    """A compiler's message in one paragraph.  TVM's often end in "Check failed: …"; the C++
    function that raised it says what was being compiled."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {' '.join(lines)}"[-_MESSAGE_LIMIT:]
    frames = traceback.extract_tb(error.__traceback__)
    if frames and "::" in frames[-1].name:
        text += f" (in {frames[-1].name.partition('(')[0].rpartition(' ')[2]})"
    return text
