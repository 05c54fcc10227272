"""Kernels as source text: what a driver that compiles for itself (OpenCL, WebGPU) is given.

A package holds, for each PrimFunc, what its host part would do: allocate workspaces and launch
device functions, all of them with numbers, for units have static shapes.  So a target needs no TVM
compiler, and no code generated for its host.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Self

SOURCE_KINDS = ("opencl", "webgpu")
"""Kinds of target whose drivers compile source text."""


@dataclass(frozen=True)
class Argument:
    """A parameter of a device function: a buffer (``writes``: it may write there) or a number."""

    dtype: str
    buffer: bool
    writes: bool = False


@dataclass(frozen=True)
class DeviceFunction:
    """One device function: the text to compile, and its parameters in order."""

    source: str
    arguments: tuple[Argument, ...]


@dataclass(frozen=True)
class DeviceLaunch:
    """One launch: a grid of ``grid`` blocks of ``block`` threads.

    ``arguments`` are numbers, or ``["buffer", i]``: the i-th parameter of the PrimFunc, or, counted
    on from there, the i-th workspace.
    """

    function: str
    arguments: tuple[Any, ...]
    grid: tuple[int, int, int]
    block: tuple[int, int, int]


@dataclass(frozen=True)
class HostFunction:
    """What a PrimFunc does on the host: ``parameters`` buffers come in, ``workspaces`` (sizes in
    bytes) are allocated, and ``launches`` follow one another."""

    parameters: int
    workspaces: tuple[int, ...]
    launches: tuple[DeviceLaunch, ...]

    @classmethod
    def parse(cls, data: dict[str, Any]) -> Self:
        """From JSON, whose lists were tuples."""
        launches = tuple(
            DeviceLaunch(x["function"], tuple(x["arguments"]), tuple(x["grid"]), tuple(x["block"]))
            for x in data["launches"]
        )
        return cls(data["parameters"], tuple(data["workspaces"]), launches)


@dataclass(frozen=True)
class SourcePackage:
    """PrimFuncs by name, and the device functions they launch."""

    functions: dict[str, HostFunction] = field(default_factory=dict)
    device: dict[str, DeviceFunction] = field(default_factory=dict)

    @classmethod
    def merged(cls, packages: Iterable[SourcePackage]) -> Self:
        """All packages in one; names are unique across kernels."""
        merged = cls()
        for package in packages:
            merged.functions.update(package.functions)
            merged.device.update(package.device)
        return merged

    def dump(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Inverse of :meth:`dump`."""
        data = json.loads(text)
        return cls(
            {name: HostFunction.parse(entry) for name, entry in data["functions"].items()},
            {
                name: DeviceFunction(
                    entry["source"], tuple(Argument(**a) for a in entry["arguments"])
                )
                for name, entry in data["device"].items()
            },
        )
