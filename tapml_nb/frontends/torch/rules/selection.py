"""What yields as many elements as its values say: selecting by a mask, and distinct values.

A kernel writes a result of one size: that of the source's run, which is all that is known of its
result here.  What stands in it is computed, and so is how many elements there are.  Where these
are not as many, every element of the result is made wrong, for it would have another size.
"""

from __future__ import annotations

import math
from typing import Any

from tvm import relax, te, tirx

from tapml_nb.frontends.torch.rules.call import (
    Call,
    Expr,
    Rule,
    cast,
    constant,
    dtype_name,
    dtype_of,
    is_floating,
    shape_of,
)
from tapml_nb.frontends.torch.rules.operands import widened

_MOST_ROWS = 2048
"""Rows that are compared with each other, each with each."""


def nonzero(call: Call, x: Expr) -> Expr:
    """A row of coordinates for each element that is not 0, in order."""
    count, rank = call.sizes()
    if not count or not rank:
        return relax.op.zeros([count, rank], "int64")
    places, complete = places_of(call, not_zero(call, x), count)
    found = call.compute(_coordinates(shape_of(x)), places, name="coordinates")
    return if_complete(call, complete, found)


def nonzero_static(call: Call, x: Expr, size: int, fill: int) -> Expr:
    """So many rows: the first of them, or behind them all rows of another number."""
    shape = shape_of(x)
    if not size or not shape or 0 in shape:
        return relax.op.full([size, len(shape)], relax.const(fill, "int64"), "int64")
    running = _running(call, not_zero(call, x))
    places = _kth(call, running, size)
    found = call.compute(_coordinates(shape), places, name="coordinates")
    total = _last(call, running)
    number = call.emit(relax.op.reshape(relax.op.arange(0, size, 1, "int32"), [size, 1]))
    return relax.op.where(relax.op.less(number, total), found, relax.const(fill, "int64"))


def masked_select(call: Call, x: Expr, mask: Expr) -> Expr:
    (count,) = call.sizes()
    if not count:
        return relax.op.zeros([0], dtype_of(x))
    rank = max(len(shape_of(x)), len(shape_of(mask)))
    padded = [[1] * (rank - len(shape_of(t))) + shape_of(t) for t in (x, mask)]
    shape = [a if b == 1 else b for a, b in zip(*padded, strict=True)]
    data, mask = (
        call.emit(relax.op.broadcast_to(call.emit(relax.op.reshape(t, own)), shape))
        for t, own in zip((x, mask), padded, strict=True)
    )
    places, complete = places_of(call, mask, count)
    flat = call.emit(relax.op.reshape(data, [math.prod(shape)]))
    return if_complete(call, complete, call.emit(relax.op.take(flat, places, 0)))


def repeat_interleave(call: Call, repeats: Expr, output_size: int | None) -> Expr:
    """Each number's own place as often as the number says."""
    (count,) = call.sizes()
    if not count:
        return relax.op.zeros([0], dtype_of(repeats))
    running = call.emit(relax.op.cumsum(call.emit(cast(repeats, "int32")), 0))
    places = call.emit(_inside(_kth(call, running, count), running))
    complete = relax.op.equal(_last(call, running), relax.const(count, "int32"))
    return if_complete(call, call.emit(complete), call.emit(cast(places, dtype_of(repeats))))


def bincount(call: Call, x: Expr, weights: Expr | None, least: int) -> Expr:
    """How often each number up to the largest is there, or the sum of its weights."""
    (size,) = call.sizes()
    (length,) = shape_of(x)
    if not length or not size:
        return relax.op.zeros([size], call.dtype)
    given = [] if weights is None else [call.emit(cast(weights, call.dtype))]

    def count(numbers: te.Tensor, *weight: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, length), "k")

        def often(b: Any) -> Any:
            one = weight[0](k) if weight else tirx.const(1, call.dtype)
            zero = tirx.const(0, call.dtype)
            return te.sum(tirx.if_then_else(numbers(k) == b, one, zero), axis=k)

        return te.compute([size], often)

    found = call.compute(count, x, *given, name="bincount")
    most = call.emit(relax.op.astype(call.emit(relax.op.max(x, [0], True)), "int64"))
    up_to = relax.op.maximum(most, relax.const(least - 1, "int64"))
    complete = relax.op.equal(call.emit(up_to), relax.const(size - 1, "int64"))
    return if_complete(call, call.emit(complete), found)


