"""CUDA GPUs, through TVM's own runtime.

A process that has used CUDA cannot be forked, so the listener never does; each session's process
starts CUDA for itself.  An error of a kernel leaves the whole context unusable: the process ends,
and the next one begins anew.
"""

from __future__ import annotations

import ctypes
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi

from tapml_nb.targets.devices import TvmDevice, size_of

_KIND = 2
"""``kDLCUDA``."""

_EXISTS, _VERSION, _NAME = 0, 4, 5
"""Of ``tvm::runtime::DeviceAttrKind``."""

LOST = 70
"""Exit status of a process whose device is lost."""


class CudaDevice(TvmDevice):
    """One GPU."""

    on_host = False

    def __init__(self, number: int) -> None:
        spec = find_spec("tvm")
        assert spec is not None
        assert spec.origin is not None
        library = Path(spec.origin).parent / "lib" / "libtvm_runtime_cuda.so"
        try:
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise RuntimeError(f"TVM's CUDA runtime cannot be loaded: {error}") from None
        super().__init__("cuda", number)
        self._number = number
        self._attribute = tvm_ffi.get_global_func("runtime.GetDeviceAttr")
        self._synchronize = tvm_ffi.get_global_func("runtime.Device_StreamSync")
        self._from_bytes = tvm_ffi.get_global_func("runtime.TVMTensorCopyFromBytes")
        self._to_bytes = tvm_ffi.get_global_func("runtime.TVMTensorCopyToBytes")
        if not self._attribute(_KIND, number, _EXISTS):
            raise RuntimeError(f"there is no CUDA device {number}")

    def describe(self) -> dict[str, Any]:
        version = str(self._attribute(_KIND, self._number, _VERSION))
        return {
            "name": str(self._attribute(_KIND, self._number, _NAME)),
            "arch": f"sm_{version.replace('.', '')}",
        }

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

    def finish(self) -> None:
        try:
            self._synchronize(self._device, 0)
        except Exception as error:
            # Nothing works on this device any more, not even freeing its memory.
            words = [line for line in str(error).splitlines() if "CUDA" in line] or [str(error)]
            os.write(2, f"\n{words[-1].strip()}\n".encode())
            os._exit(LOST)
