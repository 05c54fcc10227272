"""Tensors as indices: gathering, and writing to places."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from tapml_nb.frontends.torch.rules.call import (
    Call,
    Expr,
    Rule,
    constant,
    dtype_of,
    is_floating,
    is_open,
    literal,
    shape_of,
    sizes_of,
)
from tapml_nb.frontends.torch.rules.operands import along_axes, numbered, on_an_axis, widened

_REDUCTIONS = {
    "add": "add",
    "sum": "add",
    "multiply": "mul",
    "prod": "mul",
    "amax": "max",
    "amin": "min",
}
"""PyTorch's names of scatter reductions, and Relax's."""


def index(call: Call, x: Expr, indices: Sequence[Expr | None]) -> Expr:
    """NumPy's advanced indexing with integers: index tensors broadcast to one shape, which takes
    the place of the indexed axes if those stand side by side, else comes first."""
    shape, axes, tensors, common = _indexed(x, indices)
    beside = axes[-1] - axes[0] + 1 == len(axes)
    first = axes[0] if beside else 0
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    result = [shape[axis] for axis in kept]
    result[first:first] = common

    def gather(data: te.Tensor, *places: te.Tensor) -> te.Tensor:
        def element(*at: Any) -> Any:
            inside = at[first : first + len(common)]
            outside = iter([*at[:first], *at[first + len(common) :]])
            full = [
                _wrapped(places[axes.index(axis)], inside, shape[axis])
                if axis in axes
                else next(outside)
                for axis in range(len(shape))
            ]
            return data(*full)

        return te.compute(result, element)

    return call.compute(gather, x, *tensors, name="index")


def _indexed(
    x: Expr, indices: Sequence[Expr | None]
) -> tuple[list[Any], list[int], list[Expr], list[Any]]:
    """Shape of the tensor, its indexed axes, their index tensors, and what these broadcast to."""
    axes = [axis for axis, tensor in enumerate(indices) if tensor is not None]
    tensors = [tensor for tensor in indices if tensor is not None]
    if any(dtype_of(tensor) == "bool" for tensor in tensors):
        raise ValueError("a mask as index selects a number of elements that its values decide")
    return sizes_of(x), axes, tensors, _broadcast([sizes_of(t) for t in tensors])


def _broadcast(shapes: Sequence[Sequence[Any]]) -> list[Any]:
    rank = max(map(len, shapes))
    aligned = [[1] * (rank - len(shape)) + list(shape) for shape in shapes]
    return [next((n for n in sizes if not _is(n, 1)), 1) for sizes in zip(*aligned, strict=True)]


def _is(size: Any, number: int) -> bool:
    """Whether a size is this number: an axis of 1 is broadcast, and one that is open never is."""
    return not is_open(size) and int(size) == number


def _wrapped(places: te.Tensor, at: Sequence[Any], size: Any) -> Any:
    """An element of an index tensor, broadcast; negative ones count from the end."""
    rank = len(places.shape)
    own = at[len(at) - rank :] if rank else []
    place = places(*(0 if _is(n, 1) else i for n, i in zip(places.shape, own, strict=True)))
    return tirx.if_then_else(place < 0, place + size, place)


def index_put(
    call: Call, x: Expr, indices: Sequence[Expr | None], values: Expr, accumulate: bool
) -> Expr:
    """Indexed axes go first, ``scatter_nd`` writes, and axes go back."""
    if len(indices) == 1 and indices[0] is not None and dtype_of(indices[0]) == "bool":
        return _put_by_mask(x, indices[0], values, accumulate)
    shape, axes, tensors, common = _indexed(x, indices)
    if any(_is(size, 0) for size in (*shape, *common)):
        return x  # nothing is written, which TVM's kernel divides by
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    order = axes + kept

    def together(*places: te.Tensor) -> te.Tensor:
        """The coordinates of each element to write, side by side in a last axis."""

        def coordinate(*at: Any) -> Any:
            *inside, axis = at
            own = [
                tirx.Cast("int64", _wrapped(place, inside, shape[k]))
                for k, place in zip(axes, places, strict=True)
            ]
            chosen = own[-1]
            for k in reversed(range(len(own) - 1)):
                chosen = tirx.if_then_else(axis == k, own[k], chosen)
            return chosen

        return te.compute([*common, len(places)], coordinate)

    beside = axes[-1] - axes[0] + 1 == len(axes)
    first = axes[0] if beside else 0
    target = [shape[axis] for axis in kept]
    target[first:first] = common
    values = relax.op.broadcast_to(values, target)
    front = list(range(first, first + len(common)))
    rest = [axis for axis in range(len(target)) if axis not in front]
    written = relax.op.scatter_nd(
        call.emit(relax.op.permute_dims(x, order)),
        call.compute(together, *tensors, name="places"),
        call.emit(relax.op.permute_dims(values, front + rest)),
        "add" if accumulate else "update",
    )
    return relax.op.permute_dims(written, [order.index(axis) for axis in range(len(shape))])


def _put_by_mask(x: Expr, mask: Expr, values: Expr, accumulate: bool) -> Expr:
    """Values that are the same for all the mask selects, or one for each axis behind it."""
    rank = len(shape_of(x))
    below = rank - len(shape_of(mask))
    alike = shape_of(values)
    if len(alike) == below + 1 and alike[0] == 1:
        alike = alike[1:]
    if len(alike) > below:
        raise ValueError("a mask as index with a value for each element that it selects")
    mask = relax.op.reshape(mask, [*shape_of(mask), *[1] * below])
    value = relax.op.reshape(values, [*[1] * (rank - len(alike)), *alike])
    return relax.op.where(mask, relax.op.add(x, value) if accumulate else value, x)


def scatter(call: Call, x: Expr, dim: int, places: Expr, source: Expr, reduce: str) -> Expr:
    """``scatter_elements``; PyTorch uses as much of the source as there are indices."""
    sizes = shape_of(places)
    if shape_of(source) != sizes:
        axes = list(range(len(sizes)))
        source = call.emit(relax.op.strided_slice(source, axes, [0] * len(sizes), sizes))
    return call.emit(relax.op.scatter_elements(x, places, source, dim, _REDUCTIONS[reduce]))


def scatter_value(call: Call, x: Expr, dim: int, places: Expr, value: float, reduce: str) -> Expr:
    value = bool(value) if call.dtype == "bool" else value
    source = call.emit(relax.op.full(shape_of(places), constant(value, x), dtype_of(x)))
    return scatter(call, x, dim, places, source, reduce)


def scatter_reduce(
    call: Call, x: Expr, dim: int, places: Expr, source: Expr, reduce: str, include_self: bool
) -> Expr:
    ones = call.emit(relax.op.full(shape_of(places), constant(1, x), dtype_of(x)))
    counts = call.emit(relax.op.zeros(shape_of(x), dtype_of(x)))
    counts = scatter(call, counts, dim, places, ones, "add")
    untouched = call.emit(relax.op.equal(counts, constant(0, x)))
    if not include_self:
        start = constant(1 if reduce == "prod" else 0, x)
        if reduce in ("amax", "amin"):
            extreme = tirx.min_value if reduce == "amax" else tirx.max_value
            start = relax.const(extreme(dtype_of(x)).value, dtype_of(x))
        x = call.emit(relax.op.where(untouched, x, start))
    if reduce != "mean":
        return scatter(call, x, dim, places, source, reduce)
    total = scatter(call, x, dim, places, source, "add")
    if include_self:
        counts = relax.op.add(counts, constant(1, x))
    counts = relax.op.maximum(counts, constant(1, x))
    divide = relax.op.divide if is_floating(dtype_of(x)) else relax.op.floor_divide
    return divide(total, counts)


def select(call: Call, x: Expr, dim: int, place: int) -> Expr:
    """An element of an axis whose number the values of a tensor tell: part of the unit."""
    axis = dim % len(shape_of(x))
    return relax.op.take(x, relax.const(place % shape_of(x)[axis], "int64"), axis)


def gather(call: Call, x: Expr, dim: int, places: Expr, *_: Any) -> Expr:
    return relax.op.gather_elements(x, places, dim % len(shape_of(x)))


def put(call: Call, x: Expr, places: Expr, source: Expr, accumulate: bool) -> Expr:
    """``index_put`` in the elements one behind the other."""
    flat, places, values = (call.emit(relax.op.reshape(t, [-1])) for t in (x, places, source))
    written = index_put(call, flat, [places], values, accumulate)
    return relax.op.reshape(call.emit(written), shape_of(x))


def diagonal_scatter(call: Call, x: Expr, source: Expr, offset: int, dim1: int, dim2: int) -> Expr:
    shape = shape_of(x)
    row, column = dim1 % len(shape), dim2 % len(shape)

    def write(data: te.Tensor, diagonal: te.Tensor) -> te.Tensor:
        def element(*at: Any) -> Any:
            others = [i for axis, i in enumerate(at) if axis not in (row, column)]
            along = at[row] + min(offset, 0)
            on = tirx.all(at[column] - at[row] == offset, along >= 0)
            return tirx.if_then_else(on, diagonal(*others, along), data(*at))

        return te.compute(shape, element)

    return call.compute(write, x, source, name="diagonal_scatter")


def masked_scatter(call: Call, x: Expr, mask: Expr, source: Expr) -> Expr:
    """The k-th element under the mask is the source's k-th, counted by a running sum."""
    shape = _broadcast([shape_of(x), shape_of(mask)])
    mask = call.emit(relax.op.broadcast_to(mask, shape))
    flat = relax.op.reshape(relax.op.astype(mask, "int32"), [math.prod(shape)])
    before = relax.op.subtract(relax.op.cumsum(flat, 0), relax.const(1, "int32"))
    before = relax.op.maximum(before, relax.const(0, "int32"))
    values = relax.op.reshape(source, [math.prod(shape_of(source))])
    taken = relax.op.reshape(relax.op.take(values, before, 0, mode="clip"), shape)
    return relax.op.where(mask, taken, relax.op.broadcast_to(x, shape))


