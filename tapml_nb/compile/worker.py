"""The compile worker: ``python -m tapml_nb.compile.worker``.

One clean process without threads imports TVM once, then forks a child per batch of units, so
that a compiler that crashes or hangs takes nothing with it.  A child compiles its units one
after the other, each into its own object file, and says so; if it dies, the first unit it has
not answered for is the one that killed it.

Lines of JSON on stdin: ``{"batch": n, "target": …, "scratch": {key: folder}}``; on stdout:
``{"key": …}`` per finished unit, with ``"trouble"`` where the machine did not let it be compiled,
and ``{"batch": n, "signal": s, "code": c, "seconds": …}`` per finished child.  With ``"task":
"describe"`` the child leaves the units' code in their folders instead of kernels, with ``"fuse"``
what the target fuses of them, with ``"write"`` the units as text.  The end of stdin ends the
worker and its children.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapml_nb.compile.trouble import CompilerTrouble, in_words, trouble_in

if TYPE_CHECKING:
    from tapml_nb.compile.lowering import Lowered

SECONDS_PER_UNIT = 120
"""Deadline of one unit; real kernels take 0.05 s, a large unrolled one a few."""

SECONDS_PER_MODEL = 1800
"""Deadline of what is fused of a whole model; a thousand operators take 20 s."""

TROUBLE = 70
"""Exit status of a child that could not work at all, and says nothing of the unit in its hands."""

STAGE = "stage"
"""A file beside a unit that says how far it came, should TVM die of it: it is being read, and
then, whether it leaves sizes open."""

READING, OPEN, CLOSED = "reading", "open", "closed"

_MESSAGE_LIMIT = 2000
"""Characters of a compiler's message that are kept."""

_TROUBLE_LIMIT = 600
"""Characters of a machine's; a line must fit a pipe's atomic write, whatever its characters."""


