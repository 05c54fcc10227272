"""What a session keeps of tensors: in memory as far as a budget goes, beyond it in a file.

What was not used for longest goes first, and stays where it went: from then on it is mapped from
the file wherever it is read, which costs memory only while somebody looks.  The file has no name,
so the system frees it however this process ends.

An array on a GPU stays there as long as the budget, which is one for all memory, allows.  Then it
goes to the file as well, and back to the GPU for as long as somebody looks: what is between, the
host's memory, is where the system keeps of a file what there is room for.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import warnings
import weakref
from collections import OrderedDict, defaultdict
from typing import IO

import numpy as np

from tapml_nb.array_api import Array, dtype_of, empty_like, moved_to, on_host
from tapml_nb.owner import Owner


class Kept:
    """An array that a :class:`Storage` keeps for as long as this object lives."""

    def __init__(self, storage: Storage, array: Array) -> None:
        self.nbytes: int = array.nbytes
        self.shape, self.dtype = tuple(array.shape), dtype_of(array)
        self.offset = -1
        """Where it is in the file; -1 if it is not."""

        self.held: Array | None = array
        """The array; None once the file has it."""

        self.like = empty_like(array)
        """An array of its kind, where it was."""

        self._storage = storage

    def array(self) -> Array:
        """The array; if the file has it, a map of it (writing to which changes no file), or a copy
        where it was."""
        held = self.held  # once: another thread may send it to the file meanwhile
        if held is None:
            return moved_to(self._storage.map(self), self.like)
        return self._storage.touch(self, held)

    def __del__(self) -> None:
        self._storage.forget(self)


class _Map(mmap.mmap):
    """A map of an array in the file, which must not be freed before it."""

    kept: Kept


class Storage:
    """Keeps arrays.  All methods may be called from any thread.

    Attributes:
        budget: bytes of memory that kept arrays may take; None for no limit.
        resident, peak: bytes that they take now, and the most that they ever took.
        spilled, size: bytes of those in the file, and of the file.
    """

    def __init__(self, budget: int | None = None) -> None:
        self.budget = budget
        self.resident = self.peak = self.spilled = 0
        self._used: OrderedDict[int, weakref.ref[Kept]] = OrderedDict()
        self._file: IO[bytes] | None = None
        self._closed = False
        self.size = 0
        self._free: defaultdict[int, list[int]] = defaultdict(list)
        self._lock = threading.RLock()
        self._owner = Owner()

    def keep(self, array: Array) -> Kept:
        """Keep an array, which nobody may change from now on, where it is."""
        kept = Kept(self, array)
        if self.budget is not None and kept.nbytes:
            with self._lock:
                self._used[id(kept)] = weakref.ref(kept)
                self.resident += kept.nbytes
                self.peak = max(self.peak, self.resident)
                self._make_room(self.budget)
        return kept

    def close(self) -> None:
        """Free the file; what is in it cannot be read any more.  Idempotent."""
        if self._owner.elsewhere:
            return
        with self._lock:
            self._closed = True
            if self._file:
                self._file.close()

    # -- for what is kept --------------------------------------------------------------------------

    def touch(self, kept: Kept, array: Array) -> Array:
        """Its array is used now."""
        with self._lock:
            if id(kept) in self._used:
                self._used.move_to_end(id(kept))
        return array

    def map(self, kept: Kept) -> np.ndarray:
        """Its array, mapped from the file to this process's memory."""
        assert self._file
        size = kept.nbytes
        found = _Map(self._file.fileno(), size, access=mmap.ACCESS_COPY, offset=kept.offset)
        found.kept = kept
        return np.frombuffer(found, kept.dtype).reshape(kept.shape)

    def forget(self, kept: Kept) -> None:
        """Nobody wants it any more."""
        if self._owner.elsewhere:  # where the lock may be held for ever
            return
        with self._lock:
            if kept.offset >= 0:
                self.spilled -= kept.nbytes
                self._free[_pages(kept.nbytes)].append(kept.offset)
            elif self._used.pop(id(kept), None):
                self.resident -= kept.nbytes

    # -- the file ----------------------------------------------------------------------------------

    def _make_room(self, budget: int) -> None:
        while self.resident > budget and self._used and not self._closed:
            number, reference = next(iter(self._used.items()))
            kept = reference()
            if kept is None:  # it is just being forgotten, on another thread
                break
            try:
                self._spill(kept)
            except OSError as error:
                self._closed = True
                warnings.warn(
                    f"max_memory: tensors beyond it stay in memory, for they cannot be written to "
                    f"{tempfile.gettempdir()} ({error.strerror})",
                    stacklevel=2,
                )
                return
            del self._used[number]
            self.resident -= kept.nbytes
            self.spilled += kept.nbytes

    def _spill(self, kept: Kept) -> None:
        assert kept.held is not None
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        data = memoryview(np.ascontiguousarray(on_host(kept.held)).reshape(-1).view(np.uint8))
        room = _pages(kept.nbytes)
        free = self._free[room]
        offset = free.pop() if free else self.size
        self.size = max(self.size, offset + room)
        written = 0
        while written < len(data):
            written += os.pwrite(self._file.fileno(), data[written:], offset + written)
        kept.offset = offset
        kept.held = None


def _pages(size: int) -> int:
    """Bytes that an array takes in the file: whole pages, for each is mapped by itself."""
    page = mmap.ALLOCATIONGRANULARITY
    return -(-size // page) * page
