"""One Relax operator as a function of its own, for the shapes that it met."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import tvm
from tvm import relax

from tapml_nb.frontends.relax.anatomy import RelaxOp, called, is_size, is_tensor, substitute
from tapml_nb.frontends.relax.exact import NARROW, decomposed
from tapml_nb.graph import TensorSpec, ValueId

_FLOAT = re.compile(r"\b(float32|float16|bfloat16)\b")


def build_module(
    module: Any,
    op: RelaxOp,
    variables: Mapping[ValueId, Any],
    values: Mapping[ValueId, Any],
    *,
    exact: bool = False,
) -> Any:
    """An ``IRModule`` whose ``main`` computes the operator.

    Args:
        module: where the functions are that it calls.
        op: the operator.
        variables: the Relax variables of its inputs.
        values: what they are: a :class:`TensorSpec`, a tuple of sizes, a number; anything else
            is an object of the virtual machine.
        exact: whether for a float64 run, so without operations that TVM has in float32 alone;
            the result is None where that cannot be.

    Its parameters are ``p0``, ``p1``, …: tensors and objects in order; sizes are written out.
    """
    params: list[Any] = []
    mapping: dict[Any, Any] = {}
    for key in op.inputs:
        var, value = variables[key], values[key]
        if isinstance(value, TensorSpec):
            new = relax.Var(f"p{len(params)}", relax.TensorType(value.shape, value.dtype))
        elif isinstance(value, tuple):
            new = relax.ShapeExpr(value)
        elif is_size(var):
            new = value
        else:
            new = relax.Var(f"p{len(params)}", relax.AnyType())
        mapping[var] = new
        if isinstance(new, tvm.ir.Var):
            params.append(new)
    expr = substitute(op.expr, op.ty, mapping)
    pure = not relax.analysis.contains_impure_call(
        relax.Function(params, relax.SeqExpr([], expr), expr.ty, is_pure=False)
    )
    if exact and not NARROW.isdisjoint(op.primitives):
        expr = decomposed(expr) if op.kind in NARROW else None
        if expr is None:
            return None
    builder = relax.BlockBuilder()
    functions = called(module, expr)
    with builder.function("main", params, pure=pure):
        if pure:
            with builder.dataflow():
                result = builder.emit_output(builder.emit(expr, "r"), "o")
        else:
            result = builder.emit(expr, "r")
        builder.emit_func_output(result)
    return tvm.IRModule({"main": builder.get()["main"], **functions})


def specialized(module: Any) -> Any:
    """The same with its PrimFuncs for the very shapes that they are called with, as far as TVM
    can do that; and without functions that only stand for their bodies."""
    passes = (
        relax.transform.InlinePrivateFunctions(),
        relax.transform.SpecializePrimFuncBasedOnCallSite(),
    )
    for apply in passes:
        try:
            module = apply(module)
        except Exception:  # then it is compiled as it is, or its compiler says why it cannot be
            continue
    return module


def widened(module: Any) -> Any:
    """The same in float64, every floating-point dtype in it.

    TVM has no pass for it, but a parser: this goes by the module's script.

    Raises:
        Exception: whatever the parser says of what TVM has printed.
    """
    return tvm.script.from_source(_FLOAT.sub("float64", module.script(show_meta=True)))


def last_line(error: BaseException) -> str:
    """The last line of an error that says something: TVM puts its message below its trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]


def result_types(module: Any) -> list[Any]:
    """The types of what ``main`` returns, tuples dissolved."""
    waiting, found = [module["main"].ret_ty], []
    while waiting:
        ty = waiting.pop()
        if isinstance(ty, relax.TupleType):
            waiting.extend(reversed(ty.fields))
        else:
            found.append(ty)
    return found


def only_tensors(module: Any) -> bool:
    """Whether a unit takes and gives tensors alone."""
    types = [param.ty for param in module["main"].params] + result_types(module)
    return all(map(is_tensor, types))
