"""A wrong function of the right value: the target as a function of the reference."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from tapml_nb.judge.diagnosis import parts
from tapml_nb.judge.diagnosis.case import MOST, SLACK, Case, Points
from tapml_nb.judge.diagnosis.pattern import Diagnosis, Pattern, found
from tapml_nb.judge.verdict import LIMIT, bias_floor
from tapml_nb.numerics import is_float, largest_finite, unit_roundoff

_LEAST = 6
_FEW = 3
"""Different numbers that a claim about numbers needs."""

_WHOLE = 2.0**53
"""Up to here float64 holds every whole number; beyond, a float is one only by name."""

_SURE, _UNSURE = 8.0, 4.0
"""Standard errors from nothing at which a fitted number is one, and below which it is none."""

_BOUNDS = {
    65504.0: "float16's largest number",
    448.0: "float8_e4m3's largest number",
    57344.0: "float8_e5m2's largest number",
    127.0: "int8's largest number",
    -128.0: "int8's lowest number",
    255.0: "uint8's largest number",
    32767.0: "int16's largest number",
    -32768.0: "int16's lowest number",
    2147483647.0: "int32's largest number",
    -2147483648.0: "int32's lowest number",
}
_DIVISIONS = ("remainder", "fmod", "floor_divide", "div", "mod")


def sign(case: Case) -> Diagnosis | None:
    """The sign is flipped: everywhere, or where an input is negative."""
    if case.explains(lambda p: -p.exact, _LEAST):
        return found(Pattern.SIGN, "every sign is flipped", _count(case))
    if case.explains(lambda p: np.abs(p.exact), _LEAST):
        words = "negative results have lost their sign: the target is their magnitude"
        return found(Pattern.ABSOLUTE, words, _count(case))
    for k, x in case.aligned():

        def candidate(points: Points, x: np.ndarray = x) -> np.ndarray:
            return np.where(case.values(x, points) < 0, -points.exact, points.exact)

        if x.dtype != np.bool_ and case.explains(candidate, _LEAST):
            words = f"the sign is flipped where input {k} is negative"
            return found(Pattern.SIGN, words, _count(case))
    return None


def factor(case: Case) -> Diagnosis | None:
    """Everything is scaled by one number."""
    if not case.floating and case.dtype.kind not in "iu":
        return None
    points = case.bad if case.count else case.any
    points = points[points.finite & (points.exact != 0)]
    if len(points) < _LEAST or _is_nearly_constant(points):
        return None
    c, error = _fit(points)
    if not math.isfinite(c) or c in (0.0, 1.0):
        return None
    if case.count:
        if not case.explains(lambda p: c * p.exact, _LEAST, max(1.0, abs(c))):
            return None
    elif not _is_bias(case, points, c, error):
        return None
    every = parts.usable(case.many)
    if case.floating and not parts.same_factor(case, every, c, parts.ALIKE * abs(c - 1)):
        return None
    words = f"the whole tensor is scaled by {_name(case, c, error)}"
    return found(Pattern.FACTOR, words, f"fitted factor {c:.8g} ± {error:.1g}; {_count(case)}")


def offset(case: Case) -> Diagnosis | None:
    """The same number is added everywhere."""
    points = case.bad[case.bad.finite] if case.count else case.any[case.any.finite]
    if len(points) < _LEAST or case.dtype == np.bool_ or _is_nearly_constant(points):
        return None
    b = float(np.median(points.error)) if case.count else _line(case, points)[1]
    if b == 0 or len(np.unique(points.target)) < 3:
        return None
    if case.count and not case.explains(lambda p: p.exact + b, _LEAST):
        return None
    if case.floating and not parts.same_term(case, b):
        return None
    return found(Pattern.OFFSET, f"{b:.6g} is added to every element", _count(case))


def clipped(case: Case) -> Diagnosis | None:
    """Values stick at a bound."""
    points = case.bad[case.bad.finite]
    if len(points) < 3 or len(points) < MOST * len(case.bad) or case.dtype == np.bool_:
        return None
    below, above = points[points.exact > points.target], points[points.exact < points.target]
    high, low = _stuck(below), _stuck(above)
    if (high is None and len(below)) or (low is None and len(above)):
        return None
    top = math.inf if high is None else high
    bottom = -math.inf if low is None else low
    if bottom >= top:
        return None
    if not case.explains(lambda p: np.clip(p.exact, bottom, top), 3):
        return None
    good = case.good.exact[np.isfinite(case.good.exact)]
    tolerance = 2 * LIMIT * float(points.allowed.max())
    if not len(good) or good.max() > top + tolerance or good.min() < bottom - tolerance:
        return None
    if not _is_a_bound(points, good, low, high):
        return None
    sides = [
        f"{side} {bound:g}{_bound_name(case, bound)}"
        for side, bound in (("below", low), ("above", high))
        if bound is not None
    ]
    return found(Pattern.CLIPPED, f"values {' and '.join(sides)} stick there", _count(case))


def wrapped(case: Case) -> Diagnosis | None:
    """Integers are taken modulo a power of two."""
    points = case.bad[case.bad.finite]
    if len(points) < 3 or not (points.exact == np.rint(points.exact)).all():
        return None
    whole = _WHOLE if not case.floating else 1 / unit_roundoff(case.dtype)
    if (np.abs(points.exact) > whole).any() or len(np.unique(points.exact)) < _FEW:
        return None  # a mask, and no counting
    for bits in (8, 16, 32):
        for signed in (True, False):
            half = 2.0 ** (bits - 1) if signed else 0.0

            def wrap(p: Points, half: float = half, bits: int = bits) -> np.ndarray:
                return np.asarray(np.mod(np.trunc(p.exact) + half, 2.0**bits) - half)

            inside = (np.abs(points.exact + half - 2.0 ** (bits - 1)) <= 2.0 ** (bits - 1)).mean()
            if inside < 0.01 and case.explains(wrap, 3):
                name = f"{'' if signed else 'u'}int{bits}"
                words = f"values beyond {name} wrap around"
                evidence = f"differences are multiples of 2^{bits}; {_count(case)}"
                return found(Pattern.WRAPPED, words, evidence)
    return None


def flushed(case: Case) -> Diagnosis | None:
    """Small values are zero."""
    bad, good = case.bad, case.good
    if len(bad) < 3 or not case.floating or (bad.finite & (bad.target == 0)).mean() < MOST:
        return None
    rest = np.abs(good.exact[np.isfinite(good.exact) & (good.target != 0)])
    if len(rest) < 3:
        return None
    largest = float(np.quantile(np.abs(bad.exact[bad.finite]), 0.99))
    if largest > float(np.quantile(rest, 0.01)) * 1.01 or largest > 0.5 * float(np.median(rest)):
        return None
    return found(Pattern.FLUSHED, f"values below about {largest:.3g} are 0", _count(case))


def rounding(case: Case) -> Diagnosis | None:
    """Whole numbers are off by one, by another rounding of an input or of a quotient."""
    points = case.bad[case.bad.finite]
    if len(points) < 3 or case.dtype == np.bool_:
        return None
    return _divided(case, points) or _rounded(case, points)


def stored_towards_zero(case: Case) -> Diagnosis | None:
    """A narrow dtype holds the exact result cut off, not rounded."""
    if not case.floating or case.dtype.itemsize > 2 or case.reference.delta is None:
        return None
    points = case.any[case.any.finite]
    points = points[points.exact != 0]
    rounded = points.exact.astype(case.dtype).astype(np.float64)
    cut = _cut(points.exact, case.dtype).astype(np.float64)
    differ = cut != rounded
    if np.count_nonzero(differ) < 64:
        return None
    if min(np.mean(points.target[differ] == cut[differ]), np.mean(points.target == cut)) < 0.95:
        return None
    words = f"results are cut off to {case.dtype.name}, not rounded to nearest"
    evidence = f"{np.count_nonzero(differ)} elements where that makes a difference"
    return found(Pattern.TRUNCATED, words, evidence)


def _count(case: Case) -> str:
    return f"explains all but noise of {case.count} wrong elements of {case.size}"


def _is_nearly_constant(points: Points) -> bool:
    """Whether the reference varies too little to tell a factor from a term."""
    spread = float(np.ptp(points.exact))
    top = float(np.abs(points.exact).max())
    return spread <= 64 * float(points.allowed.max()) or spread <= 1e-3 * top


def _fit(points: Points) -> tuple[float, float]:
    """Least-squares factor, weighted by the noise, and its standard error."""
    weight = 1.0 / np.maximum(points.allowed, 1e-300)
    x, y = points.exact * weight, points.target * weight
    power = float(x @ x)
    if not power > 0:
        return math.nan, math.nan
    c = float(x @ y) / power
    residual = y - c * x
    return c, math.sqrt(float(residual @ residual) / max(1, len(x) - 1) / power)


def _is_bias(case: Case, points: Points, c: float, error: float) -> bool:
    """Whether the factor is one that fails a tensor, and what it leaves is within the floor."""
    floor = case.reference.floor
    if floor is None:
        return False
    if abs(c - 1) < max(8 * error, LIMIT * bias_floor(floor, case.dtype, case.size)):
        return False
    left = np.abs(points.target - c * points.exact)
    return bool((left <= SLACK * points.allowed).mean() >= MOST) and _line(case, points)[0] != 1


def _line(case: Case, points: Points) -> tuple[float, float]:
    """Which of a factor and a term is at work where neither shows in a single element.

    Both are fitted together, weighted by the noise.  The one that is far beyond its standard
    error is given if the other is not; ``(1, 0)`` if that cannot be told.
    """
    if not case.floating:
        return 1.0, 0.0
    weight = 1.0 / np.maximum(points.allowed, 1e-300)
    terms = np.stack([points.exact * weight, weight], axis=1)
    fit = np.linalg.lstsq(terms, points.target * weight, rcond=None)[0]
    left = points.target * weight - terms @ fit
    variance = float(left @ left) / max(1, len(left) - 2)
    errors = np.sqrt(variance * np.diag(np.linalg.pinv(terms.T @ terms))) + 1e-300
    factor, term = np.abs(fit - (1.0, 0.0)) / errors
    if factor > _SURE and term < _UNSURE:
        return float(fit[0]), 0.0
    if term > _SURE and factor < _UNSURE:
        return 1.0, float(fit[1])
    return 1.0, 0.0


def _name(case: Case, c: float, error: float) -> str:
    """A factor by its name, if it is one that people forget."""
    near = max(3 * error, 1e-6 * abs(c))
    for value, name in _constants(case):
        if abs(c - value) <= max(near, 1e-4 * abs(value) if abs(value - 1) > 0.05 else 0.0):
            return name if name.isdigit() else f"{c:.6g} ({name})"
    return f"{c:.6g}"


def _constants(case: Case) -> Iterator[tuple[float, str]]:
    for n in (2, 3, 4, 8):
        yield float(n), str(n)
        yield 1.0 / n, f"1/{n}"
    sizes = {n for x in (*case.inputs, case.target) for n in x.shape if n > 1}
    for d in sorted(sizes):
        yield math.sqrt(d), f"√{d}"
        yield 1 / math.sqrt(d), f"1/√{d}"
        yield float(d), f"the size {d}"
        yield 1.0 / d, f"1/{d}"
        for a, b in ((d, d - 1), (d - 1, d)):
            yield a / b, f"{a}/{b}, Bessel's correction"
        for a, b in ((d, d - 1), (d - 1, d)):
            yield math.sqrt(a / b), f"√({a}/{b}), Bessel's correction"
    yield math.log(2), "ln 2"
    yield 1 / math.log(2), "1/ln 2: exponent or logarithm of another base"
    yield math.sqrt(2), "√2"
    yield math.sqrt(0.5), "1/√2"
    yield math.pi / 180, "π/180"
    yield 180 / math.pi, "180/π"


def _stuck(points: Points) -> float | None:
    """The one value that these elements hold; None if there are several."""
    if not len(points):
        return None
    value = float(np.median(points.target))
    return value if (points.target == value).mean() >= MOST else None


def _is_a_bound(bad: Points, good: np.ndarray, low: float | None, high: float | None) -> bool:
    """Whether several numbers stick, and several others, between the bounds, do not.

    One number in another's place is no clamp, nor is one value everywhere.
    """
    free = good[(good != low) & (good != high)]
    return len(np.unique(bad.exact)) >= _FEW and len(np.unique(free)) >= _FEW


def _bound_name(case: Case, bound: float) -> str:
    name = _BOUNDS.get(bound)
    if name is None and case.floating and abs(bound) == largest_finite(case.dtype):
        name = f"{case.dtype.name}'s largest number"
    return f" ({name})" if name else ""


def _divided(case: Case, points: Points) -> Diagnosis | None:
    """Quotients or remainders of negative numbers, rounded towards zero."""
    if not case.kind.startswith(_DIVISIONS):
        return None
    aligned = dict(case.aligned())
    if 0 not in aligned:
        return None
    a = case.values(aligned[0], points)
    if 1 in aligned:
        b = case.values(aligned[1], points)
    elif len(case.inputs) > 1 and case.inputs[1].size == 1:
        b = np.full(len(a), float(case.inputs[1].reshape(-1)[0]))
    else:  # not known: positive, and as much as the first of them is off
        b = np.full(len(a), np.abs(points.error[0]))
    if (np.sign(a) * np.sign(b) < 0).mean() < MOST:
        return None
    for step, name in ((1.0, "1"), (np.abs(b), "the divisor")):
        if np.mean(np.abs(np.abs(points.error) - step) <= SLACK * points.allowed) >= MOST:
            words = f"off by {name} where dividend and divisor differ in sign"
            return found(Pattern.TRUNCATED, words, f"all {case.count} wrong elements")
    return None


def _rounded(case: Case, points: Points) -> Diagnosis | None:
    """An input is rounded to whole numbers in another way."""
    whole = points.exact == np.rint(points.exact)
    if not whole.all() or not (np.abs(points.error) == 1).mean() >= MOST:
        return None
    scalars = [float(x.reshape(-1)[0]) for x in case.inputs if x.size == 1 and is_float(x.dtype)]
    scales = [1.0, *scalars, *(1 / s for s in scalars if s != 0)]
    for k, x in case.aligned():
        if not is_float(x.dtype):
            continue
        at_bad, at_good = case.values(x, points), case.values(x, case.good)
        for scale in scales:
            halves = np.abs(at_bad * scale - np.floor(at_bad * scale) - 0.5) < 1e-6
            if halves.mean() >= MOST:
                outward = (np.abs(points.target) > np.abs(points.exact)).mean()
                way = {1.0: "away from zero", 0.0: "towards zero"}.get(outward, "the other way")
                words = f"off by one exactly where input {k} is halfway between whole numbers: "
                evidence = f"all {case.count} wrong elements are halves"
                return found(Pattern.HALVES, f"{words}rounded {way}", evidence)
            ways = _other_rounding(at_bad * scale, points, at_good * scale, case.good)
            if ways is not None:
                words = f"input {k} is rounded by {ways[0]} where the source rounds by {ways[1]}"
                pattern = Pattern.TRUNCATED if ways[0] == "trunc" else Pattern.ROUNDING_MODE
                return found(pattern, words, f"all {case.count} wrong elements are off by one")
    return None


def _other_rounding(
    bad_input: np.ndarray, bad: Points, good_input: np.ndarray, good: Points
) -> tuple[str, str] | None:
    """How the target rounds its input, and how the source does."""
    ways = {"trunc": np.trunc, "floor": np.floor, "ceil": np.ceil, "nearest": np.rint}
    x, t = np.concatenate([bad_input, good_input]), np.concatenate([bad.target, good.target])
    r = np.concatenate([bad.exact, good.exact])
    target = [name for name, round_ in ways.items() if np.mean(round_(x) == t) >= MOST]
    source = [name for name, round_ in ways.items() if np.mean(round_(x) == r) >= MOST]
    differ = target and source and target[0] != source[0]
    return (target[0], source[0]) if differ else None


def _cut(exact: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """float64 cut off to a narrow float dtype, towards zero."""
    rounded = exact.astype(dtype)
    bits = rounded.view(np.dtype(f"i{dtype.itemsize}")).copy()
    outward = np.abs(rounded.astype(np.float64)) > np.abs(exact)
    bits[outward] -= 1  # sign and magnitude: one less is one step towards zero
    return bits.view(dtype)
