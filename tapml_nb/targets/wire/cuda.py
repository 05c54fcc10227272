"""What both sides of a GPU that they share need of CUDA's driver, by ctypes.

A target server has no PyTorch, and TVM's runtime offers no memset, no comparison and no handles of
memory for other processes.  All of it works in the device's primary context, as TVM and PyTorch do.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_HANDLE = 64
"""Bytes of a handle of memory for another process."""

_LAZY = 1
"""``CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS``."""

_ALIGNMENT = 256

_THREADS, _BLOCKS = 256, 1024

_FLAGS = 64
"""Pairs that are compared before one waits."""

_DIFFER = b"""
.version 6.0
.target sm_50
.address_size 64
.visible .entry differ(
  .param .u64 p_one, .param .u64 p_other, .param .u64 p_size, .param .u64 p_found)
{
  .reg .pred %p<4>;
  .reg .b16 %h<3>;
  .reg .b32 %r<8>;
  .reg .b64 %d<14>;
  ld.param.u64 %d1, [p_one];
  ld.param.u64 %d2, [p_other];
  ld.param.u64 %d3, [p_size];
  ld.param.u64 %d4, [p_found];
  cvta.to.global.u64 %d1, %d1;
  cvta.to.global.u64 %d2, %d2;
  cvta.to.global.u64 %d4, %d4;
  mov.u32 %r1, %ctaid.x;
  mov.u32 %r2, %ntid.x;
  mov.u32 %r3, %tid.x;
  mul.wide.u32 %d5, %r1, %r2;
  cvt.u64.u32 %d6, %r3;
  add.u64 %d5, %d5, %d6;
  mov.u64 %d12, %d5;
  mov.u32 %r4, %nctaid.x;
  mul.wide.u32 %d7, %r4, %r2;
  shr.u64 %d8, %d3, 2;
  mov.u32 %r7, 1;
WORDS:
  setp.ge.u64 %p1, %d5, %d8;
  @%p1 bra REST;
  shl.b64 %d10, %d5, 2;
  add.u64 %d11, %d1, %d10;
  ld.global.u32 %r5, [%d11];
  add.u64 %d11, %d2, %d10;
  ld.global.u32 %r6, [%d11];
  setp.ne.u32 %p2, %r5, %r6;
  @%p2 st.global.u32 [%d4], %r7;
  add.u64 %d5, %d5, %d7;
  bra WORDS;
REST:
  and.b64 %d9, %d3, 3;
  setp.ge.u64 %p1, %d12, %d9;
  @%p1 bra DONE;
  shl.b64 %d10, %d8, 2;
  add.u64 %d10, %d10, %d12;
  add.u64 %d11, %d1, %d10;
  ld.global.u8 %h1, [%d11];
  add.u64 %d11, %d2, %d10;
  ld.global.u8 %h2, [%d11];
  setp.ne.u16 %p3, %h1, %h2;
  @%p3 st.global.u32 [%d4], %r7;
DONE:
  ret;
}
"""
"""A kernel that sets a word where two pieces of memory differ; words first, then up to 3 bytes."""


def aligned(size: int) -> int:
    """Where in a window the next tensor may begin behind one of so many bytes: where PyTorch and
    kernels let tensors begin."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


class CudaError(RuntimeError):
    """The driver refuses; the message is its name for the reason."""


