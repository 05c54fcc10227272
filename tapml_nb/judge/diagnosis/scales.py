"""A scale that is off by too little to show in single elements: of a slice, or of a constant."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import ml_dtypes
import numpy as np

from tapml_nb.judge.diagnosis import parts
from tapml_nb.judge.diagnosis.case import MOST, SLACK, Case, Points
from tapml_nb.judge.diagnosis.geometry import span
from tapml_nb.judge.diagnosis.pattern import Diagnosis, Pattern, found
from tapml_nb.numerics import unit_roundoff

Function = Callable[[np.ndarray, tuple[float, ...]], np.ndarray]
"""An element-wise function of a tensor and constants."""

_NARROW = {
    name: np.dtype(getattr(ml_dtypes, name, None) or name) for name in ("float16", "bfloat16")
}
_ALL_BUT_DOUBTS = 0.95
"""Part of the elements that must agree bit for bit; a few are rounded otherwise on their way."""

_ROUNDED = "usually an importer or a rule that gives constants the dtype of the tensor"


def scaled_slices(case: Case) -> Diagnosis | None:
    """Some slices along one axis are scaled by one number, by so little that it shows in all of
    their elements together and in few or none alone."""
    points = parts.usable(case.many) if case.floating else case.any[:0]
    for by in parts.groupings(case, points) if len(points) else ():
        if by.axis is None:
            continue
        fit = parts.factors(points, by)
        marked = fit.differs(1.0, 0.0)
        if not marked.any() or marked.all():
            continue
        weight = np.where(marked, 1 / np.maximum(fit.error, 1e-300) ** 2, 0.0)
        factor = float((weight @ fit.value) / weight.sum())
        if (fit.error > parts.ALIKE * abs(factor - 1)).any():
            continue  # some slices cannot tell
        if not _explained(case, points, by, marked, factor):
            continue
        indices = np.flatnonzero(marked)
        words = (
            f"everything at {span(indices)} of axis {by.axis} (size {case.shape[by.axis]}) is"
            f" scaled by {factor:.6g}, and nothing else"
        )
        error = float(1 / np.sqrt(weight.sum()))
        rest = float(np.abs(fit.value[~marked] - 1).max())
        evidence = f"fitted factor {factor:.8g} ± {error:.1g}; within {rest:.1g} of 1 elsewhere"
        pattern = Pattern.ONE_SLICE if len(indices) == 1 else Pattern.SEVERAL_SLICES
        return found(pattern, words, evidence)
    return None


def rounded_constant(case: Case) -> Diagnosis | None:
    """A constant of the operator was rounded to a narrow dtype before it was used.

    So recomputed, the difference must be the target's error: on average, for a narrow output hides
    it behind its own rounding, and in all parts.
    """
    if not case.floating or case.size < 64:
        return None
    for k, x in case.aligned():
        points = parts.usable(case.many)
        for function, constants in _formulas(case):
            value = case.values(x, points)
            right = function(value, constants)
            if len(points) < 64 or np.mean(np.abs(right - points.exact) <= points.allowed) < MOST:
                continue
            for name, dtype in _NARROW.items():
                if unit_roundoff(dtype) < unit_roundoff(case.dtype):
                    continue
                rounded = tuple(float(np.asarray(c).astype(dtype)) for c in constants)
                for changed in _some(constants, rounded):
                    if _is_the_error(case, points, function(value, changed) - right):
                        return _of_constants(case, constants, changed, name, k)
    return None


def _gelu(x: np.ndarray, constants: tuple[float, ...]) -> np.ndarray:
    """GELU by the hyperbolic tangent (D. Hendrycks, K. Gimpel, arXiv 1606.08415)."""
    cubic, scale = constants
    return np.asarray(0.5 * x * (1 + np.tanh(scale * (x + cubic * x**3))))


_WITH_A_NUMBER: dict[str, Function] = {
    "mul": lambda x, c: x * c[0],
    "div": lambda x, c: x / c[0],
    "add": lambda x, c: x + c[0],
    "sub": lambda x, c: x - c[0],
    "rsub": lambda x, c: c[0] - x,
    "pow": lambda x, c: np.power(x, c[0]),
}


def _formulas(case: Case) -> Iterator[tuple[Function, tuple[float, ...]]]:
    """What the operator may compute from its constants, which it is known by its results to do."""
    if case.kind == "gelu" and case.constants.get("approximate") == "tanh":
        yield _gelu, (0.044715, math.sqrt(2 / math.pi))
    if case.kind in _WITH_A_NUMBER:
        for value in case.constants.values():
            if isinstance(value, float):
                yield _WITH_A_NUMBER[case.kind], (value,)


def _some(constants: tuple[float, ...], rounded: tuple[float, ...]) -> Iterator[tuple[float, ...]]:
    """Constants of which all, or one, are rounded."""
    yield rounded
    for k in range(len(constants)) if len(constants) > 1 else ():
        yield (*constants[:k], rounded[k], *constants[k + 1 :])


def _is_the_error(case: Case, points: Points, difference: np.ndarray) -> bool:
    """Whether the target's error is this, plus rounding of its own.

    Either every element is what such a result is rounded to, where that makes a difference; or the
    error follows the difference, on average and without a system in what is left.
    """
    if not np.isfinite(difference).all() or not difference.any():
        return False
    became, was = (
        v.astype(case.dtype).astype(np.float64) for v in (points.exact + difference, points.exact)
    )
    differ = became != was
    if differ.sum() >= 64 and np.mean((points.target == became)[differ]) >= _ALL_BUT_DOUBTS:
        return bool(np.mean((points.target == was)[~differ]) >= _ALL_BUT_DOUBTS)
    weight = 1 / points.allowed
    expected, error = difference * weight, points.error * weight
    power = float(expected @ expected)
    share = float(expected @ error) / power
    left = error - share * expected
    deviation = math.sqrt(float(left @ left) / len(left) / power)
    if deviation > 0.05 or abs(share - 1) > max(4 * deviation, 0.02):
        return False
    if np.mean(np.abs(error - expected) > SLACK) > 1 - MOST:
        return False
    after = Points(points.index, points.target, points.exact + difference, points.allowed)
    size = math.sqrt(power / len(expected))
    return not parts.has_system(case, after, weight, 0.25 * size)


def _of_constants(
    case: Case, constants: tuple[float, ...], rounded: tuple[float, ...], dtype: str, k: int
) -> Diagnosis:
    changed = [(a, b) for a, b in zip(constants, rounded, strict=True) if a != b]
    became = ", ".join(f"{a:.6g} became {b:.6g}" for a, b in changed)
    what = "a constant" if len(changed) == 1 else "constants"
    evidence = f"{case.kind} of input {k} so computed explains the error of {case.size} elements"
    return found(Pattern.FACTOR, f"{what} rounded to {dtype}: {became}", evidence, _ROUNDED)


def _explained(
    case: Case, points: Points, by: parts.Grouping, marked: np.ndarray, factor: float
) -> bool:
    """Whether every part of these slices is scaled by this factor, and no part of the others."""
    assert by.axis is not None
    places = case.places(case.bad.index)[by.axis]
    if len(places) and np.mean(marked[places] & case.bad.finite) < MOST:
        return False
    inside = marked[by.label]
    size = np.abs(points.target - np.where(inside, factor, 1.0) * points.exact) / points.allowed
    if np.mean(size > SLACK * max(1.0, abs(factor))) > 1 - MOST:
        return False
    tolerance = parts.ALIKE * abs(factor - 1)
    return parts.same_factor(case, points[inside], factor, tolerance) and parts.same_factor(
        case, points[~inside], 1.0, tolerance
    )
