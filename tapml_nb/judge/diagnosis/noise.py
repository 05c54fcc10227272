"""How precise a tensor is: errors that grow, and errors of a narrower dtype's size."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np

from tapml_nb.judge.diagnosis.case import Case, Points
from tapml_nb.judge.diagnosis.pattern import Diagnosis, Pattern, found
from tapml_nb.numerics import is_float, unit_roundoff

_LEAST = 256
"""Elements that statistics of noise need."""

_BINS = 16
_F32 = np.dtype(np.float32)
_NARROW = {
    "bfloat16": (8, np.dtype(ml_dtypes.bfloat16)),
    "float16 (or TF32)": (11, np.dtype(np.float16)),
}
"""Significant bits of narrower dtypes."""


def grows_along_axis(case: Case) -> Diagnosis | None:
    """The error grows steadily with the index along one axis."""
    points = _measurable(case)
    if points is None:
        return None
    error = _in_floors(points)
    best: tuple[float, int, float, float] | None = None
    for axis, size in enumerate(case.shape):
        if size < 8 or (case.size == size and size < 64):
            continue
        bins = min(_BINS, size)
        place = case.places(points.index)[axis] * bins // size
        profile = _profile(error, place, bins)
        if profile is None:
            continue
        growth = _growth(profile)
        if growth > 3 and (best is None or growth > best[0]):
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
    if _rms(points.error) > 0.3 * _rms(points.exact):
        return None  # not imprecise: something else altogether
    for k, x in case.aligned():
        if not is_float(x.dtype) and x.dtype.kind != "i":
            continue
        value = case.values(x, points)
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
        order = np.argsort(case.values(x, points), kind="stable")
        result, error = points.exact[order], points.error[order]
        if _is_smooth(result, 0.1) and _is_smooth(error, 0.2):
            words = f"the result is another function of input {k}"
            evidence = f"the error follows the input smoothly; {_spread(points)}"
            return found(Pattern.OTHER_FUNCTION, words, evidence)
    return None


def narrower(case: Case) -> Diagnosis | None:
    """The target holds numbers of a narrower dtype, or is as precise as sums in one."""
    if not case.floating or case.size < 64:
        return None
    return _narrow_numbers(case) or _narrow_sums(case)


# -- parts ---------------------------------------------------------------------------------------


def _is_smooth(x: np.ndarray, limit: float) -> bool:
    """Whether neighbours are much closer to each other than the values are to 0."""
    return bool(np.quantile(np.abs(np.diff(x)), 0.9) < limit * np.quantile(np.abs(x), 0.9))


def _spread(points: Points) -> str:
    return f"its root mean square is {_rms(points.error) / _rms(points.exact):.3g} of the result's"


def _measurable(case: Case) -> Points | None:
    """A sample of the whole tensor, if it holds enough finite numbers."""
    if not case.floating or case.size < _LEAST:
        return None
    points = case.any[case.any.finite & (case.any.allowed > 0)]
    return points if len(points) >= 0.9 * min(case.size, len(case.any)) else None


def _in_floors(points: Points) -> np.ndarray:
    result: np.ndarray = np.abs(points.error) / points.allowed
    return result


def _relative(points: Points) -> np.ndarray:
    """Signed errors relative to the results, but those near 0."""
    size = np.abs(points.exact) + 1e-3 * _rms(points.exact) + 1e-300
    result: np.ndarray = points.error / size
    return result


def _rms(x: np.ndarray) -> float:
    return math.sqrt(float(np.mean(x * x))) if len(x) else 0.0


def _profile(error: np.ndarray, place: np.ndarray, bins: int) -> np.ndarray | None:
    """Root mean square of the error per bin; None where a bin is nearly empty."""
    count = np.bincount(place, minlength=bins)
    if count.min() < 3:
        return None
    squares = np.bincount(place, weights=error * error, minlength=bins)
    result: np.ndarray = np.sqrt(squares / count)
    return result


def _growth(profile: np.ndarray) -> float:
    """Last quarter over first quarter of a profile that rises all along; 0 for another one."""
    n = len(profile)
    half = n // 2
    if min(_ranks(profile), _ranks(profile[:half]), _ranks(profile[half:])) < 0.6:
        return 0.0
    if _ranks(profile) < 0.93:
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
    """How much noise grows from where a quantity is smallest to where it is largest.

    Args:
        error: signed errors.
        quantity: what they may grow with.
    """
    known = np.isfinite(quantity)
    error, quantity = error[known], quantity[known]
    if len(error) < _LEAST or not quantity.max() > 2 * max(np.median(quantity), 0.0):
        return 0.0
    eighths = np.array_split(error[np.argsort(quantity, kind="stable")], 8)
    if abs(float(eighths[-1].mean())) > 0.5 * _rms(eighths[-1]):
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
    offset = np.abs(wide.mean(axis=1)) / np.maximum(wide.std(axis=1), 1e-300)
    result: np.ndarray = offset[rows]
    return result


def _narrow_numbers(case: Case) -> Diagnosis | None:
    """Nearly all values have the zeros in their last bits that a narrower dtype would leave."""
    if case.dtype not in (_F32, np.dtype(np.float16)):
        return None
    points = case.any[case.any.finite & (case.any.target != 0) & (case.any.exact != 0)]
    if len(points) < 64:
        return None
    for name, (bits, dtype) in _NARROW.items():
        if unit_roundoff(dtype) <= unit_roundoff(case.dtype):
            continue
        short = _has_bits(points.target, bits).mean() >= 0.995
        full = _has_bits(points.exact.astype(case.dtype).astype(np.float64), bits).mean() < 0.5
        near = np.abs(points.error) <= 2.0 ** (1 - bits) * np.abs(points.exact) + points.allowed
        if short and full and near.mean() >= 0.95:
            words = f"the values are numbers of {name}, not {case.dtype.name}"
            evidence = (
                f"{len(points)} values looked at have {bits} significant bits; "
                f"relative error up to 2^-{bits}"
            )
            return found(Pattern.NARROWER, words, evidence)
    return None


def _has_bits(x: np.ndarray, bits: int) -> np.ndarray:
    """Whether numbers have no more than so many significant bits."""
    mantissa, _ = np.frexp(x)
    scaled = mantissa * 2.0**bits
    result: np.ndarray = scaled == np.rint(scaled)
    return result


def _narrow_sums(case: Case) -> Diagnosis | None:
    """Noise of random sign, the same everywhere, as large as sums in a narrower dtype make."""
    floor = case.reference.floor
    points = _measurable(case)
    if floor is None or points is None or floor.length < 8:
        return None
    scale = np.abs(points.exact) + _rms(points.exact)
    noise = points.error / np.maximum(scale, 1e-300)
    level = _rms(noise)
    if not _is_noise(noise, points, level):
        return None
    names: list[str] = []
    for name, (bits, dtype) in reversed(_NARROW.items()):
        finer = unit_roundoff(dtype) < unit_roundoff(case.dtype)
        same = unit_roundoff(dtype) == unit_roundoff(case.dtype)
        low, high = 1.0 if same else 0.12, max(2.0, 0.5 * math.sqrt(floor.length))
        if not finer and low <= level * 2.0**bits <= high:
            names.append(name)
    if not names:
        return None
    words = f"the result is as precise as products or sums in {' or '.join(names)}"
    evidence = (
        f"errors of random sign, the same everywhere, about 2^{math.log2(level):.1f} "
        f"of the values; sums of {floor.length} terms"
    )
    return found(Pattern.NARROWER, words, evidence)


def _is_noise(noise: np.ndarray, points: Points, level: float) -> bool:
    """Whether errors look like rounding: no bias, no outliers, nowhere absent."""
    if not 0 < level < 0.05:
        return False
    size = np.abs(noise)
    unbiased = abs(float(noise.mean())) < 5 * level / math.sqrt(len(noise)) + 0.05 * level
    product = float(np.mean(noise * points.exact)) / max(_rms(points.exact) * level, 1e-300)
    compact = float(size.max()) < 12 * level and float(np.median(size)) > 0.25 * level
    return unbiased and abs(product) < 0.15 and compact
