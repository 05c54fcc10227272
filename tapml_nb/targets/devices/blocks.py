"""Memory of a device in blocks that are used again: there, allocating costs more than computing.

A tensor is a view of a block, and TVM counts who holds an object, views of it included: a block
that nobody holds but this is free.  The count is where the stable C ABI of ``tvm-ffi`` has it (the
first 32 bits of ``TVMFFIObject``); where it does not count, nothing is used again.

Small blocks are pieces of one allocation.  TVM's kernels take no tensor that begins within its
memory, so a piece is a tensor of its own that begins at its address, by DLPack.
"""

from __future__ import annotations

import ctypes
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import tvm_ffi

_ALIGNED = 512
"""Sizes of blocks are multiples of this, so that tensors of about one size share them."""

_AT_ONCE = 32 << 20
"""Bytes that are allocated at once for several small blocks."""

_MOST_BLOCKS = 64
"""Blocks of that, at most."""

_MOST_FREE = 1 << 28
"""Bytes of allocations that nobody uses; what is beyond that is given back."""

_SHARE = 64
"""Part of a bound that is allocated at once for several small blocks, at most."""


class Blocks:
    """Blocks by their size.

    Attributes:
        bound: bytes that all allocations may take; None for no limit.
        held, peak: bytes that they take now, blocks that nobody uses included, and the most that
            they ever took.
    """

    def __init__(self, allocate: Callable[[int], Any], bound: int | None = None) -> None:
        """``allocate`` gives a new tensor of so many bytes, or raises."""
        self._allocate = allocate
        self.bound = bound
        self.held = self.peak = 0
        self._blocks: defaultdict[int, list[Any]] = defaultdict(list)
        self._allocations: list[_Allocation] = []

    def take(self, size: int) -> Any:
        """A block of at least so many bytes (more than 0), of which a view is to be made at
        once; its contents are undefined.  Raises what allocating raises, where nothing is left,
        and MemoryError beyond the bound."""
        size = -(-size // _ALIGNED) * _ALIGNED
        known = self._blocks[size]
        # What was used last is free most often.
        if (free := next(filter(_is_free, reversed(known)), None)) is not None:
            return free
        self._give_back(_MOST_FREE)
        count = self._at_once(size)
        if self.bound is not None and self.held + count * size > self.bound:
            self._give_back(0)
            count = max(1, min(count, (self.bound - self.held) // size))
        try:
            made = self._new(size, count)
        except Exception:
            self._give_back(0)
            made = self._new(size, 1)
        known += made
        return made[-1]

    def _at_once(self, size: int) -> int:
        """How many blocks of a size are best allocated together."""
        most = _AT_ONCE if self.bound is None else min(_AT_ONCE, self.bound // _SHARE)
        return min(_MOST_BLOCKS, max(1, most // size))

    def _new(self, size: int, count: int) -> list[Any]:
        if self.bound is not None and self.held + count * size > self.bound:
            raise MemoryError(
                f"{self.held + count * size} bytes, of {self.bound} that there may be"
            )
        allocation = _Allocation(self._allocate(count * size), size, count)
        self._allocations.append(allocation)
        self.held += count * size
        self.peak = max(self.peak, self.held)
        return list(allocation.blocks)

    def _give_back(self, most: int) -> None:
        """Let go of allocations that nobody uses any block of, the oldest first, until only so many
        bytes of such are left.  A block alone frees nothing."""
        staying: list[_Allocation] = []
        going: list[_Allocation] = []
        for allocation in reversed(self._allocations):
            most -= allocation.nbytes if (free := all(map(_is_free, allocation.blocks))) else 0
            (going if free and most < 0 else staying).append(allocation)
        if not going:
            return
        gone = {id(block) for allocation in going for block in allocation.blocks}
        for known in self._blocks.values():
            known[:] = [block for block in known if id(block) not in gone]
        self._allocations = staying[::-1]
        for allocation in going:
            self.held -= allocation.nbytes
            allocation.end()


class _Allocation:
    """Memory that was allocated at once, and its blocks.

    Attributes:
        blocks: they; one is the memory itself.
        nbytes: of all of them.
    """

    def __init__(self, memory: Any, size: int, count: int) -> None:
        self.nbytes = count * size
        # They outlive the tensors that are made of them, whose end still reads them.
        self._pieces = [_Piece(memory, k * size, size) for k in range(count)] if count > 1 else []
        self.blocks = [tvm_ffi.from_dlpack(piece) for piece in self._pieces] or [memory]

    def end(self) -> None:
        """Free it."""
        self.blocks.clear()
        self._pieces.clear()


def _is_free(block: Any) -> bool:
    return ctypes.c_uint32.from_address(block.__chandle__()).value == 1


class _Tensor(ctypes.Structure):
    """``DLTensor``."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    """``DLManagedTensor``."""

    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


_UINT = 1
"""``kDLUInt``."""

_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


class _Piece:
    """Bytes of an allocation, for ``from_dlpack``; has to live as long as the tensor."""

    def __init__(self, memory: Any, start: int, size: int) -> None:
        self._memory = memory
        self._shape, self._strides = (ctypes.c_int64 * 1)(size), (ctypes.c_int64 * 1)(1)
        self._device = memory.__dlpack_device__()
        tensor = _Tensor(
            memory.data_ptr() + start, *self._device, 1, _UINT, 8, 1, self._shape, self._strides, 0
        )
        self._managed = _Managed(tensor, None, None)

    def __dlpack__(self, **_: Any) -> Any:
        return _new_capsule(ctypes.addressof(self._managed), b"dltensor", None)

    def __dlpack_device__(self) -> tuple[int, int]:
        return int(self._device[0]), int(self._device[1])
