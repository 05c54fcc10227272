"""Tensors at places between their elements: resizing, and sampling along a grid.

The last axes are those of space.  Resizing is done along one after the other: what an element of
the result is made of, and by which weights, is known beforehand, and worked out in NumPy.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from tapml_nb.frontends.torch.rules.call import Call, Expr, Rule, dtype_of, shape_of
from tapml_nb.frontends.torch.rules.operands import widened

_OUTSIDE = -1
"""In place of an element that counts for nothing."""

_CUBIC = -0.75
_CUBIC_ANTIALIASED = -0.5
"""The parameter of Keys' cubic convolution (IEEE Trans. ASSP 29, 1981) that PyTorch takes."""


@dataclass(frozen=True)
class _Axis:
    """An axis that is resized: from how many elements to how many, and by which step between
    elements of the result, in elements of what is there."""

    size: int
    result: int
    step: float
    corners: bool = False

    def centres(self) -> np.ndarray:
        """Where the elements of the result lie."""
        at = np.arange(self.result)
        return at * self.step if self.corners else (at + 0.5) * self.step - 0.5


Taps = tuple[np.ndarray, np.ndarray]
"""The elements that each element of a result is made of, and their weights: both [result, taps]."""


def _linear(axis: _Axis) -> Taps:
    centres = np.maximum(axis.centres(), 0)
    first = np.minimum(centres.astype(np.int64), axis.size - 1)
    share = np.minimum(centres - first, 1)
    places = np.stack([first, np.minimum(first + 1, axis.size - 1)], -1)
    return places, np.stack([1 - share, share], -1)


def _antialiased(kernel: Callable[[np.ndarray], np.ndarray], reach: float, axis: _Axis) -> Taps:
    """A kernel that is as wide as a step of the result, where that is more than an element."""
    wide = max(axis.step, 1.0)
    centres = (np.arange(axis.result) + 0.5) * axis.step
    first = np.maximum((centres - reach * wide + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + reach * wide + 0.5).astype(np.int64), axis.size)
    places = first[:, None] + np.arange((last - first).max())
    inside = places < last[:, None]
    weights = np.where(inside, kernel((places + 0.5 - centres[:, None]) / wide), 0.0)
    return np.where(inside, places, _OUTSIDE), weights / weights.sum(-1, keepdims=True)


def _keys(distance: np.ndarray, a: float) -> np.ndarray:
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


_KERNELS: dict[str, Callable[[_Axis], Taps]] = {
    "linear": _linear,
    "antialiased linear": partial(_antialiased, lambda x: np.maximum(1 - np.abs(x), 0.0), 1.0),
    "antialiased cubic": partial(_antialiased, partial(_keys, a=_CUBIC_ANTIALIASED), 2.0),
}


def resize(
    kernel: str,
    call: Call,
    x: Expr,
    sizes: Sequence[int] | None,
    corners: bool,
    *scales: Sequence[float] | float | None,
) -> Expr:
    """Resizing by a kernel; ``corners``: the outermost elements stay where they are."""
    if not dtype_of(x).startswith("float"):
        raise ValueError(f"resizing of {dtype_of(x)} but for the nearest element")
    for axis, size, scale in _resized(call, x, sizes, scales):
        old = shape_of(x)[axis]
        step = 1 / scale if scale else old / size
        if corners:
            step = (old - 1) / (size - 1) if size > 1 else 0.0
        x = _combined(call, x, axis, *_KERNELS[kernel](_Axis(old, size, step, corners)))
    return x


def resize_nearest(
    offset: float,
    call: Call,
    x: Expr,
    sizes: Sequence[int] | None,
    *scales: Sequence[float] | float | None,
) -> Expr:
    """Resizing by the element that is nearest, as PyTorch finds it, in float32; ``offset``: which
    point of an element of the result decides."""
    for axis, size, scale in _resized(call, x, sizes, scales):
        old = shape_of(x)[axis]
        step = np.float32(1 / scale) if scale else np.float32(old) / np.float32(size)
        at = np.arange(size, dtype=np.float32) + np.float32(offset)
        places = np.minimum(np.floor(at * step).astype(np.int64), old - 1)
        x = call.emit(relax.op.take(x, relax.const(places, "int64"), axis))
    return x


