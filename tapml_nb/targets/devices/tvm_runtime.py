"""Devices of TVM's own runtime: the CPU, and the base of those whose memory is elsewhere."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import tvm_ffi

from tapml_nb.numerics import np_dtype
from tapml_nb.targets.devices.base import Function, Within, raw_bytes, size_of
from tapml_nb.targets.wire.errors import Rejected

_OF_THE_CODE = ("undefined symbol", "wrong ELF class", "static TLS block", "not found (required by")
"""What the loader says of a library's own doing; all else that it says is of files and memory."""


class TvmDevice:
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
        self._at_first = self._at_first or _address_space()  # what the process itself takes
        kind = tvm_ffi.dtype(dtype)
        if kind.bits * kind.lanes != 8 * np_dtype(dtype).itemsize and dtype != "bool":
            raise TypeError(f"dtype {dtype} is packed on the target; send its bytes as uint8")
        return self._alloc(tvm_ffi.Shape(tuple(shape)), kind, self._device, None)

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


def _address_space() -> int:
    """Bytes of this process's address space that are in use."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
