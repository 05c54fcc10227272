"""What sees several elements for each of its result: pools, transposed convolutions, bags."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax, te, tirx

from tapml_nb.frontends.torch.rules.call import (
    Call,
    Expr,
    Rule,
    cast,
    constant,
    dtype_of,
    is_floating,
    shape_of,
)
from tapml_nb.frontends.torch.rules.operands import in_float32, widened

Window = Callable[[Sequence[Any], Sequence[Any]], tuple[list[Any], Any]]
"""Where in space the element at a step within the window at a place of the result is, which is
within the tensor's bounds in any case, and whether it belongs to that window."""


def adaptive_max_pool(call: Call, x: Expr, sizes: Sequence[int]) -> tuple[Expr, Expr]:
    """The largest of each window, and its place among all elements of its channel: of as many
    windows as are asked for, which may overlap and differ in size."""
    space = shape_of(x)[-len(sizes) :]
    widths = [
        max(-(-(k + 1) * old // new) - k * old // new for k in range(new))
        for old, new in zip(space, sizes, strict=True)
    ]

    def window(at: Sequence[Any], steps: Sequence[Any]) -> tuple[list[Any], Any]:
        cells = list(zip(at, steps, space, sizes, strict=True))
        places = [a * old // new + step for a, step, old, new in cells]
        ends = [((a + 1) * old + new - 1) // new for a, _, old, new in cells]
        inside = tirx.all(*(place < end for place, end in zip(places, ends, strict=True)))
        kept = [tirx.min(place, old - 1) for place, old in zip(places, space, strict=True)]
        return kept, inside

    return _max_pool(call, x, sizes, widths, window)


def max_pool(
    call: Call,
    x: Expr,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    *_: Any,
) -> tuple[Expr, Expr]:
    """The same of windows of one size, at regular distances, that may reach over the edge."""
    rank = int(str(call.node.target).partition("max_pool")[2][0])
    sizes = list(call.values[0].shape)[-rank:]
    space = shape_of(x)[-rank:]
    widths = _each(kernel, rank)
    strides = _each(stride, rank) if stride else widths
    before, apart = _each(padding, rank), _each(dilation, rank)

    def window(at: Sequence[Any], steps: Sequence[Any]) -> tuple[list[Any], Any]:
        cells = zip(at, steps, strides, before, apart, strict=True)
        places = [a * stride - edge + k * gap for a, k, stride, edge, gap in cells]
        within = zip(places, space, strict=True)
        inside = tirx.all(*(tirx.all(place >= 0, place < old) for place, old in within))
        kept = [
            tirx.max(tirx.min(place, old - 1), 0) for place, old in zip(places, space, strict=True)
        ]
        return kept, inside

    return _max_pool(call, x, sizes, widths, window)


def _max_pool(
    call: Call, x: Expr, sizes: Sequence[int], widths: Sequence[int], window: Window
) -> tuple[Expr, Expr]:
    shape = shape_of(x)
    before = len(shape) - len(sizes)
    space, result = shape[before:], [*shape[:before], *sizes]
    dtype = dtype_of(x)
    floating = is_floating(dtype)

    def steps() -> list[Any]:
        return [te.reduce_axis((0, width), f"k{k}") for k, width in enumerate(widths)]

    def pool(data: te.Tensor) -> te.Tensor:
        k = steps()

        def element(*at: Any) -> Any:
            places, inside = window(at[before:], k)
            least = _least(dtype) if floating else tirx.min_value(dtype)
            value = tirx.if_then_else(inside, data(*at[:before], *places), least)
            return (_largest if floating else te.max)(value, axis=k)

        return te.compute(result, element)

    def locate(data: te.Tensor, largest: te.Tensor) -> te.Tensor:
        k = steps()
        last = tirx.const(math.prod(space), "int64")

        def element(*at: Any) -> Any:
            places, inside = window(at[before:], k)
            value, most = data(*at[:before], *places), largest(*at)
            same = value == most
            if floating:
                same = tirx.any(same, tirx.all(tirx.isnan(value), tirx.isnan(most)))
            flat = places[0]
            for place, old in zip(places[1:], space[1:], strict=True):
                flat = flat * old + place
            found = tirx.if_then_else(tirx.all(inside, same), tirx.Cast("int64", flat), last)
            return te.min(found, axis=k)

        return te.compute(result, element)

    largest = call.compute(pool, x, name="max_pool")
    return largest, call.compute(locate, x, largest, name="max_pool_places")


def _least(dtype: Any) -> Any:
    return tirx.const(-math.inf, dtype)


def _larger(a: Any, b: Any) -> Any:
    return tirx.Select(tirx.any(b > a, tirx.isnan(b)), b, a)


_largest = te.comm_reducer(_larger, _least, name="largest")
"""The largest floating-point number, or NaN where there is one."""


def convolution(
    call: Call,
    x: Expr,
    weight: Expr,
    bias: Expr | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    extra: Sequence[int],
    groups: int,
) -> Any:
    """Convolutions that TVM's rule refuses: those whose operands differ in dtype by TVM's rule on
    wider ones, transposed ones in three dimensions by their definition."""
    if not transposed or len(shape_of(x)) != 5:
        return in_float32(call)
    per_axis = [_each(given, 3) for given in (stride, padding, dilation, extra)]
    result = call.emit(_transposed(call, x, weight, groups, *per_axis))
    if bias is None:
        return result
    return relax.op.add(result, relax.op.reshape(bias, [1, -1, 1, 1, 1]))


def _each(given: Sequence[int], axes: int) -> list[int]:
    return [*given] * axes if len(given) == 1 else [*given]


def _transposed(
    call: Call,
    x: Expr,
    weight: Expr,
    groups: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    extra: Sequence[int],
) -> Expr:
    """Each element of ``x`` [batch, channels, …] spread by ``weight`` [channels, results / groups,
    …] over those of the result that lie around ``stride`` times its place."""
    (batch, channels, *space), (_, per_group, *window) = shape_of(x), shape_of(weight)
    result = [
        (old - 1) * s - 2 * p + d * (width - 1) + e + 1
        for old, s, p, d, e, width in zip(
            space, stride, padding, dilation, extra, window, strict=True
        )
    ]
    in_group = channels // groups

    def spread(data: te.Tensor, kernel: te.Tensor) -> te.Tensor:
        c = te.reduce_axis((0, in_group), "c")
        k = [te.reduce_axis((0, width), f"k{axis}") for axis, width in enumerate(window)]

        def element(n: Any, o: Any, *at: Any) -> Any:
            channel = o // per_group * in_group + c
            from_start = [
                a + p - step * d for a, p, step, d in zip(at, padding, k, dilation, strict=True)
            ]
            whole = [f // s for f, s in zip(from_start, stride, strict=True)]
            there = tirx.all(
                *(
                    tirx.all(f >= 0, f % s == 0, w < old)
                    for f, s, w, old in zip(from_start, stride, whole, space, strict=True)
                )
            )
            kept = [tirx.max(tirx.min(w, old - 1), 0) for w, old in zip(whole, space, strict=True)]
            term = data(n, channel, *kept) * kernel(channel, o % per_group, *k)
            return te.sum(tirx.if_then_else(there, term, tirx.const(0, data.dtype)), axis=[c, *k])

        return te.compute([batch, per_group * groups, *result], element)

    return call.compute(spread, x, weight, name="conv_transpose")


_SUM, _MEAN, _MAX = range(3)
"""PyTorch's numbers of what a bag of embeddings becomes."""


def embedding_bag(
    call: Call,
    table: Expr,
    indices: Expr,
    offsets: Expr,
    by_frequency: bool,
    mode: int,
    sparse: bool,
    weights: Expr | None,
    with_end: bool,
    padding: int,
) -> tuple[Expr, ...]:
    """Rows of a table, those of a bag made one; a bag begins at its offset and goes on to the next.

    Raises:
        ValueError: if more is read than the bags, which only a backward pass does.
    """
    if any(user.args[1] for user in call.node.users):
        raise ValueError("embedding_bag of which more than the bags is read")
    table = call.emit(cast(table, call.wide))
    (rows, width), (count,) = shape_of(table), shape_of(indices)
    bags = shape_of(offsets)[0] - with_end
    if not count or not bags:
        return (relax.op.zeros([bags, width], call.dtype),)

    def belongs(index: te.Tensor, begin: te.Tensor, bag: Any, k: Any) -> Any:
        """Whether the k-th index is one of a bag's."""
        end = begin(tirx.min(bag + 1, bags - 1 + with_end))
        if not with_end:
            end = tirx.if_then_else(bag == bags - 1, tirx.const(count, begin.dtype), end)
        return tirx.all(begin(bag) <= k, k < end, index(k) != padding)

    def combine(
        data: te.Tensor, index: te.Tensor, begin: te.Tensor, *factor: te.Tensor
    ) -> te.Tensor:
        k = te.reduce_axis((0, count), "k")
        reduce = _largest if mode == _MAX else te.sum
        other = _least(data.dtype) if mode == _MAX else tirx.const(0, data.dtype)

        def element(bag: Any, j: Any) -> Any:
            row = tirx.if_then_else(index(k) < 0, index(k) + rows, index(k))
            value = data(row, j) * factor[0](k) if factor else data(row, j)
            return reduce(tirx.if_then_else(belongs(index, begin, bag, k), value, other), axis=k)

        return te.compute([bags, width], element)

    def members(index: te.Tensor, begin: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, count), "k")

        def size(bag: Any, _: Any) -> Any:
            return te.sum(tirx.Cast(dtype_of(table), belongs(index, begin, bag, k)), axis=k)

        return te.compute([bags, 1], size)

    factors = [] if weights is None else [call.emit(cast(weights, call.wide))]
    result = call.compute(combine, table, indices, offsets, *factors, name="embedding_bag")
    if mode != _SUM:
        number = call.compute(members, indices, offsets, name="bag_sizes")
        if mode == _MAX:
            empty = relax.op.equal(number, constant(0, number))
            result = call.emit(relax.op.where(empty, constant(0, result), result))
        else:
            filled = relax.op.maximum(number, constant(1, number))
            result = call.emit(relax.op.divide(result, filled))
    return (cast(result, call.dtype),)


RULES: dict[str, Rule] = {
    "aten.adaptive_max_pool2d.default": widened(adaptive_max_pool),
    "aten.adaptive_max_pool3d.default": widened(adaptive_max_pool),
    "aten.max_pool2d_with_indices.default": widened(max_pool),
    "aten.max_pool3d_with_indices.default": widened(max_pool),
    "aten._embedding_bag.default": embedding_bag,
    "aten._embedding_bag_forward_only.default": embedding_bag,
    "aten.convolution.default": widened(convolution),
}
