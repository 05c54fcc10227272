"""CUDA GPUs, through TVM's own runtime.

A process that has used CUDA cannot be forked, so the listener never does; each session's process
starts CUDA for itself.  An error of a kernel leaves the whole context unusable: the process ends,
and the next one begins anew.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tvm_ffi

from tapml_nb.targets.devices.base import BeyondDevice, Function, Within, lose
from tapml_nb.targets.devices.tvm_runtime import CopiedTvmDevice

_KIND = 2
"""``kDLCUDA``."""

_EXISTS, _VERSION, _NAME, _MEMORY = 0, 4, 5, 14
"""Of ``tvm::runtime::DeviceAttrKind``."""


class CudaDevice(CopiedTvmDevice):
    """One GPU."""

    def __init__(self, number: int) -> None:
        spec = find_spec("tvm")
        assert spec is not None
        assert spec.origin is not None
        library = Path(spec.origin).parent / "lib" / "libtvm_runtime_cuda.so"
        try:
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
        except OSError as error:
            if "libcuda.so" in str(error):
                raise RuntimeError("it needs an NVIDIA GPU and its driver") from None
            raise RuntimeError(f"TVM's CUDA runtime cannot be loaded: {error}") from None
        super().__init__(tvm_ffi.device("cuda", number))
        self._number = number
        self._attribute = tvm_ffi.get_global_func("runtime.GetDeviceAttr")
        if not self._attribute(_KIND, number, _EXISTS):
            raise RuntimeError(f"there is no CUDA device {number}")

    def describe(self) -> dict[str, Any]:
        version = str(self._attribute(_KIND, self._number, _VERSION))
        return {
            "name": str(self._attribute(_KIND, self._number, _NAME)),
            "arch": f"sm_{version.replace('.', '')}",
        }

    def capacity(self) -> int | None:
        return int(self._attribute(_KIND, self._number, _MEMORY))

    def load(self, library: str, names: Collection[str], within: Within) -> Mapping[str, Function]:
        functions = super().load(library, names, within)
        return {name: _launching(function) for name, function in functions.items()}

    def finish(self) -> None:
        try:
            super().finish()
        except Exception as error:
            lose(_words(error))


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


def _words(error: Exception) -> str:
    """The line of a message of TVM's that is about CUDA."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in reversed(lines) if "CUDA" in line), lines[-1])
