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

_MOST_FREE = 1 << 30
"""Bytes of blocks that nobody uses; what is beyond that is given back."""


class Blocks:
    """Blocks by their size."""

    def __init__(self, allocate: Callable[[int], Any]) -> None:
        """``allocate`` gives a new tensor of so many bytes, or raises."""
        self._allocate = allocate
        self._blocks: defaultdict[int, list[Any]] = defaultdict(list)
        self._pieces: dict[int, _Piece] = {}
        """What pieces of larger allocations are, by their address."""

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
        memory = self._allocate(count * size)
        if count == 1:
            return [memory]
        pieces = [_Piece(memory, place * size, size) for place in range(count)]
        self._pieces.update((piece.address, piece) for piece in pieces)
        return [tvm_ffi.from_dlpack(piece) for piece in pieces]

    def _give_back(self, most: int) -> None:
        """Let go of free blocks until only so many bytes of them are left.  Memory that has several
        is freed with the last."""
        for size, known in self._blocks.items():
            going = []
            for number, block in enumerate(known):
                most -= size if (free := _is_free(block)) else 0
                if free and most < 0:
                    going.append(number)
            block = None
            for number in reversed(going):
                address = known[number].data_ptr()
                del known[number]  # before what it is made of, which its end still reads
                self._pieces.pop(address, None)


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
        self.address = memory.data_ptr() + start
        self._device = memory.__dlpack_device__()
        tensor = _Tensor(self.address, *self._device, 1, _UINT, 8, 1, self._shape, self._strides, 0)
        self._managed = _Managed(tensor, None, None)

    def __dlpack__(self, **_: Any) -> Any:
        return _new_capsule(ctypes.addressof(self._managed), b"dltensor", None)

    def __dlpack_device__(self) -> tuple[int, int]:
        return int(self._device[0]), int(self._device[1])
