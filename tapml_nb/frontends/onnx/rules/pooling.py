"""Windows over images: the place of what a pooling chose, and the way back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import relax, te, tirx

from tapml_nb.frontends.onnx.rules.call import Call, Expr, Rule, dtype_of, numbers, shape_of
from tapml_nb.frontends.onnx.rules.quantized import padding


def max_pool(call: Call, x: Expr) -> tuple[Expr, ...]:
    """The largest element of each window, and where it is in the whole tensor: the first of those
    that are equal.

    Raises:
        ValueError: for places in the order of columns of other than images.
    """
    told, (batch, channels, *sizes) = call.attributes, shape_of(x)
    rank, kernel = len(sizes), list(told["kernel_shape"])
    strides, dilations = (list(told.get(n) or [1] * rank) for n in ("strides", "dilations"))
    pads = padding(told, sizes, kernel, strides, dilations)
    by_columns = bool(told.get("storage_order"))
    if by_columns and rank != 2:
        raise ValueError(f"places by columns of {rank} axes")
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    shape = [
        _windows(size, pads[k], pads[rank + k], spans[k], strides[k], bool(told.get("ceil_mode")))
        for k, size in enumerate(sizes)
    ]
    least = tirx.min_value(dtype_of(x))
    steps = [math.prod(sizes[k + 1 :]) for k in range(rank)]

    def places(at: Sequence[Any], taps: Sequence[Any]) -> tuple[list[Any], Any]:
        found = [at[k] * strides[k] - pads[k] + taps[k] * dilations[k] for k in range(rank)]
        inside = [tirx.all(p >= 0, p < size) for p, size in zip(found, sizes, strict=True)]
        return found, tirx.all(*inside)

    def taps() -> list[Any]:
        return [te.reduce_axis((0, size), "k") for size in kernel]

    def largest(data: te.Tensor) -> te.Tensor:
        over = taps()

        def element(n: Any, c: Any, *at: Any) -> Any:
            found, inside = places(at, over)
            return te.max(tirx.if_then_else(inside, data(n, c, *found), least), axis=over)

        return te.compute([batch, channels, *shape], element, "largest")

    def where(data: te.Tensor, best: te.Tensor) -> te.Tensor:
        over = taps()

        def element(n: Any, c: Any, *at: Any) -> Any:
            found, inside = places(at, over)
            flat = sum(tirx.Cast("int64", p) * step for p, step in zip(found, steps, strict=True))
            flat = flat + tirx.Cast("int64", n * channels + c) * math.prod(sizes)
            good = tirx.all(
                inside, tirx.if_then_else(inside, data(n, c, *found), least) == best(n, c, *at)
            )
            return te.min(tirx.Select(good, flat, tirx.max_value("int64")), axis=over)

        return te.compute([batch, channels, *shape], element, "where")

    def turn(index: te.Tensor) -> te.Tensor:
        height, width = sizes

        def element(*at: Any) -> Any:
            own = index(*at)
            image, place = tirx.floordiv(own, height * width), tirx.floormod(own, height * width)
            turned = tirx.floormod(place, width) * height + tirx.floordiv(place, width)
            return image * (height * width) + turned

        return te.compute(index.shape, element, "by_columns")

    best = call.compute(largest, x, name="max_pool")
    if not call.wants(1):
        return (best,)
    index = call.compute(where, x, best, name="max_pool_where")
    return best, call.compute(turn, index, name="by_columns") if by_columns else index


def _windows(size: int, before: int, behind: int, span: int, stride: int, ceil: bool) -> int:
    """How many windows there are along an axis; none begins behind what is there."""
    room = size + before + behind - span
    count = (-(-room // stride) if ceil else room // stride) + 1
    return count - 1 if ceil and (count - 1) * stride >= size + before else count


def max_unpool(call: Call, x: Expr, index: Expr, shape: Expr | None = None) -> Expr:
    """Zeros, but for the elements that a pooling chose, where they were.

    Raises:
        ValueError: if the result is not as large as what was pooled: the standard's places are
            those in the smaller one, onnxruntime's those in the larger.
    """
    told, (batch, channels, *sizes) = call.attributes, shape_of(x)
    rank, kernel = len(sizes), list(told["kernel_shape"])
    strides = list(told.get("strides") or [1] * rank)
    pads = list(told.get("pads") or [0] * (2 * rank))
    pooled = [batch, channels]
    pooled += [
        (size - 1) * strides[k] - pads[k] - pads[rank + k] + kernel[k]
        for k, size in enumerate(sizes)
    ]
    if shape is not None and numbers(shape).tolist() != pooled:
        raise ValueError("places in an image of another size than that which was pooled")
    flat = call.emit(relax.op.zeros([math.prod(pooled)], dtype_of(x)))
    ends = [call.emit(relax.op.reshape(t, [math.prod(shape_of(x))])) for t in (index, x)]
    filled = call.emit(relax.op.scatter_elements(flat, *ends, axis=0))
    return relax.op.reshape(filled, pooled)


def columns_to_image(call: Call, x: Expr, image: Expr, block: Expr) -> Expr:
    """Blocks, a column of ``x`` each, added up where they lie on each other in an image."""
    told = call.attributes
    sizes, kernel = ([int(n) for n in numbers(one)] for one in (image, block))
    rank, (batch, rows, _) = len(sizes), shape_of(x)
    strides, dilations = (list(told.get(n) or [1] * rank) for n in ("strides", "dilations"))
    pads = list(told.get("pads") or [0] * (2 * rank))
    blocks = [
        _windows(
            size, pads[k], pads[rank + k], (kernel[k] - 1) * dilations[k] + 1, strides[k], False
        )
        for k, size in enumerate(sizes)
    ]
    channels = rows // math.prod(kernel)

    def add(data: te.Tensor) -> te.Tensor:
        taps = [te.reduce_axis((0, size), "k") for size in kernel]

        def element(n: Any, c: Any, *at: Any) -> Any:
            moved = [at[k] + pads[k] - taps[k] * dilations[k] for k in range(rank)]
            places = [tirx.floordiv(m, s) for m, s in zip(moved, strides, strict=True)]
            inside = [
                tirx.all(m >= 0, tirx.floormod(m, s) == 0, place < count)
                for m, s, place, count in zip(moved, strides, places, blocks, strict=True)
            ]
            row, column = c, 0
            for k in range(rank):
                row = row * kernel[k] + taps[k]
                column = column * blocks[k] + places[k]
            value = tirx.if_then_else(
                tirx.all(*inside), data(n, row, column), tirx.const(0, data.dtype)
            )
            return te.sum(value, axis=taps)

        return te.compute([batch, channels, *sizes], element, "image")

    return call.compute(add, x, name="col2im")


RULES: dict[str, Rule] = {
    "Col2Im": columns_to_image,
    "MaxPool": max_pool,
    "MaxUnpool": max_unpool,
}
