"""Numbers of tensors: computed where the tensors are, and brought here in one piece.

On a GPU what costs is not arithmetic but asking for it: every function of a tensor is a launch, and
every number that is looked at a wait.  So who measures tensors asks for what is to be computed and
goes on when it is (a generator that yields :class:`Ask`), and what many ask of tensors of one kind,
as of equal layers of a model, is computed of all of them together.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from tapml_nb.array_api import Array, namespace, on_host, size_of

Function = Callable[..., tuple[Sequence[Array | float], Sequence[Array]]]
"""Takes arrays (or None), then figures, then facts; gives numbers (of no or one dimension) and
arrays.  It may look at a value only where :func:`far` says that this is for free."""

Answer = tuple[list[np.ndarray], list[Array]]
"""A function's numbers, here, and its arrays, where they are."""

T = TypeVar("T")

_MOST_TOGETHER = 1 << 24
"""Elements that are stacked, at most: they and what is computed of them take half a GB."""


@dataclass(frozen=True)
class Ask:
    """What is to be computed.

    Attributes:
        function: what of.
        arrays, figures, facts: what it takes.  Facts are what it decides by, so what is computed
            together has them in common.
    """

    function: Function
    arrays: Sequence[Array | None]
    figures: Sequence[float] = ()
    facts: Sequence[Hashable] = ()

    @property
    def first(self) -> Array:
        """The first of the arrays that are there."""
        return next(array for array in self.arrays if array is not None)

    @property
    def size(self) -> int:
        """Elements of all arrays."""
        return sum(size_of(array) for array in self.arrays if array is not None)

    @property
    def kind(self) -> Hashable:
        """What asks have in common that can be answered together."""
        kinds = [None if a is None else (tuple(a.shape), str(a.dtype)) for a in self.arrays]
        return self.function, *kinds, len(self.figures), *self.facts


Asking = Generator[Ask, Answer, T]
"""Something that asks, and comes to an end."""


def far(array: Array) -> bool:
    """Whether looking at a value means to wait for a GPU."""
    return str(array.device) != "cpu"


def at_once(asking: Asking[T]) -> T:
    """What comes of it."""
    answer: Answer | None = None
    while True:
        try:
            ask = asking.send(answer) if answer else next(asking)
        except StopIteration as end:
            result: T = end.value
            return result
        answer = _answer(ask)


def together(askings: Sequence[Asking[T]]) -> list[T]:
    """What comes of each; what they ask at the same time is computed together."""
    results: list[Any] = [None] * len(askings)
    asks: dict[int, Ask] = {}

    def go_on(k: int, answer: Answer | None) -> None:
        try:
            asks[k] = askings[k].send(answer) if answer else next(askings[k])
        except StopIteration as end:
            results[k] = end.value

    for k in range(len(askings)):
        go_on(k, None)
    while asks:
        now, asks = asks, {}
        groups: dict[Hashable, list[int]] = {}
        for k, ask in now.items():
            alone = not far(ask.first) or ask.size > _MOST_TOGETHER // 2
            groups.setdefault(k if alone else ask.kind, []).append(k)
        for members in groups.values():
            for some in _batches(members, _MOST_TOGETHER // max(1, now[members[0]].size)):
                for k, answer in zip(some, _answers([now[k] for k in some]), strict=True):
                    go_on(k, answer)
    return results


def _batches(members: Sequence[int], size: int) -> Generator[list[int]]:
    left = iter(members)
    while some := list(islice(left, max(1, size))):
        yield some


def _answer(ask: Ask) -> Answer:
    with np.errstate(all="ignore"):
        numbers, made = ask.function(*ask.arrays, ask.figures, *ask.facts)
    if far(ask.first):
        return _brought(numbers, ask.first, 1)[0], list(made)
    return [np.asarray(_here(number), np.float64) for number in numbers], list(made)


def _here(number: Array | float) -> Any:
    return number if isinstance(number, float | int) else on_host(number)


def _answers(asks: Sequence[Ask]) -> list[Answer]:
    """The answers to asks of one kind, of tensors of PyTorch's if there are several."""
    if len(asks) == 1:
        return [_answer(asks[0])]
    from torch import vmap

    first, like = asks[0], asks[0].first
    xp = namespace(like)
    given = [k for k, array in enumerate(first.arrays) if array is not None]
    stacked = [xp.stack([ask.arrays[k] for ask in asks]) for k in given]
    figures = xp.asarray([list(ask.figures) for ask in asks], dtype=xp.float64, device=like.device)

    def function(figures: Array, *arrays: Array) -> tuple[list[Array], list[Array]]:
        places: list[Array | None] = [None] * len(first.arrays)
        for k, array in zip(given, arrays, strict=True):
            places[k] = array
        numbers, made = first.function(*places, list(figures), *first.facts)
        return [_spread(number, like) for number in numbers], list(made)

    numbers, made = vmap(function)(figures, *stacked)
    answers = _brought(numbers, like, len(asks))
    # Each in memory of its own, which is freed when nobody needs it any more.
    return [
        (answer, [xp.asarray(array[k], copy=True) for array in made])
        for k, answer in enumerate(answers)
    ]


def _spread(number: Array | float, like: Array) -> Array:
    """A number as an array, where ``like`` is."""
    if hasattr(number, "shape"):
        return number
    xp = namespace(like)
    return xp.full((), number, dtype=xp.float64, device=like.device)


def _brought(numbers: Sequence[Array | float], like: Array, count: int) -> list[list[np.ndarray]]:
    """The numbers of so many asks, which are where ``like`` is, in one piece."""
    xp = namespace(like)
    rows, sizes = [], []
    for number in numbers:
        array = xp.astype(_spread(number, like), xp.float64)
        own = array.ndim - (count > 1)  # the dimensions of one ask's
        rows.append(xp.reshape(array, (count, -1)))
        sizes.append(size_of(array) // count if own else 0)
    table, found = on_host(xp.concat(rows, axis=1)), []
    for row in table:
        parts, start = [], 0
        for size in sizes:
            parts.append(np.asarray(row[start : start + size] if size else row[start]))
            start += size or 1
        found.append(parts)
    return found