def unique(
    call: Call, x: Expr, in_order: bool, with_inverse: bool, with_counts: bool
) -> tuple[Expr, Expr, Expr]:
    """Distinct elements in order; each NaN is one of its own, behind all others."""
    if 0 in shape_of(x):
        return _nothing(call)
    flat = call.emit(relax.op.reshape(x, [-1]))
    key = _sortable(call, flat)
    order = call.emit(relax.op.argsort(key, 0, False, "int64"))
    if is_floating(dtype_of(x)):
        missing = call.emit(relax.op.astype(relax.op.isnan(flat), "int32"))
        behind = call.emit(relax.op.take(missing, order, 0))
        again = call.emit(relax.op.argsort(behind, 0, False, "int64"))
        order = call.emit(relax.op.take(order, again, 0))
    return _distinct(call, flat, order, call.sizes()[0], shape_of(x))


def unique_consecutive(
    call: Call, x: Expr, with_inverse: bool, with_counts: bool, dim: int | None
) -> tuple[Expr, Expr, Expr]:
    """Elements, or slices along an axis, that differ from those before them."""
    if 0 in shape_of(x):
        return _nothing(call)
    if dim is None:
        flat = call.emit(relax.op.reshape(x, [-1]))
        return _distinct(call, flat, None, call.sizes()[0], shape_of(x))
    return _distinct_slices(call, x, dim, None)


def unique_dim(
    call: Call, x: Expr, dim: int, in_order: bool, with_inverse: bool, with_counts: bool
) -> tuple[Expr, Expr, Expr]:
    """Distinct slices along an axis, in order of their first elements that differ."""
    if 0 in shape_of(x):
        return _nothing(call)
    rows = _rows(call, x, dim)
    count, width = shape_of(rows)
    if count > _MOST_ROWS:
        raise ValueError(f"unique along an axis of more than {_MOST_ROWS}")
    key = _sortable(call, rows)

    def apart(data: te.Tensor) -> te.Tensor:
        """Where two rows first differ."""
        k = te.reduce_axis((0, width), "k")

        def first(i: Any, j: Any) -> Any:
            differ = _differ(data(i, k), data(j, k), dtype_of(key))
            return te.min(tirx.if_then_else(differ, k, width), axis=k)

        return te.compute([count, count], first)

    def rank(data: te.Tensor, where: te.Tensor) -> te.Tensor:
        """How many rows stand before a row."""
        j = te.reduce_axis((0, count), "j")

        def before(i: Any) -> Any:
            at = where(i, j)
            less = data(j, tirx.min(at, width - 1)) < data(i, tirx.min(at, width - 1))
            first = tirx.if_then_else(at < width, less, j < i)
            return te.sum(tirx.Cast("int64", first), axis=j)

        return te.compute([count], before)

    where = call.compute(apart, key, name="apart")
    ranks = call.compute(rank, key, where, name="rank")
    order = call.emit(relax.op.argsort(ranks, 0, False, "int64"))
    return _distinct_slices(call, x, dim, order)


def not_zero(call: Call, x: Expr) -> Expr:
    """The mask of elements that are not 0; TVM's ``!=`` is false of NaN."""
    if dtype_of(x) == "bool":
        return x
    mask = call.emit(relax.op.not_equal(x, constant(0, x)))
    if not is_floating(dtype_of(x)):
        return mask
    return call.emit(relax.op.logical_or(mask, call.emit(relax.op.isnan(x))))


