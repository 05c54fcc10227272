"""Nothing was computed: the output was never written, or is another tensor."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tapml_nb.judge.diagnosis.case import MOST, SLACK, Case, close
from tapml_nb.judge.diagnosis.pattern import Diagnosis, Pattern, found
from tapml_nb.targets.poison import PATTERNS

_LEAST = 6
_MOST_CANDIDATES = 256


def never_written(case: Case) -> Diagnosis | None:
    """One value, bit for bit, in (nearly) all elements."""
    if case.count < _LEAST or case.size < 8:
        return None
    bits = _bytes(case.target)
    index = np.concatenate([case.bad.index, case.good.index])
    first = bits[case.bad.index[0]]
    if np.mean((bits[index] == first).all(axis=1)) < MOST or _constant(case.bad.exact):
        return None
    same = int(np.count_nonzero((bits == first).all(axis=1)))
    if same < MOST * case.size:
        return None
    value = case.target.reshape(-1)[case.bad.index[0]]
    evidence = f"{same} of {case.size} elements hold {value!s} ({first.tobytes().hex()})"
    poison = [p for p in PATTERNS if (first == p).all()]
    if poison:
        words = "the output still holds what memory was filled with before the run"
        return found(Pattern.NEVER_WRITTEN, words, evidence)
    if value == 0:
        return found(Pattern.NEVER_WRITTEN, "the whole output is 0", evidence)
    return found(Pattern.ONE_VALUE, f"the whole output is {value!s}", evidence)


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


def _constant(values: np.ndarray) -> bool:
    return bool((values == values[0]).all())


def _bytes(array: np.ndarray) -> np.ndarray:
    """The bytes of each element, shape ``(elements, item size)``."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint8).reshape(flat.size, array.dtype.itemsize)
