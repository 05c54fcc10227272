"""Arithmetic: functions of one element or of two, products, distances, a normalization."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import tvm
from tvm import relax, te, tirx, topi
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from tapml_nb.frontends.torch.rules.call import (
    NARROW,
    Call,
    Expr,
    Rule,
    axes_of,
    cast,
    constant,
    dtype_of,
    is_floating,
    literal,
    shape_of,
)
from tapml_nb.frontends.torch.rules.operands import along_axes, in_floats, numbered, widened


def exp2(call: Call, x: Expr) -> Expr:
    x = call.emit(cast(x, call.wide))
    return relax.op.power(constant(2.0, x), x)


def without_nan(choose: Callable[[Expr, Expr], Expr], call: Call, a: Expr, b: Expr) -> Expr:
    if not is_floating(dtype_of(a)):
        return choose(a, b)
    chosen = relax.op.where(relax.op.isnan(b), a, choose(a, b))
    return relax.op.where(relax.op.isnan(a), b, chosen)


def hypot(call: Call, a: Expr, b: Expr) -> Expr:
    return relax.op.sqrt(relax.op.add(relax.op.multiply(a, a), relax.op.multiply(b, b)))


def div_mode(call: Call, a: Expr, b: Expr | float, rounding_mode: str | None) -> Expr:
    """Floor and truncating division by a number, which TVM's rule takes for an int32."""
    a, b = call.promoted(a), call.promoted(b)
    if rounding_mode == "floor":
        return relax.op.floor_divide(a, b)
    if rounding_mode is None or is_floating(dtype_of(a)):
        quotient = relax.op.divide(a, b)
        return relax.op.trunc(quotient) if rounding_mode else quotient
    floor = call.emit(relax.op.floor_divide(a, b))
    rest = call.emit(relax.op.subtract(a, relax.op.multiply(floor, b)))
    zero = constant(0, floor)
    up = relax.op.logical_and(relax.op.less(floor, zero), relax.op.not_equal(rest, zero))
    return relax.op.add(floor, relax.op.astype(up, dtype_of(floor)))


def shift(function: Callable[[Expr, Expr], Expr], call: Call, a: Expr, b: Expr | int) -> Expr:
    return function(a, b if isinstance(b, relax.Expr) else constant(b, a))


def ldexp(call: Call, a: Expr, b: Expr) -> Expr:
    power = relax.op.power(relax.const(2.0, call.wide), call.emit(cast(b, call.wide)))
    return relax.op.multiply(call.emit(cast(a, call.wide)), power)


def where(call: Call, condition: Expr, a: Expr, b: Expr) -> Expr:
    """Operands of different dtypes, which PyTorch promotes."""
    return relax.op.where(condition, cast(a, call.dtype), cast(b, call.dtype))


def clamp(call: Call, x: Expr, low: Expr | float | None, high: Expr | float | None) -> Expr:
    """Bounds of another dtype, which PyTorch promotes."""
    x = call.number(x)
    for bound, choose in ((low, relax.op.maximum), (high, relax.op.minimum)):
        if bound is not None:
            x = call.emit(choose(x, call.number(bound)))
    return cast(x, call.dtype)


