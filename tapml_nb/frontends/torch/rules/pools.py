"""Pools that also say where the largest element of each window is, and their way back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax, te, tirx

from tapml_nb.frontends.torch.rules.call import Call, Expr, Rule, dtype_of, is_floating, shape_of
from tapml_nb.frontends.torch.rules.operands import widened

Window = Callable[..., tuple[Sequence[Any], Any]]
"""For an element of the result, by its axes of all kinds, and a step within its window: the place
along each axis of space, and whether there is such an element.  What it reads comes first."""


def largest_in_windows(
    call: Call, x: Expr, result: Sequence[int], widths: Sequence[int], window: Window, *read: Expr
) -> tuple[Expr, Expr]:
    """The largest element of each window, and its place among all elements of its channel: the
    first such, or the last that is NaN, as PyTorch finds them."""
    shape = shape_of(x)
    before = len(shape) - len(widths)
    space = shape[before:]

    def steps() -> list[Any]:
        return [te.reduce_axis((0, width), f"k{k}") for k, width in enumerate(widths)]

    def looked_at(data: te.Tensor, at: Sequence[Any], k: Any, others: Any) -> tuple[Any, Any, Any]:
        places, inside = window(*others, at, k)
        kept = [tirx.max(tirx.min(p, n - 1), 0) for p, n in zip(places, space, strict=True)]
        flat = kept[0]
        for place, size in zip(kept[1:], space[1:], strict=True):
            flat = flat * size + place
        return data(*at[:before], *kept), flat, inside

    def pool(data: te.Tensor, *others: te.Tensor) -> te.Tensor:
        k = steps()

        def element(*at: Any) -> Any:
            value, _, inside = looked_at(data, at, k, others)
            return largest(tirx.if_then_else(inside, value, least(data.dtype)), axis=k)

        return te.compute(result, element)

    def locate(data: te.Tensor, most: te.Tensor, *others: te.Tensor) -> te.Tensor:
        k = steps()
        none = tirx.const(math.prod(space), "int64")

        def element(*at: Any) -> Any:
            value, flat, inside = looked_at(data, at, k, others)
            flat = tirx.Cast("int64", flat)
            # The least number wins: the first place, but the last one of NaN.
            found = tirx.if_then_else(
                tirx.all(inside, _is_nan(value)),
                tirx.const(-1, "int64") - flat,
                tirx.if_then_else(tirx.all(inside, value == most(*at)), flat, none),
            )
            return te.min(found, axis=k)

        found = te.compute(result, element)
        zero, one = tirx.const(0, "int64"), tirx.const(1, "int64")

        def place(*at: Any) -> Any:
            return tirx.Select(found(*at) < zero, zero - one - found(*at), found(*at))

        return te.compute(result, place)

    most = call.compute(pool, x, *read, name="largest_in_windows")
    return most, call.compute(locate, x, most, *read, name="places_in_windows")


def least(dtype: Any) -> Any:
    """What no number of a dtype is below."""
    return tirx.const(-math.inf, dtype) if is_floating(str(dtype)) else tirx.min_value(dtype)


def _larger(a: Any, b: Any) -> Any:
    return tirx.Select(tirx.any(b > a, _is_nan(b)), b, a)


def _is_nan(number: Any) -> Any:
    floating = is_floating(str(number.ty))
    return tirx.isnan(number) if floating else tirx.const(False, "bool")


largest = te.comm_reducer(_larger, least, name="largest")
"""The largest number, or NaN where there is one."""


def adaptive_max_pool(call: Call, x: Expr, sizes: Sequence[int]) -> tuple[Expr, Expr]:
    """As many windows as are asked for, which may overlap and differ in size."""
    shape = shape_of(x)
    before = len(shape) - len(sizes)
    space = shape[before:]
    widths = [
        max(-(-(k + 1) * old // new) - k * old // new for k in range(new))
        for old, new in zip(space, sizes, strict=True)
    ]

    def window(at: Sequence[Any], steps: Sequence[Any]) -> tuple[list[Any], Any]:
        cells = list(zip(at[before:], steps, space, sizes, strict=True))
        places = [a * old // new + step for a, step, old, new in cells]
        ends = [((a + 1) * old + new - 1) // new for a, _, old, new in cells]
        return places, tirx.all(*(p < end for p, end in zip(places, ends, strict=True)))

    return largest_in_windows(call, x, [*shape[:before], *sizes], widths, window)


def max_pool(
    call: Call,
    x: Expr,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil: bool,
) -> tuple[Expr, Expr]:
    """Windows at regular distances; without a stride they stand side by side."""
    del ceil  # the sizes that PyTorch gives the result tell it
    count = len(kernel)
    shape = shape_of(x)
    before = len(shape) - count
    space = shape[before:]
    stride, padding, dilation = (
        _each(given, count) for given in (list(stride) or kernel, padding, dilation)
    )

    def window(at: Sequence[Any], steps: Sequence[Any]) -> tuple[list[Any], Any]:
        cells = zip(at[before:], steps, stride, padding, dilation, strict=True)
        places = [a * s - p + step * d for a, step, s, p, d in cells]
        return places, tirx.all(
            *(tirx.all(place >= 0, place < size) for place, size in zip(places, space, strict=True))
        )

    result = [int(size) for size in call.values[0].shape]
    return largest_in_windows(call, x, result, kernel, window)


def _each(given: int | Sequence[int], count: int) -> list[int]:
    """A number for each axis."""
    numbers = [given] if isinstance(given, int) else list(given)
    return numbers * count if len(numbers) == 1 else numbers


def max_pool_backward(call: Call, gradient: Expr, x: Expr, *rest: Any) -> Expr:
    """What was the largest of a window gets that window's gradient."""
    *_, indices = rest
    shape = shape_of(x)
    flat = [math.prod(shape[:-2]), math.prod(shape[-2:])]
    windows = [flat[0], math.prod(shape_of(gradient)[-2:])]
    given = call.emit(relax.op.reshape(gradient, windows))
    places = call.emit(relax.op.reshape(indices, windows))
    nothing = call.emit(relax.op.zeros(flat, dtype_of(gradient)))
    added = call.emit(relax.op.scatter_elements(nothing, places, given, 1, "add"))
    return relax.op.reshape(added, shape)


