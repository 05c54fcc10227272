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

from tapml_nb.frontends.torch.rules.call import Call, Expr
from tapml_nb.frontends.torch.rules.operands import broadcast

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

    places = 2 * len(begin(*(tirx.Var(f"x{k}", dtype) for k in range(len(operands)))))

    # All of it is one PrimFunc: TVM does not fuse what has buffers of its own with its neighbours.
    def compute(*tensors: te.Tensor) -> te.Tensor:
        def element(tensor: te.Tensor) -> Callable[[Any], Any]:
            return lambda i: tirx.Cast(dtype, broadcast(tensor, unravel_index(i, shape)))

        flat = [te.compute([size], element(tensor)) for tensor in tensors]
        made = te.extern(
            [(size,)] * (1 + places), flat, build, dtype=[dtype] * (1 + places), name=name
        )

        def back(*at: Any) -> Any:
            return tirx.Cast(call.dtype, made[0](ravel_index(at, shape)))

        return te.compute(shape, back)

    return call.compute(compute, *operands, name=name)


def unravel_index(flat: Any, shape: Sequence[int]) -> list[Any]:
    """The place along each axis of an element by its number."""
    places: list[Any] = []
    for size in reversed(shape):
        places.append(flat % size)
        flat = flat // size
    return places[::-1]


def ravel_index(places: Sequence[Any], shape: Sequence[int]) -> Any:
    """The number of an element by its place along each axis."""
    flat: Any = 0
    for place, size in zip(places, shape, strict=True):
        flat = flat * size + place
    return flat
