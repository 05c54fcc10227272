"""Devices of TVM's own runtime: the CPU, those whose memory is elsewhere, and CUDA GPUs."""

from __future__ import annotations

import ctypes
import math
import os
import resource
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import tvm_ffi

from tapml_nb.array_api import np_dtype
from tapml_nb.targets.devices.base import (
    BeyondDevice,
    Compared,
    Function,
    Within,
    load_tvm_library,
    lose,
    raw_bytes,
    size_of,
)
from tapml_nb.targets.devices.blocks import Blocks
from tapml_nb.targets.wire.cuda import Cuda
from tapml_nb.targets.wire.errors import Rejected

_OF_THE_CODE = ("undefined symbol", "wrong ELF class", "static TLS block", "not found (required by")
"""What the loader says of a library's own doing; all else that it says is of files and memory."""

_CUDA = 2
"""``kDLCUDA``."""

_EXISTS, _VERSION, _NAME, _MEMORY = 0, 4, 5, 14
"""Of ``tvm::runtime::DeviceAttrKind``."""


class TvmDevice(Compared):
    """A device of TVM's own runtime, whose kernels come as a library; here: the CPU."""

    on_host = True

    def __init__(self, device: Any) -> None:
        self._device = device
        self._alloc = tvm_ffi.get_global_func("runtime.TVMTensorAllocWithScope")
        self._view = tvm_ffi.get_global_func("runtime.TVMTensorCreateView")
        self._at_first = 0

    def describe(self) -> dict[str, Any]:
        return {"name": str(self._device)}

    def new(self, shape: Sequence[int], dtype: str) -> Any:
        kind = self._kind(dtype)
        return self._alloc(tvm_ffi.Shape(tuple(shape)), kind, self._device, None)

    def over(self, data: np.ndarray, shape: Sequence[int], dtype: str) -> Any:
        self._kind(dtype)
        return self.view(tvm_ffi.from_dlpack(data), shape, dtype)

    def _kind(self, dtype: str) -> Any:
        self._at_first = self._at_first or _address_space()  # what the process itself takes
        if _is_packed(dtype):
            raise TypeError(f"dtype {dtype} is packed on the target; send its bytes as uint8")
        return tvm_ffi.dtype(dtype)

    def capacity(self) -> int | None:
        room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        return room if limit == resource.RLIM_INFINITY else min(room, limit - self._at_first)

    def view(self, tensor: Any, shape: Sequence[int], dtype: str) -> Any:
        return self._view(tensor, tvm_ffi.Shape(tuple(shape)), tvm_ffi.dtype(dtype), 0)

    def read(self, tensor: Any) -> np.ndarray:
        return raw_bytes(tensor)

    def write(self, tensor: Any, data: np.ndarray) -> None:
        raw_bytes(tensor)[:] = data

    def fill(self, tensor: Any, byte: int) -> None:
        raw_bytes(tensor)[:] = byte

    def owner(self, tensor: Any) -> tuple[int, int]:
        return tensor.data_ptr(), size_of(tensor)

    def load(self, library: str, names: Collection[str], within: Within) -> Mapping[str, Function]:
        try:
            module = within(lambda: tvm_ffi.load_module(library))
        except RuntimeError as error:
            if any(words in str(error) for words in _OF_THE_CODE):
                raise Rejected(" ".join(str(error).split())) from None
            raise
        missing = sorted(name for name in names if not module.implements_function(name))
        if missing:
            raise Rejected(f"the library has no function {', '.join(missing)}")
        return {name: module.get_function(name) for name in names}

    def finish(self) -> None:
        pass


class CopiedTvmDevice(TvmDevice):
    """A device of TVM's runtime whose memory this process cannot touch."""

    on_host = False

    def __init__(self, device: Any) -> None:
        super().__init__(device)
        self._synchronize = tvm_ffi.get_global_func("runtime.Device_StreamSync")
        self._from_bytes = tvm_ffi.get_global_func("runtime.TVMTensorCopyFromBytes")
        self._to_bytes = tvm_ffi.get_global_func("runtime.TVMTensorCopyToBytes")

    def read(self, tensor: Any) -> np.ndarray:
        data = np.empty(size_of(tensor), np.uint8)
        if data.size:
            self.finish()
            self._to_bytes(tensor, ctypes.c_void_p(data.ctypes.data), data.size)
        return data

    def write(self, tensor: Any, data: np.ndarray) -> None:
        if data.size:
            data = np.ascontiguousarray(data)
            self._from_bytes(tensor, ctypes.c_void_p(data.ctypes.data), data.size)

    def fill(self, tensor: Any, byte: int) -> None:
        self.write(tensor, np.full(size_of(tensor), byte, np.uint8))

    def owner(self, tensor: Any) -> tuple[int, int]:
        return id(tensor), size_of(tensor)

    def finish(self) -> None:
        self._synchronize(self._device, 0)