def fractional_max_pool(
    call: Call, x: Expr, kernel: Sequence[int], sizes: Sequence[int], samples: Expr
) -> tuple[Expr, Expr]:
    """Windows at pseudo-random distances (B. Graham, *Fractional Max-Pooling*, 2014): along an axis
    the k-th begins at ``⌊(k + u) a⌋ - ⌊u a⌋``, and the last one ends with the axis."""
    count = len(kernel)
    shape = shape_of(x)
    before = len(shape) - count
    space = shape[before:]
    if before == 1:  # one sample of a batch without that axis
        samples = call.emit(relax.op.reshape(samples, shape_of(samples)[1:]))
    dtype = dtype_of(samples)

    def window(drawn: te.Tensor, at: Any, steps: Any) -> tuple[list[Any], Any]:
        places = []
        for axis, (old, new, width) in enumerate(zip(space, sizes, kernel, strict=True)):
            begin: Any = tirx.const(old - width, "int32")
            cell = tirx.Cast("int32", at[before + axis])
            if new > 1:
                alpha = tirx.const(old - width, dtype) / tirx.const(new - 1, dtype)
                u = drawn(*at[:before], count - 1 - axis if count == 2 else axis)
                own = tirx.Cast("int32", (tirx.Cast(dtype, cell) + u) * alpha)
                own = own - tirx.Cast("int32", u * alpha)
                begin = tirx.Select(cell == new - 1, begin, own)
            places.append(begin + tirx.Cast("int32", steps[axis]))
        return places, tirx.const(True, "bool")

    result = [*shape[:before], *sizes]
    return largest_in_windows(call, x, result, kernel, window, samples)


def squeezed(call: Call, x: Expr, dims: Sequence[int]) -> Expr:
    """Axes of 1 left out, of what a pool of TVM's has not been bound to a name yet."""
    x = call.emit(x)
    shape = shape_of(x)
    axes = [dim % len(shape) for dim in dims]
    return relax.op.squeeze(x, [axis for axis in axes if shape[axis] == 1])


RULES: dict[str, Rule] = {
    "aten.adaptive_max_pool2d.default": widened(adaptive_max_pool),
    "aten.adaptive_max_pool3d.default": widened(adaptive_max_pool),
    "aten.max_pool2d_with_indices.default": widened(max_pool),
    "aten.max_pool3d_with_indices.default": widened(max_pool),
    "aten.max_pool2d_with_indices_backward.default": widened(max_pool_backward),
    "aten.fractional_max_pool2d.default": widened(fractional_max_pool),
    "aten.fractional_max_pool3d.default": widened(fractional_max_pool),
    "aten.squeeze.dims": squeezed,
}
