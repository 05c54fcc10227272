"""What is divided by a measure of its own size."""

from __future__ import annotations

from tvm import relax

from tapml_nb.frontends.onnx.rules.call import (
    NARROW,
    Call,
    Expr,
    Rule,
    cast,
    constant,
    dtype_of,
    shape_of,
    wide,
)


def lp_normalization(call: Call, x: Expr) -> Expr:
    """Each row by the sum of its magnitudes, or the root of its squares; 0 where that is 0.

    Raises:
        ValueError: where onnx's reference implementation, the source of what is narrow, sums up
            without magnitudes.
    """
    given, axis, p = dtype_of(x), call.attributes["axis"], call.attributes["p"]
    if p == 1 and given in NARROW:
        raise ValueError(f"magnitudes of {given}, which onnx's reference implementation leaves out")
    x = call.emit(wide(x))
    parts = relax.op.abs(x) if p == 1 else relax.op.multiply(x, x)
    size = call.emit(relax.op.sum(call.emit(parts), axis, True))
    if p == 2:
        size = call.emit(relax.op.sqrt(size))
    nothing = call.emit(relax.op.equal(size, constant(0.0, size)))
    size = call.emit(relax.op.where(nothing, constant(1.0, size), size))
    result = call.emit(relax.op.divide(x, size))
    return cast(call.emit(relax.op.where(nothing, constant(0.0, result), result)), given)


def rms_normalization(call: Call, x: Expr, scale: Expr) -> Expr:
    """Divided by the root of the mean square of all axes from one on, and scaled."""
    given = dtype_of(x)
    rank = len(shape_of(x))
    axes = list(range(call.attributes["axis"] % rank, rank))
    x, scale = call.emit(wide(x)), call.emit(wide(scale))
    mean = call.emit(relax.op.mean(call.emit(relax.op.multiply(x, x)), axes, True))
    size = relax.op.sqrt(relax.op.add(mean, constant(call.attributes["epsilon"], mean)))
    result = relax.op.multiply(relax.op.divide(x, call.emit(size)), scale)
    return cast(call.emit(result), given)


RULES: dict[str, Rule] = {
    "LpNormalization": lp_normalization,
    "RMSNormalization": rms_normalization,
}
