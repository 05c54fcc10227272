"""Memory of a device in blocks that are used again: there, allocating costs more than computing.

A tensor is a view of a block, and TVM counts who holds an object, views of it included: a block
that nobody holds but this is free.  The count is where the stable C ABI of ``tvm-ffi`` has it (the
first 32 bits of ``TVMFFIObject``); where it does not count, nothing is used again.  (A view begins
where its block does: TVM's kernels take no tensor that begins elsewhere.)
"""

from __future__ import annotations

import ctypes
from collections import defaultdict
from collections.abc import Callable
from typing import Any

_ALIGNED = 512
"""Sizes of blocks are multiples of this, so that tensors of about one size share them."""

_MOST_FREE = 1 << 30
"""Bytes of blocks that nobody uses; what is beyond that is given back."""


class Blocks:
    """Blocks by their size."""

    def __init__(self, allocate: Callable[[int], Any]) -> None:
        """``allocate`` gives a new tensor of so many bytes, or raises."""
        self._allocate = allocate
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
            block = self._allocate(size)
        except Exception:
            self._give_back(0)
            block = self._allocate(size)
        known.append(block)
        return block

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
