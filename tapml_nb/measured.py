"""Numbers of tensors: computed where the tensors are, and brought here in one piece.

On a GPU what costs is not arithmetic but asking for it: each function of an array is a launch, and
each number that is looked at is a wait.  So what is computed of tensors is written as functions
that look at nothing in between, and give all their numbers at the end; and where the same is
computed of tensors of the same kinds again, as in equal layers of a model, it is recorded once as a
CUDA graph, and launched as one.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from tapml_nb.array_api import Array, flat, namespace, on_host, size_of

Function = Callable[..., tuple[Sequence[Array | float], Sequence[Array]]]
"""Takes arrays (or None), then a sequence of figures, then facts; gives numbers (of no or one
dimension) and arrays.  It may look at a value only where :func:`far` says that this is for free."""

_MOST_RECORDED = 1 << 21
"""Elements that a recorded function takes, at most: of more, it takes longer to compute than to
ask."""

_MOST_RECORDS = 256

_Key = tuple[Hashable, ...]


def far(array: Array) -> bool:
    """Whether looking at a value means to wait for a GPU."""
    return str(array.device) != "cpu"


def measured(
    function: Function,
    arrays: Sequence[Array | None],
    figures: Sequence[float] = (),
    facts: Sequence[Hashable] = (),
) -> tuple[list[np.ndarray], list[Array]]:
    """What a function gives of arrays, figures and facts: its numbers here, its arrays there.

    Facts are what it decides by, figures what it computes with: another fact makes another
    recording, another figure does not.
    """
    first = next(array for array in arrays if array is not None)
    if not far(first):
        numbers, made = function(*arrays, figures, *facts)
        return [np.asarray(n, np.float64) for n in map(_number, numbers)], list(made)
    if sum(size_of(a) for a in arrays if a is not None) <= _MOST_RECORDED:
        key = (function, str(first.device), *map(_kind, arrays), len(figures), *facts)
        return _RECORDS.run(key, function, arrays, figures, facts)
    return _run(function, arrays, figures, facts)


def _number(number: Array | float) -> Any:
    return number if isinstance(number, float | int) else on_host(number)


def _run(
    function: Function,
    arrays: Sequence[Array | None],
    figures: Sequence[Array | float],
    facts: Sequence[Hashable],
) -> tuple[list[np.ndarray], list[Array]]:
    numbers, made = function(*arrays, figures, *facts)
    sizes, together = _joined(numbers, next(a for a in arrays if a is not None))
    return _parts(sizes, together), list(made)


def _joined(numbers: Sequence[Array | float], like: Array) -> tuple[list[int], Array]:
    """Numbers as one array, and how many each is; 0 for what has no dimension."""
    xp = namespace(like)
    rows = [
        xp.astype(flat(n), xp.float64)
        if hasattr(n, "shape")
        else xp.full((1,), n, dtype=xp.float64, device=like.device)
        for n in numbers
    ]
    sizes = [size_of(n) if getattr(n, "ndim", 0) else 0 for n in numbers]
    return sizes, xp.concat(rows)


def _parts(sizes: Sequence[int], together: Array) -> list[np.ndarray]:
    """What :func:`_joined` has joined."""
    row, start, found = on_host(together), 0, []
    for size in sizes:
        found.append(row[start : start + size] if size else row[start])
        start += size or 1
    return [np.asarray(part) for part in found]


def _kind(array: Array | None) -> Hashable:
    return None if array is None else (tuple(array.shape), str(array.dtype))


class _Record:
    """A function, recorded as a CUDA graph that reads and writes memory of its own."""

    def __init__(
        self,
        function: Function,
        arrays: Sequence[Array | None],
        figures: Sequence[float],
        facts: Sequence[Hashable],
        pool: Any,
    ) -> None:
        torch = sys.modules["torch"]
        first = next(array for array in arrays if array is not None)
        self._given = [None if a is None else torch.empty_like(a).contiguous() for a in arrays]
        self._figures = torch.empty(len(figures), dtype=torch.float64, device=first.device)
        self._graph = torch.cuda.CUDAGraph()
        self._fill(arrays, figures)
        torch.cuda.synchronize(first.device)
        recording = torch.cuda.graph(self._graph, pool, capture_error_mode="thread_local")
        with recording:
            numbers, self._made = function(*self._given, list(self._figures), *facts)
            self._sizes, self._together = _joined(numbers, first)

    def run(
        self, arrays: Sequence[Array | None], figures: Sequence[float]
    ) -> tuple[list[np.ndarray], list[Array]]:
        """What the function gives of other arrays of the same kinds."""
        self._fill(arrays, figures)
        self._graph.replay()
        made = [array.clone() for array in self._made]
        return _parts(self._sizes, self._together), made

    def _fill(self, arrays: Sequence[Array | None], figures: Sequence[float]) -> None:
        for mine, array in zip(self._given, arrays, strict=True):
            if mine is not None:
                mine.copy_(array)
        if figures:
            self._figures.copy_(sys.modules["torch"].tensor(figures, dtype=self._figures.dtype))


class _Records:
    """What was recorded, by what it is of.  They share their memory, so one runs at a time."""

    def __init__(self) -> None:
        self._known: OrderedDict[_Key, _Record | None] = OrderedDict()
        self._lock = threading.Lock()
        self._pools: dict[Hashable, Any] = {}

    def run(
        self,
        key: _Key,
        function: Function,
        arrays: Sequence[Array | None],
        figures: Sequence[float],
        facts: Sequence[Hashable],
    ) -> tuple[list[np.ndarray], list[Array]]:
        """As :func:`measured`; recorded the second time that it is asked for."""
        with self._lock:
            if key not in self._known:
                self._known[key] = None  # perhaps there is no second time
                if len(self._known) > _MOST_RECORDS:
                    self._known.popitem(last=False)
                return _run(function, arrays, figures, facts)
            self._known.move_to_end(key)
            record = self._known[key]
            if record is None:
                pool = self._pools.setdefault(key[1], _new_pool())
                record = self._known[key] = _Record(function, arrays, figures, facts, pool)
            return record.run(arrays, figures)


def _new_pool() -> Any:
    return sys.modules["torch"].cuda.graph_pool_handle()


_RECORDS = _Records()
