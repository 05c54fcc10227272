"""What looks at many elements along an axis: reductions, sorting, searching."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tvm import relax, te, tirx, topi

from tapml_nb.frontends.torch.rules.call import (
    Call,
    Expr,
    Rule,
    axes_of,
    cast,
    constant,
    dtype_of,
    is_floating,
    shape_of,
)
from tapml_nb.frontends.torch.rules.operands import along_axes, numbered, on_an_axis, widened
from tapml_nb.frontends.torch.rules.running import RULES as RUNNING


def extreme(function: Callable[..., Expr], call: Call, x: Expr, dims: Any, keepdim: bool) -> Expr:
    """NaN where there is one, which TVM's extremes pass over."""
    axes = axes_of(dims, len(shape_of(x)))
    found = function(x, axes, keepdim)
    if not is_floating(dtype_of(x)):
        return found
    missing = call.emit(relax.op.astype(relax.op.isnan(x), "int32"))
    some = relax.op.astype(relax.op.max(missing, axes, keepdim), "bool")
    return relax.op.where(some, constant(math.nan, x), found)


def extreme_dim(
    function: Callable[..., Expr],
    place: Callable[..., Expr],
    call: Call,
    x: Expr,
    dim: int,
    keepdim: bool,
) -> tuple[Expr, Expr]:
    """The extreme along an axis and where it first is; so of NaN."""
    found, index = extreme(function, call, x, dim, keepdim), place(x, dim, keepdim)
    if not is_floating(dtype_of(x)):
        return found, index
    found = call.emit(found)
    missing = call.emit(relax.op.astype(relax.op.isnan(x), "int32"))
    return found, relax.op.where(
        relax.op.isnan(found), relax.op.argmax(missing, dim, keepdim), index
    )


def prod_dim(call: Call, x: Expr, dim: int, keepdim: bool, dtype: str | None) -> Expr:
    return relax.op.prod(cast(x, call.wide), dim, keepdim)


def any_true(call: Call, x: Expr, dims: Any = None, keepdim: bool = False) -> Expr:
    if dtype_of(x) != "bool":
        x = call.emit(relax.op.not_equal(x, constant(0, x)))
    return relax.op.astype(relax.op.max(relax.op.astype(x, "int32"), dims, keepdim), "bool")


def var_mean(
    call: Call, x: Expr, dims: Any, correction: float | None, keepdim: bool
) -> tuple[Expr, Expr]:
    shape = shape_of(x)
    axes = axes_of(dims, len(shape))
    count = math.prod(shape[axis] for axis in axes)
    freedom = count - (1 if correction is None else correction)
    scale = count / freedom if freedom > 0 else math.inf
    variance = relax.op.variance(x, axes, keepdim)
    return relax.op.multiply(variance, constant(scale, x)), relax.op.mean(x, axes, keepdim)


def topk(call: Call, x: Expr, k: int, dim: int, largest: bool, in_order: bool) -> tuple[Expr, Expr]:
    """Sorted is one of the orders that an unsorted top-k may have."""
    both = call.emit(relax.op.topk(x, k, dim, "both", largest, "int64"))
    return relax.TupleGetItem(both, 0), relax.TupleGetItem(both, 1)


def sort_stable(
    call: Call, x: Expr, stable: bool | None, dim: int, descending: bool
) -> tuple[Expr, Expr]:
    indices = call.emit(relax.op.argsort(x, dim, descending, "int64"))
    return relax.op.gather_elements(x, indices, dim % len(shape_of(x))), indices


def kthvalue(call: Call, x: Expr, k: int, dim: int, keepdim: bool) -> tuple[Expr, Expr]:
    axis = dim % len(shape_of(x))
    both = call.emit(relax.op.topk(x, k, axis, "both", False, "int64"))

    def last(member: int) -> Expr:
        tensor = relax.op.strided_slice(relax.TupleGetItem(both, member), [axis], [k - 1], [k])
        return tensor if keepdim else relax.op.squeeze(tensor, axis)

    return last(0), last(1)


def sort(call: Call, x: Expr, dim: int, descending: bool) -> tuple[Expr, Expr]:
    return sort_stable(call, x, True, dim, descending)


