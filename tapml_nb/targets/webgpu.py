"""WebGPU devices, through wgpu (its drivers are Vulkan, Metal and Direct3D 12).

WGSL has no 64-bit integers: int64 tensors are kept as int32, and a value beyond is refused.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from tapml_nb.compile.sources import DeviceFunction, DeviceLaunch
from tapml_nb.numerics import np_dtype
from tapml_nb.targets.devices import BeyondDevice, Function, Tensor, Within, lose, size_of
from tapml_nb.targets.launches import load_package

NEEDS = "wgpu is not installed on the target (pip install wgpu)"
NO_DRIVERS = "no driver is installed (Debian's mesa-vulkan-drivers makes one of the CPU)"

_NARROWED = {"int64": np.dtype(np.int32), "uint64": np.dtype(np.uint32)}
_GRID_LIMIT = 65535
_LIMITS = (
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


class WebGpuDevice:
    """One adapter."""

    on_host = False

    def __init__(self, number: int) -> None:
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
        self._adapter = found[number]
        self._limits = {name: self._adapter.limits[name] for name in _LIMITS}
        features = [name for name in ("shader-f16",) if name in self._adapter.features]
        self._device = self._adapter.request_device_sync(
            required_features=features, required_limits=self._limits
        )
        self._has_f16 = "shader-f16" in features
        self._tiny = self._allocate(4)

    def describe(self) -> dict[str, Any]:
        info = self._adapter.info
        limits = {**self._limits, "shader-f16": self._has_f16}
        return {"name": f"{info['device']} ({info['backend_type']})", "limits": limits}

    def new(self, shape: Sequence[int], dtype: str) -> Tensor:
        tensor = Tensor(tuple(shape), dtype, None)
        size = _stored_bytes(tensor)
        limit = min(
            self._limits["max-buffer-size"], self._limits["max-storage-buffer-binding-size"]
        )
        if size > limit:
            raise BeyondDevice(f"a buffer of {size} bytes; the device allows {limit}")
        return Tensor(tensor.shape, dtype, self._allocate(size))

    def view(self, tensor: Tensor, shape: Sequence[int], dtype: str) -> Tensor:
        return Tensor(tuple(shape), dtype, tensor.buffer)

    def read(self, tensor: Tensor) -> np.ndarray:
        size = _stored_bytes(tensor)
        if not size:
            return np.empty(0, np.uint8)
        data = np.frombuffer(self._device.queue.read_buffer(tensor.buffer, 0, _padded(size)), "u1")
        data = data[:size]
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
        self._device.queue.write_buffer(tensor.buffer, 0, padded)

    def fill(self, tensor: Tensor, byte: int) -> None:
        size = _padded(_stored_bytes(tensor))
        if size:
            self._device.queue.write_buffer(tensor.buffer, 0, np.full(size, byte, np.uint8))

    def owner(self, tensor: Tensor) -> tuple[int, int]:
        return id(tensor.buffer), size_of(tensor)

    def load(self, library: str, names: Collection[str], within: Within) -> Mapping[str, Function]:
        return load_package(library, names, within, self._compiled, self._launch, self._allocate)

    def finish(self) -> None:
        try:
            self._device.queue.read_buffer(self._tiny, 0, 4)  # behind all that was submitted
        except Exception as error:
            lose(f"WebGPU: {error}")

    def _allocate(self, size: int) -> Any:
        usage = self._wgpu.BufferUsage
        return self._device.create_buffer(
            size=max(4, _padded(size)), usage=usage.STORAGE | usage.COPY_SRC | usage.COPY_DST
        )

    def _compiled(
        self, name: str, function: DeviceFunction, launches: Sequence[DeviceLaunch]
    ) -> Any:
        self._check(function, launches)
        stage = self._wgpu.ShaderStage.COMPUTE
        kinds = [
            "storage" if argument.writes else "read-only-storage"
            for argument in function.arguments
            if argument.buffer
        ]
        entries = [
            {"binding": number, "visibility": stage, "buffer": {"type": kind}}
            for number, kind in enumerate([*kinds, "uniform"])
        ]
        module = self._device.create_shader_module(code=function.source)
        layout = self._device.create_bind_group_layout(entries=entries)
        pipeline = self._device.create_compute_pipeline(
            layout=self._device.create_pipeline_layout(bind_group_layouts=[layout]),
            compute={"module": module, "entry_point": name},
        )
        return pipeline, layout, function.arguments

    def _check(self, function: DeviceFunction, launches: Sequence[DeviceLaunch]) -> None:
        """Refuse what the device's limits do not allow, before its driver does something else."""
        buffers = sum(argument.buffer for argument in function.arguments)
        if buffers > self._limits["max-storage-buffers-per-shader-stage"]:
            limit = self._limits["max-storage-buffers-per-shader-stage"]
            raise BeyondDevice(f"{buffers} storage buffers; the device allows {limit}")
        for launch in launches:
            threads = math.prod(launch.block)
            limit = self._limits["max-compute-invocations-per-workgroup"]
            if threads > limit:
                raise BeyondDevice(f"workgroups of {threads} threads; the device allows {limit}")
            for axis, count in zip("xyz", launch.block, strict=True):
                limit = self._limits[f"max-compute-workgroup-size-{axis}"]
                if count > limit:
                    raise BeyondDevice(f"{count} threads along {axis}; the device allows {limit}")
        if "enable f16" in function.source and not self._has_f16:
            raise BeyondDevice("float16; the device lacks shader-f16")

    def _launch(self, compiled: Any, launch: DeviceLaunch, arguments: Sequence[Any]) -> None:
        pipeline, layout, parameters = compiled
        x, y, z = launch.grid
        if not x * y * z:
            return
        if z != 1:
            raise RuntimeError("TVM's WGSL keeps blockIdx.z for itself, and the kernel uses it")
        whole = x
        while x > _GRID_LIMIT:  # the kernel puts them together again
            x, z = (x + 1) // 2, z * 2
        device = self._device
        entries: list[dict[str, Any]] = []
        numbers = b""
        for argument, parameter in zip(arguments, parameters, strict=True):
            if parameter.buffer:
                resource = {"buffer": argument, "offset": 0, "size": argument.size}
                entries.append({"binding": len(entries), "resource": resource})
            else:
                numbers += _word(parameter.dtype, argument)
        numbers += struct.pack("<I", whole - 1)  # the kernel compares with >, so the last index
        uniform = device.create_buffer_with_data(data=numbers, usage=self._wgpu.BufferUsage.UNIFORM)
        resource = {"buffer": uniform, "offset": 0, "size": len(numbers)}
        entries.append({"binding": len(entries), "resource": resource})
        group = device.create_bind_group(layout=layout, entries=entries)
        encoder = device.create_command_encoder()
        computing = encoder.begin_compute_pass()
        computing.set_pipeline(pipeline)
        computing.set_bind_group(0, group)
        computing.dispatch_workgroups(x, y, z)
        computing.end()
        device.queue.submit([encoder.finish()])


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
