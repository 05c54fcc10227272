"""Blocks of memory that are used again: never while anybody can see them."""

from __future__ import annotations

import weakref
from itertools import pairwise

import numpy as np
import pytest
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


class Counted(Memory):
    """Counts what is held."""

    held = 0

    def __call__(self, size):
        super().__call__(size)
        memory = np.empty(size, np.uint8)
        self.held += size
        weakref.finalize(memory, self.forget, size)
        return tvm_ffi.from_dlpack(memory)

    def forget(self, size):
        self.held -= size


def test_what_is_held_counts_with_all_that_nobody_uses():
    memory = Counted()
    blocks = Blocks(memory)
    used = view(blocks.take(512), 1)
    assert blocks.held == memory.held == 64 * 512
    view(blocks.take(33 * MB), 1)
    assert blocks.held == memory.held == 64 * 512 + 33 * MB
    del used
    for size in (100, 101, 102, 103):
        view(blocks.take(size * MB), 1)
    assert blocks.held == memory.held == (101 + 102 + 103) * MB, "256 MiB that are free, and one"
    assert blocks.peak == 64 * 512 + (33 + 100 + 101 + 102) * MB


def test_what_is_free_is_given_back_before_the_bound_is_passed():
    memory = Counted()
    blocks = Blocks(memory, bound=100 * MB)
    used = view(blocks.take(40 * MB), 1)
    for size in (41, 42, 43, 44):
        view(blocks.take(size * MB), 1)
        assert blocks.held == memory.held == (40 + size) * MB
    assert blocks.peak == 84 * MB
    del used


def test_nothing_is_allocated_beyond_the_bound():
    memory = Counted()
    blocks = Blocks(memory, bound=100 * MB)
    used = [view(blocks.take(40 * MB), 1), view(blocks.take(50 * MB), 1)]
    asked = memory.asked
    with pytest.raises(MemoryError):
        blocks.take(11 * MB)
    assert memory.asked == asked
    used.append(view(blocks.take(10 * MB), 1))
    assert blocks.held == blocks.peak == memory.held == 100 * MB


def test_small_blocks_together_are_as_many_as_the_bound_has_room_for():
    memory = Counted()
    blocks = Blocks(memory, bound=64 * 1024)
    used = [view(blocks.take(1024), 1) for _ in range(64)]
    assert blocks.held == memory.held == 64 * 1024
    assert len(memory.sizes) == 64, "each is the share of a bound that is allocated at once"
    with pytest.raises(MemoryError):
        blocks.take(1024)
    del used[:]
    used = [view(blocks.take(512), 1) for _ in range(100)]
    assert blocks.held == memory.held <= 64 * 1024


def test_an_allocation_goes_with_its_last_block_and_no_sooner():
    memory = Counted()
    blocks = Blocks(memory, bound=32 * MB)
    one, other = view(blocks.take(2048), 1), view(blocks.take(2048), 1)
    together = memory.held
    assert together == 64 * 2048
    raw_bytes(one)[:] = 7
    del other
    view(blocks.take(32 * MB - together), 1)  # has room beside them, and then not
    with pytest.raises(MemoryError):
        blocks.take(32 * MB - 512)
    assert memory.held == together
    assert (raw_bytes(one) == 7).all()
    del one
    view(blocks.take(32 * MB - 512), 1)
    assert memory.held == blocks.held == 32 * MB - 512


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
