"""How far apart two tensors are: dtype facts and error statistics, wherever the tensors are.

The notebook and the target server both import this module, so a statistic means the same on
either side.  It leans on nothing that the compiler under test has produced.

Both operands are walked once, in blocks that stay in cache, with float64 arithmetic.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import ml_dtypes
import numpy as np

from tapml_nb.array_api import (
    Array,
    block_of,
    dot,
    dtype_of,
    flat,
    namespace,
    on_host,
    size_of,
    viewed,
    wide,
)
from tapml_nb.measured import Ask, Asking, at_once, far


def is_float(dtype: np.dtype) -> bool:
    """Whether the dtype is a real floating-point one, ml_dtypes' included."""
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float"))


def unit_roundoff(dtype: np.dtype) -> float:
    """Largest relative error of rounding to nearest in this dtype (half of its epsilon)."""
    return float(ml_dtypes.finfo(dtype).eps) / 2


def largest_finite(dtype: np.dtype) -> float:
    """The largest finite value of a floating-point dtype."""
    return float(ml_dtypes.finfo(dtype).max)


_HASHED = 1 << 26
"""Bytes that are hashed at once."""


def digest(array: Array) -> str:
    """Content address of a tensor, of dtype, shape and bytes, in hexadecimal: SHA-256 on the host,
    and 128 bits of :func:`_mixed` on a GPU, whose contents need not leave it for that."""
    if not isinstance(array, np.ndarray):
        return digests_there([array])[0]
    hasher = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    if array.size:
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        for start in range(0, len(content), _HASHED):  # a gigabyte at once could not be broken off
            hasher.update(content[start : start + _HASHED])
    return hasher.hexdigest()


def digests_there(arrays: Sequence[Array]) -> list[str]:
    """The digests of arrays that NumPy does not hold, all on one device; one waits for it once."""
    if not arrays:
        return []
    xp = namespace(arrays[0])
    found = on_host(xp.stack([_sums_there(array, xp) for array in arrays]))
    digests = []
    for array, sums in zip(arrays, found.tolist(), strict=True):
        told = f"{dtype_of(array).name}{tuple(array.shape)}{sums}"
        digests.append(f"there-{hashlib.sha256(told.encode()).hexdigest()}")
    return digests


def _sums_there(array: Array, xp: ModuleType) -> Array:
    """What tells an array's content from others', two numbers modulo 2^64."""
    data, block = viewed(flat(array), "uint8"), block_of(array)
    sums = xp.zeros((len(_SEEDS),), dtype=xp.int64, device=array.device)
    for start in range(0, size_of(data), 8 * block):
        words = _words(data[start : start + 8 * block], xp)
        begin = start // 8
        places = xp.arange(begin, begin + size_of(words), dtype=xp.int64, device=array.device)
        mixed = [_mixed(words ^ (places * _ODD + seed), xp) for seed in _SEEDS]
        sums = sums + xp.stack([xp.sum(one) for one in mixed])
    return sums


def _words(data: Array, xp: ModuleType) -> Array:
    """Bytes as words of eight; what is missing of the last is zero."""
    missing = xp.zeros((-size_of(data) % 8,), dtype=xp.uint8, device=data.device)
    return viewed(xp.concat([data, missing]), "int64")  # a copy: as a view it may begin nowhere


_ODD = 0x1E3779B97F4A7C15
_SEEDS = (0x243F6A8885A308D3, 0x13198A2E03707344)
_FACTORS = (0x3F58476D1CE4E5B9, 0x14D049BB133111EB)


def _mixed(words: Array, xp: ModuleType) -> Array:
    """Words whose every bit depends on all of their bits, after the finalizer of SplitMix64
    (G. Steele, D. Lea, C. Flood, "Fast Splittable Pseudorandom Number Generators", 2014)."""
    for factor, shift in zip(_FACTORS, (30, 27), strict=True):
        words = (words ^ (words >> shift)) * factor
    return words ^ (words >> 31)


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


def as_bytes(array: Array) -> Array:
    """Booleans as the bytes that they are in memory, anything else as it is.

    NumPy takes any byte but 0 for True, so that memory nobody wrote would pass for it.
    """
    return viewed(array, "uint8") if dtype_of(array) == np.bool_ else array


def same_type(a: Array, b: Array) -> bool:
    """Whether two tensors agree in dtype and shape."""
    return dtype_of(a) == dtype_of(b) and tuple(a.shape) == tuple(b.shape)


def bitwise_equal(a: Array, b: Array) -> bool:
    """Whether two tensors agree in dtype, shape and every bit (so NaN equals the same NaN)."""
    if not same_type(a, b):
        return False
    if size_of(a) == 0:
        return True
    return at_once(equal_bits(a, b))


def equal_bits(a: Array, b: Array) -> Asking[bool]:
    """Whether two tensors of one dtype and shape agree in every bit."""
    if size_of(a) == 0:
        return True
    (same,), _ = yield Ask(_equal_bits, [_bits(a), _bits(b)])
    return bool(same)


def _equal_bits(a: Array, b: Array, _: Sequence[float]) -> tuple[list[Array], list[Array]]:
    return [namespace(a, b).all(a == b)], []


def _bits(x: Array) -> Array:
    width = dtype_of(x).itemsize
    return viewed(flat(x), f"int{8 * width}" if width in (1, 2, 4, 8) else "uint8")


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

    @property
    def relative(self) -> float:
        """Root of the squared differences over that of the reference's values; infinite where
        these are all 0."""
        return 0.0 if self.rmse == 0 else 10.0 ** (-self.snr_db / 20)


