"""From a package of kernel sources to functions that launch them, on any driver."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tapml_nb.compile.sources import DeviceFunction, DeviceLaunch, HostFunction, SourcePackage
from tapml_nb.targets.devices.base import BeyondDevice, Function, Tensor, Within
from tapml_nb.targets.wire.errors import Rejected

Compile = Callable[[str, DeviceFunction, Sequence[DeviceLaunch]], Any]
"""Makes a device function ready, given all launches of it."""

Launch = Callable[[Any, DeviceLaunch, Sequence[Any]], None]
"""Launches what was made ready, with buffers and numbers in the function's order."""


def load_package(
    library: str,
    names: Collection[str],
    within: Within,
    compiled: Compile,
    launch: Launch,
    allocate: Callable[[int], Any],
) -> Mapping[str, Function]:
    """Have the driver compile a package.

    Args:
        library: the package's file.
        names: the PrimFuncs that must be in it.
        within: bounds each compilation in time.
        compiled: compiles a device function.
        launch: launches one.
        allocate: a buffer of so many bytes.

    Raises:
        Rejected: if a function is missing, or the driver rejects it.
        BeyondDevice: if it needs more than the device has.
    """
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
            ready[name] = within(lambda: compiled(name, function, launches[name]))  # noqa: B023
        except BeyondDevice:
            raise
        except Exception as error:
            raise Rejected(f"the driver rejects {name}: {error}") from None
    return {name: _host(package.functions[name], ready, launch, allocate) for name in names}


def _host(
    host: HostFunction, ready: Mapping[str, Any], launch: Launch, allocate: Callable[[int], Any]
) -> Function:
    def run(*tensors: Tensor) -> None:
        buffers = [tensor.buffer for tensor in tensors]
        buffers += [allocate(size) for size in host.workspaces]
        for one in host.launches:
            arguments = [
                buffers[argument[1]] if isinstance(argument, list | tuple) else argument
                for argument in one.arguments
            ]
            launch(ready[one.function], one, arguments)

    return run
