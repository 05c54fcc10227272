"""Nothing was computed, or the right values are in the wrong places: they were only moved."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations

import numpy as np

from tapml_nb.judge.diagnosis.case import MOST, SLACK, Case, Points, close
from tapml_nb.judge.diagnosis.pattern import Diagnosis, Pattern, found
from tapml_nb.numerics import bitwise_equal

_LEAST = 6
_MOST_CANDIDATES = 256
_LANES = (2, 4, 8, 16, 32)
_SLICES = 32
"""Wrong slices whose origin is looked for."""
_LONGEST = 16_384
"""Slices that can be an origin."""
_PROBES = 8


def never_written(case: Case) -> Diagnosis | None:
    """(Nearly) all elements hold the poison of their own run, in both runs."""
    if case.unwritten is None or not case.size or case.unwritten.mean() < MOST:
        return None
    words = "the output still holds what memory was filled with before the run"
    return found(Pattern.NEVER_WRITTEN, words, f"{_holes(case)}, in two runs with two fillings")


def never_written_in_places(case: Case) -> Diagnosis | None:
    """The wrong elements hold the poison of their own run, in both runs."""
    if case.unwritten is None or not case.count:
        return None
    if case.unwritten.reshape(-1)[case.bad.index].mean() < MOST:
        return None
    words = f"{_holes(case)} are never written"
    return found(Pattern.NEVER_WRITTEN, words, "they hold what was there, in two runs")


def one_value(case: Case) -> Diagnosis | None:
    """One value in (nearly) all elements; that it is 0, or NaN, does not say that nobody wrote."""
    if case.count < _LEAST or case.size < 8:
        return None
    first = case.bad.target[:1]
    some = np.concatenate([case.bad.target, case.good.target])
    exact = np.concatenate([case.bad.exact, case.good.exact])
    if (exact == exact[0]).all():
        return None
    if _equal(some, first).mean() < MOST:
        return None
    value = case.target.reshape(-1)[case.bad.index[0]]
    same = int(np.count_nonzero(_equal(case.target, value)))
    if same < MOST * case.size:
        return None
    evidence = f"{same} of {case.size} elements hold {value!s}"
    shown = "0" if value == 0 else f"{value!s}"
    return found(Pattern.ONE_VALUE, f"the whole output is {shown}", evidence)


def stale_copy(case: Case) -> Diagnosis | None:
    """The output equals one of the inputs, or another tensor of its shape."""
    if case.count < _LEAST or len(np.unique(case.bad.target)) < 3:
        return None
    for k, x in enumerate(case.inputs):
        if x.size == case.size and _equals(case, x):
            moved = "" if x.shape == case.shape else ", in the order of its memory"
            words = f"the output equals input {k} unchanged{moved}"
            return found(Pattern.STALE_COPY, words, _evidence(case, x))
    for _, (name, array) in zip(range(_MOST_CANDIDATES), case.others, strict=False):
        if array.shape == case.shape and array.dtype == case.dtype and _equals(case, array):
            words = f"the output equals {name}"
            return found(Pattern.STALE_COPY, words, _evidence(case, array))
    return None


def _equals(case: Case, other: np.ndarray) -> bool:
    flat = other.reshape(-1)
    for points in (case.bad[:64], case.bad, case.good):
        if len(points):
            values = flat[points.index].astype(np.float64)
            if np.mean(close(points.target, values, SLACK * points.allowed)) < MOST:
                return False
    return True


def _evidence(case: Case, other: np.ndarray) -> str:
    if bitwise_equal(case.target.reshape(-1), other.reshape(-1)):
        return f"all {case.size} elements are equal, bit for bit"
    return f"{case.count} of {case.size} elements are wrong, and equal it within the noise floor"


def _holes(case: Case) -> str:
    assert case.unwritten is not None
    return f"{int(np.count_nonzero(case.unwritten))} of {case.size} elements"


def _equal(array: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Where an array holds a value; any NaN is a NaN, and 0 is -0."""
    return np.asarray((array == value) | ((array != array) & (value != value)))


def duplicated_lanes(case: Case) -> Diagnosis | None:
    """All elements of a group hold the value of one of them."""
    if not case.shape:
        return None
    for lanes in _LANES:
        if case.shape[-1] <= lanes:
            return None
        for lane in range(lanes):

            def there(column: np.ndarray, lanes: int = lanes, lane: int = lane) -> np.ndarray:
                return np.asarray(column - column % lanes + lane)

            if case.explained_by_origin(_along(case, -1, there)):
                words = f"each group of {lanes} lanes holds the value of its lane {lane}"
                evidence = f"{case.count} of {case.size} elements are wrong, all but those of lane"
                return found(Pattern.DUPLICATED_LANES, words, f"{evidence} {lane}")
    return None


def reversed_axis(case: Case) -> Diagnosis | None:
    """One axis runs backwards."""
    for axis, size in enumerate(case.shape):
        there = partial(np.subtract, size - 1)
        if size > 1 and case.explained_by_origin(_along(case, axis, there)):
            words = f"axis {axis} (size {size}) is reversed"
            return found(Pattern.REVERSED, words, _share(case))
    return None


def swapped_axes(case: Case) -> Diagnosis | None:
    """The memory holds the transpose of two axes."""
    for a, b in combinations(range(len(case.shape)), 2):
        if min(case.shape[a], case.shape[b]) < 2:
            continue

        def origin(index: np.ndarray, a: int = a, b: int = b) -> np.ndarray:
            turned = list(case.shape)
            turned[a], turned[b] = turned[b], turned[a]
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
        for step, side in ((1, "next"), (-1, "previous")):
            there = partial(np.add, step)
            if size >= 4 and case.explained_by_origin(_along(case, axis, there)):
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
        if mapping := _origins(case, axis):
            here, there = mapping
            words = _describe_mapping(axis, size, here, there)
            some = ", ".join(f"{i} from {j}" for i, j in list(zip(here, there, strict=True))[:4])
            return found(Pattern.PERMUTED, words, f"slices looked at: {some}; {_share(case)}")
    return None


def _along(
    case: Case, axis: int, there: Callable[[np.ndarray], np.ndarray]
) -> Callable[[np.ndarray], np.ndarray]:
    """Other places along an axis, given from each place: flat indices, -1 past the axis' ends."""

    def origin(index: np.ndarray) -> np.ndarray:
        places = list(case.places(index))
        place = there(places[axis])
        inside = (place >= 0) & (place < case.shape[axis])
        places[axis] = np.where(inside, place, 0)
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
    if ((cost <= 1).sum(axis=1) > 1).mean() > 0.1:
        return None  # several origins
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