def places_of(call: Call, mask: Expr, count: int) -> tuple[Expr, Expr]:
    """Where in a mask's elements, one behind the other, so many are that are true, and whether
    there are so many: int32 ``[count]``, bool ``[1]``."""
    running = _running(call, mask)
    places = _kth(call, running, count)
    complete = relax.op.equal(_last(call, running), relax.const(count, "int32"))
    return call.emit(_inside(places, running)), call.emit(complete)


def if_complete(call: Call, complete: Expr, result: Expr) -> Expr:
    """A result, or where elements are missing or left over, another value in each element."""
    dtype = dtype_of(result)
    if is_floating(dtype):
        other = constant(math.nan, result)
    elif dtype == "bool":
        other = relax.op.logical_not(result)
    else:
        other = relax.op.bitwise_not(result)
    rank = len(shape_of(result))
    complete = call.emit(relax.op.reshape(complete, [1] * rank))
    return call.emit(relax.op.where(complete, result, call.emit(other)))


def coordinates(call: Call, places: Expr, shape: list[int]) -> list[Expr]:
    """Places in a tensor's elements as an index for each axis."""
    found = call.compute(_coordinates(shape), places, name="coordinates")
    (count, rank) = shape_of(found)
    columns = (relax.op.strided_slice(found, [1], [k], [k + 1]) for k in range(rank))
    return [call.emit(relax.op.reshape(call.emit(column), [count])) for column in columns]


def _running(call: Call, mask: Expr) -> Expr:
    """How many of a mask's elements are true so far."""
    flat = relax.op.reshape(call.emit(cast(mask, "int32")), [math.prod(shape_of(mask))])
    return call.emit(relax.op.cumsum(call.emit(flat), 0))


def _last(call: Call, running: Expr) -> Expr:
    (size,) = shape_of(running)
    return call.emit(relax.op.strided_slice(running, [0], [size - 1], [size]))


def _inside(places: Expr, running: Expr) -> Expr:
    """Places where nothing is missing."""
    return relax.op.minimum(places, relax.const(shape_of(running)[0] - 1, "int32"))


def _kth(call: Call, running: Expr, count: int) -> Expr:
    """Where running counts first are 1, 2, …, ``count``; where none is, behind them all."""
    wanted = call.emit(relax.op.arange(1, count + 1, 1, "int32"))
    return call.emit(relax.op.bucketize(wanted, running, out_int32=True))


def _coordinates(shape: list[int]) -> Any:
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]

    def split(places: te.Tensor) -> te.Tensor:
        def coordinate(k: Any, axis: Any) -> Any:
            each = [
                tirx.floormod(tirx.floordiv(places(k), stride), size)
                for stride, size in zip(strides, shape, strict=True)
            ]
            chosen = each[-1]
            for n in reversed(range(len(each) - 1)):
                chosen = tirx.if_then_else(axis == n, each[n], chosen)
            return tirx.Cast("int64", chosen)

        return te.compute([places.shape[0], len(shape)], coordinate)

    return split


def _differ(one: Any, other: Any, dtype: str) -> Any:
    """Whether two numbers are not the same; NaN is none's equal."""
    if dtype == "bool":
        return tirx.Cast("int32", one) != tirx.Cast("int32", other)
    if not is_floating(dtype):
        return one != other
    return tirx.any(one < other, other < one, tirx.isnan(one), tirx.isnan(other))


def _sortable(call: Call, x: Expr) -> Expr:
    """Numbers that sort as the elements do."""
    if dtype_of(x) == "bool":
        return call.emit(cast(x, "int32"))
    if is_floating(dtype_of(x)):
        endless = constant(math.inf, x)
        return call.emit(relax.op.where(call.emit(relax.op.isnan(x)), endless, x))
    return x


