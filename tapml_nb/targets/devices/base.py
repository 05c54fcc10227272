"""Where a target's kernels run: a device's memory, and its way from code to launches.

A device is chosen once per session of the target server, by kind and number, and lives and dies
with that process.
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import numpy as np
import tvm_ffi

from tapml_nb.numerics import np_dtype
from tapml_nb.targets.spec import BROWSER, CPU_KINDS
from tapml_nb.targets.wire.errors import BeyondTarget, Rejected

Function = Callable[..., None]
"""A PrimFunc in destination-passing style; takes the device's tensors."""

Within = Callable[[Callable[[], Any]], Any]
"""Does something within its time."""


class BeyondDevice(BeyondTarget):
    """The device cannot run a kernel or hold a tensor, whatever code it is given."""


LOST, GONE = 70, 71
"""Exit statuses of a process whose device is lost to a kernel, or was taken away."""


def lose(reason: str, status: int = LOST) -> NoReturn:
    """End this process: after a kernel's error nothing works on the device any more, not even
    freeing its memory, and what a call then says would be of the wrong kernel."""
    os.write(2, f"\n{' '.join(reason.split())}\n".encode())
    os._exit(status)


_OF_THE_CODE = ("undefined symbol", "wrong ELF class", "static TLS block", "not found (required by")
"""What the loader says of a library's own doing; all else that it says is of files and memory."""


@dataclass(frozen=True)
class Tensor:
    """A buffer of a device with the shape and dtype that kernels see."""

    shape: tuple[int, ...]
    dtype: str
    buffer: Any


class Device(Protocol):
    """Memory and kernels of one device.  A tensor has ``shape`` and ``dtype``."""

    on_host: bool
    """Whether :meth:`read` gives the tensor's own memory, to be written to as well."""

    def describe(self) -> dict[str, Any]:
        """What it is: ``name``, and ``limits`` where there are any."""

    def new(self, shape: Sequence[int], dtype: str) -> Any:
        """A tensor, uninitialised.

        Raises:
            TypeError: if there is no such dtype, or NumPy and the device lay it out differently.
            BeyondDevice: if it is larger than the device can have it.
            Exception: any other, if there is no room for it.
        """

    def capacity(self) -> int | None:
        """Bytes that there are for tensors when nobody else uses the device; None if that is not
        known."""

    def view(self, tensor: Any, shape: Sequence[int], dtype: str) -> Any:
        """The same memory under another shape."""

    def read(self, tensor: Any) -> np.ndarray:
        """A tensor's bytes."""

    def write(self, tensor: Any, data: np.ndarray) -> None:
        """Set a tensor's bytes.

        Raises:
            BeyondDevice: if there is a value that the device cannot hold.
        """

    def fill(self, tensor: Any, byte: int) -> None:
        """Set every byte."""

    def owner(self, tensor: Any) -> tuple[int, int]:
        """A number for the memory, the same for all views of it, and its size in bytes."""

    def load(self, library: str, names: Collection[str], within: Within) -> Mapping[str, Function]:
        """Make the functions of a library ready to launch.

        Raises:
            Rejected: if one is missing, or the driver rejects it; with its message.
            BeyondDevice: if one needs more than the device has.
            Exception: any other, if the library itself cannot be read.
        """

    def finish(self) -> None:
        """Wait for everything launched.

        Raises:
            RuntimeError: if it failed.
        """


def open_device(kind: str, number: int) -> Device:
    """The device that kernels of a kind of target run on.

    Raises:
        RuntimeError: if it is not there, or what drives it is missing; with what to install.
    """
    if kind in CPU_KINDS:
        return TvmDevice(tvm_ffi.device("cpu", 0))
    if kind == "cuda":
        from tapml_nb.targets.devices.cuda import CudaDevice

        return CudaDevice(number)
    if kind == "opencl":
        from tapml_nb.targets.devices.opencl import OpenClDevice

        return OpenClDevice(number)
    if kind == "webgpu":
        from tapml_nb.targets.devices.webgpu import WebGpuDevice
        from tapml_nb.targets.devices.wgpu_driver import WgpuDriver

        return WebGpuDevice(WgpuDriver(number))
    if kind == BROWSER:
        from tapml_nb.targets.devices.browser import PageDriver
        from tapml_nb.targets.devices.webgpu import WebGpuDevice

        return WebGpuDevice(PageDriver())
    raise RuntimeError(f"this server has no devices of kind {kind!r}")


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


def size_of(tensor: Any) -> int:
    """A tensor's bytes, as NumPy lays it out."""
    elements = int(np.prod([int(n) for n in tensor.shape], dtype=np.int64))
    return elements * np_dtype(str(tensor.dtype)).itemsize


def raw_bytes(tensor: Any) -> np.ndarray:
    """The bytes of a tensor in this process's memory.  (An array over DLPack would not do: no
    bfloat16.)"""
    count = size_of(tensor)
    if count == 0:
        return np.empty(0, np.uint8)
    return np.frombuffer((ctypes.c_char * count).from_address(tensor.data_ptr()), np.uint8)
