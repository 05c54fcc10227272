"""What is read between pixels."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from tapml_nb.frontends.onnx.rules.call import Call, Expr, Rule, dtype_of, shape_of


def deform_conv(
    call: Call, x: Expr, w: Expr, offset: Expr, b: Expr | None = None, mask: Expr | None = None
) -> Expr:
    """A convolution that reads beside its places, by an offset for each, between pixels bilinearly.

    Raises:
        ValueError: for other than two axes.
    """
    if len(shape_of(x)) != 4:
        raise ValueError("a deformable convolution of other than two axes")
    told, dtype = call.attributes, dtype_of(x)
    batch, channels, height, width = shape_of(x)
    outputs, per_group, rows, columns = shape_of(w)
    out_height, out_width = shape_of(offset)[2:]
    strides, dilations = (told.get(name) or [1, 1] for name in ("strides", "dilations"))
    pads = told.get("pads") or [0, 0, 0, 0]
    per_offset, per_output = channels // told["offset_group"], outputs // told["group"]

    def sample(data: te.Tensor, moved: te.Tensor, *weights: te.Tensor) -> te.Tensor:
        def element(n: Any, c: Any, i: Any, j: Any, y: Any, x: Any) -> Any:
            k = (c // per_offset * rows + i) * columns + j
            at = [
                tirx.Cast(dtype, place * stride - pad + tap * dilation) + moved(n, 2 * k + a, y, x)
                for a, (place, stride, pad, tap, dilation) in enumerate(
                    zip((y, x), strides, pads[:2], (i, j), dilations, strict=True)
                )
            ]
            value = bilinear(lambda v, h: data(n, c, v, h), at, (height, width), dtype)
            return value * weights[0](n, k, y, x) if weights else value

        shape = [batch, channels, rows, columns, out_height, out_width]
        return te.compute(shape, element, "sampled")

    def convolve(sampled: te.Tensor, kernel: te.Tensor, *bias: te.Tensor) -> te.Tensor:
        c, i, j = (te.reduce_axis((0, size), "k") for size in (per_group, rows, columns))

        def element(n: Any, o: Any, y: Any, x: Any) -> Any:
            value = sampled(n, o // per_output * per_group + c, i, j, y, x)
            return te.sum(value * kernel(o, c, i, j), axis=[c, i, j])

        sums = te.compute([batch, outputs, out_height, out_width], element, "sums")
        if not bias:
            return sums
        return te.compute(sums.shape, lambda n, o, y, x: sums(n, o, y, x) + bias[0](o))

    sampled = call.compute(sample, x, offset, *([mask] if mask is not None else []), name="sample")
    return call.compute(convolve, sampled, w, *([b] if b is not None else []), name="deform_conv")


def bilinear(read: Any, at: Any, sizes: Any, dtype: str) -> Any:
    """A value between four pixels; those outside are 0."""
    first = [tirx.floor(place) for place in at]
    share = [place - begin for place, begin in zip(at, first, strict=True)]
    corner = [tirx.Cast("int32", begin) for begin in first]
    total: Any = tirx.const(0.0, dtype)
    for down in (0, 1):
        for right in (0, 1):
            y, x = corner[0] + down, corner[1] + right
            inside = tirx.all(y >= 0, y < sizes[0], x >= 0, x < sizes[1])
            value = tirx.if_then_else(inside, read(y, x), tirx.const(0.0, dtype))
            weight = (share[0] if down else 1 - share[0]) * (share[1] if right else 1 - share[1])
            total = total + value * weight
    return total


RULES: dict[str, Rule] = {"DeformConv": deform_conv}
