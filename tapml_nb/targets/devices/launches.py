"""From a package of kernel sources to functions that launch them, on any driver."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tapml_nb.compile.sources import DeviceFunction, DeviceLaunch, HostFunction, SourcePackage
from tapml_nb.targets.devices.base import BeyondDevice, Function, Tensor, Within, size_of
from tapml_nb.targets.wire.errors import Rejected


class SourceDevice(ABC):
    """A device whose driver compiles source text."""

    on_host = False

    def view(self, tensor: Tensor, shape: Sequence[int], dtype: str) -> Tensor:
        return Tensor(tuple(shape), dtype, tensor.buffer)

    def owner(self, tensor: Tensor) -> tuple[int, int]:
        return id(tensor.buffer), size_of(tensor)

    def load(self, library: str, names: Collection[str], within: Within) -> Mapping[str, Function]:
        package = SourcePackage.parse(Path(library).read_text(encoding="utf-8"))
        missing = sorted(set(names) - set(package.functions))
        if missing:
            raise Rejected(f"the package has no function {', '.join(missing)}")
        launches: dict[str, list[DeviceLaunch]] = defaultdict(list)
        for host in package.functions.values():
            for one in host.launches:
                launches[one.function].append(one)
        ready: dict[str, Any] = {}
        for name, function in package.device.items():
            try:
                ready[name] = within(
                    lambda: self._compiled(name, function, launches[name])  # noqa: B023
                )
            except BeyondDevice:
                raise
            except Exception as error:
                raise Rejected(f"the driver rejects {name}: {error}") from None
        return {name: self._host(package.functions[name], ready) for name in names}

    def _host(self, host: HostFunction, ready: Mapping[str, Any]) -> Function:
        def run(*tensors: Tensor) -> None:
            buffers = [tensor.buffer for tensor in tensors]
            buffers += [self._allocate(size) for size in host.workspaces]
            for one in host.launches:
                arguments = [
                    buffers[argument[1]] if isinstance(argument, list | tuple) else argument
                    for argument in one.arguments
                ]
                self._launch(ready[one.function], one, arguments)

        return run

    @abstractmethod
    def _allocate(self, size: int) -> Any:
        """A buffer of so many bytes."""

    @abstractmethod
    def _compiled(
        self, name: str, function: DeviceFunction, launches: Sequence[DeviceLaunch]
    ) -> Any:
        """Make a device function ready, given all launches of it."""

    @abstractmethod
    def _launch(self, compiled: Any, launch: DeviceLaunch, arguments: Sequence[Any]) -> None:
        """Launch what was made ready, with buffers and numbers in the function's order."""
