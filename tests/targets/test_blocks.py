"""Blocks of memory that are used again: never while anybody can see them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import tvm
import tvm_ffi
from tvm.runtime import empty
from tvm.script import tirx as T

from tapml_nb.targets.devices.base import raw_bytes
from tapml_nb.targets.devices.blocks import Blocks

VIEW = tvm_ffi.get_global_func("runtime.TVMTensorCreateView")
MB = 1 << 20


def view(tensor, *shape):
    return VIEW(tensor, tvm_ffi.Shape(shape), tvm_ffi.dtype("float32"), 0)


class Memory:
    """Counts what is allocated; the allocations of these numbers fail."""

    def __init__(self, *full):
        self.sizes: list[int] = []
        self.full, self.asked = full, 0

    def __call__(self, size):
        self.asked += 1
        if self.asked in self.full:
            raise MemoryError
        self.sizes.append(size)
        return empty((size,), "uint8")


def test_a_block_is_used_again_when_its_last_view_is_gone():
    memory = Memory()
    blocks = Blocks(memory)
    first = view(blocks.take(32 * MB), 100)
    second = view(first, 10, 10)
    address = first.data_ptr()
    del first
    other = view(blocks.take(32 * MB), 100)
    assert other.data_ptr() != address  # the view of the view still shows it
    del second
    assert view(blocks.take(32 * MB - 100), 128).data_ptr() == address
    assert memory.sizes == [32 * MB, 32 * MB]


def test_small_blocks_are_allocated_together_and_do_not_overlap():
    memory = Memory()
    blocks = Blocks(memory)
    views = [view(blocks.take(400), 100) for _ in range(64)]
    assert memory.sizes == [64 * 512]
    assert all(b - a >= 512 for a, b in pairwise(sorted(v.data_ptr() for v in views)))
    for number, each in enumerate(views):
        raw_bytes(each)[:] = number
    assert all((raw_bytes(each) == number).all() for number, each in enumerate(views))
    kept = views[7].data_ptr()
    del views[7], each
    assert view(blocks.take(400), 100).data_ptr() == kept


@T.prim_func(s_tir=True)
def add_one(x: T.Buffer((128,), "float32"), y: T.Buffer((128,), "float32")):
    T.func_attr({"global_symbol": "add_one"})
    for i in T.grid(128):
        with T.sblock("y"):
            vi = T.axis.remap("S", [i])
            y[vi] = x[vi] + T.float32(1)


def test_a_kernel_takes_a_small_block():
    """TVM's kernels refuse tensors that begin within their memory."""
    kernel = tvm.compile(add_one, target="llvm")["add_one"]
    blocks = Blocks(Memory())
    _, x, y = (view(blocks.take(512), 128) for _ in range(3))
    np.from_dlpack(x)[:] = np.arange(128)
    kernel(x, y)
    assert np.array_equal(np.from_dlpack(y), np.arange(128) + 1)


def test_blocks_of_another_size_are_left_alone():
    memory = Memory()
    blocks = Blocks(memory)
    view(blocks.take(32 * MB), 1)
    view(blocks.take(33 * MB), 1)
    view(blocks.take(32 * MB), 1)
    assert memory.sizes == [32 * MB, 33 * MB]


def test_what_is_free_is_given_back_where_there_is_no_room():
    memory = Memory(3)
    blocks = Blocks(memory)
    view(blocks.take(32 * MB), 1)
    used = view(blocks.take(33 * MB), 1)
    view(blocks.take(34 * MB), 1)  # the third, and once more
    view(blocks.take(32 * MB), 1)  # had to be allocated again
    view(blocks.take(33 * MB), 1)  # the other is in use
    assert memory.sizes == [size * MB for size in (32, 33, 34, 32, 33)]
    del used


def test_pieces_are_given_back_and_made_again():
    memory = Memory(2)
    blocks = Blocks(memory)
    used = view(blocks.take(512), 128)
    raw_bytes(used)[:] = 7
    del memory.sizes[:]
    other = view(blocks.take(1024), 256)  # the second allocation, and once more without the first
    assert memory.sizes == [1024]
    more = [view(blocks.take(512), 128) for _ in range(64)]
    for each in (other, *more):
        raw_bytes(each)[:] = 1
    assert (raw_bytes(used) == 7).all()
