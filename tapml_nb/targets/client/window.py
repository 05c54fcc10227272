"""A window of memory on a GPU that the notebook and its target share: nothing passes the host.

The memory is this process's; the target opens it, copies out of it what it is given, and into it
what it is asked for.  So a kernel's stray write can reach what is on its way at most, never the
user's own tensors, nor what was taken out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tapml_nb.array_api import Array
from tapml_nb.targets.wire.cuda import Cuda, aligned

_LEAST = 64 << 20
"""Bytes of a window, at least."""

_MOST = 256 << 20
"""Bytes that it is made larger for, at most, for what goes through it in several pieces as well."""

Ask = Callable[[dict[str, Any]], dict[str, Any]]
"""Sends a request over the tensor channel, and gives the answer."""


def device_of(uuid: str) -> int | None:
    """The number that PyTorch, if it is at work on GPUs here, has for a GPU; None if it is not."""
    torch = sys.modules.get("torch")
    if torch is None or not uuid or not torch.cuda.is_initialized():
        return None
    for number in range(torch.cuda.device_count()):
        if str(torch.cuda.get_device_properties(number).uuid).replace("-", "") == uuid:
            return number
    return None


class Window:
    """This process's end; all methods on one thread at a time."""

    def __init__(self, number: int, ask: Ask) -> None:
        """``number``: PyTorch's for the GPU; ``ask`` asks its target."""
        self._number, self._ask = number, ask
        self._cuda = Cuda(number)
        self._address = self._size = 0
        self._memory: Any = None

    def takes(self, array: Array) -> bool:
        """Whether an array is on the GPU."""
        device: Any = array.device  # of NumPy's arrays a text
        return getattr(device, "type", "") == "cuda" and device.index == self._number

    def put_all(self, tensors: Mapping[str, Array]) -> None:
        """Give the target tensors."""
        sizes = [aligned(array.nbytes) for array in tensors.values()]
        self._make_room(max(*sizes, min(sum(sizes), _MOST)))
        start = 0
        shown: list[dict[str, Any]] = []
        for (key, array), size in zip(tensors.items(), sizes, strict=True):
            if start + size > self._size:
                self._give(shown)
                start, shown = 0, []
            data = array.contiguous().reshape(-1).view(_torch().uint8)
            self._memory[start : start + data.nbytes].copy_(data)
            dtype = str(array.dtype).removeprefix("torch.")
            shown.append({"key": key, "start": start, "shape": [*array.shape], "dtype": dtype})
            start += size
        self._give(shown)
        self._shrink()

    def _give(self, shown: Sequence[dict[str, Any]]) -> None:
        """Have the target take what is in the window."""
        _torch().cuda.synchronize(self._number)
        self._ask({"do": "take", "tensors": shown})

    def get_all(self, keys: Sequence[str]) -> list[Array]:
        """Tensors of the target's, in memory of this process's own."""
        arrays: list[Array] = []
        while len(arrays) < len(keys):
            asked = {"do": "show", "keys": keys[len(arrays) :], "window": self._size}
            answer = self._ask(asked)
            shown = answer["shown"]
            if not shown or (answer["size"] > self._size and self._size < _MOST):
                self._make_room(max(answer["largest"], min(answer["size"], _MOST)))
                continue
            taken = self._memory[: shown[-1]["end"]].clone()
            _torch().cuda.synchronize(self._number)  # before the target writes there again
            arrays += [self._array(taken, **one) for one in shown]
        self._shrink()
        return arrays

    @staticmethod
    def _array(taken: Any, start: int, end: int, shape: Sequence[int], dtype: str) -> Array:
        """A tensor among what was taken out."""
        return taken[start:end].view(getattr(_torch(), dtype)).reshape(shape)

    def close(self) -> None:
        """Free the memory.  Idempotent."""
        if self._address:
            self._memory = None
            self._cuda.free(self._address)
            self._address = self._size = 0

    def _make_room(self, size: int) -> None:
        if self._address and size <= self._size:
            return
        self._open(max(size, _LEAST))

    def _shrink(self) -> None:
        """What was made for a tensor larger than all others is not kept."""
        if self._size > _MOST:
            self._open(_LEAST)

    def _open(self, size: int) -> None:
        self.close()
        self._address = self._cuda.allocate(size)
        self._size = size
        self._memory = _torch().as_tensor(_Raw(self._address, size), device=f"cuda:{self._number}")
        self._ask({"do": "window", "handle": self._cuda.handle(self._address)})


class _Raw:
    """Memory on a GPU as bytes, for PyTorch."""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
        }


def _torch() -> Any:
    return sys.modules["torch"]
