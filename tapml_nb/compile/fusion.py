"""Which calls of a whole model the target's pipeline fuses into one kernel.

The decision is TVM's own: the passes that it deploys for the target, up to and with ``FuseOps``, on
the whole model.  Names and spans do not survive these passes, attributes of PrimFuncs do: every
PrimFunc gets the number of the call it came from, and is found again in the fused functions.
Runs in a compile worker, as all of TVM's passes do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import tvm
from tvm import relax, tirx

from tapml_nb.compile.lowering import relax_passes
from tapml_nb.frontends.program import Fusion

_CALL = "tapml.call"
"""Attribute of a PrimFunc: the number of the call it is a piece of."""


def decide(module: Any, target: Any) -> Fusion:
    """Let the target's pipeline decide.

    Args:
        module: ``IRModule`` whose function ``main`` calls the others, one call per binding or the
            item of a tuple; the calls are numbered in order.  A call that the pipeline cannot
            legalize stays outside of every kernel and separates its neighbours.
        target: ``tvm.target.Target``.

    Raises:
        tvm.error.TVMError: whatever the passes raise on the model as a whole.
    """
    passes = relax_passes(target)
    names = [one.info.name for one in passes]
    if "FuseOps" not in names:
        raise ValueError(f"the pipeline of {target.kind.name} fuses nothing")
    annotate, end = names.index("AnnotateTIROpPattern"), names.index("FuseOps") + 1
    with target:
        whole, pieces = _inlined(module, _legalized(module, passes[:annotate]))
        whole = tvm.transform.Sequential(passes[annotate:end])(whole)
    fused = sorted(_kernels(whole))
    left = {call for kernel in fused for call in kernel}
    return Fusion(tuple(fused), tuple(sorted(pieces - left)))


def _legalized(module: Any, passes: Sequence[Any]) -> dict[str, tuple[Any, Any]]:
    """Every function but ``main`` after these passes, by name, with the module it is in then; one
    that they fail on is left out."""
    result = {}
    for var, function in module.functions.items():
        if var.name_hint == "main":
            continue
        # Passes may edit a module in place, so each gets its own.
        alone = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
        try:
            lowered = tvm.transform.Sequential(list(passes))(alone)
        except Exception:  # the operator's own verdict will say why
            continue
        if all(_is_kernel(binding.value) for binding in _bindings(lowered["main"])):
            result[var.name_hint] = (lowered["main"], lowered)
    return result


def _is_kernel(value: Any) -> bool:
    """Whether a binding calls a PrimFunc, or calls nothing."""
    if not isinstance(value, relax.Call):
        return True
    return isinstance(value.op, tvm.ir.Op) and value.op.name == "relax.call_tir"


def _bindings(function: Any) -> Iterator[Any]:
    for block in function.body.blocks:
        yield from block.bindings


def _inlined(module: Any, legalized: dict[str, tuple[Any, Any]]) -> tuple[Any, set[int]]:
    """``main`` with the legalized functions in place of their calls, every PrimFunc numbered; and
    the numbers of the calls that have one.  What a call that is left out yields is a parameter."""
    main = module["main"]
    calls = [b for b in _bindings(main) if isinstance(b.value, relax.Call)]
    number = {binding.var: k for k, binding in enumerate(calls)}
    missing = [b.var for b in calls if b.value.op.name_hint not in legalized]
    env = {var: var for var in main.params}
    env |= {var: relax.Var(f"call{number[var]}", var.ty) for var in missing}
    pieces: set[int] = set()
    builder = relax.BlockBuilder()
    with builder.function("main", list(env.values())):
        with builder.dataflow():
            for binding in _bindings(main):
                if binding.var in env:
                    continue
                if binding.var not in number:
                    env[binding.var] = _joint(binding.value, env)
                    continue
                function, lowered = legalized[binding.value.op.name_hint]
                arguments = (env[argument] for argument in binding.value.args)
                inner = dict(zip(function.params, arguments, strict=True))
                for step in _bindings(function):
                    if step.var == function.body.body and not isinstance(step.value, relax.Call):
                        inner[step.var] = _joint(step.value, inner)
                        continue
                    value = _substituted(step.value, inner)
                    if isinstance(value, relax.Call):
                        callee, *rest = value.args
                        piece = lowered[callee].with_attr(_CALL, number[binding.var])
                        piece = builder.add_func(piece, callee.name_hint)
                        value = relax.Call(value.op, [piece, *rest], value.attrs, value.ty_args)
                        pieces.add(number[binding.var])
                    inner[step.var] = builder.emit(value)
                env[binding.var] = inner[function.body.body]
            result = builder.emit_output(_joint(main.body.body, env))
        builder.emit_func_output(result)
    return builder.get(), pieces


def _joint(expr: Any, env: dict[Any, Any]) -> Any:
    """What joins two calls, with variables replaced; none of it is in the model itself.  The item
    of a known tuple is its field."""
    if isinstance(expr, relax.TupleGetItem):
        value = _joint(expr.tuple_value, env)
        if isinstance(value, relax.Tuple):
            return value.fields[expr.index]
        return relax.TupleGetItem(value, expr.index)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([_joint(field, env) for field in expr.fields])
    return _substituted(expr, env)


def _substituted(expr: Any, env: dict[Any, Any]) -> Any:
    """An expression with variables replaced."""
    if isinstance(expr, relax.Var):
        return env[expr]
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([_substituted(field, env) for field in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(_substituted(expr.tuple_value, env), expr.index)
    if isinstance(expr, relax.Call):
        arguments = [_substituted(argument, env) for argument in expr.args]
        return relax.Call(expr.op, arguments, expr.attrs, expr.ty_args)
    return expr


def _kernels(module: Any) -> Iterator[tuple[int, ...]]:
    """The calls that each fused function, and each PrimFunc that stayed alone, holds."""
    for function in module.functions.values():
        if not isinstance(function, relax.Function):
            continue
        called = [
            int(module[binding.value.args[0]].attrs[_CALL])
            for binding in _bindings(function)
            if isinstance(binding.value, relax.Call)
            and isinstance(binding.value.op, tvm.ir.Op)
            and isinstance(module[binding.value.args[0]], tirx.PrimFunc)
        ]
        if "Primitive" in (function.attrs or {}):
            yield tuple(sorted(set(called)))
        else:
            yield from ((call,) for call in called)
