"""Verdicts: one tensor of the target against a reference, by the reference's noise floor.

Three questions are asked of a floating-point tensor, because three kinds of fault exist:

* *element*: is any element farther from the exact result than the floor allows there?  Sees one
  wrong element in a million.
* *tensor*: is the root mean square error above the floor's?  Sees a fault that is small
  everywhere.
* *bias*: is the tensor on average too large or too small by a factor that rounding, which has no
  preferred sign, cannot explain?  Sees a scale that is off by less than the dtype's precision.

An element that equals the source's, or lies between it and the exact value, is never a fault.
Integers and booleans are compared exactly, booleans byte by byte, and so is what an operator only
moves or selects.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from tapml_nb.array_api import (
    Array,
    dot,
    dtype_of,
    element,
    flat,
    namespace,
    size_of,
    wide,
    zeros_like,
)
from tapml_nb.judge.floor import (
    Bias,
    Floor,
    Reference,
    Scale,
    bias_sums,
    blocks,
    edge_of,
    flushed,
    lower_bound,
    units,
)
from tapml_nb.measured import Ask, Asking, at_once, far
from tapml_nb.numerics import (
    Statistics,
    as_bytes,
    counted,
    equal_bits,
    identical_statistics,
    is_float,
    nothing_to_compare,
    same_type,
    statistics_of_differing,
    unit_roundoff,
)

LIMIT = 8.0
"""A target may be this many floors away from the exact result.  Honest kernels (other summation
orders, FMA, other libms) stay below about 4; faults in use are in the hundreds."""

_NARROW = 3 / 8
"""Of that, how much noisier than the source a tensor narrower than float32 may be as a whole.  It
is computed in float32 and rounded at the end, so honest ones stay below 0.5 floors where float32
has the ulps of its libraries; sums kept in float16 are at 4."""


class Verdict(StrEnum):
    """What is known of an operator on the target (see ``docs/verdicts.md``).

    ``PASS``; ``FAIL``: beyond its noise floor; ``NONFINITE``: NaN or infinite where the source is
    not; ``NONDETERMINISTIC``: two runs differ by more than the floor; ``COMPILE_ERROR``: TVM
    cannot compile it; ``CRASH``, ``TIMEOUT``: its kernel ended its process, or takes too long;
    ``UNSUPPORTED``: TVM or the device has no way to do it; ``SKIPPED``: there is nothing to
    judge; ``UNKNOWN``: it was not judged yet.

    Example:
        >>> report.verdict("pool/avg_pool2d") is tapml.Verdict.FAIL, tapml.Verdict.FAIL == "FAIL"
        (True, True)
    """

    PASS = "PASS"
    FAIL = "FAIL"
    NONFINITE = "NONFINITE"
    NONDETERMINISTIC = "NONDETERMINISTIC"
    COMPILE_ERROR = "COMPILE_ERROR"
    CRASH = "CRASH"
    TIMEOUT = "TIMEOUT"
    UNSUPPORTED = "UNSUPPORTED"
    SKIPPED = "SKIPPED"
    UNKNOWN = "UNKNOWN"


SEVERITY = [
    Verdict.CRASH,
    Verdict.TIMEOUT,
    Verdict.NONFINITE,
    Verdict.FAIL,
    Verdict.NONDETERMINISTIC,
    Verdict.COMPILE_ERROR,
    Verdict.UNSUPPORTED,
    Verdict.UNKNOWN,
    Verdict.PASS,
    Verdict.SKIPPED,
]
"""The worst first."""

FAULTS = frozenset(SEVERITY[: SEVERITY.index(Verdict.UNSUPPORTED)])
"""Verdicts that name something broken (``UNSUPPORTED`` is missing, not broken)."""


def worse(a: Verdict, b: Verdict) -> Verdict:
    """The more severe of two verdicts."""
    return min(a, b, key=SEVERITY.index)


@dataclass(frozen=True)
class Judgement:
    """A verdict on one tensor with its grounds.

    Attributes:
        verdict: ``PASS``, ``FAIL`` or ``NONFINITE``.
        ratio: the target's largest distance from the exact result over the floor (NaN for
            integers and booleans; infinite where a value is not finite).
        floor: the noise floor at the element that decides, in the tensor's own unit.
        statistics: target against source.
        message: why, in words; empty for ``PASS``.
        along: the target's largest ratio at each index of every axis that was asked for; empty
            where nothing was compared by a floor.
    """

    verdict: Verdict
    ratio: float
    floor: float
    statistics: Statistics
    message: str = ""
    along: tuple[tuple[float, ...], ...] = ()


def judge(
    target: Array, reference: Reference, limit: float = LIMIT, axes: Sequence[int] = ()
) -> Judgement:
    """The verdict on one tensor; arguments as of :func:`judging`."""
    return at_once(judging(target, reference, limit, axes))


def judging(
    target: Array,
    reference: Reference,
    limit: float = LIMIT,
    axes: Sequence[int] = (),
    *,
    differs: bool = False,
) -> Asking[Judgement]:
    """Judge the target's tensor against the source's.

    ``limit`` is how many noise floors an element, the tensor, or its bias may be off; ``axes``
    along which axes to say where it is how far off, if it is a floating-point tensor; ``differs``:
    whether it is known already that they are not the same, bit for bit.

    A tensor of another shape or dtype than the source's is a ``FAIL``: the importer or a pass
    got the type wrong.
    """
    source = reference.source
    if not same_type(target, source):
        message = f"the target's result is {_type(target)}, the source's {_type(source)}"
        stats = nothing_to_compare(source)
        return Judgement(Verdict.FAIL, math.inf, math.nan, stats, message)
    if not differs and (yield from equal_bits(target, source)):
        return judge_identical(reference, axes)
    stats = yield from statistics_of_differing(target, source)
    if not is_float(reference.dtype) or reference.floor is None:
        if not stats.mismatched:
            return Judgement(Verdict.PASS, math.nan, 0.0, stats)
        why = f"{reference.dtype.name} compares exactly"
        return _differing(target, source, stats, stats.mismatched, stats.worst, why)
    return (yield from _by_floor(target, reference, reference.floor, stats, limit, axes))


def judge_identical(reference: Reference, axes: Sequence[int] = ()) -> Judgement:
    """The judgement on a target that equals the source bit for bit."""
    source, floor = reference.source, reference.floor
    return Judgement(
        Verdict.PASS,
        floor.source_ratio if floor else math.nan,
        floor.absolute if floor else 0.0,
        identical_statistics(source),
        along=tuple((0.0,) * int(source.shape[axis]) for axis in axes) if floor else (),
    )


def _differing(
    target: Array, source: Array, stats: Statistics, count: int, worst: int, why: str
) -> Judgement:
    """The judgement on what compares as it is, and differs."""
    message = f"{count} of {stats.elements} elements differ, and {why}; "
    message += _worst(target, source, worst)
    return Judgement(Verdict.FAIL, math.inf, 0.0, stats, message)


def _by_floor(
    target: Array,
    reference: Reference,
    floor: Floor,
    stats: Statistics,
    limit: float,
    axes: Sequence[int],
) -> Asking[Judgement]:
    seen = _Seen(limit)
    along = [_Along(tuple(target.shape), axis) for axis in axes]
    sides = tuple(dict.fromkeys(of_axis.of_columns for of_axis in along))
    scale = yield from Scale.of(reference.source, reference.beside)
    edge = edge_of(reference.dtype, floor.length)
    facts = (scale.known, reference.dtype, floor.exact, sides)
    row = start = 0
    for t, s, *delta in _blocks(target, reference):
        arrays = (t, s, delta[0] if delta else None, scale.at(row, len(t)))
        numbers, _ = yield Ask(_weighed, arrays, (floor.units, *edge, limit), facts)
        seen.add(numbers, start)
        for of_axis in along:
            of_axis.add(numbers[sides.index(of_axis.of_columns) - len(sides)], row)
        row, start = row + len(t), start + size_of(t)
    judgement = _conclude(target, reference, floor, stats, seen)
    return replace(judgement, along=tuple(tuple(a.worst.tolist()) for a in along))


@dataclass(frozen=True)
class Deviation:
    """Where a target is wrong.

    Attributes:
        beyond: the elements that are farther from the exact result than ``limit`` floors; those
            that differ, for integers and booleans.
        allowed: one floor per element, float32, in the tensor's own unit (0 for integers; NaN
            where only one side is finite).
    """

    beyond: Array
    allowed: Array


def deviation(target: Array, reference: Reference, limit: float = LIMIT) -> Deviation:
    """Element by element what :func:`judge` decides as a whole.

    Raises:
        ValueError: if shape or dtype are not the source's.
    """
    source, floor = reference.source, reference.floor
    if not same_type(target, source):
        raise ValueError(f"target: {_type(target)} is not the source's")
    xp, shape = namespace(target, source), tuple(source.shape)
    dtype = reference.dtype
    if floor is None or not is_float(dtype) or not size_of(source):
        return Deviation(as_bytes(target) != as_bytes(source), zeros_like(source, "float32"))
    beyond, allowed = flat(zeros_like(source, "bool")), flat(zeros_like(source, "float32"))
    scale = at_once(Scale.of(source, reference.beside))
    figures = (floor.units, *edge_of(dtype, floor.length))
    row = start = 0
    with np.errstate(all="ignore"):
        for t, s, *delta in _blocks(target, reference):
            arrays = (t, s, delta[0] if delta else None, scale.at(row, len(t)))
            block = _weigh(*arrays, figures, scale.known, dtype, floor.exact)
            here = slice(start, start + size_of(t))
            beyond[here] = flat(block.ratios > limit)
            allowed[here] = xp.astype(flat(block.allowed), xp.float32)
            row, start = row + len(t), start + size_of(t)
    return Deviation(xp.reshape(beyond, shape), xp.reshape(allowed, shape))


@dataclass(frozen=True)
class _Block:
    """A few whole rows of a target, measured.

    Attributes:
        ratios: error over ``allowed``; infinite where only one side is finite.
        allowed: one floor per element, in the tensor's own unit; NaN where only one side is
            finite.
        units: signed distance from the exact result, in units.
        exact_units: the exact result, in units.
        lost: values that are not finite though the source's are; None if there are none.
    """

    ratios: Array
    allowed: Array
    units: Array
    exact_units: Array
    lost: Array | None


def _blocks(target: Array, reference: Reference) -> Iterator[tuple[Array, ...]]:
    """A target with its source, and with what that lacks to be exact if this is known, as blocks of
    whole rows."""
    delta = [] if reference.delta is None else [reference.delta]
    return blocks(target, reference.source, *delta)


def _weigh(
    target: Array,
    source: Array,
    delta: Array | None,
    scale: Array,
    figures: Sequence[float],
    known: bool,
    dtype: np.dtype,
    exact: bool,
) -> _Block:
    """Measure a block; ``figures``: the floor in units, and the edge where values overflow."""
    xp, t, s, (floor, *edge) = namespace(target), wide(target), wide(source), figures
    by = xp.zeros_like(s) if delta is None else wide(delta)
    r = s + by
    one = units(r, scale, known, dtype)
    finite = xp.isfinite(t) & xp.isfinite(s)
    bad = lost = None
    if far(t) or not xp.all(finite):
        same = (t == s) | (xp.isnan(t) & xp.isnan(s))
        bad = ~finite & ~same & ~_at_edge(t, s, by, edge)
        lost = bad & xp.isfinite(s)
        one = xp.where(finite, one, 1.0)  # of a NaN it is NaN, and would hide its neighbours
        t, s, r = (xp.where(finite, x, 0.0) for x in (t, s, r))
    if exact:  # no error, or one beyond all floors
        wrong = xp.abs(t - s) > flushed(dtype)
        allowed, ratios = one, xp.where(wrong, xp.full_like(one, math.inf), 0.0)
    else:
        allowed = xp.maximum(floor * one, xp.abs(s - r))
        ratios = xp.minimum(xp.abs(t - r), xp.abs(t - s)) / allowed
    if bad is not None:
        ratios = xp.where(bad, math.inf, ratios)
        allowed = xp.where(bad, math.nan, allowed)
    return _Block(ratios, allowed, (t - r) / one, r / one, lost)


def _weighed(
    target: Array,
    source: Array,
    delta: Array | None,
    scale: Array,
    figures: Sequence[float],
    known: bool,
    dtype: np.dtype,
    exact: bool,
    sides: tuple[bool, ...],
) -> tuple[list[Array | float], list[Array]]:
    """The figures of a block, for :class:`_Seen`; and, for each of ``sides``, the largest ratio of
    each column (true) or row."""
    *figures, limit = figures
    block = _weigh(target, source, delta, scale, figures, known, dtype, exact)
    xp, ratios, away = namespace(block.ratios), flat(block.ratios), flat(block.units)
    lost: list[Array | float] = [0.0, 0.0]
    if block.lost is not None:
        flags = xp.astype(flat(block.lost), xp.uint8)
        lost = [xp.max(flags), xp.argmax(flags)]
    worst = xp.argmax(ratios)
    numbers = [
        *lost,
        counted(ratios > limit),
        worst,
        xp.max(ratios),
        xp.take(flat(block.allowed), xp.reshape(worst, (1,)))[0],
        dot(away, away),
        *bias_sums(block.units, block.exact_units),
    ]
    numbers += [xp.max(block.ratios, axis=0 if of_columns else 1) for of_columns in sides]
    return numbers, []


def _at_edge(t: Array, s: Array, delta: Array, edge: Sequence[float]) -> Array:
    """Whether one side overflowed where the other just did not, and may have."""
    low, high = edge
    xp = namespace(t, s)
    alike = (t < 0) == (s < 0)
    size = xp.abs(s + delta)
    overflows = xp.isinf(t) & xp.isfinite(s) & (low < size) & (size < high)
    holds = xp.isinf(s) & (delta != 0) & (xp.abs(t) > low * (1 - 1e-2))
    return alike & (overflows | holds)


class _Seen:
    """What the walk over the blocks has found so far."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.ratio, self.worst, self.allowed = 0.0, -1, 0.0
        self.beyond = 0
        self.first_nonfinite = -1
        self.squares = 0.0
        self.bias = Bias()

    def add(self, numbers: Sequence[np.ndarray], start: int) -> None:
        """Take in a block, by its figures; ``start`` is the flat index of its first element."""
        lost, first, beyond, worst, largest, allowed, squares, *bias = map(float, numbers[:9])
        if self.first_nonfinite < 0 and lost:
            self.first_nonfinite = start + int(first)
        self.beyond += int(beyond)
        if largest > self.ratio:
            self.ratio, self.worst, self.allowed = largest, start + int(worst), allowed
        self.squares += squares
        self.bias.add(*bias)


