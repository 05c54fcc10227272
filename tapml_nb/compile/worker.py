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
from pathlib import Path
from typing import Any

SECONDS_PER_UNIT = 120
"""Deadline of one unit; real kernels take 0.05 s, a large unrolled one a few."""

SECONDS_PER_MODEL = 1800
"""Deadline of what is fused of a whole model; a thousand operators take 20 s."""

TROUBLE = 70
"""Exit status of a child that could not work at all, and says nothing of the unit in its hands."""

_TROUBLE_LIMIT = 600
"""Characters of a message about the machine; a line must fit a pipe's atomic write, whatever its
characters."""


def seconds_for(task: str) -> float:
    """How long a child may be at one unit."""
    return SECONDS_PER_MODEL if task == "fuse" else SECONDS_PER_UNIT


def main() -> None:
    """Serve batches until stdin ends."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    # Without torch TVM imports in a third of the time, and the process stays without threads.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    os.environ["TVM_FFI_DISABLE_TORCH_C_DLPACK"] = "1"
    out = os.dup(1)
    os.dup2(2, 1)  # whatever TVM prints is not protocol
    try:
        import tapml_nb.compile.tasks  # noqa: F401  # and with it TVM, once for all children
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

    from tapml_nb.compile.tasks import carry_out

    target = tvm.target.Target(job["target"])
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the deadline kills: a hang is in C++
    for key, scratch in job["scratch"].items():
        signal.setitimer(signal.ITIMER_REAL, seconds_for(job["task"]))
        trouble = carry_out(job["task"], key, Path(scratch), target)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(out, {"key": key} | ({"trouble": trouble[-_TROUBLE_LIMIT:]} if trouble else {}))


def _send(out: int, message: dict[str, Any]) -> None:
    os.write(out, (json.dumps(message) + "\n").encode())


if __name__ == "__main__":
    main()
