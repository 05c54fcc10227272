"""Functions of the user's that run in this process: within their time, and never for good.

Each call has a thread of its own, and who waits for it waits no longer than they must.  A function
that goes on nevertheless is broken off: its Python code gets an exception.  One that is inside C
code then (a sleep, another library's loop) cannot be ended by anybody; it is left to itself.
"""

from __future__ import annotations

import contextvars
import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any

from tapml_nb.execute.source import Stopped

_PATIENCE = 0.5
"""Seconds that Python code has to end once it was broken off."""


class BrokenOff(BaseException):
    """What is raised in the middle of Python code that is to end (not for it to catch)."""


class Overdue(Exception):
    """A function did not return in time."""


class _Call:
    """A function on its thread."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._caller = threading.get_ident()
        self._context = contextvars.copy_context()
        self._thread = threading.Thread(target=self._run, name="tapml-override", daemon=True)
        self._changed = threading.Event()
        self.over = self.interrupted = False
        self.result: Any = None
        self.error: BaseException | None = None

    def wait(self, seconds: float) -> None:
        """Start it, and wait for its end, an interruption, or the end of its time."""
        self._thread.start()
        self._changed.wait(seconds)

    def interrupt(self) -> None:
        """Let nobody wait for it any longer; from any thread."""
        self.interrupted = True
        self._changed.set()

    def end(self) -> bool:
        """Break it off if it goes on; whether it has ended."""
        deadline = time.monotonic() + _PATIENCE
        while not self.over and self._thread.is_alive() and time.monotonic() < deadline:
            break_off(self._thread.ident)
            self._thread.join(_PATIENCE / 10)
        return self.over or not self._thread.is_alive()

    def _run(self) -> None:
        _here.caller = self._caller
        try:
            self.result = self._context.run(self._function)
        except BaseException as error:
            self.error = error
        self.over = True
        self._changed.set()


_here = threading.local()
_going_on: dict[int, _Call] = {}
"""By the thread that waits."""


def call_within(seconds: float, function: Callable[[], Any]) -> Any:
    """What a function returns.

    Raises:
        Overdue: if it does not return in time; whether it still goes on is in the message.
        Stopped: if somebody interrupted the calling thread.
        Exception: whatever it raises.
    """
    call = _Call(function)
    me = threading.get_ident()
    _going_on[me] = call
    try:
        call.wait(seconds)
    finally:
        del _going_on[me]
        in_time = call.over
        ended = call.end()
    if call.interrupted:
        raise Stopped
    if not in_time:
        raise Overdue("" if ended else "; it is in C code that nobody can end, and goes on")
    if call.error is not None:
        raise call.error
    return call.result


def interrupt(thread: int | None) -> None:
    """Have the call that a thread waits for, if any, end with :class:`Stopped`."""
    call = _going_on.get(thread or 0)
    if call is not None:
        call.interrupt()


def caller() -> int:
    """The thread that waits for the calling one, or the calling one itself."""
    number: int = getattr(_here, "caller", threading.get_ident())
    return number


def break_off(thread: int | None) -> None:
    """Raise :class:`BrokenOff` in a thread, as soon as it runs Python code."""
    if thread is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread), ctypes.py_object(BrokenOff)
        )