class PooledTvmDevice(CopiedTvmDevice):
    """The same with memory in blocks that are used again."""

    def __init__(self, device: Any) -> None:
        super().__init__(device)
        self._blocks = Blocks(self._allocate)

    def capacity(self) -> int | None:
        return self._of_bound(super().capacity())

    def _of_bound(self, capacity: int | None) -> int | None:
        """What there is, as far as there may be so much."""
        bound = self._blocks.bound
        return bound if capacity is None else min(capacity, bound or capacity)

    @property
    def peak(self) -> int:
        return self._blocks.peak

    def keep_within(self, bound: int) -> None:
        self._blocks.bound = bound

    def new(self, shape: Sequence[int], dtype: str) -> Any:
        size = math.prod(shape) * np_dtype(dtype).itemsize
        if not size or _is_packed(dtype):
            return super().new(shape, dtype)
        return self.view(self._blocks.take(size), shape, dtype)

    def _allocate(self, size: int) -> Any:
        return super().new((size,), "uint8")


class CudaDevice(PooledTvmDevice):
    """A CUDA GPU.

    A process that has used CUDA cannot be forked, so the listener never does; each session's
    process starts CUDA for itself.  An error of a kernel leaves the whole context unusable: the
    process ends, and the next one begins anew.
    """

    def __init__(self, number: int) -> None:
        try:
            load_tvm_library("libtvm_runtime_cuda.so")
        except OSError as error:
            if "libcuda.so" in str(error):
                raise RuntimeError("it needs an NVIDIA GPU and its driver") from None
            raise RuntimeError(f"TVM's CUDA runtime cannot be loaded: {error}") from None
        super().__init__(tvm_ffi.device("cuda", number))
        self._number = number
        self._cuda = Cuda(number)
        self._window = 0
        self._attribute = tvm_ffi.get_global_func("runtime.GetDeviceAttr")
        if not self._attribute(_CUDA, number, _EXISTS):
            raise RuntimeError(f"there is no CUDA device {number}")

    def describe(self) -> dict[str, Any]:
        version = str(self._attribute(_CUDA, self._number, _VERSION))
        return {
            "name": str(self._attribute(_CUDA, self._number, _NAME)),
            "arch": f"sm_{version.replace('.', '')}",
            "uuid": self._cuda.uuid,
        }

    def capacity(self) -> int | None:
        return self._of_bound(int(self._attribute(_CUDA, self._number, _MEMORY)))

    def fill(self, tensor: Any, byte: int) -> None:
        self._cuda.fill(tensor.data_ptr(), byte, size_of(tensor))

    def snapshot(self, tensor: Any) -> Any:
        copy = self.new([int(n) for n in tensor.shape], str(tensor.dtype))
        self._cuda.copy((copy.data_ptr(), tensor.data_ptr(), size_of(tensor)))
        return copy

    def unchanged(self, tensor: Any, snapshot: Any) -> bool:
        return self.same(tensor, snapshot)

    def same(self, one: Any, other: Any) -> bool:
        return self.all_same([(one, other)])[0]

    def all_same(self, pairs: Sequence[tuple[Any, Any]]) -> list[bool]:
        places = [(one.data_ptr(), other.data_ptr(), size_of(one)) for one, other in pairs]
        return self._cuda.all_same(places)

    def open_window(self, handle: str) -> None:
        """Memory of the notebook's on this GPU, through which tensors come and go from now on."""
        if self._window:
            self._cuda.close(self._window)
        self._window = self._cuda.open(handle)

    def from_window(self, tensors: Sequence[tuple[Any, int]]) -> None:
        """Set tensors' bytes to what is in the window, each from a place on."""
        self._cuda.copy(*((t.data_ptr(), self._window + at, size_of(t)) for t, at in tensors))

    def to_window(self, tensors: Sequence[tuple[Any, int]]) -> None:
        """Put tensors' bytes into the window, each from a place on."""
        self.finish()
        places = [(self._window + at, t.data_ptr(), size_of(t)) for t, at in tensors]
        self._cuda.copy(*places)

    def load(self, library: str, names: Collection[str], within: Within) -> Mapping[str, Function]:
        functions = super().load(library, names, within)
        return {name: _launching(function) for name, function in functions.items()}

    def finish(self) -> None:
        try:
            super().finish()
        except Exception as error:
            lose(_line_about_cuda(error))


def _is_packed(dtype: str) -> bool:
    """Whether TVM packs elements of a dtype closer than NumPy does."""
    kind = tvm_ffi.dtype(dtype)
    return kind.bits * kind.lanes != 8 * np_dtype(dtype).itemsize and dtype != "bool"


def _launching(function: Function) -> Function:
    """The function, which says so when the driver does not take its grid or block."""

    def launch(*tensors: Any) -> None:
        try:
            function(*tensors)
        except Exception as error:
            _, refused, where = str(error).partition("CUDALaunch Error: ")
            if refused:  # then the grid and the block, and the whole source behind "//"
                raise BeyondDevice(" ".join(where.partition("//")[0].split())) from None
            raise

    return launch


def _line_about_cuda(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in reversed(lines) if "CUDA" in line), lines[-1])


def _address_space() -> int:
    """Bytes of this process's address space that are in use."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
