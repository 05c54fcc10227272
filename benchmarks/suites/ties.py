"""Places of equal elements: there more than one is right, and which one is said nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_CHOICES = frozenset(
    f"aten.{name}"
    for name in (
        *("sort", "argsort", "topk", "kthvalue", "median", "nanmedian", "mode"),
        *("max", "min", "argmax", "argmin"),
    )
)
"""Operators that tell where in their input they found what they chose."""

_PERMUTATIONS = frozenset(("aten.sort", "aten.argsort"))
"""Those whose places are each of the axis once."""


def breaks_ties(
    kind: str,
    arguments: Mapping[str, Any],
    given: np.ndarray,
    target: np.ndarray,
    source: np.ndarray,
) -> bool:
    """Whether two results are places in ``given``, and at each pair of them the same stands.

    Args:
        kind: the operator's.
        arguments: numbers that it was called with.
        given: its input.
        target, source: the results, int64 of one shape.
    """
    if kind not in _CHOICES or source.dtype != np.int64 or target.dtype != source.dtype:
        return False
    if arguments.get("stable") or target.shape != source.shape:
        return False
    axis = arguments.get("dim")
    if axis is None or not given.ndim:
        given, axis = given.reshape(-1), 0
        target, source = target.reshape(-1), source.reshape(-1)
    elif source.ndim < given.ndim:
        target, source = np.expand_dims(target, axis), np.expand_dims(source, axis)
    size = given.shape[axis]
    if target.size and not (target.min() >= 0 and target.max() < size):
        return False
    if kind in _PERMUTATIONS and not np.array_equal(
        np.sort(target, axis), np.broadcast_to(_along(size, axis, given.ndim), target.shape)
    ):
        return False
    chosen, expected = (np.take_along_axis(given, places, axis) for places in (target, source))
    same = (chosen == expected) | ((chosen != chosen) & (expected != expected))
    return bool(np.all(same))


def _along(size: int, axis: int, rank: int) -> np.ndarray:
    return np.arange(size).reshape([size if k == axis % rank else 1 for k in range(rank)])