def integer_power(call: Call, base: Expr | int, exponent: Expr | int) -> Expr:
    """A power of integers, which wraps around; to a negative power all but 1 and -1 are 0."""
    shape = list(call.values[0].shape)
    if 0 in shape:
        return literal(np.zeros(shape), call.dtype)
    count = math.prod(shape)
    bits = tvm.DataType(call.dtype).bits
    unsigned = f"uint{bits}"  # whose overflow is defined

    def square_and_multiply(base: Any, exponent: Any, power: Any) -> Any:
        with IRBuilder() as builder:
            base, exponent, power = map(T.buffer_proxy, (base, exponent, power))
            one = tirx.const(1, unsigned)
            with T.parallel(0, count) as i:
                x, e = base[i], exponent[i]
                power[i] = one
                with T.serial(0, bits) as k:
                    bit = tirx.Cast("int32", e >> tirx.Cast(call.dtype, bits - 1 - k)) & 1
                    factor = tirx.Select(bit == 1, tirx.Cast(unsigned, x), one)
                    power[i] = power[i] * power[i] * factor
                odd = tirx.Cast("int32", e) & 1
                one_of_two = tirx.all(x == -1, odd == 1)
                root = tirx.Select(one_of_two, tirx.Cast(unsigned, x), one)
                inverse = tirx.Select(tirx.any(x == 1, x == -1), root, tirx.const(0, unsigned))
                power[i] = tirx.Select(e < 0, inverse, power[i])
            return builder.get()

    def compute(*operands: te.Tensor) -> te.Tensor:
        flat = [topi.reshape(topi.broadcast_to(x, shape), [count]) for x in operands]
        power = te.extern(
            [(count,)],
            flat,
            lambda given, made: square_and_multiply(*given, *made),
            dtype=unsigned,
            name="integer_power",
        )
        return topi.reshape(topi.cast(power, call.dtype), shape)

    operands = (call.promoted(x) for x in (base, exponent))
    return call.compute(compute, *operands, name="integer_power")


def layer_norm(
    call: Call,
    x: Expr,
    normalized: Sequence[int],
    weight: Expr | None,
    bias: Expr | None,
    epsilon: float,
) -> tuple[Expr, Expr, Expr]:
    """Layer normalization; also yields mean and 1/deviation."""
    wide = _widened(call, x)
    axes = list(range(-len(normalized), 0))
    centred, mean, inverse = standardized(call, wide, axes, epsilon)
    result = call.emit(relax.op.multiply(centred, inverse))
    for factor, combine in ((weight, relax.op.multiply), (bias, relax.op.add)):
        if factor is not None:
            result = call.emit(combine(result, _widened(call, factor)))
    return call.narrowed(result, mean, inverse)


def _widened(call: Call, x: Expr) -> Expr:
    """A tensor in the dtype that PyTorch computes in: narrow ones in float32."""
    return call.emit(cast(x, "float32")) if dtype_of(x) in NARROW else x


def standardized(call: Call, x: Expr, axes: list[int], epsilon: float) -> tuple[Expr, Expr, Expr]:
    """A tensor less its mean, the mean, and 1/deviation, along axes that are kept."""
    mean = call.emit(relax.op.mean(x, axes, True))
    centred = call.emit(relax.op.subtract(x, mean))
    variance = relax.op.mean(relax.op.multiply(centred, centred), axes, True)
    inverse = relax.op.rsqrt(relax.op.add(variance, constant(epsilon, x)))
    return centred, mean, call.emit(inverse)


def group_norm(
    call: Call,
    x: Expr,
    weight: Expr | None,
    bias: Expr | None,
    batch: int,
    channels: int,
    inner: int,
    groups: int,
    epsilon: float,
) -> tuple[Expr, Expr, Expr]:
    """Group normalization; also yields mean and 1/deviation."""
    wide = call.emit(relax.op.reshape(_widened(call, x), [batch, groups, -1]))
    centred, mean, inverse = standardized(call, wide, [-1], epsilon)
    result = call.emit(relax.op.multiply(centred, inverse))
    result = call.emit(relax.op.reshape(result, shape_of(x)))
    per_channel = [1, channels, *[1] * (len(shape_of(x)) - 2)]
    for factor, combine in ((weight, relax.op.multiply), (bias, relax.op.add)):
        if factor is not None:
            factor = relax.op.reshape(_widened(call, factor), per_channel)
            result = call.emit(combine(result, factor))
    rows = [batch, groups]
    return call.narrowed(result, relax.op.reshape(mean, rows), relax.op.reshape(inverse, rows))


def wide_product(call: Call, a: Expr, b: Expr) -> Expr:
    """A matrix product, of narrow operands as it is summed up: in float32."""
    return call.emit(relax.op.matmul(a, b, out_dtype=call.wide))


def addmm(call: Call, bias: Expr, a: Expr, b: Expr, beta: float, alpha: float) -> Expr:
    product = wide_product(call, a, b)
    bias = call.emit(cast(bias, dtype_of(product)))
    if alpha != 1:
        product = relax.op.multiply(product, constant(alpha, product))
    if beta != 1:
        bias = relax.op.multiply(bias, constant(beta, bias))
    return cast(call.emit(relax.op.add(bias, product)), call.dtype)


