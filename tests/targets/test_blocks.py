"""Blocks of memory that are used again: never while anybody can see them."""

from __future__ import annotations

import tvm_ffi
from tvm.runtime import empty

from tapml_nb.targets.devices.blocks import Blocks

VIEW = tvm_ffi.get_global_func("runtime.TVMTensorCreateView")


def view(tensor, *shape):
    return VIEW(tensor, tvm_ffi.Shape(shape), tvm_ffi.dtype("float32"), 0)


class Memory:
    """Counts what is allocated, and has room for so many bytes in one piece."""

    def __init__(self, room=1 << 40):
        self.sizes, self.room = [], room

    def __call__(self, size):
        if size > self.room:
            raise MemoryError
        self.sizes.append(size)
        return empty((size,), "uint8")


def test_a_block_is_used_again_when_its_last_view_is_gone():
    memory = Memory()
    blocks = Blocks(memory)
    first = view(blocks.take(400), 100)
    second = view(first, 10, 10)
    address = first.data_ptr()
    del first
    other = view(blocks.take(400), 100)
    assert other.data_ptr() != address  # the view of the view still shows it
    del second
    assert view(blocks.take(512), 128).data_ptr() == address
    assert memory.sizes == [512, 512]


def test_blocks_of_another_size_are_left_alone():
    memory = Memory()
    blocks = Blocks(memory)
    view(blocks.take(4), 1)
    view(blocks.take(4096), 1024)
    view(blocks.take(4), 1)
    assert memory.sizes == [512, 4096]


def test_what_is_free_is_given_back_where_there_is_no_room():
    held: list[int] = []

    class Full(Memory):
        def __call__(self, size):
            if len(self.sizes) == 2 and not held:
                held.append(size)
                raise MemoryError
            return super().__call__(size)

    memory = Full()
    blocks = Blocks(memory)
    view(blocks.take(512), 128)
    used = view(blocks.take(1024), 256)
    view(blocks.take(2048), 512)
    view(blocks.take(512), 128)  # had to be allocated again
    assert (held, memory.sizes) == ([2048], [512, 1024, 2048, 512])
    del used
