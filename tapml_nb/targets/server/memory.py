"""A session's tensors, by the keys that the notebook gave them, on one device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapml_nb.numerics import np_dtype
from tapml_nb.targets.devices.base import BeyondDevice, Device, size_of
from tapml_nb.targets.wire.errors import NoRoom, NoTensor


def allocate(device: Device, shape: Sequence[int], dtype: str) -> Any:
    """A tensor, uninitialised.

    Raises:
        BeyondDevice: if the device has no such dtype, or can never have it that large.
        NoRoom: if there is no room for it now.
        ConnectionError: if the device is out of reach.
    """
    try:
        return device.new(shape, dtype)
    except (BeyondDevice, ConnectionError):
        raise
    except (TypeError, ValueError) as error:
        raise BeyondDevice(str(error)) from None
    except Exception:  # each driver says in its own words that it is full
        size = math.prod(shape) * np_dtype(dtype).itemsize
        raise NoRoom(size, device.capacity()) from None


class TensorMemory:
    """Tensors by key, on one device."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._tensors: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        try:
            return self._tensors[key]
        except KeyError:
            raise NoTensor(f"no tensor {key!r} is resident on the target") from None

    def __setitem__(self, key: str, tensor: Any) -> None:
        self._tensors[key] = tensor

    def __contains__(self, key: str) -> bool:
        return key in self._tensors

    def put(
        self, key: str, shape: Sequence[int], dtype: str, receive: Callable[[np.ndarray], None]
    ) -> None:
        """Make a tensor of the bytes that ``receive`` fills in, straight in place where it can.

        Raises:
            BeyondDevice, NoRoom: as :func:`allocate`.
        """
        tensor = allocate(self.device, shape, dtype)
        if self.device.on_host:
            receive(self.device.read(tensor))
        else:
            data = np.empty(size_of(tensor), np.uint8)
            receive(data)
            self.device.write(tensor, data)
        self._tensors[key] = tensor

    def array(self, tensor: Any) -> np.ndarray:
        """A tensor as an array; on the host without a copy."""
        shape = tuple(int(n) for n in tensor.shape)
        return self.device.read(tensor).view(np_dtype(str(tensor.dtype))).reshape(shape)

    def drop(self, keys: Sequence[str]) -> None:
        """Forget tensors; keys that are not there are fine."""
        for key in keys:
            self._tensors.pop(key, None)

    def held(self) -> int:
        """Bytes of all tensors; memory under several keys counts once."""
        return sum(dict(map(self.device.owner, list(self._tensors.values()))).values())
