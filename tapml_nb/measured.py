"""Numbers of tensors: computed where the tensors are, and brought here in one piece.

Each number that is looked at on a GPU is a wait for all that was asked of it before.  So what is
computed of tensors is written as functions that look at nothing in between, and give all their
numbers at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapml_nb.array_api import Array, flat, namespace, on_host, size_of

Function = Callable[..., tuple[Sequence[Array | float], Sequence[Array]]]
"""Takes arrays (or None), then a sequence of figures, then facts; gives numbers (of no or one
dimension) and arrays.  It may look at a value only where :func:`far` says that this is for free."""


def far(array: Array) -> bool:
    """Whether looking at a value means to wait for a GPU."""
    return str(array.device) != "cpu"


def measured(
    function: Function,
    arrays: Sequence[Array | None],
    figures: Sequence[float] = (),
    facts: Sequence[Any] = (),
) -> tuple[list[np.ndarray], list[Array]]:
    """What a function gives of arrays, figures and facts: its numbers here, its arrays there."""
    numbers, made = function(*arrays, figures, *facts)
    first = next(array for array in arrays if array is not None)
    if far(first):
        return _brought(numbers, first), list(made)
    return [np.asarray(n, np.float64) for n in map(_number, numbers)], list(made)


def _number(number: Array | float) -> Any:
    return number if isinstance(number, float | int) else on_host(number)


def _brought(numbers: Sequence[Array | float], like: Array) -> list[np.ndarray]:
    """Numbers that are where ``like`` is, in one piece."""
    xp = namespace(like)
    rows = [
        xp.astype(flat(n), xp.float64)
        if hasattr(n, "shape")
        else xp.full((1,), n, dtype=xp.float64, device=like.device)
        for n in numbers
    ]
    row, start, found = on_host(xp.concat(rows)), 0, []
    for number in numbers:
        size = size_of(number) if getattr(number, "ndim", 0) else 0
        found.append(np.asarray(row[start : start + size] if size else row[start]))
        start += size or 1
    return found
