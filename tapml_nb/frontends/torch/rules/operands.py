"""What is done to a call's operands before a rule has them, and to its results behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from tvm import relax, te

from tapml_nb.frontends.torch.rules.call import (
    NARROW,
    Call,
    Expr,
    Rule,
    cast,
    dtype_name,
    dtype_of,
    is_floating,
    is_open,
    literal,
    numeric,
)


def in_floats(call: Call, *_: Any) -> Any:
    """TVM's own rule on operands of the floating-point dtype that PyTorch computes in, where they
    are integers or booleans."""
    return call.by_tvm(
        {
            node: call.promoted(tensor)
            for node, tensor in call.operands.items()
            if not is_floating(dtype_of(tensor))
        }
    )


def in_float32(call: Call, *_: Any) -> Any:
    """TVM's own rule on floating-point operands widened to float32, its results narrowed again."""
    return _as_pytorch_yields(
        call,
        call.by_tvm(
            {
                node: call.emit(cast(tensor, "float32"))
                for node, tensor in call.operands.items()
                if is_floating(dtype_of(tensor))
            }
        ),
    )


def in_numbers(call: Call, *_: Any) -> Any:
    """TVM's own rule on booleans as the numbers that PyTorch takes them for; masks among indices
    stay as they are."""
    return _as_pytorch_yields(
        call,
        call.by_tvm(
            {
                node: call.emit(cast(tensor, numeric(call.dtype)))
                for node, tensor in call.operands.items()
                if node in call.node.args and dtype_of(tensor) == "bool"
            }
        ),
    )


def _as_pytorch_yields(call: Call, result: Any) -> Any:
    """What TVM's rule made of other operands, in the dtypes that PyTorch gives the results."""
    if isinstance(result, relax.Expr) and isinstance(result.ty, relax.TensorType):
        return cast(result, call.dtype)  # of what yields several, TVM may give the first alone
    return call.narrowed(*(result[k] for k in range(len(call.node.meta["val"]))))


def on_an_axis(call: Call, *_: Any) -> Any:
    """TVM's own rule on numbers that have an axis of 1, which its operations need."""
    result = call.by_tvm(
        {
            node: _with_axis(call, tensor)
            for node, tensor in call.operands.items()
            if not len(tensor.ty.shape)
        }
    )
    if isinstance(call.node.meta["val"], torch.Tensor):
        return _without_axis(call, result, call.values[0])
    return tuple(_without_axis(call, result[k], v) for k, v in enumerate(call.values))


def widened(rule: Rule) -> Rule:
    """A rule of ours with float16 and bfloat16 in float32, as PyTorch computes them: it rounds
    its results once."""
    return _computed_in("float32", NARROW, rule)


def numbered(rule: Rule) -> Rule:
    """A rule of ours with booleans as integers, for TVM does not compute with booleans."""
    return _computed_in("int32", ("bool",), rule)


def _computed_in(dtype: str, instead_of: Sequence[str], rule: Rule) -> Rule:
    """A rule with tensors of some dtypes in another; its results have PyTorch's dtypes."""

    def concerns(argument: Any) -> bool:
        return isinstance(argument, relax.Expr) and dtype_of(argument) in instead_of

    def convert(call: Call, *arguments: Any) -> Any:
        if not any(map(concerns, arguments)):
            return rule(call, *arguments)
        result = rule(call, *(call.emit(cast(a, dtype)) if concerns(a) else a for a in arguments))
        if isinstance(result, tuple):
            return call.narrowed(*result)
        return cast(call.emit(result), call.dtype)

    return convert


def elementwise(call: Call, function: Callable[..., Any], *tensors: Expr, name: str) -> Expr:
    """A function of numbers, of each element; tensors are broadcast, and bound already."""
    shapes = [tensor.ty.shape for tensor in tensors]
    rank = max(map(len, shapes))
    aligned = [[1] * (rank - len(shape)) + list(shape) for shape in shapes]
    result = [next((n for n in ns if not _is_one(n)), 1) for ns in zip(*aligned, strict=True)]

    def compute(*data: te.Tensor) -> te.Tensor:
        def element(*at: Any) -> Any:
            return function(*(broadcast(tensor, at) for tensor in data))

        return te.compute(result, element)

    return call.compute(compute, *tensors, name=name)


def broadcast(tensor: te.Tensor, at: Sequence[Any]) -> Any:
    """The element of a tensor that broadcasting puts at a place."""
    own = at[len(at) - len(tensor.shape) :]
    return tensor(*(0 if _is_one(n) else i for n, i in zip(tensor.shape, own, strict=True)))


def _is_one(size: Any) -> bool:
    return not is_open(size) and int(size) == 1


def along_axes(rule: Rule, of_nothing: float | None = None) -> Rule:
    """A rule of ours that works along axes, on tensors without dimensions or elements as well.

    In PyTorch a number has one axis of 1 for such calls.  Of nothing comes nothing, or, where all
    elements along an axis become one, ``of_nothing``.
    """

    def convert(call: Call, *arguments: Any) -> Any:
        values = call.values
        tensors = [a for a in arguments if isinstance(a, relax.Expr)]
        sizes = [size for value in values for size in value.shape]
        if all(isinstance(size, int) for size in sizes):
            nothing = any(_is_nothing(size) for size in tensors[0].ty.shape)
            filled = of_nothing if nothing and of_nothing is not None else None
            if filled is not None or all(0 in value.shape for value in values):
                results = [_full(call, value, filled or 0) for value in values]
                return results[0] if len(results) == 1 else tuple(results)
        if all(len(tensor.ty.shape) for tensor in tensors):
            return rule(call, *arguments)
        result = rule(call, *(_with_axis(call, a) for a in arguments))
        if not isinstance(result, tuple):
            return _without_axis(call, result, values[0])
        return tuple(_without_axis(call, r, v) for r, v in zip(result, values, strict=True))

    return convert


def _is_nothing(size: Any) -> bool:
    return not is_open(size) and int(size) == 0


def _full(call: Call, value: torch.Tensor, number: float) -> Expr:
    filled = call.emit(literal(np.full(value.shape, number), "float32"))
    return cast(filled, dtype_name(value.dtype))


def _with_axis(call: Call, argument: Any) -> Any:
    if not isinstance(argument, relax.Expr) or len(argument.ty.shape):
        return argument
    return call.emit(relax.op.reshape(argument, [1]))


def _without_axis(call: Call, result: Expr, value: torch.Tensor) -> Expr:
    return result if value.dim() else relax.op.reshape(call.emit(result), [])
