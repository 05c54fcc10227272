"""Where a target's kernels run: a device's memory, and its way from code to launches.

A device is chosen once per session of the target server, by kind and number, and lives and dies
with that process.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import numpy as np

from tapml_nb.numerics import np_dtype
from tapml_nb.targets.wire.errors import BeyondTarget
from tapml_nb.targets.wire.recorder import DEVICE_LOST

Function = Callable[..., None]
"""A PrimFunc in destination-passing style; takes the device's tensors."""

Within = Callable[[Callable[[], Any]], Any]
"""Does something within its time."""


class BeyondDevice(BeyondTarget):
    """The device cannot run a kernel or hold a tensor, whatever code it is given."""


def lose(reason: str, status: int = DEVICE_LOST) -> NoReturn:
    """End this process: after a kernel's error nothing works on the device any more, not even
    freeing its memory, and what a call then says would be of the wrong kernel."""
    os.write(2, f"\n{' '.join(reason.split())}\n".encode())
    os._exit(status)


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
        """A tensor, uninitialised.

        Raises:
            TypeError: if there is no such dtype, or NumPy and the device lay it out differently.
            BeyondDevice: if it is larger than the device can have it.
            Exception: any other, if there is no room for it.
        """

    def capacity(self) -> int | None:
        """Bytes that there are for tensors when nobody else uses the device; None if that is not
        known."""

    def view(self, tensor: Any, shape: Sequence[int], dtype: str) -> Any:
        """The same memory under another shape."""

    def read(self, tensor: Any) -> np.ndarray:
        """A tensor's bytes."""

    def write(self, tensor: Any, data: np.ndarray) -> None:
        """Set a tensor's bytes.

        Raises:
            BeyondDevice: if there is a value that the device cannot hold.
        """

    def fill(self, tensor: Any, byte: int) -> None:
        """Set every byte."""

    def owner(self, tensor: Any) -> tuple[int, int]:
        """A number for the memory, the same for all views of it, and its size in bytes."""

    def load(self, library: str, names: Collection[str], within: Within) -> Mapping[str, Function]:
        """Make the functions of a library ready to launch.

        Raises:
            Rejected: if one is missing, or the driver rejects it; with its message.
            BeyondDevice: if one needs more than the device has.
            Exception: any other, if the library itself cannot be read.
        """

    def finish(self) -> None:
        """Wait for everything launched.

        Raises:
            RuntimeError: if it failed.
        """


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