def identical_statistics(reference: Array) -> Statistics:
    """What :func:`statistics` would say of a target that equals the reference bit for bit."""
    return Statistics(size_of(reference), 0.0, 0.0, 0.0, 0.0, 1.0, math.inf, 0, 0, 0, -1)


def nothing_to_compare(reference: Array) -> Statistics:
    """The statistics of a target whose shape or dtype is another: every element is wrong."""
    nan, size = math.nan, size_of(reference)
    return Statistics(size, nan, nan, nan, nan, nan, nan, 0, 0, size, -1)


def statistics(target: Array, reference: Array) -> Statistics:
    """Compare two tensors of equal shape in one float64 pass.

    Raises:
        ValueError: if the shapes differ.
    """
    if tuple(target.shape) != tuple(reference.shape):
        raise ValueError(f"shapes differ: target {target.shape}, reference {reference.shape}")
    if bitwise_equal(target, reference):
        return identical_statistics(reference)
    return at_once(statistics_of_differing(target, reference))


def statistics_of_differing(target: Array, reference: Array) -> Asking[Statistics]:
    """The same of two tensors of one shape that are known to differ in some bit."""
    t_all, r_all = flat(as_bytes(target)), flat(as_bytes(reference))
    floating = is_float(dtype_of(t_all)) and is_float(dtype_of(r_all))
    by_ulp = floating and dtype_of(t_all) == dtype_of(r_all)
    n, block = size_of(t_all), block_of(t_all)
    max_abs = max_rel = max_ulp = 0.0
    tt = rr = tr = dd = 0.0
    nan = inf = mismatched = 0
    worst, worst_size = -1, -1.0
    for start in range(0, n, block):
        t, r = t_all[start : start + block], r_all[start : start + block]
        bits = [_integers(t), _integers(r)] if by_ulp else [None, None]
        found, _ = yield Ask(_differences, [t, r, *bits], facts=(floating,))
        nan, inf = nan + int(found[1]), inf + int(found[2])
        tt, rr, tr = tt + float(found[3]), rr + float(found[4]), tr + float(found[5])
        if not found[0]:
            continue
        mismatched += int(found[0])
        dd += float(found[6])
        max_abs, max_rel, max_ulp = (
            max(known, float(new))
            for known, new in zip((max_abs, max_rel, max_ulp), found[7:10], strict=True)
        )
        if (largest := float(found[11])) > worst_size:
            worst, worst_size = start + int(found[10]), largest
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


def _differences(
    t_raw: Array,
    r_raw: Array,
    t_bits: Array | None,
    r_bits: Array | None,
    _: Sequence[float],
    floating: bool,
) -> tuple[list[Array | float], list[Array]]:
    """The figures of a block: how many differ, how many are NaN and infinite in the target alone,
    three inner products; then, where any differ, that of the difference, the largest errors
    (absolute, relative, and in steps, of the ``bits`` of floats of one dtype), and which is the
    worst, by how much."""
    xp, t, r = namespace(t_raw, r_raw), wide(t_raw), wide(r_raw)
    # Numbers of 8 bits cannot be compared everywhere, nor are integers exact in float64.
    unequal = t != r if floating else t_raw != r_raw
    differ = unequal & ~(xp.isnan(t) & xp.isnan(r))
    count = counted(differ)
    both = xp.isfinite(t) & xp.isfinite(r)
    nan: Array | float = 0.0
    inf: Array | float = 0.0
    if far(t) or not xp.all(both):
        nan = counted(xp.isnan(t) & ~xp.isnan(r))
        inf = counted(xp.isinf(t) & ~xp.isinf(r))
        t, r = xp.where(both, t, 0.0), xp.where(both, r, 0.0)
    figures = [count, nan, inf, dot(t, t), dot(r, r), dot(t, r)]
    if far(t) or count:
        d = xp.abs(t - r)
        steps: Array | float = 0.0
        if t_bits is not None and r_bits is not None:
            steps = xp.max(xp.where(both, _steps(t_bits, r_bits), 0.0))
        size = xp.where(differ & ~both, math.inf, d)
        relative = xp.max(xp.where(d > 0, d / xp.abs(r), 0.0))
        figures += [dot(d, d), xp.max(d), relative, steps, xp.argmax(size), xp.max(size)]
    return figures, []


def counted(flags: Array) -> Array:
    """How many flags are set."""
    xp = namespace(flags)
    return np.count_nonzero(flags) if xp is np else xp.sum(xp.astype(flags, xp.int64))


def _integers(x: Array) -> Array:
    """The bits of floats as integers of their size."""
    return viewed(x, f"int{8 * dtype_of(x).itemsize}")


def _steps(a: Array, b: Array) -> Array:
    """How many representable numbers apart two floating-point tensors of one dtype are, by their
    bits.

    By the sign-magnitude trick of IEEE 754 ordering (B. Dawson, "Comparing Floating Point Numbers",
    2012).  float64 holds every step of narrower dtypes exactly.
    """
    xp = namespace(a, b)
    a, b = _places(a), _places(b)
    apart = xp.astype(xp.abs(a - b), xp.float64)
    across = xp.abs(xp.astype(a, xp.float64) - xp.astype(b, xp.float64))
    return xp.where((a < 0) == (b < 0), apart, across)  # between signs an integer could overflow


def _places(bits: Array) -> Array:
    """Integers that grow with the value of floats and step by one per representable number."""
    xp = namespace(bits)
    wide_bits = xp.astype(bits, xp.int64)
    least = -(1 << (8 * dtype_of(bits).itemsize - 1))
    return xp.where(wide_bits < 0, least - wide_bits, wide_bits)