def mode(call: Call, x: Expr, dim: int, keepdim: bool) -> tuple[Expr, Expr]:
    """The least of the values that are most often there, and where the first such is."""
    axis = dim % len(shape_of(x))
    number = call.emit(cast(x, "int32")) if dtype_of(x) == "bool" else x
    pairs = relax.op.equal(
        relax.op.expand_dims(number, axis), relax.op.expand_dims(number, axis + 1)
    )
    counts = call.emit(relax.op.sum(relax.op.astype(pairs, "int32"), axis))
    often = call.emit(relax.op.equal(counts, relax.op.max(counts, axis, True)))
    dtype = dtype_of(number)
    largest = math.inf if is_floating(dtype) else tirx.max_value(dtype).value
    kept = relax.op.where(often, number, relax.const(largest, dtype))
    least = call.emit(relax.op.min(kept, axis, True))
    return _first_equal(call, number, least, axis, keepdim)


def nanmedian(call: Call, x: Expr) -> Expr:
    flat = call.emit(relax.op.reshape(x, [-1]))
    return nanmedian_dim(call, flat, 0, False)[0]


def nanmedian_dim(call: Call, x: Expr, dim: int, keepdim: bool) -> tuple[Expr, Expr]:
    """The lower median of what is no NaN, which sorts behind everything, and where it is."""
    axis = dim % len(shape_of(x))
    if not is_floating(dtype_of(x)):
        middle = (shape_of(x)[axis] + 1) // 2
        return kthvalue(call, x, middle, axis, keepdim)
    missing = call.emit(relax.op.isnan(x))
    ordered = call.emit(relax.op.sort(relax.op.where(missing, constant(math.inf, x), x), axis))
    present = relax.op.astype(relax.op.logical_not(missing), "int64")
    count = call.emit(relax.op.sum(present, axis, True))
    zero, one, two = (relax.const(n, "int64") for n in range(3))
    middle = relax.op.floor_divide(relax.op.maximum(relax.op.subtract(count, one), zero), two)
    median = relax.op.gather_elements(ordered, call.emit(middle), axis)
    none = relax.op.equal(count, zero)
    median = call.emit(relax.op.where(none, constant(math.nan, x), median))
    return _first_equal(call, x, median, axis, keepdim)


def _first_equal(call: Call, x: Expr, found: Expr, axis: int, keepdim: bool) -> tuple[Expr, Expr]:
    """A value of each slice, of which the axis is kept so far, and where it first is."""
    same = relax.op.astype(relax.op.equal(x, found), "int32")
    index = relax.op.argmax(call.emit(same), axis, keepdim)
    return (found if keepdim else relax.op.squeeze(found, axis)), index


def searchsorted(
    call: Call,
    edges: Expr,
    x: Expr | float,
    int32: bool,
    right: bool,
    side: str | None,
    sorter: Expr | None,
) -> Expr:
    if sorter is not None:
        edges = call.emit(relax.op.gather_elements(edges, sorter, len(shape_of(edges)) - 1))
    if not isinstance(x, relax.Expr):
        x = call.emit(relax.op.full([], constant(x, edges), dtype_of(edges)))
    scalar = not shape_of(x)
    wanted = call.emit(relax.op.reshape(x, [1])) if scalar else x

    def search(sequence: te.Tensor, values: te.Tensor) -> te.Tensor:
        return topi.searchsorted(sequence, values, right or side == "right", call.dtype)

    found = call.compute(search, edges, wanted, name="searchsorted")
    return relax.op.reshape(found, []) if scalar else found


def histc(call: Call, x: Expr, bins: int, low: float, high: float) -> Expr:
    """Bins of equal width, the last one closed; without bounds, those of the values."""
    values = call.emit(relax.op.reshape(call.emit(cast(x, "float32")), [-1]))
    if low == high:
        bounds = [call.emit(relax.op.min(values)), call.emit(relax.op.max(values))]
    else:
        bounds = [call.emit(relax.op.full([], relax.const(b, "float32"))) for b in (low, high)]

    # TVM's schedules for GPUs take a sum of this form for a product with a matrix, and then fail.
    added = te.comm_reducer(lambda a, b: b + a, lambda dtype: tirx.const(0, dtype), name="added")

    def count(data: te.Tensor, first: te.Tensor, last: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, data.shape[0]), "k")

        def inside(b: Any) -> Any:
            place = (data(k) - first()) * bins / (last() - first())
            slot = tirx.min(tirx.Cast("int32", place), bins - 1)
            hit = tirx.all(data(k) >= first(), data(k) <= last(), slot == b)
            return added(tirx.if_then_else(hit, 1.0, 0.0), axis=k)

        return te.compute([bins], inside)

    return cast(call.compute(count, values, *bounds, name="histc"), dtype_of(x))


_SEGMENTS: dict[str, tuple[Callable[[Any, Any], Any], float]] = {
    "sum": (lambda a, b: a + b, 0.0),
    "mean": (lambda a, b: a + b, 0.0),
    "prod": (lambda a, b: a * b, 1.0),
    "max": (lambda a, b: tirx.Select(tirx.any(b > a, tirx.isnan(b)), b, a), -math.inf),
    "min": (lambda a, b: tirx.Select(tirx.any(b < a, tirx.isnan(b)), b, a), math.inf),
}
"""What a segment is reduced by, and what that begins with."""