class _Along:
    """The largest ratio at each index of one axis."""

    def __init__(self, shape: tuple[int, ...], axis: int) -> None:
        self.worst = np.zeros(shape[axis])
        self.of_columns = axis == len(shape) - 1
        self._rows = math.prod(shape[axis + 1 : -1])
        """How many rows of the last axis in succession have the same index."""

    def add(self, largest: np.ndarray, row: int) -> None:
        """Take in the largest ratios of a block's columns, or of its rows from ``row`` on."""
        if self.of_columns:
            np.maximum(self.worst, largest, out=self.worst)
            return
        rows = row + np.arange(len(largest))
        np.maximum.at(self.worst, rows // self._rows % len(self.worst), largest)


def _conclude(
    target: Array, reference: Reference, floor: Floor, stats: Statistics, seen: _Seen
) -> Judgement:
    source = reference.source
    if seen.first_nonfinite >= 0:
        message = (
            f"{stats.nan} NaN and {stats.inf} infinities where the source has none; "
            f"{_worst(target, source, seen.first_nonfinite)}"
        )
        return Judgement(Verdict.NONFINITE, math.inf, math.nan, stats, message)
    ratio = max(seen.ratio, floor.source_ratio)
    if floor.exact:
        if not seen.beyond:
            return Judgement(Verdict.PASS, 0.0, 0.0, stats)
        why = "nothing is rounded here, so values compare exactly"
        return _differing(target, source, stats, seen.beyond, seen.worst, why)
    if seen.ratio > seen.limit:
        message = (
            f"{seen.beyond} of {stats.elements} elements are beyond {seen.limit:g} noise floors; "
            f"{_worst(target, source, seen.worst)}, {ratio:.3g} floors off"
        )
        return Judgement(Verdict.FAIL, ratio, seen.allowed, stats, message)
    rms = math.sqrt(seen.squares / stats.elements)
    noise = seen.limit * rms / rms_limit(floor, reference.dtype, seen.limit)
    if noise > seen.limit:
        message = f"the whole tensor is {rms / floor.rms:.3g} times noisier than the source"
        return Judgement(Verdict.FAIL, max(ratio, noise), seen.allowed, stats, message)
    bias = seen.bias.factor
    limit = seen.limit * bias_floor(floor, reference.dtype, stats.elements)
    if abs(bias) > limit:
        message = f"on average it is scaled by {1 + bias:.6g}, which rounding cannot explain"
        ratio = max(ratio, seen.limit * abs(bias) / limit)
        return Judgement(Verdict.FAIL, ratio, seen.allowed, stats, message)
    return Judgement(Verdict.PASS, ratio, seen.allowed, stats)


def rms_limit(floor: Floor, dtype: np.dtype, limit: float = LIMIT) -> float:
    """The largest root mean square error that passes, in units."""
    narrow = unit_roundoff(dtype) > unit_roundoff(np.dtype(np.float32))
    return limit * floor.rms * (_NARROW if narrow else 1.0)


def bias_floor(floor: Floor, dtype: np.dtype, elements: int) -> float:
    """The relative bias that honest arithmetic can have.

    That of the source; that of independent roundings, which fall with √elements; and that of
    sums in float32, whose error the elements may share.
    """
    independent = floor.rms / math.sqrt(max(1, elements))
    f32 = np.dtype(np.float32)
    shared = lower_bound(f32, floor.length) * unit_roundoff(f32) / unit_roundoff(dtype)
    return max(abs(floor.bias), floor.leverage * max(independent, shared))


def _worst(target: Array, source: Array, at: int) -> str:
    if at < 0:
        return "nothing differs"
    index = [int(i) for i in np.unravel_index(at, tuple(source.shape))]
    here, there = element(target, at), element(source, at)
    byte = element(as_bytes(target), at)
    if dtype_of(target) == np.bool_ and byte > 1:
        return f"worst at {index}: the target holds the byte {byte}, the source {bool(there)}"
    return f"worst at {index}: target {here!s}, source {there!s}"


def _type(array: Array) -> str:
    return f"{dtype_of(array).name}{list(array.shape)}"
