"""How far apart two tensors are: dtype facts and error statistics, in NumPy alone.

The notebook and the target server both import this module, so a statistic means the same on
either side.  It leans on nothing that the compiler under test has produced.

Both operands are walked once, in blocks that stay in cache, with float64 arithmetic.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import ml_dtypes
import numpy as np

_BLOCK = 1 << 16
"""Elements per block: a block and its float64 temporaries fit the second-level cache."""

_ML_DTYPES = {
    name: np.dtype(getattr(ml_dtypes, name))
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4")
}


def np_dtype(name: str) -> np.dtype:
    """The NumPy dtype of a dtype name as TVM and PyTorch spell it (``"bool"``, ``"bfloat16"``).

    Raises:
        TypeError: if NumPy (with ml_dtypes) has no such dtype.
    """
    return _ML_DTYPES.get(name) or np.dtype(name)


def is_float(dtype: np.dtype) -> bool:
    """Whether the dtype is a real floating-point one, ml_dtypes' included."""
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float"))


def unit_roundoff(dtype: np.dtype) -> float:
    """Largest relative error of rounding to nearest in this dtype (half of its epsilon)."""
    return float(ml_dtypes.finfo(dtype).eps) / 2


def largest_finite(dtype: np.dtype) -> float:
    """The largest finite value of a floating-point dtype."""
    return float(ml_dtypes.finfo(dtype).max)


def digest(array: np.ndarray) -> str:
    """Content address of a tensor: SHA-256 over dtype, shape and bytes, in hexadecimal."""
    hasher = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    if array.size:
        hasher.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return hasher.hexdigest()


def as_complex(parts: np.ndarray) -> np.ndarray:
    """Real and imaginary parts on a last axis as complex numbers, the narrowest that NumPy has for
    them (complex64, complex128)."""
    wide = parts.astype(np.float64 if parts.dtype == np.float64 else np.float32, order="C")
    return np.asarray(wide.view(f"c{2 * wide.dtype.itemsize}")[..., 0])


def as_parts(array: np.ndarray) -> np.ndarray:
    """Complex numbers as real and imaginary parts on a last axis; anything else as it is."""
    if array.dtype.kind != "c":
        return array
    return np.stack([array.real, array.imag], axis=-1)


def as_bytes(array: np.ndarray) -> np.ndarray:
    """Booleans as the bytes that they are in memory, anything else as it is.

    NumPy takes any byte but 0 for True, so that memory nobody wrote would pass for it.
    """
    return array.view(np.uint8) if array.dtype == np.bool_ else array


