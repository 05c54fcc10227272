"""Determinants of matrices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from tapml_nb.frontends.onnx.rules.call import (
    Call,
    Expr,
    Rule,
    cast,
    constant,
    dtype_of,
    shape_of,
    wide,
)

_MOST = 128
"""Rows of the largest matrix, of which one is eliminated at each step."""


def det(call: Call, x: Expr) -> Expr:
    """The product of the pivots of Gauss's elimination, each the largest of its column.

    Raises:
        ValueError: for matrices that are too large.
    """
    given, (*batch, size, _) = dtype_of(x), shape_of(x)
    if not 0 < size <= _MOST:
        raise ValueError(f"a determinant of {size} rows, and it takes 1 to {_MOST}")
    a = call.emit(relax.op.reshape(call.emit(wide(x)), [math.prod(batch), size, size]))
    rows = relax.const(np.arange(size, dtype=np.int32))
    result: Expr | None = None
    for number in range(size):
        # The step is an input, so that all steps share their kernels.
        k = relax.const(np.int32(number))
        column = call.emit(relax.op.abs(call.emit(relax.op.take(a, k, 2, mode="clip"))))
        left = call.emit(relax.op.greater_equal(rows, k))
        column = call.emit(relax.op.where(left, column, constant(-1.0, column)))
        row = call.emit(relax.op.astype(call.emit(relax.op.argmax(column, 1)), "int32"))
        pivot = call.compute(_pivot, a, row, k, name="pivot")
        result = pivot if result is None else call.emit(relax.op.multiply(result, pivot))
        a = call.compute(_eliminated, a, row, k, name="eliminate")
    return cast(call.emit(relax.op.reshape(result, batch)), given)


def _pivot(a: te.Tensor, row: te.Tensor, k: te.Tensor) -> te.Tensor:
    """The element of a column that is in the chosen row; its sign turns with an exchange."""

    def element(b: Any) -> Any:
        value = a(b, row(b), k())
        return tirx.Select(row(b) == k(), value, -value)

    return te.compute((a.shape[0],), element)


def _eliminated(a: te.Tensor, row: te.Tensor, k: te.Tensor) -> te.Tensor:
    """Rows exchanged, and what stands below the pivot taken away."""
    nothing = tirx.const(0.0, a.dtype)

    def element(b: Any, i: Any, j: Any) -> Any:
        chosen, step, own = row(b), k(), tirx.Cast("int32", i)
        here = tirx.Select(own == step, chosen, tirx.Select(own == chosen, step, own))
        pivot = a(b, chosen, step)
        share = tirx.Select(pivot == nothing, nothing, a(b, here, step) / pivot)
        value = a(b, here, j)
        return tirx.Select(own > step, value - share * a(b, chosen, j), value)

    return te.compute(a.shape, element)


RULES: dict[str, Rule] = {"Det": det}
