"""The right values in the wrong places."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np

from tapml_nb.judge.diagnosis.case import SLACK, Case, Points
from tapml_nb.judge.diagnosis.pattern import Diagnosis, Pattern, found

_LANES = (2, 4, 8, 16, 32)
_SLICES = 32
"""Wrong slices whose origin is looked for."""
_LONGEST = 16_384
"""Slices that can be an origin."""
_PROBES = 8


def duplicated_lanes(case: Case) -> Diagnosis | None:
    """All elements of a group hold the value of one of them."""
    if not case.shape:
        return None
    columns = case.shape[-1]
    for lanes in _LANES:
        if columns <= lanes:
            return None
        for lane in range(lanes):

            def origin(index: np.ndarray, lanes: int = lanes, lane: int = lane) -> np.ndarray:
                column = index % columns
                there = column - column % lanes + lane
                return np.where(there < columns, index - column + there, -1)

            if case.explained_by_origin(origin):
                words = f"each group of {lanes} lanes holds the value of its lane {lane}"
                evidence = f"{case.count} of {case.size} elements are wrong, all but those of lane"
                return found(Pattern.DUPLICATED_LANES, words, f"{evidence} {lane}")
    return None


def reversed_axis(case: Case) -> Diagnosis | None:
    """One axis runs backwards."""
    for axis, size in enumerate(case.shape):
        if size < 2:
            continue

        def origin(index: np.ndarray, axis: int = axis, size: int = size) -> np.ndarray:
            places = list(case.places(index))
            places[axis] = size - 1 - places[axis]
            return case.flat(places)

        if case.explained_by_origin(origin):
            words = f"axis {axis} (size {size}) is reversed"
            return found(Pattern.REVERSED, words, _share(case))
    return None


def swapped_axes(case: Case) -> Diagnosis | None:
    """The memory holds the transpose of two axes."""
    for a, b in combinations(range(len(case.shape)), 2):
        if min(case.shape[a], case.shape[b]) < 2:
            continue
        turned = list(case.shape)
        turned[a], turned[b] = turned[b], turned[a]

        def origin(
            index: np.ndarray, a: int = a, b: int = b, turned: tuple[int, ...] = tuple(turned)
        ) -> np.ndarray:
            places = list(np.unravel_index(index, turned))
            places[a], places[b] = places[b], places[a]
            return case.flat(places)

        if case.explained_by_origin(origin):
            words = f"axes {a} and {b} (sizes {case.shape[a]} and {case.shape[b]}) are swapped"
            return found(Pattern.SWAPPED_AXES, words, _share(case))
    return None


def shifted(case: Case) -> Diagnosis | None:
    """Each element holds its neighbour's value along one axis."""
    for axis, size in enumerate(case.shape):
        for step in (1, -1):
            if size < 4 or not case.explained_by_origin(_neighbour(case, axis, step)):
                continue
            side = "next" if step > 0 else "previous"
            words = f"each element holds the value of the {side} index along axis {axis}"
            return found(Pattern.SHIFTED, f"{words} (size {size})", _share(case))
    return None


def permuted(case: Case) -> Diagnosis | None:
    """Wrong slices along an axis hold other slices of the reference."""
    if not case.floating or case.count < 8:
        return None
    for axis, size in enumerate(case.shape):
        if size < 2 or size > _LONGEST or case.size // size < 4:
            continue
        mapping = _origins(case, axis)
        if mapping is not None:
            here, there = mapping
            words = _describe_mapping(axis, size, here, there)
            some = ", ".join(f"{i} from {j}" for i, j in list(zip(here, there, strict=True))[:4])
            return found(Pattern.PERMUTED, words, f"slices looked at: {some}; {_share(case)}")
    return None


def _neighbour(case: Case, axis: int, step: int) -> Callable[[np.ndarray], np.ndarray]:
    """The index ``step`` farther along an axis; -1 past its ends."""

    def origin(index: np.ndarray) -> np.ndarray:
        places = list(case.places(index))
        there = places[axis] + step
        inside = (there >= 0) & (there < case.shape[axis])
        places[axis] = np.where(inside, there, 0)
        return np.where(inside, case.flat(places), -1)

    return origin


def _origins(case: Case, axis: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Wrong slices along an axis, and for each the slice of the reference that it holds."""
    size = case.shape[axis]
    places = case.places(case.bad.index)
    here = np.unique(places[axis])
    if len(here) < 2:
        return None
    random = np.random.default_rng(1)
    if len(here) > _SLICES:
        here = np.sort(random.choice(here, _SLICES, replace=False))
    post = int(np.prod(case.shape[axis + 1 :], dtype=np.int64))
    others = random.permutation(case.size // size)[: 8 * _PROBES]
    base = others // post * (size * post) + others % post  # the others at index 0 of the axis

    def slices(which: np.ndarray, count: int) -> Points:
        return case.points((base[None, :count] + which[:, None] * post).reshape(-1))

    count = min(_PROBES, len(base))
    probe, pool = slices(here, count), slices(np.arange(size), count)
    shape = (len(here), 1, count)
    tolerance = SLACK * np.maximum(pool.allowed, 1e-300).reshape(1, size, count)
    distance = np.abs(probe.target.reshape(shape) - pool.exact.reshape(1, size, count))
    cost = (distance / tolerance).max(axis=2)
    there = np.nanargmin(np.where(np.isnan(cost), np.inf, cost), axis=1)
    rows = np.arange(len(here))
    if (cost[rows, there] > 1).any() or (there == here).mean() > 0.1:
        return None
    ambiguous = (cost <= 1).sum(axis=1) > 1
    if ambiguous.mean() > 0.1:
        return None
    whole, origin = slices(here, len(base)), slices(there, len(base))
    if not case.tells(whole, origin.index) or not case.comes_from(whole, origin.index):
        return None
    return here, there


def _describe_mapping(axis: int, size: int, here: np.ndarray, there: np.ndarray) -> str:
    name = f"axis {axis} (size {size})"
    distance = np.unique((here - there) % size)
    if len(np.unique(there)) == 1:
        return f"along {name} the wrong slices all hold slice {there[0]}"
    if len(distance) == 1 and len(here) > 2:
        return f"along {name} the slices are rolled by {int(distance[0])}"
    return f"along {name} the wrong slices hold other slices: {here[0]} holds {there[0]}"


def _share(case: Case) -> str:
    return f"so read, all but noise of the {case.count} wrong elements agree with the source's"
