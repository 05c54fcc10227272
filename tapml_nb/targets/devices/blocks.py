"""Memory of a device in blocks that are used again: there, allocating costs more than computing.

A tensor is a view of a block, and TVM counts who holds an object, views of it included: a block
that nobody holds but this is free.  The count is where the stable C ABI of ``tvm-ffi`` has it (the
first 32 bits of ``TVMFFIObject``); where it does not count, nothing is used again.
"""

from __future__ import annotations

import ctypes
from collections import defaultdict
from collections.abc import Callable
from typing import Any

_ALIGNED = 512
"""Sizes of blocks are multiples of this, so that tensors of about one size share them."""

_AT_ONCE = 8 << 20
"""Bytes that are allocated at once for several small blocks."""

_MOST_BLOCKS = 64
"""Blocks of that, at most."""

_MOST_FREE = 1 << 30
"""Bytes of blocks that nobody uses; what is beyond that is given back."""


class Blocks:
    """Blocks by their size."""

    def __init__(
        self, allocate: Callable[[int], Any], part: Callable[[Any, int, int], Any]
    ) -> None:
        """``allocate`` gives a new tensor of so many bytes, or raises; ``part`` a view of one, from
        a byte on, of so many bytes."""
        self._allocate, self._part = allocate, part
        self._blocks: defaultdict[int, list[Any]] = defaultdict(list)

    def take(self, size: int) -> Any:
        """A block of at least so many bytes (more than 0), of which a view is to be made at
        once; its contents are undefined.  Raises what allocating raises, where nothing is left."""
        size = -(-size // _ALIGNED) * _ALIGNED
        known = self._blocks[size]
        for block in reversed(known):  # what was used last is free most often
            if _is_free(block):
                return block
        self._give_back(_MOST_FREE)
        try:
            known += self._new(size, min(_MOST_BLOCKS, max(1, _AT_ONCE // size)))
        except Exception:
            self._give_back(0)
            known += self._new(size, 1)
        return known[-1]

    def _new(self, size: int, count: int) -> list[Any]:
        if count == 1:
            return [self._allocate(size)]
        memory = self._allocate(count * size)
        return [self._part(memory, place * size, size) for place in range(count)]

    def _give_back(self, most: int) -> None:
        """Let go of free blocks until only so many bytes of them are left."""
        for size, known in self._blocks.items():
            kept = []
            for block in known:
                most -= size if (free := _is_free(block)) else 0
                if not free or most >= 0:
                    kept.append(block)
            known[:] = kept


def _is_free(block: Any) -> bool:
    return ctypes.c_uint32.from_address(block.__chandle__()).value == 1
