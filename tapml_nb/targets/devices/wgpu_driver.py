"""WebGPU on this machine, through wgpu (whose drivers are Vulkan, Metal and Direct3D 12)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapml_nb.targets.devices.webgpu import LIMITS

NEEDS = "wgpu is not installed on the target (pip install wgpu)"
NO_DRIVERS = "no driver is installed (Debian's mesa-vulkan-drivers makes one of the CPU)"


class WgpuDriver:
    """One adapter."""

    def __init__(self, number: int) -> None:
        """Open an adapter, GPUs first.

        Raises:
            RuntimeError: if there is none of this number, or no driver at all.
        """
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
        """A pipeline with its layout."""
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