class Cuda:
    """One GPU of this process.  Addresses are of its memory, sizes in bytes.

    Attributes:
        uuid: tells the GPU from all others, in every process.
    """

    def __init__(self, number: int) -> None:
        """OSError if there is no driver, :class:`CudaError` if there is no such GPU."""
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._call("cuInit", 0)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), number)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._context = context
        uuid = (ctypes.c_ubyte * 16)()
        self._call("cuDeviceGetUuid", ctypes.byref(uuid), device)
        self.uuid = bytes(uuid).hex()
        self._kernel: ctypes.c_void_p | None = None
        self._found = 0

    def allocate(self, size: int) -> int:
        """New memory, its contents undefined."""
        address = ctypes.c_uint64()
        with self._in_context():
            self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(1, size)))
        return int(address.value)

    def free(self, address: int) -> None:
        """Free what :meth:`allocate` gave."""
        with self._in_context():
            self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def copy(self, *places: tuple[int, int, int]) -> None:
        """Copy on the device, each to an address from another one so many bytes; done when this
        returns."""
        with self._in_context():
            for to, source, size in places:
                if size:
                    addresses = ctypes.c_uint64(to), ctypes.c_uint64(source)
                    self._call("cuMemcpyDtoD_v2", *addresses, ctypes.c_size_t(size))
            self._call("cuCtxSynchronize")

    def fill(self, address: int, byte: int, size: int) -> None:
        """Set every byte, behind what was launched before."""
        if size:
            with self._in_context():
                what = ctypes.c_uint64(address), ctypes.c_ubyte(byte)
                self._call("cuMemsetD8_v2", *what, ctypes.c_size_t(size))

    def all_same(self, places: Sequence[tuple[int, int, int]]) -> list[bool]:
        """Whether pairs of pieces of memory (two addresses, aligned to 4 bytes, and a size) hold
        the same."""
        result: list[bool] = []
        for start in range(0, len(places), _FLAGS):
            result += self._few_same(places[start : start + _FLAGS])
        return result

    def _few_same(self, places: Sequence[tuple[int, int, int]]) -> list[bool]:
        flags = (ctypes.c_uint32 * len(places))()
        differing = [(k, *place) for k, place in enumerate(places) if place[0] != place[1]]
        if any(size for *_, size in differing):
            with self._in_context():
                if self._kernel is None:
                    self._kernel = self._built()
                    self._found = self.allocate(4 * _FLAGS)
                bytes_ = ctypes.c_size_t(ctypes.sizeof(flags))
                found = ctypes.c_uint64(self._found)
                self._call("cuMemsetD8_v2", found, ctypes.c_ubyte(0), bytes_)
                for k, one, other, size in differing:
                    if size:
                        self._launch_differ(one, other, size, self._found + 4 * k)
                self._call("cuMemcpyDtoH_v2", ctypes.byref(flags), found, bytes_)
        return [flag == 0 for flag in flags]

    def _launch_differ(self, *given: int) -> None:
        """Set a word if two pieces of memory differ: two addresses, a size, and the word's."""
        arguments = [ctypes.c_uint64(n) for n in given]
        pointers = (ctypes.c_void_p * 4)(*map(ctypes.addressof, arguments))
        blocks = min(_BLOCKS, max(1, -(-given[2] // (4 * _THREADS))))
        grid = blocks, 1, 1, _THREADS, 1, 1, 0
        self._call("cuLaunchKernel", self._kernel, *grid, None, pointers, None)

    def handle(self, address: int) -> str:
        """What another process opens memory by that :meth:`allocate` gave."""
        handle = (ctypes.c_char * _HANDLE)()
        with self._in_context():
            self._call("cuIpcGetMemHandle", ctypes.byref(handle), ctypes.c_uint64(address))
        return handle.raw.hex()

    def open(self, handle: str) -> int:
        """Another process's memory."""
        address = ctypes.c_uint64()
        with self._in_context():
            given = _Handle.from_buffer_copy(bytes.fromhex(handle))
            self._call("cuIpcOpenMemHandle_v2", ctypes.byref(address), given, _LAZY)
        return int(address.value)

    def close(self, address: int) -> None:
        """Let go of what :meth:`open` gave."""
        with self._in_context():
            self._call("cuIpcCloseMemHandle", ctypes.c_uint64(address))

    def _built(self) -> ctypes.c_void_p:
        module, kernel = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(_DIFFER))
        self._call("cuModuleGetFunction", ctypes.byref(kernel), module, b"differ")
        return kernel

    @contextmanager
    def _in_context(self) -> Iterator[None]:
        """Contexts belong to threads."""
        self._call("cuCtxSetCurrent", self._context)
        yield

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._driver, name)(*arguments)
        if status:
            reason = ctypes.c_char_p()
            self._driver.cuGetErrorName(status, ctypes.byref(reason))
            raise CudaError(f"{name}: {(reason.value or b'').decode() or status}")


class _Handle(ctypes.Structure):
    """``CUipcMemHandle``, which is passed by value."""

    _fields_ = (("reserved", ctypes.c_char * _HANDLE),)
