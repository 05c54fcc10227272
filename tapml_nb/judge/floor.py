"""The noise floor: how far the source itself is from the exact result.

An operator is run a second time on the same inputs in float64.  The difference to the source's
own result is what the source's precision costs here, on these values, and a target can be asked
to be about as good, not better.

Errors are measured in *units*: multiples of ``u · w``, where ``u`` is the dtype's unit roundoff
and ``w`` an element's scale, its own magnitude plus that of the operands that it really has
(:mod:`tapml_nb.judge.scale`).  An honest rounding is one unit at most; a sum of n terms a few √n.
The floor has a lower bound of that size, so that a source that happens to be exact does not make
every rounding of the target a fault.

What only moves or selects values rounds nothing, and is *exact*; and so is what the source gives
exactly for many different values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tapml_nb.array_api import (
    Array,
    block_of,
    dot,
    dtype_of,
    flat,
    namespace,
    on_host,
    quantile,
    size_of,
    wide,
    zeros_like,
)
from tapml_nb.judge.arithmetic import Arithmetic
from tapml_nb.measured import Ask, Asking, at_once, far
from tapml_nb.numerics import counted, is_float, largest_finite, unit_roundoff

_ACCUMULATOR = unit_roundoff(np.dtype(np.float32))
"""Roundoff of the sums inside narrow dtypes, which hardware and libraries keep in float32."""

_SAMPLE = 1 << 20
"""Elements that a quantile looks at; larger tensors are sampled evenly."""

_QUANTILE = 0.99
"""The floor is what all but 1 % of the source's own errors stay under; the rest count by
element, so that a few cancellations do not hide a fault elsewhere."""

_DISTINCT = 32
"""How many different values of a source have to be exact for its operator to be."""


@dataclass(frozen=True)
class Floor:
    """What is known of one tensor's noise.

    Attributes:
        units: the floor in units (see the module's text), at least :func:`lower_bound`.
        rms: root mean square of the source's errors, in units, at least
            :func:`lower_bound_rms`.
        bias: relative bias of the source: its projection on the exact result, minus one.
        leverage: the relative bias of a tensor whose every element is off by one unit: the unit
            roundoff, and more where results are small beside what they are made of.
        source_ratio: the source's own largest error over the floor, at most 1.
        absolute: the floor in the tensor's own unit at the source's worst element.
        length: terms summed per element.
        known: whether a float64 run was possible; if not, the floor is the lower bound around
            the source's result.
        exact: whether nothing is rounded, so that there is no noise, and values compare as they
            are.
    """

    units: float
    rms: float
    bias: float
    leverage: float
    source_ratio: float
    absolute: float
    length: int
    known: bool
    exact: bool = False


@dataclass(frozen=True)
class Reference:
    """A source tensor with its exact value and its floor.

    Attributes:
        source: the source's result.
        delta: exact minus source as float32 (a small number, so nothing is lost); None where
            there is no float64 run, or the dtype is not a floating-point one.  Where the source
            is infinite, it is 1 if the exact value lies within rounding of the largest number,
            so that a target may be finite there, else 0.
        floor: its noise floor; None for integers and booleans, which have none.
        beside: what stands beside each element's own magnitude in its scale, in the tensor's own
            unit: float32 of its shape, or with one column where rows share it
            (:func:`tapml_nb.judge.scale.beside`).  None for the root mean squares of its row and
            column, which is what can be said of a value without its operator.
    """

    source: Array
    delta: Array | None
    floor: Floor | None
    beside: Array | None = None

    @property
    def dtype(self) -> np.dtype:
        """The source's dtype."""
        return dtype_of(self.source)

    def on_host(self) -> Reference:
        """The same with NumPy's arrays."""
        delta, beside = (None if a is None else on_host(a) for a in (self.delta, self.beside))
        return Reference(on_host(self.source), delta, self.floor, beside)

    def exact(self) -> Array:
        """The float64 result; where it or the source is not finite, the source's."""
        result = wide(self.source)
        if self.delta is None:
            return result
        xp = namespace(result)
        return xp.where(xp.isfinite(result), result + self.delta, result)


def lower_bound(dtype: np.dtype, length: int) -> float:
    """The least floor, in units: two roundings, and a sum of ``length`` terms in order."""
    return 2.0 * (1.0 + _sum_noise(dtype, length))


def lower_bound_rms(dtype: np.dtype, length: int) -> float:
    """The least root mean square error, in units: one rounding, and the same sum.

    In float32 that leaves the mathematical functions the ulps in which libraries differ; narrower
    dtypes are computed in float32 and leave none.
    """
    return 0.5 + 1.5 * _sum_noise(dtype, length)


def _sum_noise(dtype: np.dtype, length: int) -> float:
    """Rounding noise of a sum in order, in units of the dtype it ends in."""
    u = unit_roundoff(dtype)
    return math.sqrt(length) * min(u, _ACCUMULATOR) / u


class Scale:
    """What stands beside the elements of a tensor in their units (the module's ``u · w``).

    ``w`` is an element's magnitude plus what stands beside it; where that is not known, the larger
    root mean square of its row and its column.  Values beyond a quarter of the dtype's range are
    sentinels (masks filled with the most negative number) and do not count towards their row and
    column.  A unit is never below what flushing subnormal numbers to zero costs, or, in float16,
    whose hardware does not flush, what rounding them does.
    """

    def __init__(self, known: bool, values: Array) -> None:
        self.known = known
        """Whether it stands beside each element; else what is known is of columns."""
        self._values = values

    @classmethod
    def of(cls, source: Array, beside: Array | None) -> Asking[Scale]:
        """That of a tensor that is not empty; ``beside``: of each element, where that is known."""
        matrix = as_matrix(source)
        if beside is not None:
            return cls(True, namespace(source).reshape(beside, (matrix.shape[0], -1)))
        xp, squares, facts = namespace(source), 0.0, (dtype_of(source),)
        for (block,) in blocks(source):
            _, (more,) = yield Ask(_squares_of_columns, [block], facts=facts)
            squares = squares + more
        return cls(False, xp.sqrt(squares / matrix.shape[0]))

    def at(self, row: int, rows: int) -> Array:
        """That of so many rows from one on, for :func:`units`."""
        return self._values[row : row + rows] if self.known else self._values


def _squares_of_columns(
    block: Array, _: Sequence[float], dtype: np.dtype
) -> tuple[list[Array], list[Array]]:
    xp = namespace(block)
    size = _counted(xp.abs(wide(block)), dtype)
    return [0.0], [xp.sum(size * size, axis=0)]


def units(block: Array, scale: Array, known: bool, dtype: np.dtype) -> Array:
    """One unit for each element of whole rows in float64; ``scale`` is :meth:`Scale.at` them,
    ``known`` as there."""
    xp = namespace(block)
    size = xp.abs(block)
    if known:
        size = size + scale
    else:
        counted = _counted(size, dtype)
        rows = xp.sqrt(xp.sum(counted * counted, axis=1) / counted.shape[1])
        size = size + xp.maximum(rows[:, None], scale)
    least = flushed(dtype) or float(np.finfo(np.float16).smallest_subnormal) / 2
    return xp.clip(size * unit_roundoff(dtype), least, None)


def _counted(size: Array, dtype: np.dtype) -> Array:
    """Magnitudes without those that do not count."""
    xp: Any = namespace(size)
    counts = size < largest_finite(dtype) / 4
    return size if not far(size) and xp.all(counts) else xp.where(counts, size, 0.0)


def flushed(dtype: np.dtype) -> float:
    """What flushing subnormal numbers to zero costs; 0 where hardware does not."""
    return 0.0 if dtype == np.float16 else float(np.finfo(np.float32).tiny)


def as_matrix(array: Array) -> Array:
    """The array as rows of its last axis."""
    size = size_of(array)
    columns = array.shape[-1] if array.ndim and size else 1
    return namespace(array).reshape(array, (size // columns, columns))


def blocks(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """Arrays of one shape as blocks of whole rows."""
    matrices = [as_matrix(array) for array in arrays]
    rows, columns = matrices[0].shape
    step = max(1, block_of(arrays[0]) // max(1, columns))
    for start in range(0, rows, step):
        yield tuple(matrix[start : start + step] for matrix in matrices)


def reference_of(
    source: Array,
    exact: Array | None,
    length: int,
    *,
    arithmetic: Arithmetic = Arithmetic.ROWS,
    beside: Array | None = None,
) -> Reference:
    """A source tensor with its floor; arguments as of :func:`referring`."""
    return at_once(referring(source, exact, length, arithmetic=arithmetic, beside=beside))


def referring(
    source: Array,
    exact: Array | None,
    length: int,
    *,
    arithmetic: Arithmetic = Arithmetic.ROWS,
    beside: Array | None = None,
) -> Asking[Reference]:
    """A source tensor with its floor.

    Args:
        source: the source's result.
        exact: the float64 run's result of the same shape, if there is one.
        length: terms summed per element (:func:`~tapml_nb.judge.arithmetic.reduction_length`).
        arithmetic: how its elements come about.
        beside: what stands beside them (see :class:`Reference`).
    """
    dtype, xp = dtype_of(source), namespace(source)
    if not is_float(dtype):
        return Reference(source, None, None)
    if exact is None or exact.shape != source.shape or dtype == np.float64:
        floor = yield from noise_floor(source, None, length)
        moves = arithmetic is Arithmetic.MOVES and exact is not None and same(source, exact)
        return Reference(source, None, exactly(floor) if moves else floor, beside)
    parts, moved = [], 0.0
    for pair in blocks(source, exact):
        (moving,), (part,) = yield Ask(_towards_exact, pair, edge_of(dtype, length))
        parts.append(part)
        moved += float(moving)
    if not parts:
        parts = [zeros_like(source, "float32")]
    delta = xp.reshape(parts[0] if len(parts) == 1 else xp.concat(parts), tuple(source.shape))
    floor = yield from noise_floor(source, exact, length, beside)
    if not moved and _rounds_nothing(source, exact, arithmetic):
        floor = exactly(floor)
    return Reference(source, delta, floor, beside)


def _towards_exact(
    source: Array, exact: Array, edge: Sequence[float]
) -> tuple[list[Array], list[Array]]:
    """How many elements of a block are not exact, and :attr:`Reference.delta` of it."""
    xp, s, r, (low, high) = namespace(source), wide(source), wide(exact), edge
    towards = xp.where(s < 0, -r, r)
    near = xp.astype(xp.isinf(s) & (low < towards) & (towards < high), xp.float64)
    both = xp.isfinite(s) & xp.isfinite(r)
    delta = xp.astype(xp.where(both, r - s, near), xp.float32)
    return [counted(delta != 0)], [delta]


def edge_of(dtype: np.dtype, length: int) -> tuple[float, float]:
    """Between which magnitudes one side may round to infinity and the other to a number.

    It lies beyond the largest number, which honest arithmetic keeps; but a sum of many terms may
    be off by its own noise.
    """
    u, top = unit_roundoff(dtype), largest_finite(dtype)
    noise = 2.0 * u * (_sum_noise(dtype, length) - _sum_noise(dtype, 1))
    return top * (1 - noise), top * (1 + 4 * u + noise)


def _rounds_nothing(source: Array, exact: Array, arithmetic: Arithmetic) -> bool:
    if arithmetic in (Arithmetic.FUNCTION, Arithmetic.ROWS) or not same(source, exact):
        return False  # what they round inside need not show here, and may on the target
    if arithmetic is Arithmetic.MOVES:
        return True
    every = max(1, size_of(source) // _DISTINCT**2)
    values = namespace(source).unique_values(wide(flat(source)[::every]))
    return size_of(values) >= _DISTINCT


def same(source: Array, exact: Array) -> bool:
    """Whether two tensors hold the same values; NaN equals NaN, and 0 equals -0."""
    xp = namespace(source, exact)
    ours, theirs = wide(source), wide(exact)
    if ours.shape != theirs.shape:
        return False
    return bool(xp.all((ours == theirs) | (xp.isnan(ours) & xp.isnan(theirs))))


def exactly(floor: Floor) -> Floor:
    """The floor of what is not rounded."""
    return replace(floor, source_ratio=0.0, absolute=0.0, exact=True)


def noise_floor(
    source: Array, exact: Array | None, length: int, beside: Array | None = None
) -> Asking[Floor]:
    """The floor of a floating-point tensor from its source and exact values."""
    dtype, size = dtype_of(source), size_of(source)
    least, least_rms = lower_bound(dtype, length), lower_bound_rms(dtype, length)
    if size == 0 or exact is None:
        u = unit_roundoff(dtype)
        return Floor(least, least_rms, 0.0, u, 0.0, 0.0, length, exact is not None)
    xp, scale = namespace(source, exact), (yield from Scale.of(source, beside))
    every = max(1, size // _SAMPLE)
    sample: list[Array] = []
    squares, top, at_top = 0.0, 0.0, 0.0
    bias, row = Bias(), 0
    for s, r in blocks(source, exact):
        arrays, facts = (s, r, scale.at(row, len(r))), (scale.known, dtype, every)
        numbers, errors = yield Ask(_source_errors, arrays, facts=(*facts, size_of(s) == size))
        row += len(r)
        product, power, more, largest, one, most = map(float, numbers)
        bias.add(product, power)
        squares += more
        sample += errors
        if largest > top:
            top, at_top = largest, one
    floor = max(least, float(quantile(xp.concat(sample), _QUANTILE)) if sample else most)
    return Floor(
        units=floor,
        rms=max(math.sqrt(squares / size), least_rms),
        bias=bias.factor,
        leverage=bias.leverage(size) or unit_roundoff(dtype),
        source_ratio=min(1.0, top / floor),
        absolute=max(floor, top) * at_top,
        length=length,
        known=True,
    )


def _source_errors(
    source: Array,
    exact: Array,
    scale: Array,
    _: Sequence[float],
    known: bool,
    dtype: np.dtype,
    every: int,
    whole: bool,
) -> tuple[list[Array | float], list[Array]]:
    """Of a block the two sums of its :class:`Bias`, that of its squared errors, the largest error
    and one unit there, and what most errors stay under, of a sample; where this is not the
    ``whole`` tensor, the sample instead.  All in units."""
    xp, s, r = namespace(source), wide(source), wide(exact)
    one = units(r, scale, known, dtype)
    valid = xp.isfinite(s) & xp.isfinite(r)
    error, exact_units = xp.where(valid, (s - r) / one, 0.0), xp.where(valid, r / one, 0.0)
    errors = flat(xp.abs(error))
    worst = xp.reshape(xp.argmax(errors), (1,))
    sample = errors[::every]
    numbers = [*bias_sums(error, exact_units), dot(errors, errors), xp.max(errors)]
    numbers.append(xp.take(flat(one), worst)[0])
    if whole:
        return [*numbers, quantile(sample, _QUANTILE)], []
    return [*numbers, 0.0], [sample]


def bias_sums(error: Array, exact: Array) -> tuple[Array, Array]:
    """What a :class:`Bias` is fed with, of a block's errors and exact values."""
    error, exact = flat(error), flat(exact)
    return dot(error, exact), dot(exact, exact)


class Bias:
    """Least-squares factor by which a tensor is too large (0.001 for one scaled by 1.001).

    Fed with errors and exact values, both in units, so that no row dominates.
    """

    def __init__(self) -> None:
        self._product = self._power = 0.0

    def add(self, product: float, power: float) -> None:
        """Take in one block, by its :func:`bias_sums`."""
        self._product += product
        self._power += power

    @property
    def factor(self) -> float:
        """The factor minus one; 0 for a tensor of zeros."""
        return self._product / self._power if self._power > 0 else 0.0

    def leverage(self, elements: int) -> float:
        """The factor that errors of one unit in each of so many elements amount to; 0 for zeros."""
        return math.sqrt(elements / self._power) if self._power > 0 else 0.0
