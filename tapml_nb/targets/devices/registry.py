"""Which device stands behind a kind of target.

``-m tapml_nb.targets.devices.registry KIND NUMBER`` describes one of this machine as JSON: in a
process of its own, because a driver may start threads, or crash.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from typing import TYPE_CHECKING

from tapml_nb.targets.spec import BROWSER, CPU_KINDS

if TYPE_CHECKING:  # NumPy may start threads before load_runtime forbids it
    from tapml_nb.targets.devices.base import Device


def load_runtime() -> None:
    """Load TVM's runtime into this process, without TVM's Python package and without PyTorch."""
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    os.environ["TVM_FFI_DISABLE_TORCH_C_DLPACK"] = "1"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # a thread here would not survive a fork
    import tvm_ffi  # noqa: F401

    from tapml_nb.targets.devices.base import load_tvm_library

    load_tvm_library("libtvm_runtime.so")
    load_tvm_library("libtvm_runtime_extra.so")  # sort, topk, random
    # TVM's handler looks up the name of every frame first, and may be ended before it says a word.
    faulthandler.enable(2, all_threads=False)


def open_device(kind: str, number: int) -> Device:
    """The device that kernels of a kind of target run on; RuntimeError if it is not there, or what
    drives it is missing; with what to install."""
    if kind in CPU_KINDS:
        import tvm_ffi

        from tapml_nb.targets.devices.tvm_runtime import TvmDevice

        return TvmDevice(tvm_ffi.device("cpu", 0))
    if kind == "cuda":
        from tapml_nb.targets.devices.tvm_runtime import CudaDevice

        return CudaDevice(number)
    if kind == "opencl":
        from tapml_nb.targets.devices.opencl import OpenClDevice

        return OpenClDevice(number)
    if kind in ("webgpu", BROWSER):
        from tapml_nb.targets.devices.browser import PageDriver
        from tapml_nb.targets.devices.webgpu import WebGpuDevice, WgpuDriver

        return WebGpuDevice(PageDriver() if kind == BROWSER else WgpuDriver(number))
    raise RuntimeError(f"this server has no devices of kind {kind!r}")


def main() -> None:
    """Print what the device says of itself, or ``{"missing": why}``."""
    load_runtime()
    try:
        answer = open_device(sys.argv[1], int(sys.argv[2])).describe()
    except Exception as error:
        answer = {"missing": " ".join(str(error).split())}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
