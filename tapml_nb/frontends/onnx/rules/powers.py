"""Powers, products along an axis, and the largest and smallest of booleans."""

from __future__ import annotations

from typing import Any

from tvm import relax

from tapml_nb.frontends.onnx.rules.call import Call, Expr, Rule, cast, dtype_of, numbers, shape_of

_BITS = 6
"""Bits of an exponent that count where integers are raised: beyond, all overflow but 0, 1, -1."""


def power(call: Call, x: Expr, y: Expr) -> Expr:
    """A power, in the dtype of what is raised.  An integer that is raised to a floating-point
    number is raised in float64, or 5 to the third might be 124."""
    base, exponent = dtype_of(x), dtype_of(y)
    if _is_integer(base) and _is_integer(exponent):
        return _product(call, x, y)
    wide = "float64" if _is_integer(base) or "float64" in (base, exponent) else "float32"
    raised = relax.op.power(call.emit(cast(x, wide)), call.emit(cast(y, wide)))
    return cast(call.emit(raised), base)


def _product(call: Call, x: Expr, y: Expr) -> Expr:
    """A power of integers by squaring, modulo the width of what is raised; a negative exponent
    leaves nothing of any but 1 and -1."""
    base, exponent = dtype_of(x), dtype_of(y)
    one, zero = relax.const(1, base), relax.const(0, base)
    first, none = relax.const(1, exponent), relax.const(0, exponent)
    odd = call.emit(relax.op.not_equal(relax.op.bitwise_and(y, first), none))
    result, factor, bits = relax.op.where(odd, x, one), x, y
    for _ in range(_BITS - 1):
        bits = call.emit(relax.op.right_shift(bits, first))
        factor = call.emit(relax.op.multiply(factor, factor))
        taken = relax.op.not_equal(relax.op.bitwise_and(bits, first), none)
        result = call.emit(result)
        result = relax.op.where(taken, relax.op.multiply(result, factor), result)
    if exponent.startswith("uint"):
        return result
    sign = zero if base.startswith("uint") else relax.const(-1, base)
    ends = relax.op.equal(x, one)
    if not base.startswith("uint"):
        ends = relax.op.logical_or(ends, relax.op.equal(x, sign))
    kept = relax.op.where(relax.op.logical_and(ends, odd), x, relax.op.where(ends, one, zero))
    return relax.op.where(relax.op.less(y, none), kept, call.emit(result))


def _is_integer(dtype: str) -> bool:
    return dtype.startswith(("int", "uint"))


def cumulative_product(call: Call, x: Expr, axis: Expr) -> Expr:
    """The product of all elements up to each one, or before it (``exclusive``), from either end."""
    dtype = dtype_of(x)
    wide = "float32" if dtype in ("float16", "bfloat16") else dtype
    along = int(numbers(axis).reshape(-1)[0]) % len(shape_of(x))
    turned = bool(call.attributes.get("reverse"))
    x = call.emit(cast(x, wide))
    if turned:
        x = call.emit(relax.op.flip(x, along))
    exclusive = bool(call.attributes.get("exclusive"))
    made = call.emit(relax.op.cumprod(x, along, wide, exclusive=exclusive))
    return cast(call.emit(relax.op.flip(made, along)) if turned else made, dtype)


def _of_bytes(reduce: Any) -> Rule:
    """A rule for a reduction of booleans, which a target reduces as bytes."""

    def rule(call: Call, x: Expr, axes: Expr | None = None) -> Expr:
        if dtype_of(x) != "bool":
            raise ValueError(f"a reduction of {dtype_of(x)}")
        told: Any = call.attributes.get("axes") if axes is None else numbers(axes).tolist()
        if not told and call.attributes.get("noop_with_empty_axes"):
            return x
        keeps = bool(call.attributes.get("keepdims", 1))
        made = reduce(call.emit(relax.op.astype(x, "uint8")), told or None, keeps)
        return relax.op.astype(call.emit(made), "bool")

    return rule


RULES: dict[str, Rule] = {
    "CumProd": cumulative_product,
    "Pow": power,
    "ReduceMax": _of_bytes(relax.op.max),
    "ReduceMin": _of_bytes(relax.op.min),
}