def _resized(
    call: Call, x: Expr, sizes: Sequence[int] | None, scales: Sequence[Any]
) -> list[tuple[int, int, float | None]]:
    """Each axis of space, its new size, and its scale where one is given."""
    given = list(scales[0] or ()) if scales and isinstance(scales[0], list | tuple) else [*scales]
    space = shape_of(x)[2:]
    factors = given if any(given) else [None] * len(space)
    if sizes is None:
        sizes = [int(old * factor) for old, factor in zip(space, factors, strict=True)]
    return [(2 + k, size, factors[k]) for k, size in enumerate(sizes)]


def _combined(call: Call, x: Expr, axis: int, places: np.ndarray, weights: np.ndarray) -> Expr:
    """Elements of an axis, weighted and summed up."""
    shape = shape_of(x)
    shape[axis], taps = places.shape

    def combine(data: te.Tensor, place: te.Tensor, weight: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, taps), "k")

        def element(*at: Any) -> Any:
            source = place(at[axis], k)
            term = data(*at[:axis], tirx.max(source, 0), *at[axis + 1 :]) * weight(at[axis], k)
            zero = tirx.const(0, data.dtype)
            return te.sum(tirx.if_then_else(source == _OUTSIDE, zero, term), axis=k)

        return te.compute(shape, element)

    constants = relax.const(places.astype("int32"), "int32"), relax.const(weights, dtype_of(x))
    return call.compute(combine, x, *constants, name="resize")


def grid_sample(call: Call, x: Expr, grid: Expr, kernel: int, padding: int, corners: bool) -> Expr:
    """What lies at the places of ``grid`` [batch, …, axes], in which the last axis of ``x``
    [batch, channels, …] comes first, and goes from -1 to 1."""
    shape, cells = shape_of(x), shape_of(grid)[1:-1]
    axes = [_Line(size, padding, corners, dtype_of(x)) for size in shape[2:]]
    count = {_NEAREST: 1, _BICUBIC: 4}.get(kernel, 2)
    zero = tirx.const(0, dtype_of(x))

    def along(k: int, member: int, where: te.Tensor) -> te.Tensor:
        """The places, or the weights, of all taps along an axis."""

        def element(*at: Any) -> Any:
            *cell, tap = at
            taps = axes[k].taps(kernel, where(*cell, len(axes) - 1 - k))
            found = taps[-1][member]
            for number in range(count - 1):
                found = tirx.Select(tap == number, taps[number][member], found)
            return found

        return te.compute([shape[0], *cells, count], element)

    def sample(data: te.Tensor, *taps: te.Tensor) -> te.Tensor:
        places, weights = taps[: len(axes)], taps[len(axes) :]

        def element(batch: Any, channel: Any, *cell: Any) -> Any:
            total = zero
            for chosen in itertools.product(range(count), repeat=len(axes)):
                at = [p(batch, *cell, tap) for p, tap in zip(places, chosen, strict=True)]
                exists = tirx.all(*(axis.holds(a) for axis, a in zip(axes, at, strict=True)))
                index = [axis.index(a) for axis, a in zip(axes, at, strict=True)]
                term = tirx.if_then_else(exists, data(batch, channel, *index), zero)
                for weight, tap in zip(weights, chosen, strict=True):
                    term = term * weight(batch, *cell, tap)
                total = total + term
            return total

        return te.compute([*shape[:2], *cells], element)

    taps = [
        call.compute(partial(along, k, member), grid, name="grid_taps")
        for member in range(2)
        for k in range(len(axes))
    ]
    return call.compute(sample, x, *taps, name="grid_sample")


_NEAREST, _BICUBIC = 1, 2
_BORDER, _REFLECTION = 1, 2
"""PyTorch's numbers of kernels and paddings; 0 is linear, and zeros."""


