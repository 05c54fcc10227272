"""When a session's process has to be done, as its listener sees it.

The process's own alarm ends most kernels that run too long.  One that blocks the alarm, or is
stopped, does not hear it, and on another machine nobody else would end it.  So the time stands in
memory that the listener shares, and looks at.
"""

from __future__ import annotations

import mmap
import struct
import time

_TIME = struct.Struct("d")


class Clock:
    """A point in time, shared by the listener that makes this and a process that it forks then."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def start(self, seconds: float) -> None:
        """Something begins that may take so long."""
        _TIME.pack_into(self._memory, 0, time.monotonic() + seconds)

    def stop(self) -> None:
        """It is done."""
        _TIME.pack_into(self._memory, 0, 0.0)

    def late(self, grace: float) -> bool:
        """Whether something should have been done ``grace`` seconds ago."""
        end: float = _TIME.unpack_from(self._memory)[0]
        return 0 < end < time.monotonic() - grace

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()
