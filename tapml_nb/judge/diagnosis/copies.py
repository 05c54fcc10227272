"""Nothing was computed: the output was never written, or is another tensor."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tapml_nb.judge.diagnosis.case import MOST, SLACK, Case, close
from tapml_nb.judge.diagnosis.pattern import Diagnosis, Pattern, found

_LEAST = 6
_MOST_CANDIDATES = 256


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
    if _constant(np.concatenate([case.bad.exact, case.good.exact])):
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


def stale_copy(case: Case, others: Iterable[tuple[str, np.ndarray]]) -> Diagnosis | None:
    """The output equals one of the inputs, or another tensor of its shape."""
    if case.count < _LEAST or len(np.unique(case.bad.target)) < 3:
        return None
    for k, x in enumerate(case.inputs):
        if x.size == case.size and _equals(case, x):
            moved = "" if x.shape == case.shape else ", in the order of its memory"
            words = f"the output equals input {k} unchanged{moved}"
            return found(Pattern.STALE_COPY, words, _evidence(case, x))
    for _, (name, array) in zip(range(_MOST_CANDIDATES), others, strict=False):
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
    if other.dtype == case.dtype:
        equal = np.array_equal(_bytes(case.target), _bytes(other))
        if equal:
            return f"all {case.size} elements are equal, bit for bit"
    return f"{case.count} of {case.size} elements are wrong, and equal it within the noise floor"


def _holes(case: Case) -> str:
    assert case.unwritten is not None
    return f"{int(np.count_nonzero(case.unwritten))} of {case.size} elements"


def _equal(array: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Where an array holds a value; any NaN is a NaN, and 0 is -0."""
    return np.asarray((array == value) | ((array != array) & (value != value)))


def _constant(values: np.ndarray) -> bool:
    return bool((values == values[0]).all())


def _bytes(array: np.ndarray) -> np.ndarray:
    """The bytes of each element, shape ``(elements, item size)``."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint8).reshape(flat.size, array.dtype.itemsize)
