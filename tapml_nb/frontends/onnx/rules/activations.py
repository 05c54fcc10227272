"""Functions of each element that the importer has only for float32."""

from __future__ import annotations

from tvm import relax

from tapml_nb.frontends.onnx.rules.call import Call, Expr, Rule, cast, constant, dtype_of, wide


def celu(call: Call, x: Expr) -> Expr:
    """An exponential below 0 that goes on smoothly whatever ``alpha`` is."""
    given, x = dtype_of(x), call.emit(wide(x))
    alpha, zero = constant(call.attributes["alpha"], x), constant(0.0, x)
    above = call.emit(relax.op.greater(x, zero))
    # No minimum, which loses NaN.
    powers = relax.op.exp(relax.op.divide(relax.op.where(above, zero, x), alpha))
    below = relax.op.multiply(alpha, relax.op.subtract(powers, constant(1.0, x)))
    return cast(call.emit(relax.op.where(above, x, below)), given)


RULES: dict[str, Rule] = {"Celu": celu}
