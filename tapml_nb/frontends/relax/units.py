"""A Relax operator as a function of its own, for the shapes that it met or for all.

Each unit is made once, and all that a step needs are compiled at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import RLock
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.sym import Analyzer

from tapml_nb.frontends.program import Unit
from tapml_nb.frontends.relax.bindings import (
    Bindings,
    RelaxOp,
    called,
    is_size,
    is_tensor,
    match,
    sizes_in,
    substitute,
)
from tapml_nb.frontends.relax.machine import HeldObject, Machine
from tapml_nb.graph import TensorSpec, ValueId

_NARROW = {
    "relax.image.affine_grid",
    "relax.image.grid_sample",
    "relax.image.resize2d",
    "relax.image.resize3d",
    "relax.nn.group_norm",
    "relax.nn.instance_norm",
    "relax.nn.layer_norm",
    "relax.nn.rms_norm",
}
"""Operations whose float64 kernels, if there are any, are no better than float32."""


Seen = Mapping[ValueId, Any]
"""What a unit is made for: specs of tensors, sizes and numbers as they are, None for objects."""


class UnitCache:
    """Makes units of a function's operators, for whatever threads ask for them."""

    def __init__(self, module: Any, bindings: Bindings, machine: Machine) -> None:
        self._module = module
        self._bindings = bindings
        self._machine = machine
        self._units: dict[tuple[Any, ...], tuple[str, Any]] = {}
        self._open_units: dict[str, tuple[Any, list[Any]] | None] = {}
        self._prepared: set[bool] = set()
        self._building = RLock()  # TVM's builders know one scope for all threads

    def seen(self, op: RelaxOp, values: Mapping[ValueId, Any]) -> Seen:
        """What an operator sees of values.

        The dtypes are those of the model, also where float64 values stand in for its own.
        """
        seen: dict[ValueId, Any] = {}
        for key in op.inputs:
            value = values[key]
            if isinstance(value, np.ndarray):
                seen[key] = TensorSpec(tuple(value.shape), self._bindings.dtypes[key])
            else:
                seen[key] = None if isinstance(value, HeldObject) else value
        return seen

    def made(self, op: RelaxOp, seen: Seen, *, exact: bool = False) -> tuple[str, Any]:
        """Key and module of an operator's unit; the module is None if there is no exact one."""
        slot = (op.id, exact, *seen.values())
        with self._building:
            if slot not in self._units:
                variables = self._bindings.variables
                unit = _build_module(self._module, op, variables, seen, exact=exact)
                text = tvm.ir.save_json(unit) if unit is not None else ""
                self._units[slot] = (f"{'float64' if exact else 'as it is'}|{text}", unit)
            return self._units[slot]

    def specialized(self, unit: Any) -> Any:
        """A unit whose function is for these sizes alone."""
        with self._building:
            return _specialized(unit)

    def open(self, op: RelaxOp, seen: Seen) -> Unit | None:
        """An operator's unit for all sizes; None if there are no open ones, or these are others."""
        sizes: dict[Any, int] = {}
        for key, known in seen.items():
            var = self._bindings.variables[key]
            if isinstance(known, TensorSpec):
                if not match(sizes_in(var.ty), known.shape, sizes):
                    return None
            elif not is_size(var) or sizes.setdefault(var, known) != known:
                return None
        if not sizes:
            return None
        with self._building:
            if op.id not in self._open_units:
                variables = self._bindings.variables
                self._open_units[op.id] = _build_open_module(self._module, op, variables)
        built = self._open_units[op.id]
        if built is None or not only_tensors(built[0]):
            return None
        module, numbers = built
        return Unit(module, tensors(seen), (), "", True, tuple(sizes[size] for size in numbers))

    def compile_all(self, known: Mapping[ValueId, Any], *, exact: bool) -> None:
        """Compile what all operators need for what is known of a step, at once; the first time."""
        if exact in self._prepared:
            return
        self._prepared.add(exact)
        units: dict[str, Any] = {}
        for op in self._bindings.ops:
            if op.sizes is None and all(key in known for key in op.inputs):
                key, unit = self.made(op, {key: known[key] for key in op.inputs}, exact=exact)
                if unit is not None and only_tensors(unit):
                    units[key] = unit
        self._machine.compile(units, wide=exact)