def addbmm(call: Call, bias: Expr, a: Expr, b: Expr, beta: float, alpha: float) -> Expr:
    product = call.emit(relax.op.sum(relax.op.matmul(a, b), 0))
    return relax.op.add(
        relax.op.multiply(bias, constant(beta, product)),
        relax.op.multiply(product, constant(alpha, product)),
    )


def int_mm(call: Call, a: Expr, b: Expr) -> Expr:
    return relax.op.matmul(a, b, out_dtype="int32")


def grouped_mm(
    call: Call,
    x: Expr,
    weights: Expr,
    ends: Expr | None,
    bias: Expr | None = None,
    out_dtype: str | None = None,
) -> Expr:
    """Rows of ``x`` [rows, k] times a weight of [groups, k, n]: a row belongs to the first group
    that ends behind it; rows behind all groups are 0.

    Raises:
        ValueError: for layouts other than mixture-of-experts models use.
    """
    if bias is not None or ends is None or (len(shape_of(x)), len(shape_of(weights))) != (2, 3):
        raise ValueError("grouped_mm other than of [rows, k] by [groups, k, n] with offsets")
    (rows, depth), (groups, _, columns) = shape_of(x), shape_of(weights)

    def product(data: te.Tensor, weight: te.Tensor, end: te.Tensor) -> te.Tensor:
        g = te.reduce_axis((0, groups), "g")
        group = te.compute(
            [rows],
            lambda i: te.sum(tirx.Cast("int32", tirx.Cast("int32", end(g)) <= i), axis=g),
            "group",
        )
        k = te.reduce_axis((0, depth), "k")

        def element(i: Any, j: Any) -> Any:
            own = tirx.min(group(i), groups - 1)
            a, b = (tirx.Cast("float32", v) for v in (data(i, k), weight(own, k, j)))
            return te.sum(a * b, axis=k)

        dense = te.compute([rows, columns], element, "product")
        return te.compute(
            [rows, columns],
            lambda i, j: tirx.Cast(
                call.dtype, tirx.if_then_else(group(i) < groups, dense(i, j), 0.0)
            ),
        )

    return call.compute(product, x, weights, ends, name="grouped_mm")


def cdist(call: Call, a: Expr, b: Expr, p: float, *_: Any) -> Expr:
    difference = relax.op.subtract(relax.op.expand_dims(a, -2), relax.op.expand_dims(b, -3))
    return _norm(call, relax.op.abs(difference), p)


def dist(call: Call, a: Expr, b: Expr, p: float) -> Expr:
    difference = call.emit(relax.op.abs(relax.op.subtract(a, b)))
    return _norm(call, relax.op.reshape(difference, [-1]), p)


def pdist(call: Call, x: Expr, p: float) -> Expr:
    """The distances between any two rows."""
    first, second = np.triu_indices(shape_of(x)[0], 1)
    if not len(first):
        return relax.op.zeros([0], call.dtype)
    one, other = (call.emit(relax.op.take(x, literal(k, "int64"), 0)) for k in (first, second))
    return _norm(call, relax.op.abs(relax.op.subtract(one, other)), p)


def vector_norm(call: Call, x: Expr, p: float, dims: Any, keepdim: bool, dtype: str | None) -> Expr:
    wide = call.emit(cast(x, call.wide))
    axes = axes_of(dims, len(shape_of(x)))
    return cast(call.emit(_norm(call, relax.op.abs(wide), p, axes, keepdim)), call.dtype)


def _norm(
    call: Call, magnitude: Expr, p: float, axes: int | list[int] = -1, keepdim: bool = False
) -> Expr:
    """The p-norm, along the last axis if no others are given."""
    magnitude = call.emit(magnitude)
    if abs(p) == float("inf"):
        return (relax.op.max if p > 0 else relax.op.min)(magnitude, axes, keepdim)
    if p == 0:
        zero, one = constant(0, magnitude), constant(1, magnitude)
        counted = relax.op.where(relax.op.equal(magnitude, zero), zero, one)  # NaN counts
        return relax.op.sum(counted, axes, keepdim)
    if p == 1:
        return relax.op.sum(magnitude, axes, keepdim)
    if p == 2:
        squares = relax.op.multiply(magnitude, magnitude)
        return relax.op.sqrt(relax.op.sum(squares, axes, keepdim))
    powers = relax.op.sum(relax.op.power(magnitude, constant(p, magnitude)), axes, keepdim)
    return relax.op.power(powers, constant(1 / p, magnitude))


