"""``Scan`` and ``Loop`` written out: their body once for each of the steps that they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tapml_nb.frontends.onnx.model import OnnxNode, element_of
from tapml_nb.frontends.onnx.subgraphs import array_of, graphs, is_kind, reads, renamed

_MOST = 1024
"""Nodes that an unrolled one may have."""


@dataclass
class _Written:
    """A graph in the making.

    Attributes:
        node: the node that is written out.
        body: its graph.
        known: constants by name, and what is computed from these alone.
        nodes: all others.
    """

    node: OnnxNode
    body: Any
    known: dict[str, np.ndarray]
    nodes: list[Any] = field(default_factory=list)

    def step(self, number: int, given: Sequence[str]) -> list[str]:
        """Write the body once more, which reads these values; returns what its outputs are called.

        Raises:
            ValueError: if that is too much, or a node of the body runs a graph of its own.
        """
        prefix = f"step{number}/"
        new = dict(zip((value.name for value in self.body.input), given, strict=True))
        for tensor in self.body.initializer:
            new[tensor.name] = f"body/{tensor.name}"
            self.known[new[tensor.name]] = array_of(tensor)
        for inner in self.body.node:
            new |= {name: prefix + name for name in inner.output if name}
            self.add(renamed(inner, new))
        return [new.get(value.name, value.name) for value in self.body.output]

    def add(self, node: Any) -> str:
        """Write a node, or compute it where it reads constants alone; returns its first output."""
        if any(True for _ in graphs(node)):
            raise ValueError("a body that runs graphs of its own")
        if set(reads(node)) <= self.known.keys():
            self.known.update(self._computed(node))
        else:
            self.nodes.append(node)
            if len(self.nodes) > _MOST:
                raise ValueError(f"more than {_MOST} operators")
        return str(node.output[0])

    def constant(self, name: str, array: np.ndarray) -> str:
        self.known[name] = array
        return name

    def put_together(self, parts: Sequence[str], axis: int, name: str) -> None:
        """One value of what each step has yielded, along a new axis."""
        self._of_each(parts, axis, name)
        self.add(helper.make_node("Concat", [f"{p}/at{axis}" for p in parts], [name], axis=axis))

    def _of_each(self, parts: Sequence[str], axis: int, name: str) -> None:
        old = self.node.opsets.get("", 1) < 13
        axes = [] if old else [self.constant(f"{name}/axis", np.array([axis], np.int64))]
        told: dict[str, Any] = {"axes": [axis]} if old else {}
        for part in dict.fromkeys(parts):
            self.add(helper.make_node("Unsqueeze", [part, *axes], [f"{part}/at{axis}"], **told))

    def same(self, value: str, name: str) -> None:
        """A value under another name."""
        self.nodes.append(helper.make_node("Identity", [value], [name]))

    def _computed(self, node: Any) -> dict[str, np.ndarray]:
        imports = [helper.make_opsetid(d, number) for d, number in self.node.opsets.items()]
        inputs = [numpy_helper.from_array(self.known[name], name) for name in set(reads(node))]
        outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
        graph = helper.make_graph([node], "", [], outputs, inputs)
        run = ReferenceEvaluator(helper.make_model(graph, opset_imports=imports)).run(None, {})
        return dict(zip(node.output, map(np.asarray, run), strict=True))


def unrolled(
    node: OnnxNode, inputs: Mapping[str, np.ndarray], baked: Mapping[str, np.ndarray]
) -> Any:
    """A ``ModelProto`` without graphs inside, whose inputs are the ``inputs`` and whose outputs are
    the node's.

    Raises:
        ValueError: if it is none of those that can be written out, or it is not known how often.
    """
    write = {"Scan": _scan, "Loop": _loop}.get(node.kind)
    if write is None:
        raise ValueError("a branch that values decide")
    body = next(a.g for a in node.proto.attribute if a.name == "body")
    written = _Written(node, body, dict(baked))
    shapes = {name: array.shape for name, array in (*inputs.items(), *baked.items())}
    write(written, shapes)
    return _model(written, inputs)


def _scan(written: _Written, shapes: Mapping[str, tuple[int, ...]]) -> None:
    node, told = written.node, written.node.attributes()
    given, count = list(node.proto.input), told["num_scan_inputs"]
    batched = node.opsets.get("", 1) < 9
    if batched and given[0]:
        raise ValueError("sequences of several lengths")
    given = given[1:] if batched else given
    states, scanned = given[: len(given) - count], given[len(given) - count :]
    if batched:
        if shapes[scanned[0]][0] != 1:
            raise ValueError("more than one sequence")
        states = [_without_batch(written, name) for name in states]
        scanned = [_without_batch(written, name) for name in scanned]
    axes = told.get("scan_input_axes") or [0] * count
    backward = told.get("scan_input_directions" if not batched else "directions") or [0] * count
    sizes = [
        shapes[name][1 if batched else axis]
        for name, axis in zip(given[-count:], axes, strict=True)
    ]
    names = list(node.proto.output)
    collected: list[list[str]] = [[] for _ in names[len(states) :]]
    for number in range(sizes[0]):
        parts = []
        for name, axis, turned in zip(scanned, axes, backward, strict=True):
            place = np.array(sizes[0] - 1 - number if turned else number, np.int64)
            index = written.constant(f"place{place}", place)
            part = f"step{number}/{name}"
            parts.append(written.add(helper.make_node("Gather", [name, index], [part], axis=axis)))
        made = written.step(number, [*states, *parts])
        states = made[: len(states)]
        for steps, part in zip(collected, made[len(states) :], strict=True):
            steps.append(part)
    if not sizes[0]:
        raise ValueError("no step")
    outward = told.get("scan_output_axes") or [0] * len(collected)
    turned_out = told.get("scan_output_directions") or [0] * len(collected)
    for k, (steps, axis, turned) in enumerate(zip(collected, outward, turned_out, strict=True)):
        if axis < 0:
            raise ValueError("an axis that is counted from the end")
        states = [*states, f"collected{k}"]
        written.put_together(steps[::-1] if turned else steps, axis, states[-1])
    for value, name in zip(states, names, strict=True):
        if name and batched:
            written.put_together([value], 0, name)
        elif name:
            written.same(value, name)


def _without_batch(written: _Written, name: str) -> str:
    first = written.constant("first", np.array(0, np.int64))
    return written.add(helper.make_node("Gather", [name, first], [f"{name}/one"], axis=0))


def _loop(written: _Written, _: Mapping[str, tuple[int, ...]]) -> None:
    node, body = written.node, written.body
    trips, condition, *states = node.proto.input
    if not trips or trips not in written.known:
        raise ValueError("it is not known how often")
    if condition and not (condition in written.known and written.known[condition].all()):
        raise ValueError("whether it begins is not known")
    if not _goes_on(body):
        raise ValueError("values decide when it ends")
    count = int(written.known[trips].reshape(-1)[0])
    if count < 1:
        raise ValueError("no step")
    goes_on = written.constant("goes_on", np.array(True))
    collected: list[list[str]] = [[] for _ in node.proto.output[len(states) :]]
    for number in range(count):
        place = written.constant(f"place{number}", np.array(number, np.int64))
        made = written.step(number, [place, goes_on, *states])[1:]
        states = made[: len(states)]
        for steps, part in zip(collected, made[len(states) :], strict=True):
            steps.append(part)
    for k, steps in enumerate(collected):
        states = [*states, f"collected{k}"]
        written.put_together(steps, 0, states[-1])
    for value, name in zip(states, node.proto.output, strict=True):
        if name:
            written.same(value, name)


def _goes_on(body: Any) -> bool:
    """Whether a body's condition is the one that it was given, or a constant that holds."""
    makers = {name: node for node in body.node for name in node.output}
    constants = {tensor.name: array_of(tensor) for tensor in body.initializer}
    name = body.output[0].name
    while name in makers and is_kind(makers[name], "Identity"):
        name = makers[name].input[0]
    if name in makers and is_kind(makers[name], "Constant"):
        value = next((a.t for a in makers[name].attribute if a.name == "value"), None)
        return value is not None and bool(array_of(value).all())
    if name in constants:
        return bool(constants[name].all())
    return bool(name == body.input[1].name)


def _model(written: _Written, inputs: Mapping[str, np.ndarray]) -> Any:
    """The whole, whose names tell nothing of where it stood."""
    outputs = [name for name in written.node.proto.output if name]
    new = {name: f"p{k}" for k, name in enumerate(inputs)}
    new |= {name: f"r{k}" for k, name in enumerate(outputs)}
    nodes = [renamed(node, new) for node in written.nodes]
    read = {name for node in nodes for name in reads(node)}
    taken = [
        helper.make_tensor_value_info(new[name], element_of(array), array.shape)
        for name, array in inputs.items()
    ]
    constants = [
        numpy_helper.from_array(array, name)
        for name, array in written.known.items()
        if name in read and name not in new
    ]
    results = [helper.make_empty_tensor_value_info(new[name]) for name in outputs]
    graph = helper.make_graph(nodes, "unrolled", taken, results, constants)
    imports = [helper.make_opsetid(d, number) for d, number in written.node.opsets.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=written.node.ir_version)
