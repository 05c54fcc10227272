"""One thread that breaks off whatever takes too long."""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Guard:
    """A guarded block: ``expired`` says whether its deadline has passed."""

    def __init__(self, deadline: float, inspect: Callable[[], float]) -> None:
        self.deadline = deadline
        self.inspect = inspect
        self.expired = False


def _no_patience() -> float:
    return 0.0


class Watchdog:
    """Calls ``act`` when a guarded block outlives its deadline, once per block.

    One thread for all blocks, for they are many and short.  It does not keep the owner of
    ``act`` alive.
    """

    def __init__(self, act: Callable[[], None]) -> None:
        """Take ``act``, a bound method; it is called from the watchdog's own thread."""
        self._act = weakref.WeakMethod(act)
        self._changed = threading.Condition()
        self._guard: Guard | None = None
        self._wakes = -math.inf
        """When the thread looks again by itself."""

        self._closed = False
        self._thread: threading.Thread | None = None

    @contextmanager
    def guard(self, seconds: float, inspect: Callable[[], float] = _no_patience) -> Iterator[Guard]:
        """Guard the block inside.  Blocks follow one another; they do not nest.

        Args:
            seconds: its deadline.
            inspect: asked on the watchdog's thread when that has passed: for how many seconds more
                to wait, and then to be asked again; 0 to act.
        """
        guard = Guard(time.monotonic() + seconds, inspect)
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._watch, name="tapml-watchdog", daemon=True
                )
                self._thread.start()
            self._guard = guard
            if guard.deadline < self._wakes:  # to wake it costs more than most blocks
                self._changed.notify()
        try:
            yield guard
        finally:
            with self._changed:
                self._guard = None
                guard.inspect = _no_patience  # the thread may still hold the guard

    def close(self) -> None:
        """End the thread.  Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread and thread is not threading.current_thread():
            thread.join(1)

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                guard = self._guard
                if guard is None or guard.expired:
                    self._sleep(math.inf)
                elif guard.deadline > time.monotonic():
                    self._sleep(guard.deadline)
                else:
                    self._changed.release()
                    try:
                        more = guard.inspect()
                    finally:
                        self._changed.acquire()
                    if self._guard is not guard:  # it ended meanwhile
                        continue
                    if more > 0:
                        guard.deadline = time.monotonic() + more
                        continue
                    guard.expired = True
                    if act := self._act():
                        act()
                    del act

    def _sleep(self, until: float) -> None:
        """Sleep until then, or until somebody wants it earlier."""
        self._wakes = until
        self._changed.wait(None if until == math.inf else max(0.0, until - time.monotonic()))
        self._wakes = -math.inf