def trilinear(
    call: Call,
    a: Expr,
    b: Expr,
    c: Expr,
    expand_a: Sequence[int],
    expand_b: Sequence[int],
    expand_c: Sequence[int],
    summed: Sequence[int],
    *_: Any,
) -> Expr:
    """Products of three tensors that are broadcast along axes of their own, some summed up."""
    tensors, given = (a, b, c), (expand_a, expand_b, expand_c)
    rank = len(shape_of(a)) + len(expand_a)
    own = [[axis for axis in range(rank) if axis not in without] for without in given]
    sizes = [
        max(
            shape_of(tensor)[axes.index(axis)]
            for tensor, axes in zip(tensors, own, strict=True)
            if axis in axes
        )
        for axis in range(rank)
    ]
    kept = [axis for axis in range(rank) if axis not in summed]

    def combine(*data: te.Tensor) -> te.Tensor:
        k = {axis: te.reduce_axis((0, sizes[axis]), f"k{axis}") for axis in summed}

        def element(*at: Any) -> Any:
            place = {**dict(zip(kept, at, strict=True)), **k}
            factors = [
                tensor(
                    *(place[axis] if int(tensor.shape[n]) > 1 else 0 for n, axis in enumerate(axes))
                )
                for tensor, axes in zip(data, own, strict=True)
            ]
            product = factors[0] * factors[1] * factors[2]
            return te.sum(product, axis=list(k.values())) if k else product

        return te.compute([sizes[axis] for axis in kept], element)

    return call.compute(combine, a, b, c, name="trilinear")


def batch_norm_with_update(
    call: Call,
    x: Expr,
    weight: Expr | None,
    bias: Expr | None,
    running_mean: Expr,
    running_variance: Expr,
    momentum: float,
    epsilon: float,
) -> tuple[Expr, ...]:
    """Batch normalization in training: also mean and 1/deviation of each channel, nothing, and
    what the running mean and variance become."""
    shape = shape_of(x)
    axes = [axis for axis in range(len(shape)) if axis != 1]
    count = math.prod(shape[axis] for axis in axes)
    wide = _widened(call, x)
    centred, mean, inverse = standardized(call, wide, axes, epsilon)
    result = call.emit(relax.op.multiply(centred, inverse))
    per_channel = [1, -1, *[1] * (len(shape) - 2)]
    for factor, combine in ((weight, relax.op.multiply), (bias, relax.op.add)):
        if factor is not None:
            factor = relax.op.reshape(_widened(call, factor), per_channel)
            result = call.emit(combine(result, factor))
    squares = relax.op.sum(relax.op.multiply(centred, centred), axes)
    variance = relax.op.divide(squares, constant(count - 1, wide))
    mean, inverse = (call.emit(relax.op.reshape(each, [-1])) for each in (mean, inverse))

    def updated(running: Expr, new: Expr) -> Expr:
        kept = relax.op.multiply(_widened(call, running), constant(1 - momentum, wide))
        return relax.op.add(kept, relax.op.multiply(new, constant(momentum, wide)))

    nothing = relax.op.zeros([0], "uint8")
    return call.narrowed(
        result,
        mean,
        inverse,
        nothing,
        updated(running_mean, mean),
        updated(running_variance, variance),
    )


def rrelu(call: Call, x: Expr, noise: Expr, low: float, high: float, *_: Any) -> tuple[Expr, Expr]:
    """Outside training the slope of negative numbers is the middle of its range."""
    slope = relax.op.multiply(x, constant((low + high) / 2, x))
    positive = relax.op.greater_equal(x, constant(0, x))
    return relax.op.where(positive, x, slope), noise


