"""OpenCL devices, through pyopencl: the driver compiles the source that TVM generates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapml_nb.array_api import np_dtype
from tapml_nb.compile.sources import DeviceFunction, DeviceLaunch
from tapml_nb.targets.devices.base import SourceDevice, Tensor, lose, refuse_above, size_of
from tapml_nb.targets.wire.errors import NoRoom

NEEDS = "pyopencl is not installed on the target (pip install pyopencl)"
NO_DRIVERS = "no driver is installed (Debian's pocl-opencl-icd makes one of the CPU)"


class OpenClDevice(SourceDevice):
    """One device, counted over all platforms."""

    def __init__(self, number: int) -> None:
        try:
            import pyopencl
        except ImportError:
            raise RuntimeError(NEEDS) from None
        self._cl = pyopencl
        found = opencl_devices()
        if number >= len(found):
            names = ", ".join(device.name for device in found) or NO_DRIVERS
            raise RuntimeError(f"there is no OpenCL device {number}: {names}")
        self._device = found[number]
        self._context = pyopencl.Context([self._device])
        self._queue = pyopencl.CommandQueue(self._context)

    def describe(self) -> dict[str, Any]:
        device = self._device
        return {
            "name": f"{device.name} ({device.platform.name})",
            "limits": {
                "buffer bytes": device.max_mem_alloc_size,
                "work-group size": device.max_work_group_size,
                "local memory bytes": device.local_mem_size,
            },
        }

    def new(self, shape: Sequence[int], dtype: str) -> Tensor:
        tensor = Tensor(tuple(shape), dtype, None)
        size = size_of(tensor)
        refuse_above(self._device.max_mem_alloc_size, size, f"a buffer of {size} bytes")
        return Tensor(tensor.shape, dtype, self._allocate(size))

    def capacity(self) -> int | None:
        return int(self._device.global_mem_size)

    def read(self, tensor: Tensor) -> np.ndarray:
        data = np.empty(size_of(tensor), np.uint8)
        if data.size:
            self._done(self._cl.enqueue_copy, data, tensor.buffer)
        return data

    def write(self, tensor: Tensor, data: np.ndarray) -> None:
        if data.size:
            self._done(self._cl.enqueue_copy, tensor.buffer, np.ascontiguousarray(data))

    def fill(self, tensor: Tensor, byte: int) -> None:
        if size := size_of(tensor):
            pattern = np.full(1, byte, np.uint8)
            self._done(self._cl.enqueue_fill_buffer, tensor.buffer, pattern, 0, size)

    def finish(self) -> None:
        try:
            self._queue.finish()
        except self._cl.Error as error:
            lose(f"OpenCL: {error}")

    def _done(self, command: Callable[..., Any], *arguments: Any) -> None:
        """Do something that only fails when a kernel before it has."""
        try:
            command(self._queue, *arguments)
            self._queue.finish()
        except self._cl.Error as error:
            if "MEM_OBJECT_ALLOCATION_FAILURE" in str(error):  # buffers get memory when first used
                raise NoRoom(0, self.capacity()) from None
            lose(f"OpenCL: {error}")

    def _allocate(self, size: int) -> Any:
        return self._cl.Buffer(self._context, self._cl.mem_flags.READ_WRITE, size=max(4, size))

    def _compiled(
        self, name: str, function: DeviceFunction, launches: Sequence[DeviceLaunch]
    ) -> Any:
        threads = max((int(np.prod(launch.block)) for launch in launches), default=1)
        refuse_above(self._device.max_work_group_size, threads, f"work-groups of {threads} items")
        try:
            program = self._cl.Program(self._context, function.source).build()
        except self._cl.RuntimeError as error:
            raise RuntimeError(_first_errors(str(error))) from None
        kernel = getattr(program, name)
        scalars = [None if a.buffer else np_dtype(a.dtype).type for a in function.arguments]
        return kernel, scalars

    def _launch(self, compiled: Any, launch: DeviceLaunch, arguments: Sequence[Any]) -> None:
        kernel, scalars = compiled
        kernel.set_args(
            *[
                argument if scalar is None else scalar(argument)
                for argument, scalar in zip(arguments, scalars, strict=True)
            ]
        )
        size = tuple(g * b for g, b in zip(launch.grid, launch.block, strict=True))
        if all(size):
            self._cl.enqueue_nd_range_kernel(self._queue, kernel, size, launch.block)


def opencl_devices() -> list[Any]:
    """Every OpenCL device here, GPUs first."""
    import pyopencl

    try:
        platforms = pyopencl.get_platforms()
    except pyopencl.Error:  # the loader finds no driver
        return []
    found = [device for platform in platforms for device in platform.get_devices()]
    return sorted(found, key=lambda device: not device.type & pyopencl.device_type.GPU)


def _first_errors(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if "error" in line.lower()]
    return "; ".join(lines[:3]) or log.strip()[:500]