def same_type(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two tensors agree in dtype and shape."""
    return a.dtype == b.dtype and a.shape == b.shape


def bitwise_equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two tensors agree in dtype, shape and every bit (so NaN equals the same NaN)."""
    if not same_type(a, b):
        return False
    if a.size == 0:
        return True
    bits = np.dtype(f"u{a.dtype.itemsize}") if a.dtype.itemsize in (1, 2, 4, 8) else np.uint8
    a, b = (np.ascontiguousarray(x).reshape(-1).view(bits) for x in (a, b))
    return bool(np.array_equal(a, b))


@dataclass(frozen=True)
class Statistics:
    """Error of a target tensor against a reference of the same shape.

    Errors are taken over the elements where both are finite; two NaN, or two infinities of the
    same sign, agree.  ``nan`` and ``inf`` count elements of the target that are NaN or infinite
    where the reference is not.

    Attributes:
        elements: number of elements compared.
        max_abs: largest absolute difference.
        max_rel: largest absolute difference over the reference's magnitude (0/0 counts as 0).
        max_ulp: largest distance in representable numbers of the dtype (0 for integers).
        rmse: root of the mean squared difference.
        cosine: cosine of the angle between the two as vectors; 1 when both are all zero.
        snr_db: power of the reference over power of the difference, in decibels; infinite when
            they agree.
        nan: NaN in the target only.
        inf: infinities in the target only.
        mismatched: elements that differ in value.
        worst: flat index of the largest difference, a NaN or infinity before any finite one;
            -1 when nothing differs.
    """

    elements: int
    max_abs: float
    max_rel: float
    max_ulp: float
    rmse: float
    cosine: float
    snr_db: float
    nan: int
    inf: int
    mismatched: int
    worst: int


def identical_statistics(reference: np.ndarray) -> Statistics:
    """What :func:`statistics` would say of a target that equals the reference bit for bit."""
    return Statistics(reference.size, 0.0, 0.0, 0.0, 0.0, 1.0, math.inf, 0, 0, 0, -1)


def nothing_to_compare(reference: np.ndarray) -> Statistics:
    """The statistics of a target whose shape or dtype is another: every element is wrong."""
    nan = math.nan
    return Statistics(reference.size, nan, nan, nan, nan, nan, nan, 0, 0, reference.size, -1)


def statistics(target: np.ndarray, reference: np.ndarray) -> Statistics:
    """Compare two tensors of equal shape in one float64 pass.

    Raises:
        ValueError: if the shapes differ.
    """
    if target.shape != reference.shape:
        raise ValueError(f"shapes differ: target {target.shape}, reference {reference.shape}")
    if bitwise_equal(target, reference):
        return identical_statistics(reference)
    t_all = as_bytes(np.ascontiguousarray(target).reshape(-1))
    r_all = as_bytes(np.ascontiguousarray(reference).reshape(-1))
    by_ulp = is_float(t_all.dtype) and t_all.dtype == r_all.dtype
    max_abs = max_rel = max_ulp = 0.0
    tt = rr = tr = dd = 0.0
    nan = inf = mismatched = 0
    worst, worst_size = -1, -1.0
    with np.errstate(all="ignore"):
        for start in range(0, t_all.size, _BLOCK):
            t_raw, r_raw = t_all[start : start + _BLOCK], r_all[start : start + _BLOCK]
            t, r = t_raw.astype(np.float64), r_raw.astype(np.float64)
            differ = (t_raw != r_raw) & ~(np.isnan(t) & np.isnan(r))
            count = int(np.count_nonzero(differ))
            both = np.isfinite(t) & np.isfinite(r)
            if not both.all():
                nan += int(np.count_nonzero(np.isnan(t) & ~np.isnan(r)))
                inf += int(np.count_nonzero(np.isinf(t) & ~np.isinf(r)))
                t, r = np.where(both, t, 0.0), np.where(both, r, 0.0)
            tt += float(t @ t)
            rr += float(r @ r)
            tr += float(t @ r)
            if not count:
                continue
            mismatched += count
            d = np.abs(t - r)
            dd += float(d @ d)
            max_abs = max(max_abs, float(d.max()))
            rel = d / np.abs(r)
            max_rel = max(max_rel, float(np.where(d > 0, rel, 0.0).max()))
            if by_ulp:
                steps = np.abs(_ordered(t_raw) - _ordered(r_raw))
                max_ulp = max(max_ulp, float(np.where(both, steps, 0.0).max()))
            size = np.where(differ & ~both, np.inf, d)
            index = int(size.argmax())
            if size[index] > worst_size:
                worst, worst_size = start + index, float(size[index])
    n = t_all.size
    if dd > 0:
        power = rr / dd  # 0 or NaN where squares of float64 leave its range
        snr = 10 * math.log10(power) if power > 0 else -math.inf
    else:
        snr = math.inf if nan + inf + mismatched == 0 else -math.inf
    norm = math.sqrt(tt) * math.sqrt(rr)
    cosine = tr / norm if norm > 0 else float(tt == rr)
    return Statistics(
        n, max_abs, max_rel, max_ulp, math.sqrt(dd / n), cosine, snr, nan, inf, mismatched, worst
    )


def _ordered(x: np.ndarray) -> np.ndarray:
    """Bits of floats as numbers that grow with the value and step by one per representable float.

    The sign-magnitude trick of IEEE 754 ordering (B. Dawson, "Comparing Floating Point Numbers",
    2012).  float64 holds every step of narrower dtypes exactly, and a long double those of
    float64 where the platform has one.
    """
    width = x.dtype.itemsize
    wide = np.longdouble if width == 8 else np.float64
    bits = np.ascontiguousarray(x).view(np.dtype(f"i{width}"))
    top = np.dtype(f"i{width}").type(np.iinfo(f"i{width}").min)
    return np.where(bits < 0, -((bits ^ top).astype(wide)), bits.astype(wide))
