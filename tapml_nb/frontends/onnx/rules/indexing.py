"""What is looked up, and where."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from onnx.helper import tensor_dtype_to_np_dtype
from tvm import te, tirx

from tapml_nb.frontends.onnx.rules.call import Call, Expr, Rule, dtype_of, shape_of


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


def reverse_sequence(call: Call, x: Expr, lengths: Expr) -> Expr:
    """Each sequence of a batch, reversed up to its length."""
    time, batch = call.attributes["time_axis"], call.attributes["batch_axis"]

    def reverse(data: te.Tensor, count: te.Tensor) -> te.Tensor:
        def element(*at: Any) -> Any:
            place = list(at)
            length = tirx.Cast("int32", count(at[batch]))
            place[time] = tirx.Select(at[time] < length, length - 1 - at[time], at[time])
            return data(*place)

        return te.compute(data.shape, element)

    return call.compute(reverse, x, lengths, name="reverse_sequence")


def eye_like(call: Call, x: Expr) -> Expr:
    """Ones on a diagonal, in another dtype than that of the tensor which tells the shape."""
    to = call.attributes.get("dtype")
    dtype = dtype_of(x) if to is None else tensor_dtype_to_np_dtype(to).name
    rows, columns = shape_of(x)
    k = call.attributes["k"]

    def diagonal() -> te.Tensor:
        one, zero = tirx.const(1, dtype), tirx.const(0, dtype)
        return te.compute((rows, columns), lambda i, j: tirx.Select(i + k == j, one, zero))

    return call.compute(diagonal, name="eye_like")


def _number(value: np.generic) -> Any:
    return tirx.const(value.item(), value.dtype.name)


RULES: dict[str, Rule] = {
    "EyeLike": eye_like,
    "OneHot": one_hot,
    "ReverseSequence": reverse_sequence,
}
