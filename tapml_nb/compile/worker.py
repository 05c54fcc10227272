"""The compile worker: ``python -m tapml_nb.compile.worker``.

One clean process without threads imports TVM once, then forks a child per batch of units, so
that a compiler that crashes or hangs takes nothing with it.  A child compiles its units one
after the other, each into its own object file, and says so; if it dies, the first unit it has
not answered for is the one that killed it.

Lines of JSON on stdin: ``{"batch": n, "target": …, "scratch": {key: folder}}``; on stdout:
``{"key": …}`` per finished unit and ``{"batch": n, "signal": s}`` per finished child.  With
``"task": "describe"`` the child leaves the units' code in their folders instead of kernels, with
``"task": "fuse"`` what the target fuses of them, and only its end is told.  The end of stdin ends
the worker and its children.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tapml_nb.compile.lowering import Lowered

SECONDS_PER_UNIT = 120
"""Deadline of one unit; real kernels take 0.05 s, a large unrolled one a few."""

SECONDS_PER_MODEL = 1800
"""Deadline of what is fused of a whole model; a thousand operators take 20 s."""

_MESSAGE_LIMIT = 2000
"""Characters of a compiler's message that are kept; a line must fit a pipe's atomic write."""


def main() -> None:
    """Serve batches until stdin ends."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    # Without torch TVM imports in a third of the time, and the process stays without threads.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    os.environ["TVM_FFI_DISABLE_TORCH_C_DLPACK"] = "1"
    out = os.dup(1)
    os.dup2(2, 1)  # whatever TVM prints is not protocol
    import tvm  # noqa: F401  # type: ignore[import-untyped]

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
    while batches:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        died = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0
        _send(out, {"batch": batches.pop(pid), "signal": died, "code": code})


def _start(job: dict[str, Any], batches: dict[int, int], out: int) -> None:
    pid = os.fork()
    if pid:
        batches[pid] = job["batch"]
        return
    code = 1
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
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the deadline kills: a hang is in C++
    for key, scratch in job["scratch"].items():
        signal.setitimer(signal.ITIMER_REAL, SECONDS_PER_UNIT)
        if job["task"] == "describe":
            describe_unit(key, Path(scratch), target)
        elif job["task"] == "fuse":
            fuse_model(Path(scratch), target)
        else:
            compile_unit(key, Path(scratch), target)
            _send(out, {"key": key})
        signal.setitimer(signal.ITIMER_REAL, 0)


def compile_unit(key: str, folder: Path, target: Any) -> None:
    """Compile ``unit.json`` of a cache folder and leave the kernel, or the failure, beside it."""
    import tvm

    from tapml_nb import tensorfile
    from tapml_nb.compile import cache
    from tapml_nb.compile.lowering import UnsupportedLowering, lower

    try:
        lowered = lower(tvm.ir.load_json((folder / cache.UNIT).read_text()), target, key)
        if lowered.kernel.launches:
            _build(lowered, target, folder)
    except UnsupportedLowering as error:
        cache.write_failure(folder, cache.Failure("unsupported", str(error)))
        return
    except Exception as error:
        cache.write_failure(folder, cache.Failure("error", compiler_message(error)))
        return
    if lowered.constants:
        (folder / cache.CONSTANTS).write_bytes(tensorfile.dump(lowered.constants))
    (folder / cache.KERNEL).write_text(json.dumps(lowered.kernel.to_json()))


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
        (folder / cache.SOURCES).write_text(package.dump(), encoding="utf-8")
        return
    library = tvm.tirx.build(lowered.functions, target)
    if kind == "c":
        source = folder / "kernel.c"
        source.write_text(library.inspect_source())
        toolchain.compile_c(source, folder / cache.OBJECT)
    elif kind == "cuda":
        library.export_library(str(folder / cache.LIBRARY))
    else:
        library.write_to_file(str(folder / cache.OBJECT))


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
    """
    import tvm

    from tapml_nb.compile import cache
    from tapml_nb.compile.code import KernelCode, shortened, write_code
    from tapml_nb.compile.lowering import UnsupportedLowering, is_relax, lower

    code = KernelCode("", "", "", target.kind.name, "")

    def reached(stage: str, text: str) -> None:
        nonlocal code
        code = replace(code, **{stage: shortened(text)})
        write_code(folder / cache.CODE, code)

    try:
        module = tvm.ir.load_json((folder / cache.UNIT).read_text())
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
        reached("message", compiler_message(error))


def fuse_model(folder: Path, target: Any) -> None:
    """Leave what the target fuses of a folder's ``unit.json``, or its compiler's message."""
    import tvm

    from tapml_nb.compile import cache
    from tapml_nb.compile.fusion import decide

    signal.setitimer(signal.ITIMER_REAL, SECONDS_PER_MODEL)
    try:
        fusion = decide(tvm.ir.load_json((folder / cache.UNIT).read_text()), target)
        answer: dict[str, Any] = {"kernels": fusion.kernels, "folded": fusion.folded}
    except Exception as error:
        answer = {"error": compiler_message(error)}
    (folder / cache.FUSION).write_text(json.dumps(answer))


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
