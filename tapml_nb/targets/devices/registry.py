"""Which device stands behind a kind of target."""

from __future__ import annotations

import tvm_ffi

from tapml_nb.targets.devices.base import Device
from tapml_nb.targets.devices.tvm_runtime import TvmDevice
from tapml_nb.targets.spec import BROWSER, CPU_KINDS


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