OF_FLOATS = (
    *("exp", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "sigmoid", "erf"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh"),
    *("asinh", "acosh", "atanh"),
)
"""Functions that Relax has for floating-point numbers alone: of integers and booleans PyTorch
yields floating-point numbers."""


def gcd(call: Call, a: Expr, b: Expr) -> Expr:
    """The greatest common divisor by Euclid's algorithm, a loop for each pair of elements."""
    shape = call.sizes()
    pair = [call.emit(relax.op.broadcast_to(call.promoted(x), shape)) for x in (a, b)]
    if 0 in shape:
        return relax.op.zeros(shape, call.dtype)
    count = math.prod(shape)
    flat = [call.emit(relax.op.reshape(call.emit(relax.op.abs(x)), [count])) for x in pair]

    def loop(one: Any, other: Any, found: Any) -> Any:
        with IRBuilder() as builder:
            one, other, found = (T.buffer_proxy(buffer) for buffer in (one, other, found))
            with T.serial(0, count) as i:
                rest = T.buffer_proxy(T.decl_buffer([2], call.dtype, scope="local"))
                found[i] = one[i]
                rest[0] = other[i]
                with T.While(rest[0] != 0):
                    rest[1] = tirx.truncmod(found[i], rest[0])
                    found[i] = rest[0]
                    rest[0] = rest[1]
            return builder.get()

    def euclid(one: te.Tensor, other: te.Tensor) -> te.Tensor:
        return te.extern(
            [count], [one, other], lambda ins, outs: loop(*ins, *outs), "gcd", dtype=call.dtype
        )

    return relax.op.reshape(call.compute(euclid, *flat, name="gcd"), shape)


def lcm(call: Call, a: Expr, b: Expr) -> Expr:
    """The least common multiple; with 0 it is 0."""
    divisor = call.emit(gcd(call, a, b))
    one = call.emit(relax.op.maximum(divisor, relax.const(1, call.dtype)))
    part = relax.op.floor_divide(relax.op.abs(call.promoted(a)), one)
    return relax.op.multiply(call.emit(part), relax.op.abs(call.promoted(b)))


RULES: dict[str, Rule] = {
    "aten.gcd.default": gcd,
    "aten.lcm.default": lcm,
    "aten.exp2.default": widened(exp2),
    "aten.fmax.default": numbered(widened(partial(without_nan, relax.op.maximum))),
    "aten.fmin.default": numbered(widened(partial(without_nan, relax.op.minimum))),
    "aten.hypot.default": widened(hypot),
    "aten.div.Tensor_mode": div_mode,
    "aten.div.Scalar_mode": div_mode,
    "aten.bitwise_left_shift.Tensor": partial(shift, relax.op.left_shift),
    "aten.bitwise_right_shift.Tensor": partial(shift, relax.op.right_shift),
    "aten.__lshift__.Scalar": partial(shift, relax.op.left_shift),
    "aten.__rshift__.Scalar": partial(shift, relax.op.right_shift),
    "aten.__lshift__.Tensor": partial(shift, relax.op.left_shift),
    "aten.__rshift__.Tensor": partial(shift, relax.op.right_shift),
    "aten.ldexp.Tensor": widened(ldexp),
    "aten.where.self": where,
    "aten.clamp.default": clamp,
    "aten.clamp.Tensor": clamp,
    "aten.native_group_norm.default": along_axes(group_norm),
    "aten.addmm.default": addmm,
    "aten.addmv.default": addmm,
    "aten.addbmm.default": widened(addbmm),
    "aten._int_mm.default": int_mm,
    "aten._grouped_mm.default": grouped_mm,
    "transformers.grouped_mm_fallback.default": grouped_mm,
    "aten._cdist_forward.default": widened(cdist),
    "aten.dist.default": widened(dist),
    "aten._pdist_forward.default": widened(pdist),
    "aten.linalg_vector_norm.default": along_axes(vector_norm, of_nothing=0),
    "aten._trilinear.default": widened(trilinear),
    "aten._batch_norm_with_update_functional.default": batch_norm_with_update,
    "aten.rrelu_with_noise_functional.default": widened(rrelu),
    **{f"aten.{name}.default": in_floats for name in OF_FLOATS},
}
