"""An ONNX model node by node: graph, source run on onnxruntime, float64 run, Relax units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from tapml_nb.frontends.arrays import ArrayProgram, by_name, spec_of, split_steps, to_array
from tapml_nb.frontends.builder import GraphBuilder, trace_first_step, under
from tapml_nb.frontends.onnx.model import OnnxModel, OnnxNode, draws, load
from tapml_nb.frontends.onnx.runtime import Runtime
from tapml_nb.frontends.onnx.units import build_module
from tapml_nb.frontends.program import Unit, Unsupported, first_line
from tapml_nb.graph import Graph, OpId, TensorSpec, ValueId
from tapml_nb.numerics import is_float, np_dtype


def import_onnx(model: Any, inputs: Any, *, name: str | None = None) -> OnnxProgram:
    """Import an ONNX model with the inputs to debug it on, as :func:`tapml_nb.debug` takes them.

    Symbolic sizes may differ from step to step.  The model is called by the file's name, or the
    graph's, unless it is given one.

    Raises:
        TypeError, ValueError: if the model cannot be read, or the inputs do not fit it.
        FrontendError: if onnxruntime cannot run it.
    """
    loaded = load(model)
    return OnnxProgram(loaded, steps=split_steps(inputs), name=name or loaded.name)


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
        specs = trace_first_step(
            ends, self.bind(0, {}), self.run, tell=_spec_or_none, failure=self._failure
        )
        self.graph = self._build_graph(builder, name, specs)

    # -- Program -----------------------------------------------------------------------------

    def bind(self, step: int, state: Mapping[ValueId, Any]) -> dict[ValueId, Any]:
        """Inputs and parameters of a step."""
        return {**self._parameters, **self._steps[step], **state}

    def draws(self, op: OpId, values: Mapping[ValueId, Any]) -> bool:
        """Whether the node, or one inside it, is one of ONNX's random operators."""
        program = self._ops[op]
        return draws(program.node.proto, self._feeds(program, values))

    def run(self, op: OpId, values: Mapping[ValueId, Any]) -> list[Any]:
        """Run one node on onnxruntime; outputs in graph order."""
        program = self._ops[op]
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
        for name in (*hosts, *program.node.outputs):
            if what := _no_tensor(values[name]):
                does = "reads" if name in hosts else "yields"
                raise Unsupported(f"it {does} {what} ({name}), and Relax knows tensors alone")
        module, by = build_module(program.node, inputs, {**program.baked, **numbers})
        outputs = (values[v] for v in self.graph[op].outputs)
        takes, gives = tuple(map(spec_of, inputs.values())), tuple(map(spec_of, outputs))
        return Unit(module, takes, gives, by)

    # -- import ------------------------------------------------------------------------------

    def _bound(self, step: Any, index: int) -> dict[str, np.ndarray]:
        """One step's inputs by name, checked against what the model declares."""
        given = by_name(step, list(self._model.inputs), index)
        arrays = {name: to_array(value, name) for name, value in given.items()}
        sizes: dict[str, int] = {}
        for name, array in arrays.items():
            declared = self._model.inputs[name].type.tensor_type
            if not _fits(array, declared, sizes):
                raise ValueError(
                    f"inputs: step {index}: {name} is {spec_of(array)}, the model takes "
                    f"{_declared(declared)}"
                )
        return arrays

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
        self, builder: GraphBuilder, name: str, specs: Mapping[ValueId, TensorSpec | None]
    ) -> Graph:
        hosts = self._hosts(specs)

        def spec(key: ValueId) -> TensorSpec | None:
            return None if key in hosts else specs[key]

        for key in self._model.inputs:
            builder.add_value(key, "input", spec(key))
        for key in self._parameters:
            builder.add_value(key, "parameter", spec(key))
        for op, program in self._ops.items():
            node = program.node
            scope, module = node.scope_and_class
            kind = f"{node.proto.domain or 'onnx'}.{node.proto.op_type}"
            builder.add_op(
                op,
                kind=kind,
                scope=scope,
                module=module,
                inputs=program.inputs,
                outputs={key: spec(key) for key in node.outputs},
                source=node.source,
                primitives=(kind,),
                constants=node.constants(program.baked),
            )
        return builder.build(name, inputs=self._model.inputs, outputs=self._model.outputs)

    def _hosts(self, specs: Mapping[ValueId, TensorSpec | None]) -> set[ValueId]:
        """Values that never leave the host: no tensors, numbers that say what an operator does,
        and the shape arithmetic that leads to them."""
        hosts = {key for key, spec in specs.items() if spec is None}
        readers: dict[ValueId, list[_OnnxOp]] = {}
        for program in self._ops.values():
            hosts |= program.node.fixed().intersection(program.inputs)
            for key in program.inputs:
                readers.setdefault(key, []).append(program)
        for program in reversed(self._ops.values()):
            for key in program.node.outputs:
                spec, users = specs[key], readers.get(key, ())
                if spec is None or is_float(np_dtype(spec.dtype)) or key in self._model.outputs:
                    continue
                if users and all(hosts.issuperset(user.node.outputs) for user in users):
                    hosts.add(key)
        return hosts

    def _feeds(self, program: _OnnxOp, values: Mapping[ValueId, Any]) -> dict[str, Any]:
        baked = program.baked
        return {n: baked[n] if n in baked else values[n] for n in program.node.reads}


def _spec_or_none(value: Any) -> TensorSpec | None:
    """None of sequences and texts: they stay on the host."""
    return None if _no_tensor(value) else spec_of(value)


def _no_tensor(value: Any) -> str:
    """What a value is that is no tensor of numbers; empty if it is one."""
    if not isinstance(value, np.ndarray):
        return "nothing" if value is None else "a sequence"
    return "text" if value.dtype.kind in "OUS" else ""


def _fits(array: np.ndarray, declared: Any, sizes: dict[str, int]) -> bool:
    if array.dtype.kind not in "OUS" and array.dtype != _dtype(declared):
        return False
    if not declared.HasField("shape"):
        return True
    dims = declared.shape.dim
    return len(dims) == array.ndim and all(
        _fits_axis(size, dim, sizes) for size, dim in zip(array.shape, dims, strict=True)
    )


def _fits_axis(size: int, dim: Any, sizes: dict[str, int]) -> bool:
    """Sizes of one name are one size; -1, 0, nothing and ``?`` are what exporters write of any."""
    if dim.dim_value > 0:
        return bool(size == dim.dim_value)
    return dim.dim_param in ("", "?") or size == sizes.setdefault(dim.dim_param, size)


def _declared(declared: Any) -> str:
    dims = [
        str(dim.dim_value if dim.dim_value > 0 else dim.dim_param or "?")
        for dim in declared.shape.dim
    ]
    return f"{_dtype(declared).name}[{', '.join(dims)}]"


def _dtype(declared: Any) -> np.dtype:
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(declared.elem_type))
