"""Functions of each element that are computed step by step: recurrences and sums.

How many steps there are an element's own values tell, so they are a loop in a PrimFunc.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from tapml_nb.frontends.torch.rules.call import Call, Expr, cast, dtype_of

Numbers = Sequence[Any]


def iterated(
    call: Call,
    begin: Callable[..., Numbers],
    count: Callable[..., Any],
    step: Callable[[Any, Numbers, Numbers], Numbers],
    end: Callable[[Numbers, Numbers], Any],
    *operands: Expr,
    name: str,
) -> Expr:
    """What steps make of each element of operands, which are broadcast, in the dtype that PyTorch
    computes in.

    Args:
        call: the call.
        begin: the state at first, of the operands' elements.
        count: how many steps there are, an int32, of the same.
        step: the next state, of the step's number from 0, the state and the elements.
        end: the result, of the state and the elements.
        operands: tensors, bound.
        name: the PrimFunc's name.
    """
    shape = [int(size) for size in call.values[0].shape]
    size = math.prod(shape)
    if not size:
        return relax.op.zeros(shape, call.dtype)
    flat = []
    for operand in operands:
        wide = call.emit(cast(operand, call.wide))
        wide = call.emit(relax.op.broadcast_to(wide, shape))
        flat.append(call.emit(relax.op.reshape(wide, [size])))
    dtype = call.wide

    def build(inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        with IRBuilder() as ib:
            data = [T.buffer_proxy(buffer) for buffer in inputs]
            result, *places = (T.buffer_proxy(buffer) for buffer in outputs)
            state, following = places[: len(places) // 2], places[len(places) // 2 :]
            with T.parallel(0, size) as i:
                values = [one[i] for one in data]
                for buffer, first in zip(state, begin(*values), strict=True):
                    buffer[i] = first
                with T.serial(0, count(*values)) as k:
                    # All of the state is read before any of it is written.
                    found = step(k, [buffer[i] for buffer in state], values)
                    for buffer, new in zip(following, found, strict=True):
                        buffer[i] = new
                    for buffer, new in zip(state, following, strict=True):
                        buffer[i] = new[i]
                result[i] = end([buffer[i] for buffer in state], values)
            return ib.get()

    places = 2 * len(begin(*(tirx.Var(f"x{k}", dtype) for k in range(len(flat)))))

    def compute(*tensors: te.Tensor) -> te.Tensor:
        made = te.extern(
            [tensors[0].shape] * (1 + places),
            list(tensors),
            build,
            dtype=[dtype] * (1 + places),
            name=name,
        )
        return made[0]

    found = call.compute(compute, *flat, name=name)
    assert dtype_of(found) == dtype
    return cast(call.emit(relax.op.reshape(found, shape)), call.dtype)
