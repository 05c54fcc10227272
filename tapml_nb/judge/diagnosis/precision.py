"""A narrower dtype: in the values, or in the sums that made them.

That errors are of a dtype's size says nothing: a term that is lost can be as small.  So the values
must be numbers of that dtype; or what remains of errors must look like the rounding of sums:
without a system in any part of the tensor (a bias, a factor of a row), without a structure that a
term would leave, and larger where the partial sums are.
"""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np

from tapml_nb.judge.diagnosis import parts
from tapml_nb.judge.diagnosis.case import Case, Points, rms
from tapml_nb.judge.diagnosis.pattern import Diagnosis, Pattern, found
from tapml_nb.numerics import unit_roundoff

_LEAST = 256
"""Elements that statistics of noise need."""

_F32 = np.dtype(np.float32)
_NARROW = {
    "bfloat16": (8, np.dtype(ml_dtypes.bfloat16)),
    "float16 (or TF32)": (11, np.dtype(np.float16)),
}
"""Significant bits of narrower dtypes."""

_SIDE = 96
"""Rows and columns whose errors are looked at as a matrix."""


def narrow_numbers(case: Case) -> Diagnosis | None:
    """Nearly all values have the zeros in their last bits that a narrower dtype would leave."""
    if case.dtype not in (_F32, np.dtype(np.float16)) or case.size < 64:
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


def narrow_sums(case: Case) -> Diagnosis | None:
    """Noise as sums in a narrower dtype make it, in its size and in its looks."""
    floor = case.reference.floor
    if not case.floating or floor is None or floor.length < 8 or case.size < _LEAST:
        return None
    points = parts.usable(case.many)
    if len(points) < 0.9 * len(case.many) or len(points) < _LEAST:
        return None
    scale = np.maximum(np.abs(points.exact) + rms(points.exact), 1e-300)
    level = rms(points.error / scale)
    names = _names(case, level, floor.length)
    if not names or not _is_noise(points.error / scale, points, level):
        return None
    if parts.has_system(case, points, 1 / scale) or not _looks_like_sums(case):
        return None
    words = f"the result is as precise as sums in {' or '.join(names)}"
    evidence = (
        f"errors of random sign, the same everywhere, larger where sums are, about "
        f"2^{math.log2(level):.1f} of the values; sums of {floor.length} terms"
    )
    return found(Pattern.NARROWER, words, evidence)


def _has_bits(x: np.ndarray, bits: int) -> np.ndarray:
    """Whether numbers have no more than so many significant bits."""
    mantissa, _ = np.frexp(x)
    scaled = mantissa * 2.0**bits
    return np.asarray(scaled == np.rint(scaled))


def _names(case: Case, level: float, length: int) -> list[str]:
    """Dtypes in which sums of so many terms are off by so much."""
    names: list[str] = []
    own, high = unit_roundoff(case.dtype), max(2.0, 0.5 * math.sqrt(length))
    for name, (bits, dtype) in reversed(_NARROW.items()):
        low = 1.0 if unit_roundoff(dtype) == own else 0.12
        if unit_roundoff(dtype) >= own and low <= level * 2.0**bits <= high:
            names.append(name)
    return names


def _is_noise(noise: np.ndarray, points: Points, level: float) -> bool:
    """Whether errors look like rounding: no bias, no outliers, nowhere absent."""
    if not 0 < level < 0.05:
        return False
    size = np.abs(noise)
    unbiased = abs(float(noise.mean())) < 5 * level / math.sqrt(len(noise)) + 0.05 * level
    product = float(np.mean(noise * points.exact)) / max(rms(points.exact) * level, 1e-300)
    compact = float(size.max()) < 12 * level and float(np.median(size)) > 0.25 * level
    return unbiased and abs(product) < 0.15 and compact


def _looks_like_sums(case: Case) -> bool:
    """Whether errors have what rounded partial sums leave in them, and nothing that terms do.

    A partial sum that ends far from 0 was far from it on its way, so its roundings were larger; a
    term's size has nothing to do with where the sum ends.  And what a term adds is a product of
    something of the row and something of the column: a matrix of low rank, which noise is not.
    """
    matrices = _matrices(case)
    return bool(matrices) and all(
        _is_white(error) and 1.3 < _larger_where_sums_are(error, result) < 5
        for error, result in matrices
    )


def _matrices(case: Case) -> list[tuple[np.ndarray, np.ndarray]]:
    """Errors and results as matrices: along every axis against all others."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    shape = [n for n in case.shape if n > 1]
    if len(shape) < 2:
        return found
    random = np.random.default_rng(2)
    index = np.arange(case.size).reshape(shape)
    views = [np.moveaxis(index, axis, 0).reshape(n, -1) for axis, n in enumerate(shape)]
    views.append(index.reshape(-1, *shape[-2:])[0])
    for view in views:
        rows, columns = (
            np.sort(random.permutation(n)[:_SIDE]) if n > _SIDE else np.arange(n)
            for n in view.shape
        )
        if min(len(rows), len(columns)) < 8:
            continue
        chosen = view[np.ix_(rows, columns)]
        points = case.points(chosen.reshape(-1))
        if not points.finite.all():
            return []
        found.append((points.error.reshape(chosen.shape), points.exact.reshape(chosen.shape)))
    return found


def _is_white(error: np.ndarray) -> bool:
    """Whether a matrix has the singular values of its own entries in random order."""
    scaled = _balanced(error)
    random = np.random.default_rng(3)
    top, spectrum = _spectrum(scaled)
    tops, spectra = zip(
        *(_spectrum(random.permutation(scaled.reshape(-1)).reshape(scaled.shape)) for _ in "abc"),
        strict=True,
    )
    far = float(np.abs(spectrum - np.mean(spectra, axis=0)).max())
    return bool(top < 1.5 * max(tops) and far < 0.08)


def _spectrum(matrix: np.ndarray) -> tuple[float, np.ndarray]:
    """The share of the largest singular value, and the shares of all, added up; squared."""
    squares = np.linalg.svd(matrix, compute_uv=False) ** 2
    shares = squares / max(float(squares.sum()), 1e-300)
    return float(shares[0]), np.cumsum(shares)


def _balanced(matrix: np.ndarray) -> np.ndarray:
    """Rows, then columns, of the same root mean square."""
    for axis in (1, 0):
        size = np.sqrt((matrix * matrix).mean(axis=axis, keepdims=True))
        matrix = matrix / np.maximum(size, 1e-300)
    return matrix


def _larger_where_sums_are(error: np.ndarray, result: np.ndarray) -> float:
    """How much larger errors are where results are large for their row and column than where
    they are near 0; 0 where few are near 0."""
    e, size = _balanced(error), np.abs(_balanced(result))
    small, large = size < 0.4, size > 1.4
    if min(small.sum(), large.sum()) < 24:
        return 0.0
    return rms(e[large]) / max(rms(e[small]), 1e-300)
