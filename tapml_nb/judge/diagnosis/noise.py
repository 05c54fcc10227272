"""Errors that grow: along an axis, with an input; and those that follow an input smoothly."""

from __future__ import annotations

import numpy as np

from tapml_nb.judge.diagnosis import parts
from tapml_nb.judge.diagnosis.case import Case, Points, rms
from tapml_nb.judge.diagnosis.pattern import Diagnosis, Pattern, found
from tapml_nb.numerics import is_float

_LEAST = 256
"""Elements that statistics of noise need."""

_DIFFERENT = 32
"""Different inputs that a smooth function of them needs."""

_BINS = 16

_ONE_SIGN = 0.7
"""How far from even signs must be where errors follow something."""

_SMALL = 0.3
"""Part of the result up to which an error is imprecision, and not another result."""


def grows_along_axis(case: Case) -> Diagnosis | None:
    """The error grows steadily with the index along one axis."""
    points = _measurable(case)
    if points is None:
        return None
    error = np.abs(points.error) / points.allowed
    best: tuple[float, int, float, float] | None = None
    for axis, size in enumerate(case.shape):
        if size < 8 or (case.size == size and size < 64):
            continue
        bins = min(_BINS, size)
        place = case.places(points.index)[axis] * bins // size
        if np.bincount(place, minlength=bins).min() < 3:
            continue
        profile = parts.root_mean_squares(error, place, bins)
        growth = _growth(profile)
        far = points[place >= bins - max(1, bins // 4)]
        if growth > 3 and _is_imprecise(far) and (best is None or growth > best[0]):
            best = (growth, axis, profile[0], profile[-1])
    if best is None:
        return None
    growth, axis, first, last = best
    words = f"the error grows along axis {axis} (size {case.shape[axis]})"
    evidence = f"from {first:.3g} to {last:.3g} noise floors, steadily"
    return found(Pattern.GROWS_ALONG_AXIS, words, evidence)


def cancels(case: Case) -> Diagnosis | None:
    """The error grows with mean over deviation of an input's rows."""
    points = _measurable(case)
    if points is None:
        return None
    error = _relative(points)
    for k, x in enumerate(case.inputs):
        offset = _offsets(case, x, points)
        if offset is not None and offset.max() > 8 and _binned_growth(error, offset) > 8:
            words = f"the error is largest where rows of input {k} have a large mean"
            evidence = (
                f"mean over deviation from {offset.min():.3g} to {offset.max():.3g}, "
                f"error {_binned_growth(error, offset):.3g} times larger"
            )
            return found(Pattern.GROWS_WITH_INPUT, words, evidence)
    return None


def grows_with_input(case: Case) -> Diagnosis | None:
    """The error grows with an input's magnitude."""
    points = _measurable(case)
    if points is None:
        return None
    error = _relative(points)
    if rms(points.error) > _SMALL * rms(points.exact):
        return None  # not imprecise: something else altogether
    for k, x in case.aligned():
        if not is_float(x.dtype) and x.dtype.kind != "i":
            continue
        value = case.values(x, points)
        if _has_a_sign(points, value) or _is_rounded(points, value):
            continue
        growth = _binned_growth(error * np.sign(value), np.abs(value))
        if growth > 16:
            words = f"the error grows with the magnitude of input {k}"
            evidence = f"{growth:.3g} times larger where the input is large than where it is small"
            return found(Pattern.GROWS_WITH_INPUT, words, evidence)
    return None


def other_function(case: Case) -> Diagnosis | None:
    """The error is a smooth function of an input, and so is the right result."""
    points = _measurable(case)
    if points is None or case.count < _LEAST:
        return None
    for k, x in case.aligned():
        if not is_float(x.dtype) or x.shape != case.shape:
            continue
        value = case.values(x, points)
        if len(np.unique(value)) < _DIFFERENT:
            continue  # steps between a few values are no function of them
        order = np.argsort(value, kind="stable")
        result, error = points.exact[order], points.error[order]
        if _is_smooth(result, 0.1) and _is_smooth(error, 0.2):
            words = f"the result is another function of input {k}"
            spread = f"{rms(points.error) / rms(points.exact):.3g} of the result's"
            evidence = f"the error follows the input smoothly; its root mean square is {spread}"
            return found(Pattern.OTHER_FUNCTION, words, evidence)
    return None


def _is_imprecise(points: Points) -> bool:
    """Whether errors are of both signs, small, and do not follow the result."""
    error, result = points.error, points.exact
    size, of = rms(error), rms(result)
    if not 0 < size <= _SMALL * of or not abs(float(error.mean())) < 0.5 * size:
        return False
    return abs(float(np.mean(error * result))) < 0.5 * size * of


def _has_a_sign(points: Points, value: np.ndarray) -> bool:
    """Whether errors follow the result or the input where the input is large: no noise."""
    size = np.abs(value)
    if np.isfinite(size).all():
        large = size >= np.quantile(size, 7 / 8)
        points, value = points[large], value[large]
    signs = np.sign(points.error)
    return any(
        abs(float(np.mean(signs * np.sign(of)))) > _ONE_SIGN
        for of in (points.exact, value, np.ones_like(signs))
    )


def _is_rounded(points: Points, value: np.ndarray) -> bool:
    """Whether errors are in proportion to an input, as roundings of it to a narrower dtype are."""
    share = np.abs(points.error[value != 0] / value[value != 0])
    if len(share) < _LEAST:
        return False
    top, level = float(share.max()), float(np.sqrt(np.mean(share * share)))
    bound = 2.0 ** np.ceil(np.log2(max(top, 1e-300)))
    return bool(2.0**-13 <= top <= 2.0**-7 and 0.2 < level / bound < 0.7)


def _is_smooth(x: np.ndarray, limit: float) -> bool:
    """Whether neighbours are much closer to each other than the values are to 0."""
    return bool(np.quantile(np.abs(np.diff(x)), 0.9) < limit * np.quantile(np.abs(x), 0.9))


def _measurable(case: Case) -> Points | None:
    """A sample of the whole tensor, if it holds enough finite numbers."""
    if not case.floating or case.size < _LEAST:
        return None
    points = case.any[case.any.finite & (case.any.allowed > 0)]
    return points if len(points) >= 0.9 * min(case.size, len(case.any)) else None


def _relative(points: Points) -> np.ndarray:
    """Signed errors relative to the results, but those near 0."""
    size = np.abs(points.exact) + 1e-3 * rms(points.exact) + 1e-300
    return np.asarray(points.error / size)


def _growth(profile: np.ndarray) -> float:
    """Last quarter over first quarter of a profile that rises all along; 0 for another one."""
    n = len(profile)
    half = n // 2
    if _ranks(profile) < 0.93 or min(_ranks(profile[:half]), _ranks(profile[half:])) < 0.6:
        return 0.0
    steps = np.diff(np.maximum.accumulate(profile))
    if steps.max() > 0.5 * profile.max():  # a jump, not growth
        return 0.0
    quarter = max(1, n // 4)
    low = float(np.median(profile[:quarter]))
    return float(np.median(profile[-quarter:])) / max(low, 1e-3)


def _ranks(profile: np.ndarray) -> float:
    """Spearman's correlation of a profile with its index."""
    n = len(profile)
    ranks = np.argsort(np.argsort(profile))
    return float(1 - 6 * np.sum((ranks - np.arange(n)) ** 2.0) / (n * (n * n - 1)))


def _binned_growth(error: np.ndarray, quantity: np.ndarray) -> float:
    """How much noise (signed errors) grows from where a quantity is smallest to where it is
    largest."""
    known = np.isfinite(quantity)
    error, quantity = error[known], quantity[known]
    if len(error) < _LEAST or not quantity.max() > 2 * max(np.median(quantity), 0.0):
        return 0.0
    eighths = np.array_split(error[np.argsort(quantity, kind="stable")], 8)
    if abs(float(eighths[-1].mean())) > 0.5 * rms(eighths[-1]):
        return 0.0  # one sign: no noise
    profile = np.array([np.median(np.abs(part)) for part in eighths])
    if _ranks(profile) < 0.85:
        return 0.0
    return float(profile[-1] / max(float(np.median(profile[:3])), 1e-12))


def _offsets(case: Case, x: np.ndarray, points: Points) -> np.ndarray | None:
    """|mean| over standard deviation of the input's row behind each element."""
    if not is_float(x.dtype) or x.ndim < 2 or x.shape[-1] < 8:
        return None
    if x.shape == case.shape:
        rows = points.index // x.shape[-1]
    elif case.size == x.size // x.shape[-1]:
        rows = points.index
    else:
        return None
    matrix = x.reshape(-1, x.shape[-1])[:, :: max(1, x.shape[-1] // 256)]
    if len(matrix) < 16:
        return None
    wide = matrix.astype(np.float64)
    return np.asarray((np.abs(wide.mean(axis=1)) / np.maximum(wide.std(axis=1), 1e-300))[rows])
