"""Who goes first on a line: what somebody waits for, before what is sent ahead of need."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_PATIENCE = 1.0
"""Seconds after which who sends ahead queues like everybody: it may be that nobody waits any more,
and was broken off before they could say so."""

_GRACE = 0.002
"""Seconds after a request in which who made it is likely to make another one."""


class RightOfWay:
    """One request at a time, each with its answer; from any thread."""

    def __init__(self) -> None:
        self._line = threading.RLock()
        self._changed = threading.Condition()
        self._waiting = 0
        self._quiet_from = 0.0

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Have the line next: behind one request that is under way, at most."""
        with self._changed:
            self._waiting += 1
        try:
            with self._line:
                yield
        finally:
            with self._changed:
                self._waiting -= 1
                self._quiet_from = time.monotonic() + _GRACE
                self._changed.notify_all()

    @contextmanager
    def between(self) -> Iterator[None]:
        """Have the line when nobody waits for it, or is likely to in a moment."""
        end = time.monotonic() + _PATIENCE
        with self._changed:
            while (now := time.monotonic()) < end:
                if self._waiting:
                    self._changed.wait(end - now)
                elif now < self._quiet_from:
                    self._changed.wait(self._quiet_from - now)
                else:
                    break
        with self._line:
            yield
