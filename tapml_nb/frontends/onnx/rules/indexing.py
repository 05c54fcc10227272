"""What is looked up, and where."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import te, tirx

from tapml_nb.frontends.onnx.rules.call import Call, Expr, Rule, shape_of


def one_hot(call: Call, indices: Expr, depth: Expr, values: Expr) -> Expr:
    """One value where an index is, another elsewhere; indices that are out of range are nowhere.

    Raises:
        ValueError: if depth or values are not known.
    """
    if not all(isinstance(known, tvm.ir.GenericConst) for known in (depth, values)):
        raise ValueError("depth or values are known only at run time")
    count, pair = (known.value.numpy().reshape(-1) for known in (depth, values))
    size, (off, on) = int(count[0]), pair
    rank = len(shape_of(indices)) + 1
    axis = call.attributes["axis"] % rank

    def choose(index: te.Tensor) -> te.Tensor:
        shape = list(index.shape)

        def element(*at: Any) -> Any:
            own = index(*at[:axis], *at[axis + 1 :])
            place = tirx.Cast(index.dtype, at[axis])
            here = tirx.any(own == place, own + tirx.const(size, index.dtype) == place)
            return tirx.Select(here, _number(on), _number(off))

        return te.compute([*shape[:axis], size, *shape[axis:]], element)

    return call.compute(choose, indices, name="one_hot")


def _number(value: np.generic) -> Any:
    return tirx.const(value.item(), value.dtype.name)


RULES: dict[str, Rule] = {"OneHot": one_hot}
