"""Tensors on their way: pieces that come before anybody needs them, apart from a session's tensors.

No kernel is given one.  A stray write of a kernel's may reach one, as it may reach all of its
process's memory: so the checksum is of the whole, and looked at when a tensor is made of it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from tapml_nb.targets.wire.pages import Pages

Bytes = Pages | np.ndarray
"""Memory of pages, or any other."""


class Staging:
    """Pieces by the keys of their tensors; on one thread."""

    def __init__(self, allocate: Callable[[int], Bytes]) -> None:
        """``allocate`` gives memory for so many bytes, or raises NoRoom."""
        self._allocate = allocate
        self._coming: dict[str, Bytes] = {}

    def place(self, key: str, whole: int, at: int, size: int) -> np.ndarray:
        """Where the bytes of a tensor of ``whole`` bytes go from the one at ``at`` on; the first of
        them begin it anew.

        Raises:
            NoRoom: if there is no memory for the whole.
            ValueError: if they are not of what has begun.
        """
        if at == 0:
            self._coming[key] = self._allocate(whole)
        if key not in self._coming:
            raise ValueError("pieces of what has not begun")
        data = np.asarray(self._coming[key])
        if data.size != whole or not 0 <= at <= at + size <= whole:
            raise ValueError(f"bytes {at} to {at + size} of {whole} for {data.size}")
        return data[at : at + size]

    def take(self, key: str, checksum: int) -> Bytes | None:
        """A tensor's bytes, which are no longer here then; None if there are none, or they have
        another CRC-32."""
        data = self._coming.pop(key, None)
        return data if data is not None and zlib.crc32(np.asarray(data)) == checksum else None

    def forget(self, keys: Sequence[str]) -> None:
        """Give back the memory of pieces; keys of which there are none are fine."""
        for key in keys:
            self._coming.pop(key, None)