def segment_reduce(
    call: Call,
    x: Expr,
    reduce: str,
    lengths: Expr | None,
    indices: Expr | None,
    offsets: Expr | None,
    axis: int,
    unsafe: bool,
    initial: float | None,
) -> Expr:
    """Parts of an axis that follow each other, by their lengths or by where they begin and end.

    Raises:
        ValueError: if neither is given.
    """
    given = lengths if lengths is not None else offsets
    if given is None:
        raise ValueError("segment_reduce by indices")
    shape = shape_of(x)
    axis %= len(shape)
    count = shape_of(given)[axis] - (lengths is None)
    combine, start = _SEGMENTS[reduce]
    first = start if initial is None else float(initial)

    def bounds(numbers: te.Tensor, outer: Sequence[Any], segment: Any) -> Any:
        """Where a segment begins, and how long it is."""
        if lengths is None:
            begin = numbers(*outer, segment)
            return begin, numbers(*outer, segment + 1) - begin
        return before(*outer, segment), numbers(*outer, segment)

    before: Any = None

    def run(data: te.Tensor, numbers: te.Tensor) -> te.Tensor:
        nonlocal before
        if lengths is not None:
            j = te.reduce_axis((0, count), "j")

            def begin(*at: Any) -> Any:
                *outer, segment = at
                zero = tirx.const(0, numbers.dtype)
                length = tirx.if_then_else(j < segment, numbers(*outer, j), zero)
                return te.sum(length, axis=j)

            before = te.compute(shape_of(given), begin, "begins")
        k = te.reduce_axis((0, shape[axis]), "k")
        none = tirx.const(start, data.dtype)
        reducer = te.comm_reducer(combine, lambda _: none, name=reduce)

        def element(*at: Any) -> Any:
            begin, length = bounds(numbers, at[:axis], at[axis])
            inside = tirx.all(begin <= k, k < begin + length)
            value = data(*at[:axis], k, *at[axis + 1 :])
            return reducer(tirx.if_then_else(inside, value, none), axis=k)

        result = [*shape[:axis], count, *shape[axis + 1 :]]
        reduced = te.compute(result, element, "segments")

        def finished(*at: Any) -> Any:
            _, length = bounds(numbers, at[:axis], at[axis])
            total = combine(tirx.const(first, data.dtype), reduced(*at))
            if reduce != "mean":
                return total
            nothing = tirx.const(math.nan if initial is None else first, data.dtype)
            size = tirx.max(tirx.Cast(data.dtype, length), tirx.const(1, data.dtype))
            return tirx.Select(length == 0, nothing, total / size)

        return te.compute(result, finished)

    return call.compute(run, x, given, name="segment_reduce")


_ALONG_AXES: dict[str, Rule] = {
    "amax.default": partial(extreme, relax.op.max),
    "amin.default": partial(extreme, relax.op.min),
    "max.dim": partial(extreme_dim, relax.op.max, relax.op.argmax),
    "min.dim": partial(extreme_dim, relax.op.min, relax.op.argmin),
    **RUNNING,
    "topk.default": topk,
    "sort.default": sort,
    "sort.stable": sort_stable,
    "kthvalue.default": kthvalue,
    "mode.default": mode,
    "nanmedian.dim": nanmedian_dim,
}

RULES: dict[str, Rule] = {
    **{f"aten.{name}": along_axes(numbered(widened(rule))) for name, rule in _ALONG_AXES.items()},
    "aten.prod.dim_int": along_axes(widened(prod_dim), of_nothing=1),
    **{
        f"aten.any.{overload}": along_axes(widened(any_true), of_nothing=False)
        for overload in ("default", "dim", "dims")
    },
    "aten.var_mean.correction": along_axes(widened(var_mean), of_nothing=math.nan),
    "aten.nanmedian.default": along_axes(widened(nanmedian), of_nothing=math.nan),
    "aten.histc.default": along_axes(histc, of_nothing=0),
    **{
        f"aten.{name}": on_an_axis
        for name in (
            *("sum.dim_IntList", "mean.dim", "median.dim"),
            *("argmax.default", "argmin.default", "_softmax.default", "_log_softmax.default"),
        )
    },
    "aten.segment_reduce.default": widened(segment_reduce),
    "aten.searchsorted.Tensor": searchsorted,
    "aten.searchsorted.Scalar": searchsorted,
}