def tensors(seen: Seen) -> tuple[TensorSpec, ...]:
    """The specs of the tensors that an operator sees."""
    return tuple(known for known in seen.values() if isinstance(known, TensorSpec))


def _build_module(
    module: Any,
    op: RelaxOp,
    variables: Mapping[ValueId, Any],
    values: Mapping[ValueId, Any],
    *,
    exact: bool = False,
) -> Any:
    """An ``IRModule`` whose ``main`` computes an operator, with the functions that it calls.

    Its parameters are ``p0``, ``p1``, …: tensors and objects in order; sizes are written out.

    Args:
        module: the model, where these functions are.
        op: the operator.
        variables: the Relax variables of its inputs.
        values: what they are: a :class:`TensorSpec`, a tuple of sizes, a number; anything else
            is an object of the virtual machine.
        exact: whether for a float64 run, so without operations that TVM has in float32 alone;
            the result is None where that cannot be.
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
    if exact and not _NARROW.isdisjoint(op.primitives):
        expr = _decomposed(expr) if op.kind in _NARROW else None
        if expr is None:
            return None
    return _module(expr, params, called(module, expr), pure=pure)


def _build_open_module(
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
    return (_specialized(unit) if isinstance(callee, tvm.ir.GlobalVar) else unit), numbers


def _decomposed(call: Any) -> Any:
    """A normalization (its arguments of static shape) by means and squares; None for what has no
    such form here."""
    name = str(call.op.name).removeprefix("relax.nn.")
    op, args, attrs = relax.op, list(call.args), call.attrs
    if name == "rms_norm":
        axes = list(map(int, attrs.axes))
        square = op.mean(op.multiply(args[0], args[0]), axes, keepdims=True)
        return op.multiply(op.multiply(args[0], _inverse_root(square, attrs.epsilon)), args[1])
    if name == "layer_norm":
        normal = _normal(args[0], list(map(int, attrs.axes)), attrs.epsilon)
        normal = op.multiply(normal, args[1]) if attrs.scale else normal
        return op.add(normal, args[2]) if attrs.center else normal
    if name == "group_norm" and int(attrs.channel_axis) == 1:
        shape = [int(size) for size in args[0].ty.shape]
        if [int(axis) for axis in attrs.axes] == list(range(2, len(shape))):
            grouped = op.reshape(args[0], (shape[0], int(attrs.num_groups), -1))
            normal = op.reshape(_normal(grouped, [2], attrs.epsilon), shape)
            by_channel = (1, shape[1], *[1] * (len(shape) - 2))
            if attrs.scale:
                normal = op.multiply(normal, op.reshape(args[1], by_channel))
            return op.add(normal, op.reshape(args[2], by_channel)) if attrs.center else normal
    return None


def _normal(x: Any, axes: list[int], epsilon: float) -> Any:
    op = relax.op
    centred = op.subtract(x, op.mean(x, axes, keepdims=True))
    square = op.mean(op.multiply(centred, centred), axes, keepdims=True)
    return op.multiply(centred, _inverse_root(square, epsilon))


def _inverse_root(square: Any, epsilon: float) -> Any:
    return relax.op.rsqrt(relax.op.add(square, relax.const(epsilon, "float32")))


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


def _specialized(unit: Any) -> Any:
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
    declared = [param.ty for param in function.params]
    if not by_name:
        sizes = _sizes(declared, [argument.ty for argument in call.args])
        bound = function.bind_symbolic_vars(sizes) if sizes else function
        unit = tvm.IRModule({**unit.functions, callee: bound})
        kernel = bound.attrs is not None and "Primitive" in bound.attrs
        return unit if kernel else relax.transform.InlinePrivateFunctions()(unit)
    results = call.ty_args[0]
    fields = list(results.fields) if isinstance(results, relax.TupleType) else [results]
    given = list(call.args[1].fields)
    sizes = _sizes(declared, [*(g.ty for g in given), *fields])
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
