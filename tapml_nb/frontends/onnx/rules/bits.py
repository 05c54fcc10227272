"""The same bits as another dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, te, tirx

from tapml_nb.array_api import np_dtype
from tapml_nb.frontends.onnx.rules.call import Call, Expr, Rule, dtype_of


def bit_cast(call: Call, x: Expr) -> Expr:
    """The bits of each element as another dtype's; booleans are bytes.

    Raises:
        ValueError: if the dtypes differ in width, or an element is less than a byte.
    """
    spec = call.gives[0]
    assert spec is not None
    before, after = dtype_of(x), spec.dtype
    if np_dtype(before).itemsize != np_dtype(after).itemsize:
        raise ValueError(f"{before} as {after}")
    if before == after:
        return x
    if "bool" in (before, after):
        x = call.emit(relax.op.astype(x, "uint8")) if before == "bool" else x
        if after == "bool":
            return relax.op.not_equal(x, relax.const(np.zeros((), before), before))
        before = "uint8"
    if before == after:
        return x

    def turn(data: te.Tensor) -> te.Tensor:
        def element(*at: Any) -> Any:
            return tirx.reinterpret(after, data(*at))

        return te.compute(data.shape, element, "bits")

    return call.compute(turn, x, name="bit_cast")


RULES: dict[str, Rule] = {"BitCast": bit_cast}
