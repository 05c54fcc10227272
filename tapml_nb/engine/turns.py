"""The source runs in pieces, and operators are judged in between."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from tapml_nb.execute.preparation import Call
from tapml_nb.execute.source import SourceRun

_PIECE = 0.3
"""Seconds for which the source runs before something else has its turn."""

_FIRST_KERNEL = 1.0
"""Seconds, at most, for which the source waits for the first kernel."""

Feed = Callable[[bool], Sequence[Call]]


class Turns:
    """Where the source is not at its end, it has half of the time, and all that is left; but the
    first kernel is compiled first."""

    def __init__(self, source: SourceRun, stopped: Callable[[], bool]) -> None:
        """``stopped`` says whether to break off."""
        self._source, self._stopped = source, stopped
        self._next = self._next_if_idle = -math.inf

    def taking(self, feed: Feed) -> Feed:
        """What feeds a device, after the source has had its turn."""

        def after(idle: bool) -> Sequence[Call]:
            due = self._next_if_idle if idle else self._next
            if not self._source.is_complete and time.monotonic() >= due:
                self._source.go_on(_PIECE, self._stopped)
                if self._next == -math.inf:
                    self._next_if_idle = time.monotonic() + _FIRST_KERNEL
                self._next = time.monotonic() + _PIECE
            return feed(idle)

        return after

    def kernel_is_there(self) -> None:
        """The first kernel has run: nothing is to be waited for any more."""
        self._next_if_idle = self._next
