"""Blocks of memory that are used again: never while anybody can see them."""

from __future__ import annotations

from itertools import pairwise

import tvm_ffi
from tvm.runtime import empty

from tapml_nb.targets.devices.blocks import Blocks

VIEW = tvm_ffi.get_global_func("runtime.TVMTensorCreateView")


def view(tensor, *shape):
    return VIEW(tensor, tvm_ffi.Shape(shape), tvm_ffi.dtype("float32"), 0)


def part(tensor, start, size):
    return VIEW(tensor, tvm_ffi.Shape((size,)), tvm_ffi.dtype("uint8"), start)


class Memory:
    """Counts what is allocated; the allocations of these numbers fail."""

    def __init__(self, *full):
        self.sizes, self.full, self.asked = [], full, 0

    def __call__(self, size):
        self.asked += 1
        if self.asked in self.full:
            raise MemoryError
        self.sizes.append(size)
        return empty((size,), "uint8")


MB = 1 << 20


def test_a_block_is_used_again_when_its_last_view_is_gone():
    memory = Memory()
    blocks = Blocks(memory, part)
    first = view(blocks.take(8 * MB), 100)
    second = view(first, 10, 10)
    address = first.data_ptr()
    del first
    other = view(blocks.take(8 * MB), 100)
    assert other.data_ptr() != address  # the view of the view still shows it
    del second
    assert view(blocks.take(8 * MB - 100), 128).data_ptr() == address
    assert memory.sizes == [8 * MB, 8 * MB]


def test_small_blocks_are_allocated_together_and_do_not_overlap():
    memory = Memory()
    blocks = Blocks(memory, part)
    views = [view(blocks.take(400), 100) for _ in range(64)]
    addresses = sorted(v.data_ptr() for v in views)
    assert memory.sizes == [64 * 512]
    assert all(b - a >= 512 for a, b in pairwise(addresses))
    kept = views[7].data_ptr()
    del views[7]
    assert view(blocks.take(400), 100).data_ptr() == kept


def test_blocks_of_another_size_are_left_alone():
    memory = Memory()
    blocks = Blocks(memory, part)
    view(blocks.take(8 * MB), 1)
    view(blocks.take(9 * MB), 1)
    view(blocks.take(8 * MB), 1)
    assert memory.sizes == [8 * MB, 9 * MB]


def test_what_is_free_is_given_back_where_there_is_no_room():
    memory = Memory(3)
    blocks = Blocks(memory, part)
    view(blocks.take(8 * MB), 1)
    used = view(blocks.take(9 * MB), 1)
    view(blocks.take(10 * MB), 1)  # the third, and once more
    view(blocks.take(8 * MB), 1)  # had to be allocated again
    view(blocks.take(9 * MB), 1)  # the other is in use
    assert memory.sizes == [size * MB for size in (8, 9, 10, 8, 9)]
    del used
