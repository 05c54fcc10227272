"""Tensors as indices: gathering, and writing to places."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from tapml_nb.frontends.torch.rules.arithmetic import vector_norm
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
from tapml_nb.frontends.torch.rules.selection import coordinates, if_complete, places_of

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
    """NumPy's advanced indexing: index tensors broadcast to one shape, which takes the place of the
    indexed axes if those stand side by side, else comes first; a mask is the indices of what it
    selects."""
    masks = [tensor for tensor in indices if tensor is not None and dtype_of(tensor) == "bool"]
    if masks:
        return _index_by_mask(call, x, indices, masks)
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


def _index_by_mask(
    call: Call, x: Expr, indices: Sequence[Expr | None], masks: Sequence[Expr]
) -> Expr:
    others = [t for t in indices if t is not None and dtype_of(t) != "bool"]
    if len(masks) > 1 or any(math.prod(shape_of(other)) != 1 for other in others):
        raise ValueError("a mask as index beside another mask or several places")
    if 0 in call.sizes():
        return relax.op.zeros(call.sizes(), dtype_of(x))
    (mask,) = masks
    by_axis: list[Expr | None] = []
    for tensor in indices:
        by_axis += [None] * len(shape_of(mask)) if tensor is mask else [tensor]
    first = sum(len(shape_of(t)) if t is mask else 1 for t in indices[: _place(mask, indices)])
    axes = [k for k, t in enumerate(by_axis) if t is not None]
    axes += range(first, first + len(shape_of(mask)))
    beside = max(axes) - min(axes) + 1 == len(axes)
    wide = max([1, *(len(shape_of(other)) for other in others)])
    count = call.sizes()[(min(axes) if beside else 0) + wide - 1]
    places, complete = places_of(call, mask, count)
    by_axis[first : first + len(shape_of(mask))] = coordinates(call, places, shape_of(mask))
    return if_complete(call, complete, call.emit(index(call, x, by_axis)))


def _place(mask: Expr, indices: Sequence[Expr | None]) -> int:
    return next(k for k, tensor in enumerate(indices) if tensor is mask)


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
        return _put_by_mask(call, x, indices[0], values, accumulate)
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


def _put_by_mask(call: Call, x: Expr, mask: Expr, values: Expr, accumulate: bool) -> Expr:
    """Values that are the same for all the mask selects, or one for each axis behind it, or for
    each that it selects."""
    rank = len(shape_of(x))
    below = rank - len(shape_of(mask))
    alike = shape_of(values)
    if len(alike) == below + 1 and alike[0] == 1:
        alike = alike[1:]
    if len(alike) > below:
        return _put_one_by_one(call, x, mask, values, accumulate)
    mask = relax.op.reshape(mask, [*shape_of(mask), *[1] * below])
    value = relax.op.reshape(values, [*[1] * (rank - len(alike)), *alike])
    return relax.op.where(mask, relax.op.add(x, value) if accumulate else value, x)


def _put_one_by_one(call: Call, x: Expr, mask: Expr, values: Expr, accumulate: bool) -> Expr:
    """The k-th that the mask selects gets the k-th value, counted by a running sum."""
    shape, selected = shape_of(x), shape_of(mask)
    rest = shape[len(selected) :]
    count = shape_of(values)[0]
    if not count or 0 in shape:
        return x
    below = [1] * (len(rest) - len(shape_of(values)) + 1)
    values = call.emit(relax.op.reshape(values, [count, *below, *shape_of(values)[1:]]))
    values = call.emit(relax.op.broadcast_to(values, [count, *rest]))
    flat = call.emit(relax.op.reshape(mask, [math.prod(selected)]))
    running = call.emit(relax.op.cumsum(call.emit(relax.op.astype(flat, "int32")), 0))
    number = relax.op.subtract(running, relax.const(1, "int32"))
    taken = call.emit(relax.op.take(values, call.emit(number), 0, mode="clip"))
    taken = call.emit(relax.op.reshape(taken, shape))
    mask = call.emit(relax.op.reshape(mask, [*selected, *[1] * len(rest)]))
    return relax.op.where(mask, relax.op.add(x, taken) if accumulate else taken, x)


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


def index_reduce(
    call: Call, x: Expr, dim: int, index: Expr, source: Expr, reduce: str, include_self: bool
) -> Expr:
    """``scatter_reduce`` of whole slices."""
    shape = shape_of(source)
    axis = dim % len(shape)
    along = [shape[axis] if k == axis else 1 for k in range(len(shape))]
    places = call.emit(relax.op.broadcast_to(relax.op.reshape(index, along), shape))
    return scatter_reduce(call, x, axis, places, source, reduce, include_self)


def embedding_renorm(call: Call, table: Expr, indices: Expr, most: float, p: float) -> Expr:
    """Rows that are looked up and whose norm is more than ``most`` are scaled down to it; the
    1e-7 beside the norm is PyTorch's."""
    rows, width = shape_of(table)
    flat = call.emit(relax.op.reshape(indices, [-1]))
    norms = vector_norm(call, table, p, [1], True, None)

    def scale(data: te.Tensor, norm: te.Tensor, index: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, index.shape[0]), "k")
        hits = te.compute([rows], lambda i: te.sum(tirx.Cast("int32", index(k) == i), axis=k))

        def element(i: Any, j: Any) -> Any:
            bound = tirx.const(most, data.dtype)
            factor = bound / (norm(i, 0) + tirx.const(1e-7, data.dtype))
            scaled = tirx.all(hits(i) > 0, norm(i, 0) > bound)
            return tirx.Select(scaled, data(i, j) * factor, data(i, j))

        return te.compute([rows, width], element)

    return call.compute(scale, table, call.emit(norms), flat, name="embedding_renorm")


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
    "index_reduce.default": index_reduce,
    "masked_scatter.default": masked_scatter,
}

RULES: dict[str, Rule] = {
    "aten.index.Tensor": index,
    "aten.index_put.default": numbered(index_put),
    **{f"aten.{name}": along_axes(widened(rule)) for name, rule in _ALONG_AXES.items()},
    "aten.index_select.default": on_an_axis,
    "aten.select.int": select,
    "aten.embedding_renorm.default": widened(embedding_renorm),
    "aten.put.default": numbered(widened(put)),
    "aten.diagonal_scatter.default": diagonal_scatter,
    "aten.unfold.default": unfold,
    "aten.tril_indices.default": partial(triangle, np.tril_indices),
    "aten.triu_indices.default": partial(triangle, np.triu_indices),
}