def unfold(call: Call, x: Expr, dim: int, size: int, step: int) -> Expr:
    shape = shape_of(x)
    if not shape:
        return relax.op.reshape(x, [size])
    axis = dim % len(shape)
    windows = list(shape)
    windows[axis] = (shape[axis] - size) // step + 1

    def window(data: te.Tensor) -> te.Tensor:
        def element(*at: Any) -> Any:
            *inside, k = at
            inside[axis] = inside[axis] * step + k
            return data(*inside)

        return te.compute([*windows, size], element)

    return call.compute(window, x, name="unfold")


def triangle(
    indices: Callable[..., Any], call: Call, rows: int, columns: int, offset: int, *_: Any
) -> Expr:
    return literal(np.array(indices(rows, offset, columns)), call.dtype)


_ALONG_AXES: dict[str, Rule] = {
    "gather.default": gather,
    "scatter_add.default": numbered(partial(scatter, reduce="add")),
    "scatter.reduce": numbered(scatter),
    "scatter.value_reduce": numbered(scatter_value),
    "scatter_reduce.two": numbered(scatter_reduce),
    "masked_scatter.default": masked_scatter,
}

RULES: dict[str, Rule] = {
    "aten.index.Tensor": index,
    "aten.index_put.default": numbered(index_put),
    **{f"aten.{name}": along_axes(widened(rule)) for name, rule in _ALONG_AXES.items()},
    "aten.index_select.default": on_an_axis,
    "aten.select.int": select,
    "aten.put.default": numbered(widened(put)),
    "aten.diagonal_scatter.default": diagonal_scatter,
    "aten.unfold.default": unfold,
    "aten.tril_indices.default": partial(triangle, np.tril_indices),
    "aten.triu_indices.default": partial(triangle, np.triu_indices),
}
