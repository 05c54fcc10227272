"""An ONNX model node by node: graph, source run on onnxruntime, float64 run, Relax units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tapml_nb.array_api import np_dtype
from tapml_nb.frontends.arrays import ArrayProgram, by_name, spec_of, split_steps
from tapml_nb.frontends.builder import GraphBuilder, trace_first_step, under
from tapml_nb.frontends.onnx import types
from tapml_nb.frontends.onnx.carriers import carried, carrier, is_carried, restored
from tapml_nb.frontends.onnx.model import OnnxModel, OnnxNode, load
from tapml_nb.frontends.onnx.rules import CARRYING, DECIDED, OPTIONAL
from tapml_nb.frontends.onnx.runtime import NoKernel, Runtime
from tapml_nb.frontends.onnx.subgraphs import draws, is_kind
from tapml_nb.frontends.onnx.units import build_module
from tapml_nb.frontends.program import FrontendError, Memory, Unit, Unsupported, first_line
from tapml_nb.graph import Graph, OpId, TensorSpec, ValueId
from tapml_nb.numerics import is_float


def import_onnx(model: Any, inputs: Any, *, name: str | None = None) -> OnnxProgram:
    """Import an ONNX model with the inputs to debug it on, as :func:`tapml_nb.debug` takes them.

    Symbolic sizes may differ from step to step.  The model is called by the file's name, or the
    graph's, unless it is given one.

    Raises:
        TypeError, ValueError: if the model cannot be read, or the inputs do not fit it.
        FrontendError: if onnxruntime cannot run it.
    """
    steps = split_steps(inputs)
    loaded = load(model, steps)
    return OnnxProgram(loaded, steps=steps, name=name or loaded.name)


@dataclass(frozen=True)
class _OnnxOp:
    """A node, the tensors and host numbers it reads, and the numbers that are part of it."""

    node: OnnxNode
    inputs: tuple[str, ...]
    baked: Mapping[str, np.ndarray]


class OnnxProgram(ArrayProgram):
    """An ONNX graph as a :class:`~tapml_nb.frontends.program.Program`.

    A value's id is its name in the graph.  Constants of one element, and those that say what a
    node does (a shape, axes), are part of their operators; other initializers are parameters.
    What is computed to be such a number is a host value.
    """

    def __init__(self, model: OnnxModel, *, steps: Sequence[Any], name: str) -> None:
        self._model = model
        self._runtime = Runtime()
        self._steps = [self._bound(step, index) for index, step in enumerate(steps)]
        builder = GraphBuilder()
        self._ops = self._named_ops(builder)
        read = {v for op in self._ops.values() for v in op.inputs} | set(model.outputs)
        self._parameters = {v: model.constants[v] for v in model.constants if v in read}
        ends = {op: (program.inputs, program.node.outputs) for op, program in self._ops.items()}
        self._absent: dict[ValueId, str] = {}
        """Values that the source cannot compute, with the reason."""
        told = trace_first_step(
            ends, self.bind(0, {}), self._run_first, tell=types.told, failure=self._failure
        )
        made = {value for program in self._ops.values() for value in program.node.outputs}
        if self._absent and self._absent.keys() >= made:
            op, reason = next(iter(self._ops)), next(iter(self._absent.values()))
            raise FrontendError(self._failure(op, NoKernel(reason)))
        self.graph = self._build_graph(builder, name, told)

    # -- Program -----------------------------------------------------------------------------

    def bind(self, step: int, state: Mapping[ValueId, Any]) -> dict[ValueId, Any]:
        """Inputs and parameters of a step."""
        return {**self._parameters, **self._steps[step], **state}

    def draws(self, op: OpId, values: Mapping[ValueId, Any]) -> bool:
        """Whether the node, or one inside it, is one of ONNX's random operators."""
        program = self._ops[op]
        return draws(program.node.proto, self._feeds(program, values))

    def run(self, op: OpId, values: Mapping[ValueId, Any]) -> list[Any]:
        """Run one node on onnxruntime, or else by onnx's reference implementation; outputs in
        graph order, None where neither can compute them."""
        program = self._ops[op]
        if self._absent.keys() >= set(program.node.outputs):
            return [None] * len(program.node.outputs)
        return self._runtime.run(program.node, self._feeds(program, values))

    def run_exact(self, op: OpId, values: Mapping[ValueId, Any]) -> list[Any] | None:
        """Run one node in float64, on onnxruntime or else by onnx's reference implementation."""
        program = self._ops[op]
        results = self._runtime.run_exact(program.node, self._feeds(program, values))
        return results if results is not None and self.all_float64(op, results) else None

    def unit(self, op: OpId, values: Mapping[ValueId, Any], *, symbolic: bool = False) -> Unit:
        """The node as a Relax function (see :class:`~tapml_nb.frontends.program.Program`)."""
        program = self._ops[op]
        hosts = {v for v in program.inputs if self.graph.values[v].host}
        inputs = {v: values[v] for v in program.inputs if v not in hosts}
        numbers = {v: values[v] for v in hosts}
        names = (*hosts, *program.node.outputs)
        told = {name: types.told(values[name]) for name in (*names, *inputs)}
        if reason := self._beyond(program, told):
            raise Unsupported(reason)
        made = {v: spec_of(values[v]) for v in self.graph[op].outputs}
        module, conversion = build_module(program.node, inputs, {**program.baked, **numbers}, made)
        conversion = "; ".join(filter(None, (conversion, program.node.words)))
        takes = tuple(spec_of(carried(array)) for array in inputs.values())
        gives = tuple(spec_of(carried(values[v])) for v in self.graph[op].outputs)
        return Unit(module, takes, gives, conversion)

    def to_numpy(self, tensor: np.ndarray) -> np.ndarray:
        """The array itself, or what carries it, contiguous."""
        return np.asarray(carried(tensor), order="C")

    def from_array(self, array: np.ndarray, like: np.ndarray) -> np.ndarray:
        """The array itself, or what it stands for."""
        return restored(array, like.dtype) if is_carried(like) else super().from_array(array, like)

    def memory(self, tensor: Any) -> Memory | None:
        """A contiguous array's memory; None for one that crosses in another dtype."""
        return None if is_carried(tensor) else super().memory(tensor)

    # -- import ------------------------------------------------------------------------------

    def _bound(self, step: Any, index: int) -> dict[str, Any]:
        """One step's inputs by name, checked against what the model declares."""
        given = by_name(step, list(self._model.inputs), index)
        sizes: dict[str, int] = {}
        bound = {}
        for name, value in given.items():
            declared = self._model.inputs[name].type
            bound[name] = types.bound(value, declared, name)
            if not types.fits(bound[name], declared, sizes):
                raise ValueError(
                    f"inputs: step {index}: {name} is {types.look(bound[name])}, the model takes "
                    f"{types.words(declared)}"
                )
        return bound

    def _run_first(self, op: OpId, values: Mapping[ValueId, Any]) -> list[Any]:
        """Run a node for the first time: what the source cannot compute is absent from then on."""
        program = self._ops[op]
        missing = next((name for name in program.inputs if name in self._absent), None)
        if missing is None:
            try:
                return self.run(op, values)
            except NoKernel as error:
                reason = f"the source has no kernel for it: {error}"
        else:
            reason = f"it reads {missing}, which the source cannot compute"
        self._absent.update(dict.fromkeys(program.node.outputs, reason))
        return [None] * len(program.node.outputs)

    def _beyond(self, program: _OnnxOp, told: Mapping[ValueId, TensorSpec | str]) -> str:
        """Why no kernel can do what a node does, whatever rules there are; "" if one might.  Of a
        value that is no tensor ``told`` says what it is instead."""
        made = program.node.outputs
        if lost := next((name for name in made if name in self._absent), None):
            return self._absent[lost]
        for name in (*program.inputs, *made):
            what = told.get(name)
            if name in program.node.types and not isinstance(what, str):
                what = "an optional"
            elif isinstance(what, TensorSpec) and carrier(what.dtype) != what.dtype:
                what = what if program.node.kind in CARRYING else what.dtype
            if name not in made and program.node.kind in OPTIONAL:
                what = None if what in ("nothing", "an optional") else what
            if isinstance(what, str):
                does = "yields" if name in made else "reads"
                return f"it {does} {what} ({name}), which no target takes"
        return ""

    def _named_ops(self, builder: GraphBuilder) -> dict[OpId, _OnnxOp]:
        constants = self._model.constants
        ops: dict[OpId, _OnnxOp] = {}
        for node in self._model.nodes:
            fixed = node.fixed()
            baked = {
                name: constants[name]
                for name in node.reads
                if name in constants and (name in fixed or constants[name].size == 1)
            }
            inputs = tuple(name for name in node.reads if name not in baked)
            scope, _ = node.scope_and_class
            op = builder.new_id(under(scope, node.label), node.outputs[0])
            ops[op] = _OnnxOp(node, inputs, baked)
        return ops

    def _failure(self, op: OpId, error: Exception) -> str:
        return (
            f"onnxruntime cannot run {op} ({self._ops[op].node.proto.op_type}) on the first "
            f"step's inputs: {first_line(error)}"
        )

    def _build_graph(
        self, builder: GraphBuilder, name: str, told: Mapping[ValueId, TensorSpec | str]
    ) -> Graph:
        numbers = self._numbers(told)
        decided = {
            key
            for program in self._ops.values()
            for key in program.node.outputs
            if program.node.kind in DECIDED
        }

        def spec(key: ValueId) -> TensorSpec | None:
            found = told[key]
            if key in numbers or isinstance(found, str):
                return None
            shape = (-1,) * len(found.shape) if key in decided else found.shape
            return TensorSpec(shape, carrier(found.dtype))

        for key in self._model.inputs:
            builder.add_value(key, "input", spec(key))
        for key in self._parameters:
            builder.add_value(key, "parameter", spec(key))
        for op, program in self._ops.items():
            node = program.node
            scope, module = node.scope_and_class
            kind = f"{node.proto.domain or 'onnx'}.{node.proto.op_type}"
            outputs = {key: spec(key) for key in node.outputs}
            builder.add_op(
                op,
                kind=kind,
                scope=scope,
                module=module,
                inputs=program.inputs,
                outputs=outputs,
                beyond="" if any(outputs.values()) else self._beyond(program, told),
                source=node.source,
                primitives=(kind,),
                constants=node.constants(program.baked),
            )
        return builder.build(name, inputs=self._model.inputs, outputs=self._model.outputs)

    def _numbers(self, told: Mapping[ValueId, TensorSpec | str]) -> set[ValueId]:
        """Values that never leave the host though they are tensors: sizes, numbers that say what an
        operator does, and the arithmetic that leads to them."""
        numbers: set[ValueId] = set()
        readers: dict[ValueId, list[_OnnxOp]] = {}
        for program in self._ops.values():
            numbers |= program.node.fixed().intersection(program.inputs)
            if is_kind(program.node.proto, "Shape") or is_kind(program.node.proto, "Size"):
                numbers.update(program.node.outputs)
            for key in program.inputs:
                readers.setdefault(key, []).append(program)
        for program in reversed(self._ops.values()):
            for key in program.node.outputs:
                spec, users = told[key], readers.get(key, ())
                if isinstance(spec, str) or is_float(np_dtype(spec.dtype)):
                    continue
                if carrier(spec.dtype) != spec.dtype:
                    continue
                if key in self._model.outputs:
                    continue
                if users and all(numbers.issuperset(user.node.outputs) for user in users):
                    numbers.add(key)
        return numbers

    def _feeds(self, program: _OnnxOp, values: Mapping[ValueId, Any]) -> dict[str, Any]:
        baked = program.baked
        return {n: baked[n] if n in baked else values[n] for n in program.node.reads}
