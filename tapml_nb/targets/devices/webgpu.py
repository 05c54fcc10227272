"""WebGPU devices, and wgpu, which drives those of this machine (see ``browser`` for a page's).

WGSL has no 64-bit integers: int64 tensors are kept as int32, and a value beyond is refused.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from tapml_nb.array_api import np_dtype
from tapml_nb.compile.sources import DeviceFunction, DeviceLaunch
from tapml_nb.targets.devices.base import (
    BeyondDevice,
    SourceDevice,
    Tensor,
    lose,
    refuse_above,
    size_of,
)

_NARROWED = {"int64": np.dtype(np.int32), "uint64": np.dtype(np.uint32)}
_GRID_LIMIT = 65535

LIMITS = (
    "max-buffer-size",
    "max-storage-buffer-binding-size",
    "max-storage-buffers-per-shader-stage",
    "max-compute-workgroup-storage-size",
    "max-compute-invocations-per-workgroup",
    "max-compute-workgroup-size-x",
    "max-compute-workgroup-size-y",
    "max-compute-workgroup-size-z",
)
"""Limits of which all is asked for that the adapter has; the defaults are those of a phone."""


NEEDS = "wgpu is not installed on the target (pip install wgpu)"
NO_DRIVERS = "no driver is installed (Debian's mesa-vulkan-drivers makes one of the CPU)"


class Driver(Protocol):
    """What launches WGSL.  Sizes are in bytes and multiples of 4."""

    name: str
    limits: dict[str, int]
    has_f16: bool

    def allocate(self, size: int) -> Any:
        """A buffer, freed when nobody holds it."""

    def read(self, buffer: Any, size: int) -> np.ndarray:
        """A buffer's first bytes."""

    def write(self, buffer: Any, data: np.ndarray) -> None:
        """Set a buffer's first bytes."""

    def fill(self, buffer: Any, size: int, byte: int) -> None:
        """Set a buffer's first bytes to one value."""

    def compile(self, source: str, entry: str, buffers: Sequence[str]) -> Any:
        """A pipeline; ``buffers`` are the binding types of the storage buffers, which a uniform
        one follows.  Any exception says why the source is rejected."""

    def run(
        self, pipeline: Any, buffers: Sequence[Any], numbers: bytes, grid: tuple[int, int, int]
    ) -> None:
        """Launch a pipeline; ``numbers`` are the uniform buffer's."""

    def finish(self) -> None:
        """Wait for everything launched; any exception says that the device is lost."""


class WebGpuDevice(SourceDevice):
    """A device that a driver drives."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._limits = driver.limits

    def describe(self) -> dict[str, Any]:
        driver = self._driver
        return {"name": driver.name, "limits": {**driver.limits, "shader-f16": driver.has_f16}}

    def new(self, shape: Sequence[int], dtype: str) -> Tensor:
        tensor = Tensor(tuple(shape), dtype, None)
        size = _stored_bytes(tensor)
        limits = self._limits
        limit = min(limits["max-buffer-size"], limits["max-storage-buffer-binding-size"])
        refuse_above(limit, size, f"a buffer of {size} bytes")
        return Tensor(tensor.shape, dtype, self._allocate(size))

    def capacity(self) -> int | None:
        return None

    def read(self, tensor: Tensor) -> np.ndarray:
        size = _stored_bytes(tensor)
        if not size:
            return np.empty(0, np.uint8)
        data = self._driver.read(tensor.buffer, _padded(size))[:size]
        if tensor.dtype in _NARROWED:
            data = data.view(_NARROWED[tensor.dtype]).astype(np_dtype(tensor.dtype)).view(np.uint8)
        return data

    def write(self, tensor: Tensor, data: np.ndarray) -> None:
        if not data.size:
            return
        if tensor.dtype in _NARROWED:
            wide = np.ascontiguousarray(data).view(np_dtype(tensor.dtype))
            narrow = wide.astype(_NARROWED[tensor.dtype])
            if not np.array_equal(narrow, wide):
                value = wide[narrow != wide][0]
                raise BeyondDevice(f"the value {value}; integers have 32 bits here")
            data = narrow.view(np.uint8)
        padded = np.zeros(_padded(data.size), np.uint8)
        padded[: data.size] = data
        self._driver.write(tensor.buffer, padded)

    def fill(self, tensor: Tensor, byte: int) -> None:
        if size := _padded(_stored_bytes(tensor)):
            self._driver.fill(tensor.buffer, size, byte)

    def finish(self) -> None:
        try:
            self._driver.finish()
        except Exception as error:
            lose(f"WebGPU: {error}")

    def _allocate(self, size: int) -> Any:
        return self._driver.allocate(max(4, _padded(size)))

    def _compiled(
        self, name: str, function: DeviceFunction, launches: Sequence[DeviceLaunch]
    ) -> Any:
        self._check(function, launches)
        kinds = [
            "storage" if argument.writes else "read-only-storage"
            for argument in function.arguments
            if argument.buffer
        ]
        return self._driver.compile(function.source, name, kinds), function.arguments

    def _check(self, function: DeviceFunction, launches: Sequence[DeviceLaunch]) -> None:
        """Refuse what the device's limits do not allow, before its driver does something else."""
        buffers = sum(argument.buffer for argument in function.arguments)
        limit = self._limits["max-storage-buffers-per-shader-stage"]
        refuse_above(limit, buffers, f"{buffers} storage buffers")
        for launch in launches:
            threads = math.prod(launch.block)
            limit = self._limits["max-compute-invocations-per-workgroup"]
            refuse_above(limit, threads, f"workgroups of {threads} threads")
            for axis, count in zip("xyz", launch.block, strict=True):
                limit = self._limits[f"max-compute-workgroup-size-{axis}"]
                refuse_above(limit, count, f"{count} threads along {axis}")
        if "enable f16" in function.source and not self._driver.has_f16:
            raise BeyondDevice("float16; the device lacks shader-f16")

    def _launch(self, compiled: Any, launch: DeviceLaunch, arguments: Sequence[Any]) -> None:
        pipeline, parameters = compiled
        x, y, z = launch.grid
        if not x * y * z:
            return
        if z != 1:
            raise RuntimeError("TVM's WGSL keeps blockIdx.z for itself, and the kernel uses it")
        whole = x
        while x > _GRID_LIMIT:  # the kernel puts them together again
            x, z = (x + 1) // 2, z * 2
        buffers: list[Any] = []
        numbers = b""
        for argument, parameter in zip(arguments, parameters, strict=True):
            if parameter.buffer:
                buffers.append(argument)
            else:
                numbers += _word(parameter.dtype, argument)
        numbers += struct.pack("<I", whole - 1)  # the kernel compares with >, so the last index
        self._driver.run(pipeline, buffers, numbers, (x, y, z))