def _rows(call: Call, x: Expr, dim: int) -> Expr:
    """The slices along an axis as rows."""
    shape = shape_of(x)
    axis = dim % len(shape)
    order = [axis, *(k for k in range(len(shape)) if k != axis)]
    moved = call.emit(relax.op.permute_dims(x, order))
    return call.emit(relax.op.reshape(moved, [shape[axis], math.prod(shape) // shape[axis]]))


def _distinct_slices(call: Call, x: Expr, dim: int, order: Expr | None) -> tuple[Expr, Expr, Expr]:
    shape = shape_of(x)
    axis = dim % len(shape)
    rows = _rows(call, x, dim)
    count = call.sizes()[axis]
    values, inverse, counts = _distinct(call, rows, order, count, [shape[axis]])
    rest = [n for k, n in enumerate(shape) if k != axis]
    values = call.emit(relax.op.reshape(values, [count, *rest]))
    back = [*range(1, axis + 1), 0, *range(axis + 1, len(shape))]
    return relax.op.permute_dims(values, back), inverse, counts


def _distinct(
    call: Call, x: Expr, order: Expr | None, count: int, shape: list[int]
) -> tuple[Expr, Expr, Expr]:
    """What differs from its neighbour before it among elements or rows, in an order: these
    (``count``), which of them each element is (of a ``shape``), and how often each is there."""
    ordered = x if order is None else call.emit(relax.op.take(x, order, 0))
    total = shape_of(x)[0]

    def begins(data: te.Tensor) -> te.Tensor:
        """Where there is another one than before."""

        def differs(i: Any, *at: Any) -> Any:
            return _differ(data(i, *at), data(tirx.max(i - 1, 0), *at), dtype_of(x))

        if len(data.shape) == 1:
            return te.compute([total], lambda i: tirx.any(i == 0, differs(i)))
        k = te.reduce_axis((0, data.shape[1]), "k")
        any_differs = te.compute(
            [total], lambda i: te.max(tirx.Cast("int32", differs(i, k)), axis=k)
        )
        return te.compute([total], lambda i: tirx.any(i == 0, any_differs(i) != 0))

    new = call.compute(begins, ordered, name="begins")
    places, complete = places_of(call, new, count)
    values = if_complete(call, complete, call.emit(relax.op.take(ordered, places, 0)))
    number = relax.op.subtract(_running(call, new), relax.const(1, "int32"))
    inverse = call.emit(cast(call.emit(number), "int64"))
    if order is not None:
        nothing = call.emit(relax.op.zeros([total], "int64"))
        inverse = call.emit(relax.op.scatter_elements(nothing, order, inverse, 0))
    inverse = if_complete(call, complete, inverse)

    def often(first: te.Tensor) -> te.Tensor:
        def distance(k: Any) -> Any:
            following = first(tirx.min(k + 1, count - 1))
            end = tirx.if_then_else(k + 1 < count, following, total)
            return tirx.Cast("int64", end - first(k))

        return te.compute([count], distance)

    counts = if_complete(call, complete, call.compute(often, places, name="counts"))
    return values, _if_asked(call, 1, inverse, shape), _if_asked(call, 2, counts, [count])


def _if_asked(call: Call, output: int, result: Expr, shape: list[int]) -> Expr:
    """A result that a caller may have left out, which then has no elements."""
    if call.sizes(output) == [0]:
        return relax.op.zeros([0], dtype_of(result))
    return relax.op.reshape(result, shape)


def _nothing(call: Call) -> tuple[Expr, ...]:
    """Tensors without elements."""
    sizes = [call.sizes(k) for k in range(len(call.values))]
    if any(math.prod(shape) for shape in sizes):
        raise ValueError("distinct ones among tensors without elements")
    dtypes = [dtype_name(value.dtype) for value in call.values]
    return tuple(relax.op.zeros(shape, dtype) for shape, dtype in zip(sizes, dtypes, strict=True))


RULES: dict[str, Rule] = {
    "aten.nonzero.default": widened(nonzero),
    "aten.nonzero_static.default": widened(nonzero_static),
    "aten.masked_select.default": widened(masked_select),
    "aten.bincount.default": bincount,
    "aten.repeat_interleave.Tensor": repeat_interleave,
    "aten._unique2.default": widened(unique),
    "aten.unique_consecutive.default": widened(unique_consecutive),
    "aten.unique_dim.default": widened(unique_dim),
}
