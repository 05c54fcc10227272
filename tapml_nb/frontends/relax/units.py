"""One Relax operator as a function of its own, for the shapes that it met."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.sym import Analyzer

from tapml_nb.frontends.relax.bindings import RelaxOp, called, substitute
from tapml_nb.frontends.relax.exact import NARROW, decomposed
from tapml_nb.frontends.relax.sizes import is_size, is_tensor, sizes_in
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
    expr = _folded(substitute(op.expr, op.ty, mapping))
    pure = _is_pure(expr, params)
    if exact and not NARROW.isdisjoint(op.primitives):
        expr = decomposed(expr) if op.kind in NARROW else None
        if expr is None:
            return None
    return _module(expr, params, called(module, expr), pure=pure)


def build_open_module(
    module: Any, op: RelaxOp, variables: Mapping[ValueId, Any]
) -> tuple[Any, list[Any]] | None:
    """The same for all sizes that the model leaves open, and the sizes that no tensor tells.

    These are in a last parameter, a shape.  None if an input is no tensor and no size, or has a
    shape that its own axes do not tell.
    """
    inputs = [variables[key] for key in op.inputs]
    tensors = [var for var in inputs if is_tensor(var.ty)]
    numbers = [var for var in inputs if is_size(var)]
    if len(tensors) + len(numbers) < len(inputs):
        return None
    if any(str(size.ty.dtype) != "int64" for size in numbers):
        return None  # a number, but no size
    axes = [size for var in tensors for size in sizes_in(var.ty) if isinstance(size, tvm.ir.Var)]
    numbers = [var for var in numbers if not any(var.same_as(axis) for axis in axes)]
    names = {size: tirx.Var(f"n{k}", "int64") for k, size in enumerate(dict.fromkeys(axes))}
    names |= {size: tirx.Var(f"n{len(names) + k}", "int64") for k, size in enumerate(numbers)}
    mapping: dict[Any, Any] = dict(names)
    params: list[Any] = []
    for var in tensors:
        sizes = sizes_in(var.ty)
        unknown = [v for v in relax.analysis.free_vars(relax.ShapeExpr(sizes)) if v not in names]
        if len(sizes) != var.ty.ndim or unknown:
            return None
        shape = substitute(relax.ShapeExpr(sizes), relax.ShapeType(sizes), names).values
        mapping[var] = relax.Var(f"p{len(params)}", relax.TensorType(shape, var.ty.dtype))
        params.append(mapping[var])
    expr = substitute(op.expr, op.ty, mapping)
    if numbers:
        params.append(relax.Var("sizes", relax.ShapeType([names[size] for size in numbers])))
    unit = _module(expr, params, called(module, expr), pure=_is_pure(expr, params))
    callee = expr.op if isinstance(expr, relax.Call) else None
    return (specialized(unit) if isinstance(callee, tvm.ir.GlobalVar) else unit), numbers


def _is_pure(expr: Any, params: Sequence[Any]) -> bool:
    function = relax.Function(list(params), relax.SeqExpr([], expr), expr.ty, is_pure=False)
    return not relax.analysis.contains_impure_call(function)


def _folded(expr: Any) -> Any:
    """An expression with its arithmetic on sizes done."""
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([_folded(member) for member in expr.fields])
    if isinstance(expr, relax.ShapeExpr):
        return relax.ShapeExpr([_folded(size) for size in expr.values])
    if isinstance(expr, relax.Call) and not tvm.ir.is_prim_expr(expr):
        args = [_folded(argument) for argument in expr.args]
        return relax.Call(expr.op, args, expr.attrs, expr.ty_args, expr.span)
    return Analyzer().simplify(expr) if tvm.ir.is_prim_expr(expr) else expr


def _module(expr: Any, params: list[Any], functions: Mapping[Any, Any], *, pure: bool) -> Any:
    builder = relax.BlockBuilder()
    with builder.function("main", params, pure=pure):
        if pure:
            with builder.dataflow():
                result = builder.emit_output(builder.emit(expr, "r"), "o")
        else:
            result = builder.emit(expr, "r")
        builder.emit_func_output(result)
    return tvm.IRModule({"main": builder.get()["main"], **functions})


def specialized(unit: Any) -> Any:
    """The same, the function that it calls made one for the very shapes that it is called with.

    So its symbolic sizes are no arguments at run time, and kernels are scheduled for what they
    are.  What TVM cannot make so stays as it is.
    """
    call = unit["main"].body.blocks[0].bindings[0].value
    if not isinstance(call, relax.Call):
        return unit
    by_name = isinstance(call.op, tvm.ir.Op) and str(call.op.name) == "relax.call_tir"
    callee = call.args[0] if by_name else call.op
    if not isinstance(callee, tvm.ir.GlobalVar):
        return unit
    function = unit[callee]
    if not by_name:
        types = [argument.ty for argument in call.args]
        sizes = _sizes([param.ty for param in function.params], types)
        bound = function.bind_symbolic_vars(sizes) if sizes else function
        unit = tvm.IRModule({**unit.functions, callee: bound})
        kernel = bound.attrs is not None and "Primitive" in bound.attrs
        return unit if kernel else relax.transform.InlinePrivateFunctions()(unit)
    results = call.ty_args[0]
    fields = list(results.fields) if isinstance(results, relax.TupleType) else [results]
    given = list(call.args[1].fields)
    sizes = _sizes([param.ty for param in function.params], [*(g.ty for g in given), *fields])
    numbers = zip(function.params, given, strict=False)
    sizes |= {param: value for param, value in numbers if isinstance(value, tirx.IntImm)}
    if not sizes:
        return unit
    free = [size for size in sizes if not any(size.same_as(p) for p in function.params)]
    fixed = tirx.PrimFunc([*function.params, *free], function.body, None, function.attrs)
    tensors = relax.Tuple([value for value in given if not isinstance(value, tirx.IntImm)])
    call = relax.Call(call.op, [callee, tensors], call.attrs, call.ty_args)
    functions = {callee: fixed.specialize(sizes)}
    return _module(call, list(unit["main"].params), functions, pure=True)


def _sizes(declared: Sequence[Any], given: Sequence[Any]) -> dict[Any, Any]:
    """What symbolic sizes are, by shapes declared with them and given without."""
    sizes: dict[Any, Any] = {}
    for ours, theirs in zip(declared, given, strict=False):
        if getattr(ours, "shape", None) is not None and getattr(theirs, "shape", None) is not None:
            for size, number in zip(list(ours.shape), list(theirs.shape), strict=True):
                if isinstance(size, tvm.ir.Var):
                    sizes.setdefault(size, number)
    return sizes


def widened(module: Any) -> Any:
    """The same in float64, every floating-point dtype in it.

    TVM has no pass for it, but a parser: this goes by the module's script.

    Raises:
        Exception: whatever the parser says of what TVM has printed.
    """
    return tvm.script.from_source(_FLOAT.sub("float64", module.script(show_meta=True)))


def only_tensors(module: Any) -> bool:
    """Whether a unit takes and gives tensors alone."""
    main = module["main"]
    waiting = [*(param.ty for param in main.params), main.ret_ty]
    while waiting:
        ty = waiting.pop()
        if isinstance(ty, relax.TupleType):
            waiting.extend(ty.fields)
        elif not is_tensor(ty):
            return False
    return True