class WgpuDriver:
    """One adapter of this machine, by wgpu, whose drivers are Vulkan, Metal and Direct3D 12."""

    def __init__(self, number: int) -> None:
        """Open an adapter, GPUs first; RuntimeError if there is none of this number."""
        os.environ.setdefault("XDG_RUNTIME_DIR", "/tmp")  # or the loader complains
        try:
            import wgpu
        except ImportError:
            raise RuntimeError(NEEDS) from None
        self._wgpu = wgpu
        found = webgpu_adapters()
        if number >= len(found):
            names = ", ".join(adapter.info["device"] for adapter in found) or NO_DRIVERS
            raise RuntimeError(f"there is no WebGPU adapter {number}: {names}")
        adapter = found[number]
        self.name = f"{adapter.info['device']} ({adapter.info['backend_type']})"
        self.limits = {name: int(adapter.limits[name]) for name in LIMITS}
        self.has_f16 = "shader-f16" in adapter.features
        self._device = adapter.request_device_sync(
            required_features=["shader-f16"] if self.has_f16 else [], required_limits=self.limits
        )
        self._tiny = self.allocate(4)

    def allocate(self, size: int) -> Any:
        usage = self._wgpu.BufferUsage
        return self._device.create_buffer(
            size=size, usage=usage.STORAGE | usage.COPY_SRC | usage.COPY_DST
        )

    def read(self, buffer: Any, size: int) -> np.ndarray:
        return np.frombuffer(self._device.queue.read_buffer(buffer, 0, size), np.uint8)

    def write(self, buffer: Any, data: np.ndarray) -> None:
        self._device.queue.write_buffer(buffer, 0, data)

    def fill(self, buffer: Any, size: int, byte: int) -> None:
        self.write(buffer, np.full(size, byte, np.uint8))

    def compile(self, source: str, entry: str, buffers: Sequence[str]) -> Any:
        stage = self._wgpu.ShaderStage.COMPUTE
        entries = [
            {"binding": number, "visibility": stage, "buffer": {"type": kind}}
            for number, kind in enumerate([*buffers, "uniform"])
        ]
        module = self._device.create_shader_module(code=source)
        layout = self._device.create_bind_group_layout(entries=entries)
        pipeline = self._device.create_compute_pipeline(
            layout=self._device.create_pipeline_layout(bind_group_layouts=[layout]),
            compute={"module": module, "entry_point": entry},
        )
        return pipeline, layout

    def run(
        self, pipeline: Any, buffers: Sequence[Any], numbers: bytes, grid: tuple[int, int, int]
    ) -> None:
        made, layout = pipeline
        device = self._device
        usage = self._wgpu.BufferUsage.UNIFORM
        uniform = device.create_buffer_with_data(data=numbers, usage=usage)
        entries = [
            {"binding": number, "resource": {"buffer": one, "offset": 0, "size": one.size}}
            for number, one in enumerate([*buffers, uniform])
        ]
        group = device.create_bind_group(layout=layout, entries=entries)
        encoder = device.create_command_encoder()
        computing = encoder.begin_compute_pass()
        computing.set_pipeline(made)
        computing.set_bind_group(0, group)
        computing.dispatch_workgroups(*grid)
        computing.end()
        device.queue.submit([encoder.finish()])

    def finish(self) -> None:
        self._device.queue.read_buffer(self._tiny, 0, 4)  # behind all that was submitted


def webgpu_adapters() -> list[Any]:
    """Every adapter here, GPUs before those that a CPU plays."""
    import wgpu

    found = wgpu.gpu.enumerate_adapters_sync()
    return sorted(found, key=lambda adapter: adapter.info["adapter_type"] == "CPU")


def _stored_bytes(tensor: Tensor) -> int:
    """What a tensor takes on the device."""
    if tensor.dtype in _NARROWED:
        return math.prod(tensor.shape) * 4
    return size_of(tensor)


def _padded(size: int) -> int:
    """Sizes of copies are multiples of 4 bytes."""
    return -(-size // 4) * 4


def _word(dtype: str, number: Any) -> bytes:
    kind = "i" if dtype.startswith("int") else "I" if dtype.startswith("uint") else "f"
    return struct.pack(f"<{kind}", number)
