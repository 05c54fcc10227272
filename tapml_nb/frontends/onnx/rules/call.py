"""One ONNX node on its way to Relax: what a rule of ours is given, and what it may use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tapml_nb.frontends.onnx.carriers import carried
from tapml_nb.frontends.onnx.model import OnnxNode
from tapml_nb.graph import TensorSpec

Expr = Any
"""A ``relax.Expr``."""

NARROW = ("float16", "bfloat16")
"""Dtypes that are computed in float32, and rounded once."""

Rule = Callable[..., Any]
"""A function of a :class:`Call` and of the node's inputs in the order of its schema, None for those
left out.  It returns a Relax expression, or a tuple of them for a node with several outputs."""


@dataclass(frozen=True)
class Call:
    """A node whose inputs are Relax expressions.

    Attributes:
        node: the node.
        builder: what binds expressions.
        attributes: the node's attributes by name, defaults filled in.
        takes: shape and dtype of its inputs in the order of its schema, None for those left out.
        gives: the same of its outputs, as the source has made them: what a rule may know of sizes
            that values decide, and all it may.
    """

    node: OnnxNode
    builder: relax.BlockBuilder
    attributes: Mapping[str, Any]
    takes: Sequence[TensorSpec | None] = ()
    gives: Sequence[TensorSpec | None] = ()

    def emit(self, expr: Expr) -> Expr:
        """Bind an expression, so that its shape and dtype are known."""
        return self.builder.emit(expr)

    def compute(self, function: Callable[..., Any], *tensors: Expr, name: str) -> Expr:
        """Bind what a function of tensor expressions computes, as a PrimFunc called ``name``."""
        return self.builder.emit_te(function, *tensors, primfunc_name_hint=name)

    def wants(self, output: int) -> bool:
        """Whether the node has an output at this place."""
        names = self.node.proto.output
        return output < len(names) and bool(names[output])


def build(
    rule: Rule,
    node: OnnxNode,
    inputs: Mapping[str, np.ndarray],
    baked: Mapping[str, np.ndarray],
    gives: Mapping[str, TensorSpec],
) -> Any:
    """An ``IRModule`` whose ``main`` computes the node's outputs by a rule.

    Arguments are those of :func:`tapml_nb.frontends.onnx.units.build_module`.

    Raises:
        Exception: whatever the rule raises.
    """
    builder = relax.BlockBuilder()
    params = [
        relax.Var(f"p{k}", relax.TensorType(array.shape, carried(array).dtype.name))
        for k, array in enumerate(inputs.values())
    ]
    given: dict[str, Expr] = dict(zip(inputs, params, strict=True))
    given |= {name: _literal(array) for name, array in baked.items()}
    specs = {
        name: TensorSpec(tuple(array.shape), array.dtype.name)
        for name, array in (*inputs.items(), *baked.items())
        if array is not None
    }
    with builder.function("main", params):
        with builder.dataflow():
            call = Call(
                node,
                builder,
                node.attributes(),
                [specs.get(name) for name in node.proto.input],
                [gives.get(name) for name in node.proto.output],
            )
            made = rule(call, *(given[name] if name else None for name in node.proto.input))
            results = made if isinstance(made, tuple) else (made,)
            wanted = [
                call.emit(result)
                for name, result in zip(node.proto.output, results, strict=False)
                if name
            ]
            result = wanted[0] if len(wanted) == 1 else relax.Tuple(wanted)
            result = builder.emit_output(result)
        builder.emit_func_output(result)
    return relax.transform.DeadCodeElimination()(builder.get())


def _literal(array: np.ndarray | None) -> Expr | None:
    """A number of the node's; None for an optional without a value."""
    return None if array is None else relax.const(carried(array), carried(array).dtype.name)


def numbers(tensor: Expr) -> np.ndarray:
    """The numbers of an input that is part of the node.

    Raises:
        ValueError: if they are known only at run time.
    """
    if not isinstance(tensor, tvm.ir.GenericConst):
        raise ValueError("numbers that are known only at run time")
    return np.asarray(tensor.value.numpy())


def dtype_of(tensor: Expr) -> str:
    """The dtype's name of a bound expression."""
    return str(tensor.ty.dtype)


def shape_of(tensor: Expr) -> list[int]:
    """The sizes of a bound expression."""
    return [int(size) for size in tensor.ty.shape]


def constant(value: float, like: Expr) -> Expr:
    """A scalar of another tensor's dtype."""
    return relax.const(value, dtype_of(like))


def cast(tensor: Expr, dtype: str) -> Expr:
    """A tensor in another dtype; itself where it has that."""
    return tensor if dtype_of(tensor) == dtype else relax.op.astype(tensor, dtype)


def wide(tensor: Expr) -> Expr:
    """A tensor as it is computed with: what is narrower than float32 as that."""
    return cast(tensor, "float32") if dtype_of(tensor) in NARROW else tensor
