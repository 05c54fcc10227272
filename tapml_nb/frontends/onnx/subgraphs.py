"""Graphs inside nodes: what they read from outside, and what stands in the place of an ``If`` whose
condition is known."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

_RANDOM = {
    "Bernoulli",
    "Dropout",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}
"""Operators that draw random numbers."""


def is_kind(node: Any, kind: str) -> bool:
    """Whether a ``NodeProto`` is one of ONNX's own operators."""
    return node.op_type == kind and node.domain in ("", "ai.onnx")


def graphs(node: Any) -> Iterator[Any]:
    """The graphs that a node runs, each a ``GraphProto``."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def draws(node: Any, values: Mapping[str, Any]) -> bool:
    """Whether the result of a ``NodeProto``, or of one in a graph that it runs, depends on random
    numbers that it draws; ``values`` are those of its inputs, by name."""
    if any(draws(inner, {}) for graph in graphs(node) for inner in graph.node):
        return True
    if node.op_type not in _RANDOM:
        return False
    given = [values.get(name) for name in node.input]
    if node.op_type == "Bernoulli" and given[0] is not None:
        return not np.isin(given[0], (0, 1)).all()
    if node.op_type == "Dropout":  # of the ratio, if it is told that it trains
        ratio, trains = [*given[1:], None, None][:2]
        if len(node.input) < 3 or not node.input[2]:
            return False
        return (trains is None or bool(trains)) and (ratio is None or bool(ratio != 0))
    return True


def reads(node: Any) -> Iterator[str]:
    """Every value that a node reads: its inputs, and what its graphs take from outside."""
    yield from (name for name in node.input if name)
    for graph in graphs(node):
        yield from _free(graph)


def array_of(tensor: Any) -> np.ndarray:
    """A ``TensorProto`` as an array.

    Raises:
        ValueError: if its numbers are in a file that is not at hand.
    """
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ValueError(
            f"model: the weight {tensor.name!r} is in another file; give the model's path"
        )
    return np.asarray(numpy_helper.to_array(tensor), order="C")


class Straightened:
    """The nodes of a graph without its constants, and without every ``If`` of which it is known
    which branch it takes: in its place stand the nodes of that, their values called after it.

    That is known where its condition is a constant, or computed from constants and, if they all
    lead to the same, from whole numbers and shapes that are given.

    Attributes:
        constants: initializers and the values of ``Constant`` nodes, by name.
        nodes: all other nodes, in executable order.
        decided: what is to be said of nodes that stand in a branch which the inputs have decided
            on, by the nodes' first outputs.
    """

    def __init__(
        self, graph: Any, opsets: Mapping[str, int], steps: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """``steps``: what is given, each time; tensors are arrays."""
        self.constants = {tensor.name: array_of(tensor) for tensor in graph.initializer}
        self.nodes: list[Any] = []
        self.decided: dict[str, str] = {}
        self._opsets = opsets
        self._steps = [
            {name: array for name, array in step.items() if isinstance(array, np.ndarray)}
            for step in steps
        ]
        self._static: dict[str, Any] = {}
        """Values that are computed from constants, whole numbers and shapes, with the node that
        does."""
        self._add(graph.node, "")

    def _add(self, nodes: Iterable[Any], words: str) -> None:
        for node in nodes:
            if is_kind(node, "Constant"):
                self.constants[node.output[0]] = self._evaluated([node], node.output[0], {})
            elif is_kind(node, "If") and (found := self._known(node.input[0])) is not None:
                condition, given = found
                name = "then_branch" if condition.all() else "else_branch"
                branch = next(a.g for a in node.attribute if a.name == name)
                label = node.name or node.output[0]
                says = f"in the branch of {label} that these inputs decide on" if given else words
                self._add(self._opened(branch, node), says)
            else:
                self.nodes.append(node)
                if words:
                    self.decided[next(filter(None, node.output))] = words
                if not draws(node, {}) and all(self._is_static(node, r) for r in reads(node)):
                    self._static.update(dict.fromkeys(node.output, node))

    def _is_static(self, node: Any, name: str) -> bool:
        if name in self.constants or name in self._static:
            return True
        if not self._steps or any(name not in step for step in self._steps):
            return False
        if is_kind(node, "Shape") or is_kind(node, "Size"):
            return True
        return all(step[name].dtype.kind in "iub" for step in self._steps)

    def _known(self, name: str) -> tuple[np.ndarray, bool] | None:
        """The value of a condition, and whether what is given has decided on it; None if that is
        not known, or differs from step to step."""
        if name in self.constants:
            return self.constants[name], False
        if self._steps and all(name in step for step in self._steps):
            return _agreed([step[name] for step in self._steps])
        if name not in self._static:
            return None
        wanted = [name]
        made_by: dict[int, Any] = {}
        for value in wanted:
            if (node := self._static.get(value)) is not None and id(node) not in made_by:
                made_by[id(node)] = node
                wanted.extend(reads(node))
        nodes = [node for node in self.nodes if id(node) in made_by]
        given = set(wanted) & {key for step in self._steps for key in step}
        with contextlib.suppress(Exception):  # whatever onnx's reference implementation lacks
            if not given:
                return self._evaluated(nodes, name, {}), False
            return _agreed(
                [
                    self._evaluated(nodes, name, {key: step[key] for key in given})
                    for step in self._steps
                ]
            )
        return None

    def _evaluated(
        self, nodes: list[Any], name: str, given: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        needed = {read for node in nodes for read in reads(node)} & self.constants.keys()
        constants = [numpy_helper.from_array(self.constants[key], key) for key in needed]
        inputs = [onnx.ValueInfoProto(name=key) for key in given]
        graph = helper.make_graph(nodes, "", inputs, [onnx.ValueInfoProto(name=name)], constants)
        imports = [helper.make_opsetid(domain, number) for domain, number in self._opsets.items()]
        model = helper.make_model(graph, opset_imports=imports)
        (value,) = ReferenceEvaluator(model).run([name], dict(given))
        return np.asarray(value)

    def _opened(self, branch: Any, node: Any) -> Iterator[Any]:
        """The nodes of a branch of ``node``, which yield what that is to yield."""
        prefix = f"{node.name or node.output[0]}/"
        made = [name for inner in branch.node for name in inner.output if name]
        new = {name: prefix + name for name in (*(t.name for t in branch.initializer), *made)}
        for tensor in branch.initializer:
            self.constants[new[tensor.name]] = array_of(tensor)
        passed: dict[str, str] = {}
        """Of the outputs, what the branch does not make itself, or yields twice."""
        for inside, outside in zip((v.name for v in branch.output), node.output, strict=True):
            if outside and inside in made:
                made.remove(inside)
                new[inside] = outside
            elif outside:
                passed[outside] = inside
        for inner in branch.node:
            yield renamed(inner, new)
        for outside, inside in passed.items():
            yield helper.make_node("Identity", [new.get(inside, inside)], [outside])


def _agreed(conditions: Sequence[np.ndarray]) -> tuple[np.ndarray, bool] | None:
    """A condition that is the same each time."""
    first = conditions[0]
    return (first, True) if all(c.all() == first.all() for c in conditions) else None


def _free(graph: Any) -> Iterator[str]:
    bound = {value.name for value in (*graph.input, *graph.initializer)}
    for node in graph.node:
        yield from (name for name in reads(node) if name not in bound)
        bound.update(node.output)
    yield from (value.name for value in graph.output if value.name not in bound)


def renamed(node: Any, new: Mapping[str, str]) -> Any:
    """A copy of a node with other names for what it reads and yields."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [new.get(name, name) for name in node.input]
    copy.output[:] = [new.get(name, name) for name in node.output]
    for graph in graphs(copy):
        bound = {value.name for value in (*graph.input, *graph.initializer)}
        bound.update(name for inner in graph.node for name in inner.output)
        outer = {old: name for old, name in new.items() if old not in bound}
        nodes = [renamed(inner, outer) for inner in graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
        for value in graph.output:
            value.name = outer.get(value.name, value.name)
    return copy
