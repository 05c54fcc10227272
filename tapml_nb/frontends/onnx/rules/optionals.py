"""Tensors that may be there or not: whether one is, its model knows before it runs."""

from __future__ import annotations

import numpy as np
from tvm import relax

from tapml_nb.frontends.onnx.rules.call import Call, Expr, Rule


def has_element(call: Call, x: Expr | None = None) -> Expr:
    return relax.const(np.array(x is not None), "bool")


def get_element(call: Call, x: Expr) -> Expr:
    return x


RULES: dict[str, Rule] = {"OptionalGetElement": get_element, "OptionalHasElement": has_element}