def main() -> None:
    """Serve batches until stdin ends."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    # Without torch TVM imports in a third of the time, and the process stays without threads.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    os.environ["TVM_FFI_DISABLE_TORCH_C_DLPACK"] = "1"
    out = os.dup(1)
    os.dup2(2, 1)  # whatever TVM prints is not protocol
    try:
        import tvm  # noqa: F401  # type: ignore[import-untyped]
    except Exception as error:
        _send(out, {"broken": f"{type(error).__name__}: {error}"[:_TROUBLE_LIMIT]})
        return
    # What a child leaves behind when it dies, a C compiler say, comes to this process.
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER

    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    batches: dict[int, int] = {}
    buffer = b""
    _send(out, {"ready": os.getpid()})
    try:
        while True:
            ready, _, _ = select.select([0, read], [], [])
            if read in ready:
                _reap(read, batches, out)
            if 0 in ready:
                data = os.read(0, 1 << 16)
                if not data:
                    return
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    _start(json.loads(line), batches, out)
    finally:
        for pid in batches:
            os.kill(pid, signal.SIGKILL)


def _reap(read: int, batches: dict[int, int], out: int) -> None:
    try:
        os.read(read, 4096)
    except BlockingIOError:
        return
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        if pid not in batches:
            continue
        died = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0
        seconds = usage.ru_utime + usage.ru_stime
        _end_orphans(batches)
        _send(out, {"batch": batches.pop(pid), "signal": died, "code": code, "seconds": seconds})


def _end_orphans(batches: dict[int, int]) -> None:
    """End what children that are gone have started and not ended."""
    with contextlib.suppress(OSError):
        for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            if int(word) not in batches:
                os.kill(int(word), signal.SIGKILL)


def _start(job: dict[str, Any], batches: dict[int, int], out: int) -> None:
    pid = os.fork()
    if pid:
        batches[pid] = job["batch"]
        return
    code = TROUBLE
    try:
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _run_batch(job, out)
        code = 0
    finally:
        os._exit(code)


def _run_batch(job: dict[str, Any], out: int) -> None:
    import tvm

    target = tvm.target.Target(job["target"])
    task: Callable[[str, Path, Any], None] = {
        "compile": compile_unit,
        "describe": describe_unit,
        "fuse": fuse_model,
        "write": write_unit,
    }[job["task"]]
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the deadline kills: a hang is in C++
    for key, scratch in job["scratch"].items():
        signal.setitimer(signal.ITIMER_REAL, SECONDS_PER_UNIT)
        answer = {"key": key}
        try:
            task(key, Path(scratch), target)
        except Exception as error:
            answer["trouble"] = (_trouble(error) or compiler_message(error))[-_TROUBLE_LIMIT:]
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(out, answer)


def _trouble(error: Exception) -> str:
    """Why an error says nothing of the code; empty if it does."""
    from tapml_nb.compile.toolchain import ToolMissing

    if isinstance(error, OSError):
        return in_words(error)
    if isinstance(error, CompilerTrouble | ToolMissing):
        return str(error)
    if isinstance(error, MemoryError | ImportError) or trouble_in(str(error)):
        return compiler_message(error)
    return ""


def _read_unit(folder: Path) -> Any:
    """The ``IRModule`` of a folder, with its sizes filled in where they are given."""
    import tvm

    from tapml_nb.compile import cache
    from tapml_nb.frontends.open_units import leaves_sizes_open, with_sizes

    (folder / STAGE).write_text(READING)
    module = tvm.ir.load_json((folder / cache.UNIT).read_text())
    if not isinstance(module, tvm.IRModule):
        raise ValueError(f"it is a {type(module).__name__} and no module")
    if (folder / cache.SIZES).exists() and leaves_sizes_open(module):
        module = with_sizes(module, *json.loads((folder / cache.SIZES).read_text()))
    (folder / STAGE).write_text(OPEN if leaves_sizes_open(module) else CLOSED)
    return module


def is_open(folder: Path) -> bool:
    """Whether the unit of a folder leaves sizes open, as far as it was read."""
    try:
        return (folder / STAGE).read_text() == OPEN
    except OSError:
        return False


def was_reading(folder: Path) -> bool:
    """Whether the unit of a folder was just being read."""
    try:
        return (folder / STAGE).read_text() == READING
    except OSError:
        return False


def compile_unit(key: str, folder: Path, target: Any) -> None:
    """Compile ``unit.json`` of a cache folder and leave the kernel, or the failure, beside it.

    Raises:
        Exception: whatever says nothing of the unit.
    """
    from tapml_nb import tensorfile
    from tapml_nb.compile import cache
    from tapml_nb.compile.lowering import UnsupportedLowering, lower

    try:
        lowered = lower(_read_unit(folder), target, key)
        if lowered.kernel.launches:
            _build(lowered, target, folder)
    except UnsupportedLowering as error:
        failure = cache.Failure("unsupported", str(error), is_open(folder))
        cache.write_failure(folder, failure)
    except Exception as error:
        if _trouble(error):
            raise
        failure = cache.Failure("error", _about_unit(error, folder), is_open(folder))
        cache.write_failure(folder, failure)
    else:
        if lowered.constants:
            cache.write_file(folder / cache.CONSTANTS, tensorfile.dump(lowered.constants))
        plan = json.dumps(lowered.kernel.to_json())
        cache.write_file(folder / cache.KERNEL, plan.encode())
    (folder / STAGE).unlink(missing_ok=True)
    cache.seal(folder, key)


def _about_unit(error: Exception, folder: Path) -> str:
    message = compiler_message(error)
    return f"TVM cannot read the unit: {message}" if was_reading(folder) else message


def _build(lowered: Lowered, target: Any, folder: Path) -> None:
    """Leave the code of PrimFuncs in a cache folder, in the form that the target loads."""
    import tvm

    from tapml_nb.compile import cache, toolchain
    from tapml_nb.compile.extraction import extract
    from tapml_nb.compile.lowering import UnsupportedLowering
    from tapml_nb.compile.sources import SOURCE_KINDS

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
            raise CompilerTrouble(compiler_message(error)) from None
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


def _source_text(lowered: Lowered, target: Any) -> str:
    """What TVM generates for PrimFuncs, as text."""
    import tvm

    from tapml_nb.compile.extraction import extract
    from tapml_nb.compile.sources import SOURCE_KINDS

    kind = target.kind.name
    if kind in SOURCE_KINDS:
        return "\n".join(
            part.source
            for part in extract(lowered.functions, lowered.kernel, target).device.values()
        )
    library = tvm.tirx.build(lowered.functions, target)
    if kind == "cuda":
        return "\n".join(part.inspect_source() for part in library.imports)
    text: str = library.inspect_source("ll" if kind == "llvm" else "")  # or it shows nothing
    return text


def describe_unit(key: str, folder: Path, target: Any) -> None:
    """Leave the code of a cache folder's ``unit.json`` beside it, stage by stage.

    Every stage is written before the next begins: it is there even if that kills this process.

    Raises:
        Exception: whatever says nothing of the unit.
    """
    from tapml_nb.compile import cache
    from tapml_nb.compile.code import KernelCode, shortened, write_code
    from tapml_nb.compile.lowering import UnsupportedLowering, is_relax, lower

    code = KernelCode("", "", "", target.kind.name, "")

    def reached(stage: str, text: str) -> None:
        nonlocal code
        code = replace(code, **{stage: shortened(text)})
        write_code(folder / cache.CODE, code)

    try:
        module = _read_unit(folder)
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
        if _trouble(error):
            raise
        reached("message", _about_unit(error, folder))


def fuse_model(key: str, folder: Path, target: Any) -> None:
    """Leave what the target fuses of a folder's ``unit.json``, or its compiler's message.

    Raises:
        Exception: whatever says nothing of the model.
    """
    from tapml_nb.compile import cache
    from tapml_nb.compile.fusion import decide

    signal.setitimer(signal.ITIMER_REAL, SECONDS_PER_MODEL)
    try:
        fusion = decide(_read_unit(folder), target)
        answer: dict[str, Any] = {"kernels": fusion.kernels, "folded": fusion.folded}
    except Exception as error:
        if _trouble(error):
            raise
        answer = {"error": compiler_message(error)}
    cache.write_file(folder / cache.FUSION, json.dumps(answer).encode())


def write_unit(key: str, folder: Path, target: Any) -> None:
    """Leave a unit as text: TVM's JSON, and TVMScript if that is read back as the same.

    Raises:
        Exception: whatever says nothing of the unit.
    """
    import tvm

    from tapml_nb.compile import cache
    from tapml_nb.compile.script import script_of

    texts = {"json": "", "script": "", "error": ""}
    try:
        module = _read_unit(folder)
        texts["json"] = str(tvm.ir.save_json(module))
        texts["script"] = script_of(module)
    except Exception as error:
        if _trouble(error):
            raise
        texts["error"] = _about_unit(error, folder)
    cache.write_file(folder / cache.TEXTS, json.dumps(texts).encode())


def compiler_message(error: BaseException) -> str:
    """A compiler's message in one paragraph, with the C++ function that raised it.

    TVM's messages often end in "Check failed: …"; the function says what was being compiled.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {' '.join(lines)}"[-_MESSAGE_LIMIT:]
    frames = traceback.extract_tb(error.__traceback__)
    if frames and "::" in frames[-1].name:
        text += f" (in {frames[-1].name.partition('(')[0].rpartition(' ')[2]})"
    return text


def _send(out: int, message: dict[str, Any]) -> None:
    os.write(out, (json.dumps(message) + "\n").encode())


if __name__ == "__main__":
    main()
