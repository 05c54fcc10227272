"""Guarded memory: buffers between pages that nobody may touch.

A kernel that reads or writes beyond a buffer mostly hits memory that is somebody's, and nothing is
seen.  Here every buffer ends at a page without access, and begins behind one.  TVM's kernels take
for granted that a buffer is aligned to 64 bytes, so up to 63 bytes may lie between its end and that
page, and less than a page before its start; these hold a canary, which is looked at after each run.

A hit of a guard page ends the process.  Before it does, a line in its log says whose page it was.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tapml_nb.targets.server.faults import Faults
from tapml_nb.targets.wire.pages import READ_WRITE, libc
from tapml_nb.targets.wire.recorder import GUARD_PAGE_HIT

ALIGNMENT = 64
"""Bytes; ``tvm::runtime::kAllocAlignment``."""

CANARY = 0xA7
"""Fills what lies around a buffer."""

_GUARD = 16 * mmap.PAGESIZE
"""Bytes of no access on either side of a buffer."""

_NO_ACCESS = 0  # PROT_NONE, which Python 3.11 does not name
_MAP_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


@dataclass
class Block:
    """One buffer in guarded memory."""

    name: str  # what people call it ("output 0")
    data: np.ndarray  # its bytes
    before: np.ndarray  # the canary in front of it
    after: np.ndarray  # the canary behind it
    base: int = field(repr=False)
    length: int = field(repr=False)

    @classmethod
    def map(cls, name: str, size: int) -> Block:
        """Guarded memory for ``size`` bytes; MemoryError if there is no room for it."""
        padded = -(-size // ALIGNMENT) * ALIGNMENT
        inner = max(mmap.PAGESIZE, -(-padded // mmap.PAGESIZE) * mmap.PAGESIZE)
        length = inner + 2 * _GUARD
        base = libc.mmap(None, length, _NO_ACCESS, _MAP_FLAGS, -1, 0)
        if base in (None, ctypes.c_void_p(-1).value):
            raise MemoryError(f"no room for {size} guarded bytes")
        start = base + _GUARD
        if libc.mprotect(start, inner, READ_WRITE):
            libc.munmap(base, length)
            raise MemoryError(f"no room for {size} guarded bytes")
        memory = np.frombuffer((ctypes.c_char * inner).from_address(start), np.uint8)
        memory[:] = CANARY
        at = inner - padded
        return cls(name, memory[at : at + size], memory[:at], memory[at + size :], base, length)

    def unmap(self) -> None:
        """Give the memory back; :attr:`data` must not be touched any more."""
        libc.munmap(self.base, self.length)

    def overruns(self) -> str:
        """What was written around the buffer, in words; empty if nothing was."""
        behind = np.flatnonzero(self.after != CANARY)
        if behind.size:
            return f"writes {behind.size} bytes past the end of {self.name}, from byte +{behind[0]}"
        ahead = np.flatnonzero(self.before != CANARY)
        if ahead.size:
            first = self.before.size - int(ahead[0])
            return f"writes {ahead.size} bytes before the start of {self.name}, from byte -{first}"
        return ""

    def place(self, address: int) -> str:
        """Where an address lies that is none of the buffer's own; empty if it is far away."""
        if not self.base <= address < self.base + self.length:
            return ""
        start = self.data.ctypes.data
        if address >= start + self.data.size:
            return f"{address - start - self.data.size} bytes past the end of {self.name}"
        return f"{start - address} bytes before the start of {self.name}"


def telling(blocks: Sequence[Block]) -> Faults:
    """While this is entered, a hit of a guard page leaves a line that names the buffer; the process
    ends of it all the same."""

    def tell(address: int) -> bool:
        places = [place for block in blocks if (place := block.place(address))]
        if places:
            os.write(2, f"\n{GUARD_PAGE_HIT}it reaches {places[0]}\n".encode())
        return False

    return Faults(tell)
