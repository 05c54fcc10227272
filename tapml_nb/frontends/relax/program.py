"""A Relax function binding by binding: graph, source run on TVM itself, float64 run, units."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tapml_nb.frontends.arrays import ArrayProgram, spec_of, split_steps, widened
from tapml_nb.frontends.builder import GraphBuilder, line_of, trace_first_step, under
from tapml_nb.frontends.program import Unit, Unsupported, last_line
from tapml_nb.frontends.relax.bindings import (
    Bindings,
    RelaxOp,
    evaluated,
    is_size,
    match,
    read_bindings,
    sizes_in,
)
from tapml_nb.frontends.relax.inputs import bind_steps, weights_of
from tapml_nb.frontends.relax.machine import HeldObject, Machine
from tapml_nb.frontends.relax.units import UnitCache, only_tensors, tensors
from tapml_nb.graph import Graph, OpId, SourceLine, TensorSpec, ValueId
from tapml_nb.graph.select import short_kind

_EFFECTS = "_initialize_effect"
"""The function in which ``relax.frontend.nn`` makes the objects that its methods change."""


def import_relax(
    module: Any, inputs: Any, *, source: str = "tvm:llvm", name: str | None = None
) -> RelaxProgram:
    """Import a Relax module with the inputs to debug it on.

    Args:
        module: an ``IRModule`` with a function ``main``, or with one public Relax function.
        inputs: a tuple (in the order of the function's parameters) or dict (by name) of arrays
            for one step, or a list of them for several.  A shape is a tuple of sizes, a tuple
            parameter a tuple; for an object of the virtual machine give a function without
            arguments that makes it.  Weights that the function's attribute ``params`` holds,
            and objects that the module itself initializes, may be left out.
        source: ``"tvm:llvm"`` or ``"tvm:cuda"``.
        name: what to call the model; default the function's name.

    Raises:
        TypeError, ValueError: if the inputs do not fit the function.
        FrontendError: if it cannot be taken apart, or TVM cannot run it.
    """
    function = _chosen(module)
    machine = Machine(source.removeprefix("tvm:"))
    steps, name = split_steps(inputs), name or function
    return RelaxProgram(module, function=function, steps=steps, machine=machine, name=name)


def _chosen(module: Any) -> str:
    """The function to debug: ``main``, or the only public Relax function."""
    public = [
        var.name_hint
        for var, function in module.functions.items()
        if isinstance(function, relax.Function)
        and function.attrs is not None
        and "global_symbol" in function.attrs
        and var.name_hint != _EFFECTS
    ]
    if "main" in public:
        return "main"
    if len(public) != 1:
        found = ", ".join(sorted(public)) or "none"
        raise ValueError(
            f"model: the module has the public Relax functions {found}; give one with a function "
            f"'main', or with one alone"
        )
    return str(public[0])


class RelaxProgram(ArrayProgram):
    """A Relax function as a :class:`~tapml_nb.frontends.program.Program`.

    Tensors are NumPy arrays.  Shapes, sizes and objects of the virtual machine are host values:
    the former are written out into units; an operator that takes or gives an object runs on the
    source alone.
    """

    def __init__(
        self, module: Any, *, function: str, steps: Sequence[Any], machine: Machine, name: str
    ) -> None:
        self._module = module
        self._machine = machine
        self._bindings = read_bindings(module, function)
        self._units = UnitCache(module, self._bindings, machine)
        self._effects = self._made_objects()
        self._steps = bind_steps(module[function], self._bindings, steps, self._effects)
        builder = GraphBuilder()
        where = _scopes(self._bindings)
        self._ops = {
            builder.new_id(under(where[op.id], short_kind(op.kind)), op.id): op
            for op in self._bindings.ops
        }
        start = self.bind(0, {})
        self._known = self._inferred(start)
        self._units.compile_all(self._known, exact=False)
        ends = {op: (program.inputs, program.outputs) for op, program in self._ops.items()}
        self._known = trace_first_step(ends, start, self.run, tell=_known, failure=_failure)
        weights = weights_of(module[function], self._bindings)
        self.graph = self._build_graph(builder, name, where, weights)

    # -- Program -----------------------------------------------------------------------------

    def bind(self, step: int, state: Mapping[ValueId, Any]) -> dict[ValueId, Any]:
        """Inputs, weights, sizes and objects of a step."""
        held = {k: HeldObject(v) if callable(v) else v for k, v in self._steps[step].items()}
        return held | dict(state)

    @property
    def mutations(self) -> dict[ValueId, ValueId]:
        """The objects that the module itself makes, each with what a step leaves of it."""
        made = [key for key in self._bindings.params if key in self._effects]
        results = [key for key in self._bindings.outputs if self._holds_object(key)]
        return dict(zip(made, results, strict=False))

    def draws(self, op: OpId, values: Mapping[ValueId, Any]) -> bool | None:
        """Not known of a function that TVM knows nothing of, and that may be called again; none of
        Relax's own operators draws random numbers."""
        program = self._ops[op]
        ends = (*program.inputs, *program.outputs)
        unknown = program.calls_packed and not any(map(self._holds_object, ends))
        return None if unknown else False

    def run(self, op: OpId, values: Mapping[ValueId, Any]) -> list[Any]:
        """Run one operator on TVM's virtual machine; outputs in graph order."""
        program = self._ops[op]
        if program.sizes is not None:
            (matched,) = (values[key] for key in program.inputs)
            sizes: dict[Any, int] = {}
            match(sizes_in(program.sizes), getattr(matched, "shape", matched), sizes)
            return [sizes[self._bindings.variables[name]] for name in program.outputs]
        key, unit = self._units.made(program, self._units.seen(program, values))
        self._machine.compile({key: unit})
        inputs = {name: values[name] for name in program.inputs}
        results = self._machine.call(key, _arguments(program, inputs))
        return [
            self._held(op, inputs, position, result) if _is_object(result) else result
            for position, result in enumerate(results)
        ]

    def run_exact(self, op: OpId, values: Mapping[ValueId, Any]) -> list[Any] | None:
        """Run one operator in float64: its unit with every floating-point dtype widened."""
        program = self._ops[op]
        if program.sizes is not None:
            return None
        key, unit = self._units.made(program, self._units.seen(program, values), exact=True)
        if unit is None or not only_tensors(unit):
            return None
        self._units.compile_all(self._known, exact=True)
        self._machine.compile({key: unit}, wide=True)
        given = (values[name] for name in program.inputs)
        arrays = [widened(value) for value in given if isinstance(value, np.ndarray)]
        try:
            results = self._machine.call(key, arrays)
        except Exception:  # it cannot be compiled in float64, or not be run
            return None
        return results if self.all_float64(op, results) else None

    def unit(self, op: OpId, values: Mapping[ValueId, Any], *, symbolic: bool = False) -> Unit:
        """The operator as a Relax function (see :class:`~tapml_nb.frontends.program.Program`)."""
        program = self._ops[op]
        seen = self._units.seen(program, values)
        if symbolic and (opened := self._units.open(program, seen)):
            return opened
        _, unit = self._units.made(program, seen)
        if not only_tensors(unit):
            raise Unsupported(
                f"{program.kind} takes or gives an object of TVM's virtual machine (such as a KV "
                f"cache), which is on the source alone"
            )
        return Unit(
            self._units.specialized(unit),
            tensors(seen),
            tuple(spec_of(values[name]) for name in program.outputs),
        )

    # -- running -----------------------------------------------------------------------------

    def _held(
        self, op: OpId, inputs: Mapping[ValueId, Any], position: int, live: Any
    ) -> HeldObject:
        def again() -> Any:
            return self.run(op, inputs)[position].take()

        return HeldObject(again, live)

    # -- import ------------------------------------------------------------------------------

    def _made_objects(self) -> dict[ValueId, Callable[[], Any]]:
        """How the module makes the objects among its function's parameters."""
        if _EFFECTS not in {var.name_hint for var in self._module.get_global_vars()}:
            return {}
        maker = tvm.IRModule({"main": self._module[_EFFECTS]})
        self._machine.compile({_EFFECTS: maker})
        objects = [key for key in self._bindings.params if self._holds_object(key)]

        def make(position: int) -> Any:
            return self._machine.call(_EFFECTS, [])[position]

        return {key: partial(make, position) for position, key in enumerate(objects)}

    def _holds_object(self, key: ValueId) -> bool:
        ty = self._bindings.variables[key].ty
        return not isinstance(ty, relax.TensorType | relax.ShapeType | tvm.ir.PrimType)

    def _inferred(self, values: Mapping[ValueId, Any]) -> dict[ValueId, Any]:
        """What can be told of values before anything runs."""
        known = {key: _known(value) for key, value in values.items()}
        variables = self._bindings.variables
        sizes = {variables[k]: v for k, v in values.items() if is_size(variables[k])}
        for key, dtype in self._bindings.dtypes.items():
            ty = variables[key].ty
            if key not in known and ty.shape is not None:
                shape = [evaluated(size, sizes) for size in sizes_in(ty)]
                fixed = tuple(size for size in shape if size is not None)
                if len(fixed) == len(shape):
                    known[key] = TensorSpec(fixed, dtype)
        return known

    def _build_graph(
        self,
        builder: GraphBuilder,
        name: str,
        where: Mapping[OpId, str],
        weights: Collection[ValueId],
    ) -> Graph:
        def spec(key: ValueId) -> TensorSpec | None:
            known = self._known[key]
            return known if isinstance(known, TensorSpec) else None

        params, labels = self._bindings.params, self._bindings.labels
        inputs: list[ValueId] = []
        for key in self._steps[0]:
            if key in self._effects:
                builder.add_value(key, "buffer", spec(key), labels.get(key))
            elif key in weights:
                builder.add_value(key, "parameter", spec(key), labels.get(key))
            else:
                builder.add_value(key, "input", spec(key), labels.get(key))
                inputs += [key] if key in params else []  # else it is a symbolic size
        for op, program in self._ops.items():
            builder.add_op(
                op,
                kind=program.kind,
                scope=where[program.id],
                inputs=program.inputs,
                outputs={key: spec(key) for key in program.outputs},
                source=_source_line(program),
                primitives=program.primitives,
                constants=program.constants,
            )
        return builder.build(name, inputs=inputs, outputs=self._bindings.outputs)


def _arguments(program: RelaxOp, inputs: Mapping[ValueId, Any]) -> list[Any]:
    in_place = isinstance(program.expr.op, tvm.ir.Op) and "inplace" in program.expr.op.name
    arguments: list[Any] = []
    for value in inputs.values():
        if isinstance(value, HeldObject):
            arguments.append(value.take() if in_place else value.borrow())
        elif isinstance(value, np.ndarray):
            arguments.append(value)
    return arguments


def _is_object(value: Any) -> bool:
    return not isinstance(value, np.ndarray | tuple | int | float | bool)


def _known(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return spec_of(value)
    return None if _is_object(value) else value


def _failure(op: OpId, error: Exception) -> str:
    return f"the source cannot run {op} on the first step's inputs: {last_line(error)}"


def _scopes(bindings: Bindings) -> dict[OpId, str]:
    """The module path of every operator, as far as the names of weights tell.

    An operator that reads ``layers.0.mlp.up.weight``, or what was made of weights alone, is in
    ``layers.0.mlp.up``; one that reads none is in the module that holds all those that its inputs
    come from.
    """
    found: dict[OpId, str] = {}
    labels = bindings.labels.items()
    owner = {value: label.rpartition(".")[0] for value, label in labels if "." in label}
    made: dict[ValueId, str] = {}
    for op in bindings.ops:
        read = [owner[value] for value in op.inputs if value in owner]
        before = [made[value] for value in op.inputs if value in made]
        scope = _common(read or before)
        found[op.id] = scope
        if op.inputs and all(value in owner for value in op.inputs):
            owner |= dict.fromkeys(op.outputs, scope)
        else:  # who reads this is in the same module, or beside it where it has weights of its own
            around = scope.rpartition(".")[0] if read else scope
            made |= dict.fromkeys(op.outputs, around)
    return found


def _common(paths: list[str]) -> str:
    """The longest path that all paths begin with."""
    parts = zip(*(path.split(".") for path in paths), strict=False)
    same = takewhile(lambda members: len(set(members)) == 1, parts)
    return ".".join(members[0] for members in same)


def _source_line(op: RelaxOp) -> SourceLine | None:
    """The line of TVMScript that a binding was read from, if it was."""
    span = getattr(op.expr, "span", None)
    if span is None or not os.path.isfile(span.source_name.name):
        return None
    return line_of(str(span.source_name.name), int(span.line))
