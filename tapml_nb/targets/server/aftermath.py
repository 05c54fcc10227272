"""What a kernel does to the process it runs in, beside its work, and what is put back after it.

Compiled code that switches to flush-to-zero or to another rounding mode, as some libraries do for
speed, would change what every later kernel of the process computes.  And one that ends the listener
has ended this process as well, only a moment later, when another kernel may already run.  Copies of
the process that a kernel makes (``fork``) and that come back from it would go on as the session
does: read its requests and answer them a second time.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tapml_nb.targets.server.leftovers import stat
from tapml_nb.targets.wire.recorder import Recorder


@dataclass(frozen=True)
class _Word:
    """A control word in a ``fenv_t`` of glibc's: its place and size in bytes, and what bits of it
    control (the others are flags that computing sets)."""

    offset: int
    size: int
    meanings: dict[int, str]


_FLUSH, _ROUNDING, _TRAPS = "flush-to-zero", "the rounding mode", "floating-point traps"

_WORDS = {
    "x86_64": (
        _Word(0, 2, {0x003F: _TRAPS, 0x0300: "the precision of the x87", 0x0C00: _ROUNDING}),
        _Word(28, 4, {0x8040: _FLUSH, 0x1F80: _TRAPS, 0x6000: _ROUNDING}),
    ),
    "aarch64": (_Word(0, 4, {0x01080003: _FLUSH, 0x9F00: _TRAPS, 0x00C00000: _ROUNDING}),),
}
"""Intel's manual, volume 1, §8.1.5 and §10.2.3; Arm's, FPCR."""

_Task = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
"""``FTVMParallelLambda``"""

_SIZE = 64
"""Bytes; no machine's ``fenv_t`` is larger."""

_SIGKILL_PENDING = 1 << (signal.SIGKILL - 1)
_EXITING = 0x4 | 0x400
"""``PF_EXITING | PF_SIGNALED`` of Linux's ``task_struct``."""


_PATIENCE = 0.2
"""How long to wait for the word of a child that a kernel has left, in seconds."""


class Aftermath:
    """Looks after each kernel of the process that it is made in."""

    def __init__(self, listener: int, recorder: Recorder) -> None:
        """``listener``: the process that must outlive kernels."""
        self._listener = listener
        self._recorder = recorder
        self._me = os.getpid()
        self._known: set[int] = set()
        self._words = _WORDS.get(platform.machine(), ())
        self._libm = ctypes.CDLL("libm.so.6") if self._words else None
        self._notes: list[str] = []

    @contextmanager
    def looked_after(self) -> Iterator[None]:
        """Run a kernel inside."""
        before = self._state()
        try:
            yield
        finally:
            self._put_back(before)
            if _has_ended(self._listener):
                os.kill(os.getpid(), signal.SIGKILL)  # now, and not in the next kernel

    def notes(self) -> list[str]:
        """What was found since this was last asked, in words."""
        notes, self._notes = self._notes, []
        return notes

    def end_if_copy(self) -> None:
        """In a copy of the process: leave word, and end."""
        if os.getpid() != self._me:
            self._recorder.note_copy()
            os._exit(0)

    def copy_came_back(self) -> bool:
        """Whether a child that the last launch has left is a copy that came back from it."""
        children = _children()
        left = children - self._known
        self._known = children
        deadline = time.monotonic() + _PATIENCE
        while left and not self._recorder.copied and time.monotonic() < deadline:
            time.sleep(0.002)
        return bool(left) and self._recorder.copied

    def _state(self) -> ctypes.Array[ctypes.c_char]:
        state = ctypes.create_string_buffer(_SIZE)
        if self._libm:
            self._libm.fegetenv(state)
        return state

    def _put_back(self, before: ctypes.Array[ctypes.c_char]) -> None:
        after = self._state()
        changed = [
            meaning
            for word in self._words
            for bits, meaning in word.meanings.items()
            if (_read(before, word) ^ _read(after, word)) & bits
        ]
        if not changed or not self._libm:
            return
        self._libm.fesetenv(before)
        _on_all_threads(self._libm, before)
        what = " and ".join(dict.fromkeys(changed))
        note = f"it changed {what} of its process, which was put back"
        if note not in self._notes:
            self._notes.append(note)


def _read(state: ctypes.Array[ctypes.c_char], word: _Word) -> int:
    return int.from_bytes(state.raw[word.offset : word.offset + word.size], "little")


def _on_all_threads(libm: ctypes.CDLL, state: ctypes.Array[ctypes.c_char]) -> None:
    """Set the state of TVM's worker threads, each of which has its own."""

    def set_here(_number: int, _group: int, _data: int) -> int:
        libm.fesetenv(state)
        return 0

    with suppress(AttributeError):  # a runtime without threads
        ctypes.CDLL(None).TVMBackendParallelLaunch(_Task(set_here), None, 0)


def _has_ended(pid: int) -> bool:
    """Whether a process has ended, or is to end the next time it would run (``proc(5)``)."""
    fields = stat(pid)
    if not fields:
        return True
    flags, pending = int(fields[6]), int(fields[28])
    return fields[0] in ("Z", "X") or bool(flags & _EXITING or pending & _SIGKILL_PENDING)


def _children() -> set[int]:
    """Children of this process, ended ones that nobody has asked about among them."""
    try:  # to ask this costs next to nothing, and mostly there is none
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return set()
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found