@dataclass(frozen=True)
class _Line:
    """An axis that is sampled: how many elements it has, what lies beyond them, whether -1 and 1
    are the centres of its outermost elements, and the dtype of it all."""

    size: int
    padding: int
    corners: bool
    dtype: str

    def taps(self, kernel: int, coordinate: Any) -> list[tuple[Any, Any]]:
        """The elements that a coordinate between -1 and 1 is made of, and their weights."""
        number = self._number
        if self.corners:
            centre = (coordinate + number(1)) * number((self.size - 1) / 2)
        else:
            centre = ((coordinate + number(1)) * number(self.size) - number(1)) * number(0.5)
        if kernel == _BICUBIC:
            return self._cubic(centre)
        centre = self._inside(centre)
        if kernel == _NEAREST:
            return [(tirx.nearbyint(centre), number(1))]
        first = tirx.floor(centre)
        share = centre - first
        return [(first, number(1) - share), (first + number(1), share)]

    def holds(self, place: Any) -> Any:
        """Whether there is an element at a whole number."""
        return tirx.all(place >= self._number(0), place <= self._number(self.size - 1))

    def index(self, place: Any) -> Any:
        """The nearest element that there is, as an integer."""
        return tirx.Cast("int32", self._clipped(place))

    def _cubic(self, centre: Any) -> list[tuple[Any, Any]]:
        number, a = self._number, _CUBIC
        first = tirx.floor(centre)
        share = centre - first

        def near(x: Any) -> Any:
            return (number(a + 2) * x - number(a + 3)) * x * x + number(1)

        def far(x: Any) -> Any:
            return (((x - number(5)) * x + number(8)) * x - number(4)) * number(a)

        weights = (
            *(far(share + number(1)), near(share)),
            *(near(number(1) - share), far(number(2) - share)),
        )
        places = (self._inside(first + number(k - 1)) for k in range(4))
        return list(zip(places, weights, strict=True))

    def _inside(self, place: Any) -> Any:
        """Where a place beyond the elements is taken to be."""
        if self.padding == _BORDER:
            return self._clipped(place)
        return self._clipped(self._reflected(place)) if self.padding == _REFLECTION else place

    def _clipped(self, place: Any) -> Any:
        return tirx.max(tirx.min(place, self._number(self.size - 1)), self._number(0))

    def _reflected(self, place: Any) -> Any:
        """Back and forth between the outermost centres, or half an element beyond them."""
        low, span = (0.0, self.size - 1.0) if self.corners else (-0.5, float(self.size))
        if not span:
            return self._number(0)
        way = tirx.abs(place - self._number(low))
        turns = tirx.floor(way / self._number(span))
        rest = way - turns * self._number(span)
        half = turns * self._number(0.5)
        forth = half == tirx.floor(half)
        return tirx.Select(forth, rest + self._number(low), self._number(span + low) - rest)

    def _number(self, value: float) -> Any:
        return tirx.const(float(value), self.dtype)


RULES: dict[str, Rule] = {
    **{
        f"aten.{name}": widened(partial(resize, kernel))
        for name, kernel in (
            ("upsample_bilinear2d.vec", "linear"),
            ("upsample_trilinear3d.default", "linear"),
            ("_upsample_bilinear2d_aa.default", "antialiased linear"),
            ("_upsample_bicubic2d_aa.default", "antialiased cubic"),
        )
    },
    **{
        f"aten.{name}": partial(resize_nearest, offset)
        for name, offset in (
            *((f"upsample_nearest{axes}d.default", 0.0) for axes in (1, 2, 3)),
            ("upsample_nearest2d.vec", 0.0),
            *((f"_upsample_nearest_exact{axes}d.default", 0.5) for axes in (1, 2, 3)),
        )
    },
    "aten.grid_sampler_2d.default": widened(grid_sample),
    "aten.grid_sampler_3d.default": widened(grid_sample),
}
"""All others of a kind are decomposed when a model is exported."""
