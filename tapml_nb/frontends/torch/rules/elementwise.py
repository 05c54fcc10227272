"""Functions of one element, or of two."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tvm import relax

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


def of_floats(function: Callable[[Expr], Expr], call: Call, x: Expr) -> Expr:
    """A function that Relax has for floating-point numbers alone: PyTorch converts integers."""
    return function(relax.op.astype(x, call.dtype))


def exp2(call: Call, x: Expr) -> Expr:
    return relax.op.power(constant(2.0, x), x)


def without_nan(choose: Callable[[Expr, Expr], Expr], call: Call, a: Expr, b: Expr) -> Expr:
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
    power = relax.op.power(relax.const(2.0, call.dtype), call.promoted(b))
    return relax.op.multiply(call.promoted(a), power)


def where(call: Call, condition: Expr, a: Expr, b: Expr) -> Expr:
    """Operands of different dtypes, which PyTorch promotes."""
    return relax.op.where(condition, cast(a, call.dtype), cast(b, call.dtype))


def clamp(call: Call, x: Expr, low: Expr | float | None, high: Expr | float | None) -> Expr:
    """Bounds of another dtype, which PyTorch promotes."""
    x = call.promoted(x)
    for bound, choose in ((low, relax.op.maximum), (high, relax.op.minimum)):
        if bound is not None:
            x = call.emit(choose(x, call.promoted(bound)))
    return x


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
    """Group normalization where scale or shift is missing; also yields mean and 1/deviation."""
    wide = call.emit(relax.op.reshape(cast(x, "float32"), [batch, groups, -1]))
    mean = call.emit(relax.op.mean(wide, -1, True))
    centred = call.emit(relax.op.subtract(wide, mean))
    variance = relax.op.mean(relax.op.multiply(centred, centred), -1, True)
    inverse = call.emit(relax.op.rsqrt(relax.op.add(variance, relax.const(epsilon, "float32"))))
    result = relax.op.reshape(relax.op.multiply(centred, inverse), shape_of(x))
    per_channel = [1, channels, *[1] * (len(shape_of(x)) - 2)]
    if weight is not None:
        scale = relax.op.reshape(cast(weight, "float32"), per_channel)
        result = relax.op.multiply(result, scale)
    if bias is not None:
        result = relax.op.add(result, relax.op.reshape(cast(bias, "float32"), per_channel))
    rows = [batch, groups]
    return (
        cast(call.emit(result), dtype_of(x)),
        relax.op.reshape(mean, rows),
        relax.op.reshape(inverse, rows),
    )


RULES: dict[str, Rule] = {
    "aten.exp2.default": exp2,
    "aten.fmax.default": partial(without_nan, relax.op.maximum),
    "aten.fmin.default": partial(without_nan, relax.op.minimum),
    "aten.hypot.default": hypot,
    "aten.div.Tensor_mode": div_mode,
    "aten.div.Scalar_mode": div_mode,
    "aten.bitwise_left_shift.Tensor": partial(shift, relax.op.left_shift),
    "aten.bitwise_right_shift.Tensor": partial(shift, relax.op.right_shift),
    "aten.__lshift__.Scalar": partial(shift, relax.op.left_shift),
    "aten.__rshift__.Scalar": partial(shift, relax.op.right_shift),
    "aten.__lshift__.Tensor": partial(shift, relax.op.left_shift),
    "aten.__rshift__.Tensor": partial(shift, relax.op.right_shift),
    "aten.ldexp.Tensor": ldexp,
    "aten.where.self": where,
    "aten.clamp.Tensor": clamp,
    "aten.native_group_norm.default": group_norm,
    **{
        f"aten.{name}.default": partial(of_floats, getattr(relax.op, name))
        for name in ("exp", "log", "sin", "cos", "tan", "tanh", "sigmoid", "erf", "sqrt", "rsqrt")
    },
}
