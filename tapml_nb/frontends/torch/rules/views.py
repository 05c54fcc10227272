"""Views of a tensor's memory by strides, and views that are copied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from tvm import relax, te, tirx

from tapml_nb.frontends.torch.grouping import arguments
from tapml_nb.frontends.torch.rules.call import Call, Expr, Rule, dtype_of, shape_of
from tapml_nb.frontends.torch.rules.indexing import select

_VIEWS = {
    "view_copy.default": "view.default",
    "permute_copy.default": "permute.default",
    "slice_copy.Tensor": "slice.Tensor",
    "detach_copy.default": "alias.default",
    "unbind_copy.int": "unbind.int",
    "split_copy.Tensor": "split.Tensor",
}
"""Calls that copy a view, and the call that makes the view: values are the same."""


def copied(view: str, call: Call, *_: Any) -> Any:
    result = call.as_tvm(view)
    if isinstance(call.node.meta["val"], torch.Tensor):
        return result
    return tuple(call.emit(result[k]) for k in range(len(call.values)))


def narrow(call: Call, x: Expr, dim: int, start: int, length: int) -> Expr:
    shape = shape_of(x)
    axis = dim % len(shape)
    begin = start + (shape[axis] if start < 0 else 0)
    return relax.op.strided_slice(x, [axis], [begin], [begin + length])


def squeeze(call: Call, x: Expr, dims: Sequence[int]) -> Expr:
    """Without axes of 1; TVM's rule needs the shape of what its rules for pools leave unbound."""
    x = call.emit(x)
    shape = shape_of(x)
    axes = [dim % len(shape) for dim in dims if shape and shape[dim] == 1]
    return relax.op.squeeze(x, axes) if axes else x


def as_strided(
    call: Call, x: Expr, size: Sequence[int], stride: Sequence[int], offset: int | None
) -> Expr:
    """Elements of a tensor's memory, in which its own stand one behind the other."""
    start = _start(call, x, size, stride, offset)
    if start is None:
        return relax.op.zeros(list(size), dtype_of(x))

    def read(data: te.Tensor) -> te.Tensor:
        return te.compute(list(size), lambda *at: data(_place(at, stride, start)))

    flat = call.emit(relax.op.reshape(x, [math.prod(shape_of(x))]))
    return call.compute(read, flat, name="as_strided")


def as_strided_scatter(
    call: Call,
    x: Expr,
    source: Expr,
    size: Sequence[int],
    stride: Sequence[int],
    offset: int | None,
) -> Expr:
    """Elements of a tensor's memory replaced by others."""
    start = _start(call, x, size, stride, offset)
    if start is None:
        return x
    if _overlap(size, stride):
        raise ValueError("as_strided_scatter to places of which two are one")

    def places() -> te.Tensor:
        return te.compute(
            list(size), lambda *at: tirx.Cast("int64", _place(at, stride, start)), "places"
        )

    to = call.emit(relax.op.reshape(call.compute(places, name="places"), [math.prod(size)]))
    flat, values = (call.emit(relax.op.reshape(t, [math.prod(shape_of(t))])) for t in (x, source))
    written = call.emit(relax.op.scatter_elements(flat, to, values, 0))
    return relax.op.reshape(written, shape_of(x))


def resize(call: Call, x: Expr, size: Sequence[int], *_: Any) -> Expr:
    """The first elements of a tensor's memory, in another shape."""
    strides = [math.prod(size[axis + 1 :]) for axis in range(len(size))]
    return as_strided(call, x, size, strides, 0)


def _start(
    call: Call, x: Expr, size: Sequence[int], stride: Sequence[int], offset: int | None
) -> int | None:
    """The place of the first element; None if there is none.

    Raises:
        ValueError: if elements lie outside the tensor, or its own are not in order in its memory:
            a kernel is given its elements, not its memory.
    """
    given = next(iter(arguments(call.node).values())).meta["val"]
    start = given.storage_offset() if offset is None else offset
    if 0 in size:
        return None
    last = start + sum((n - 1) * by for n, by in zip(size, stride, strict=True))
    if given.storage_offset() or not given.is_contiguous() or last >= math.prod(shape_of(x)):
        raise ValueError("it reads memory around the tensor, of which a kernel has the elements")
    return start


def _place(at: Sequence[Any], stride: Sequence[int], start: int) -> Any:
    return sum((k * by for k, by in zip(at, stride, strict=True)), tirx.const(start, "int64"))


def _overlap(size: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether two indices may be one place: not where each axis steps over all inner ones."""
    reach = 0
    for by, n in sorted((by, n) for by, n in zip(stride, size, strict=True) if n > 1):
        if by <= reach:
            return True
        reach += (n - 1) * by
    return False


RULES: dict[str, Rule] = {
    **{f"aten.{name}": partial(copied, view) for name, view in _VIEWS.items()},
    "aten.narrow_copy.default": narrow,
    "aten.select_copy.int": select,
    "aten.squeeze.dims": squeeze,
    "aten.as_strided.default": as_strided,
    "aten.as_strided_copy.default": as_strided,
    "aten.as_strided_scatter.default": as_strided_scatter,
    "aten.resize.default": resize,
}
