"""Products and convolutions of integers, and what is quantized behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax

from tapml_nb.frontends.onnx.rules.call import Call, Expr, Rule, cast, dtype_of, shape_of

_LIMITS = {"uint8": (0, 255), "int8": (-128, 127)}


def conv_integer(
    call: Call, x: Expr, w: Expr, x_zero: Expr | None = None, w_zero: Expr | None = None
) -> Expr:
    return _convolution(call, _centred(call, x, x_zero, None), _centred(call, w, w_zero, 0))


def matmul_integer(
    call: Call, a: Expr, b: Expr, a_zero: Expr | None = None, b_zero: Expr | None = None
) -> Expr:
    return relax.op.matmul(_centred(call, a, a_zero, -2), _centred(call, b, b_zero, -1))


def qlinear_conv(
    call: Call,
    x: Expr,
    x_scale: Expr,
    x_zero: Expr,
    w: Expr,
    w_scale: Expr,
    w_zero: Expr,
    y_scale: Expr,
    y_zero: Expr,
    b: Expr | None = None,
) -> Expr:
    sums = call.emit(
        _convolution(call, _centred(call, x, x_zero, None), _centred(call, w, w_zero, 0))
    )
    rank = len(shape_of(sums))
    if b is not None:
        sums = call.emit(relax.op.add(sums, _along(call, b, 1, rank)))
    factor = _factor(call, x_scale, _along(call, w_scale, 1, rank), y_scale)
    return _narrowed(call, sums, factor, y_zero)


def qlinear_matmul(
    call: Call,
    a: Expr,
    a_scale: Expr,
    a_zero: Expr,
    b: Expr,
    b_scale: Expr,
    b_zero: Expr,
    y_scale: Expr,
    y_zero: Expr,
) -> Expr:
    sums = matmul_integer(call, a, b, a_zero, b_zero)
    a_scale = _along(call, a_scale, -2, len(shape_of(a)))
    b_scale = _along(call, b_scale, -1, len(shape_of(b)))
    return _narrowed(call, call.emit(sums), _factor(call, a_scale, b_scale, y_scale), y_zero)


def _factor(call: Call, a: Expr, b: Expr, y: Expr) -> Expr:
    """What a sum of products is multiplied with, in float32 as everything of scales."""
    a, b, y = (call.emit(cast(scale, "float32")) for scale in (a, b, _scalar(call, y)))
    return call.emit(relax.op.divide(relax.op.multiply(a, b), y))


def _narrowed(call: Call, sums: Expr, factor: Expr, zero: Expr) -> Expr:
    """Sums scaled, rounded to even, moved and saturated."""
    dtype = dtype_of(zero)
    low, high = _LIMITS[dtype]
    scaled = relax.op.round(relax.op.multiply(relax.op.astype(sums, "float32"), factor))
    moved = relax.op.add(scaled, relax.op.astype(_scalar(call, zero), "float32"))
    return relax.op.astype(relax.op.clip(moved, low, high), dtype)


def _centred(call: Call, x: Expr, zero: Expr | None, axis: int | None) -> Expr:
    """Integers less their zero point, which may be one for each index of an axis, as int32."""
    wide = call.emit(relax.op.astype(x, "int32"))
    if zero is None:
        return wide
    zero = _scalar(call, zero) if axis is None else _along(call, zero, axis, len(shape_of(x)))
    return call.emit(relax.op.subtract(wide, relax.op.astype(zero, "int32")))


def _along(call: Call, x: Expr, axis: int, rank: int) -> Expr:
    """Numbers for an axis, one for all, or already as they are combined."""
    shape = shape_of(x)
    if len(shape) != 1 or rank == 1:
        return x
    sizes = [1] * rank
    sizes[axis] = shape[0]
    return call.emit(relax.op.reshape(x, sizes))


def _scalar(call: Call, x: Expr) -> Expr:
    return call.emit(relax.op.reshape(x, [])) if shape_of(x) else x


def _convolution(call: Call, x: Expr, w: Expr) -> Expr:
    """A convolution of int32, any number of axes: summed up as int32."""
    told = call.attributes
    kernel = shape_of(w)[2:]
    rank = len(kernel)
    strides = list(told.get("strides") or [1] * rank)
    dilations = list(told.get("dilations") or [1] * rank)
    pads = padding(told, shape_of(x)[2:], kernel, strides, dilations)
    convolve: dict[int, tuple[Any, str, str]] = {
        1: (relax.op.nn.conv1d, "NCW", "OIW"),
        2: (relax.op.nn.conv2d, "NCHW", "OIHW"),
        3: (relax.op.nn.conv3d, "NCDHW", "OIDHW"),
    }
    function, layout, kernel_layout = convolve[rank]
    return function(
        x,
        w,
        strides,
        pads,
        dilations,
        told.get("group") or 1,
        layout,
        kernel_layout,
        out_dtype="int32",
    )


def padding(
    told: Any,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[int]:
    """How much a convolution pads, before every axis, then behind: as given, or so that an output
    has a place for every stride (``SAME_UPPER``, ``SAME_LOWER``)."""
    automatic = told.get("auto_pad") or "NOTSET"
    if automatic == "NOTSET":
        return list(told.get("pads") or [0] * (2 * len(kernel)))
    if automatic == "VALID":
        return [0] * (2 * len(kernel))
    total = [
        max(0, (-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size)
        for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    return less + more if automatic == "SAME_UPPER" else more + less


def quantized_dynamically(call: Call, x: Expr) -> tuple[Expr, Expr, Expr]:
    """A tensor as uint8 of its own range, which holds 0: integers, scale and zero point, each as
    ``DynamicQuantizeLinear`` defines it."""
    zero = relax.const(0.0, "float32")
    low = call.emit(relax.op.minimum(relax.op.min(x), zero))
    high = call.emit(relax.op.maximum(relax.op.max(x), zero))
    span = relax.op.divide(relax.op.subtract(high, low), relax.const(255.0, "float32"))
    span = call.emit(span)
    flat = relax.op.equal(span, zero)
    scale = call.emit(relax.op.where(flat, relax.const(1.0, "float32"), span))
    place = relax.op.round(relax.op.divide(relax.op.negative(low), scale))
    place = call.emit(relax.op.clip(place, 0, 255))
    steps = relax.op.add(relax.op.round(relax.op.divide(x, scale)), place)
    return (
        call.emit(relax.op.astype(relax.op.clip(steps, 0, 255), "int32")),
        scale,
        call.emit(relax.op.astype(place, "int32")),
    )


RULES: dict[str, Rule] = {
    "ConvInteger": conv_integer,
    "MatMulInteger": matmul_integer,
    "QLinearConv": qlinear_conv,
    "QLinearMatMul": qlinear_matmul,
}
