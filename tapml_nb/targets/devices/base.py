"""Where a target's kernels run: a device's memory, and its way from code to launches.

Some take a library of TVM's, others, which derive from :class:`SourceDevice`, a package of kernel
sources, which their driver compiles.  A device is chosen once per session of the target server, by
kind and number, and lives and dies with that process.
"""

from __future__ import annotations

import ctypes
import os
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, Protocol, runtime_checkable

import numpy as np

from tapml_nb.array_api import np_dtype
from tapml_nb.compile.sources import DeviceFunction, DeviceLaunch, HostFunction, SourcePackage
from tapml_nb.targets.wire.errors import BeyondTarget, Rejected
from tapml_nb.targets.wire.recorder import DEVICE_LOST

Function = Callable[..., None]
"""A PrimFunc in destination-passing style; takes the device's tensors."""

Within = Callable[[Callable[[], Any]], Any]
"""Does something within its time."""


class BeyondDevice(BeyondTarget):
    """The device cannot run a kernel or hold a tensor, whatever code it is given."""


def load_tvm_library(name: str) -> None:
    """Load one of TVM's libraries into this process, without TVM's Python package."""
    spec = find_spec("tvm")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("apache-tvm is not installed")
    ctypes.CDLL(str(Path(spec.origin).parent / "lib" / name), ctypes.RTLD_GLOBAL)


def lose(reason: str, status: int = DEVICE_LOST) -> NoReturn:
    """End this process: after a kernel's error nothing works on the device any more, not even
    freeing its memory, and what a call then says would be of the wrong kernel."""
    os.write(2, f"\n{' '.join(reason.split())}\n".encode())
    os._exit(status)


def refuse_above(limit: int, count: int, what: str) -> None:
    """BeyondDevice if a count, which is told in words, is above the device's limit."""
    if count > limit:
        raise BeyondDevice(f"{what}; the device allows {limit}")


@dataclass(frozen=True)
class Tensor:
    """A buffer of a device with the shape and dtype that kernels see."""

    shape: tuple[int, ...]
    dtype: str
    buffer: Any


class Device(Protocol):
    """Memory and kernels of one device.  A tensor has ``shape`` and ``dtype``."""

    on_host: bool
    """Whether :meth:`read` gives the tensor's own memory, to be written to as well."""

    def describe(self) -> dict[str, Any]:
        """What it is: ``name``, and ``limits`` where there are any."""

    def new(self, shape: Sequence[int], dtype: str) -> Any:
        """A tensor, uninitialised.  TypeError: there is no such dtype, or NumPy lays it out
        differently; BeyondDevice: it is larger than the device can have it; any other exception:
        there is no room for it."""

    def capacity(self) -> int | None:
        """Bytes for tensors when nobody else uses the device; None if that is not known."""

    def view(self, tensor: Any, shape: Sequence[int], dtype: str) -> Any:
        """The same memory under another shape."""

    def read(self, tensor: Any) -> np.ndarray:
        """A tensor's bytes."""

    def write(self, tensor: Any, data: np.ndarray) -> None:
        """Set a tensor's bytes; BeyondDevice if there is a value that the device cannot hold."""

    def fill(self, tensor: Any, byte: int) -> None:
        """Set every byte."""

    def owner(self, tensor: Any) -> tuple[int, int]:
        """A number for the memory, the same for all views of it, and its size in bytes."""

    def snapshot(self, tensor: Any) -> Any:
        """What a tensor holds now."""

    def unchanged(self, tensor: Any, snapshot: Any) -> bool:
        """Whether a tensor holds what it held then, bit for bit."""

    def same(self, one: Any, other: Any) -> bool:
        """Whether two tensors of one size agree bit for bit."""

    def all_same(self, pairs: Sequence[tuple[Any, Any]]) -> list[bool]:
        """The same of many pairs."""

    def load(self, library: str, names: Collection[str], within: Within) -> Mapping[str, Function]:
        """Make the functions of a library ready to launch.  Rejected: one is missing, or the
        driver rejects it; BeyondDevice: one needs more than the device has; any other exception:
        the library itself cannot be read."""

    def finish(self) -> None:
        """Wait for everything launched; RuntimeError if it failed."""


@runtime_checkable
class HostDevice(Protocol):
    """A device whose memory is this process's own."""

    def over(self, data: np.ndarray, shape: Sequence[int], dtype: str) -> Any:
        """A tensor of bytes that are there, and are kept as long as it is; raises TypeError as
        :meth:`Device.new`."""


@runtime_checkable
class PooledDevice(Protocol):
    """A device that keeps memory to be used again.

    Attributes:
        peak: the most bytes that it ever held, with what nobody used.
    """

    @property
    def peak(self) -> int: ...

    def keep_within(self, bound: int) -> None:
        """Hold no more than so many bytes from now on; a tensor beyond them has no room."""


@runtime_checkable
class SharedDevice(Protocol):
    """A device that the notebook computes on as well, with a window of memory that both see."""

    def open_window(self, handle: str) -> None:
        """Memory of the notebook's on this GPU, through which tensors come and go from now on."""

    def from_window(self, tensors: Sequence[tuple[Any, int]]) -> None:
        """Set tensors' bytes to what is in the window, each from a place on."""

    def to_window(self, tensors: Sequence[tuple[Any, int]]) -> None:
        """Put tensors' bytes into the window, each from a place on."""


def size_of(tensor: Any) -> int:
    """A tensor's bytes, as NumPy lays it out."""
    elements = int(np.prod([int(n) for n in tensor.shape], dtype=np.int64))
    return elements * np_dtype(str(tensor.dtype)).itemsize


def raw_bytes(tensor: Any) -> np.ndarray:
    """The bytes of a tensor in this process's memory.  (An array over DLPack would not do: no
    bfloat16.)"""
    count = size_of(tensor)
    if count == 0:
        return np.empty(0, np.uint8)
    return np.frombuffer((ctypes.c_char * count).from_address(tensor.data_ptr()), np.uint8)


class Compared(ABC):
    """Tensors compared by reading them, where a device has no better way."""

    def snapshot(self, tensor: Any) -> np.ndarray:
        return self.read(tensor).copy()

    def unchanged(self, tensor: Any, snapshot: np.ndarray) -> bool:
        return bool(np.array_equal(snapshot, self.read(tensor)))

    def same(self, one: Any, other: Any) -> bool:
        x, y = self.read(one), self.read(other)
        if x.size % 8 == 0:
            x, y = x.view(np.uint64), y.view(np.uint64)
        return bool(np.array_equal(x, y))

    def all_same(self, pairs: Sequence[tuple[Any, Any]]) -> list[bool]:
        return [self.same(one, other) for one, other in pairs]

    @abstractmethod
    def read(self, tensor: Any) -> np.ndarray:
        """A tensor's bytes."""


class SourceDevice(Compared):
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
