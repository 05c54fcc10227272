"""In which order a call's inputs stand: that of the ATen call that people wrote.

Decomposition turns calls around: ``linear(input, weight, bias)`` becomes
``addmm(bias, input, permute(weight))``.  Which argument it is that a decomposed node reads, nothing
says; there is only the name of the call that yielded it.  Where that is none of the arguments, what
stood there has gone (``to`` the dtype that it has), or was written to in place since: then it is
the argument that is the same view, or else one that shares its memory.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from tapml_nb.frontends.torch.grouping import (
    PLACES,
    arguments,
    is_getitem,
    is_tensor,
    origin,
    reads,
)


def place_arguments(program: ExportedProgram, decomposed: ExportedProgram) -> None:
    """Note with each node of a decomposed program at which places its call has what it reads.

    A node inside a call stands where the first of the arguments stands that it is made of.
    """
    order = {node: k for k, node in enumerate(decomposed.graph.nodes)}
    parts: dict[str, list[fx.Node]] = {}
    for node in order:
        if node.op == "call_function":
            parts.setdefault(origin(node), []).append(node)
    calls = _Calls(program.graph, parts)
    for call, nodes in parts.items():
        read = sorted(reads(tuple(nodes)), key=order.__getitem__)
        places = {node.name: place for node, place in calls.places(call, read).items()}
        for node in nodes:
            before = [places[a.name] for a in node.all_input_nodes if a.name in places]
            if before:
                places[node.name] = min(before)
            node.meta[PLACES] = places


class _Calls:
    """The calls of a program before it is decomposed."""

    def __init__(self, graph: fx.Graph, left: Collection[str]) -> None:
        """``left``: the names of calls of which decomposition leaves something."""
        self._nodes = {node.name: node for node in graph.nodes}
        self._order = {node: k for k, node in enumerate(graph.nodes)}
        self._memory: dict[fx.Node, list[fx.Node]] = {}
        """What a node is a view of or was written into, and so on, from itself on."""
        for node in graph.nodes:
            shared = _shared(node, gone=node.name not in left)
            self._memory[node] = [node, *(self._memory[shared] if shared is not None else ())]

    def places(self, call: str, read: Sequence[fx.Node]) -> dict[fx.Node, int]:
        """Which of a call's inputs decomposed nodes are, those that are one.

        Several results of one call are told apart by their order, so ``read`` has the graph's.
        """
        inputs = _inputs(self._nodes[call]) if call in self._nodes else []
        free = {given: inputs.index(given) for given in sorted(inputs, key=self._order.__getitem__)}
        found: dict[fx.Node, int] = {}
        for is_it in (self._is_result, self._is_same_view, self._is_same_memory):
            for node in read:
                given = next((g for g in free if is_it(node, g)), None)
                if given is not None and node not in found:
                    found[node] = free.pop(given)
        return found

    def _yielded_by(self, node: fx.Node) -> fx.Node | None:
        return self._nodes.get(origin(node) if node.op == "call_function" else node.name)

    def _is_result(self, node: fx.Node, given: fx.Node) -> bool:
        return self._yielded_by(node) is _producer(given) and _look(node) == _look(given)

    def _is_same_view(self, node: fx.Node, given: fx.Node) -> bool:
        """Whether a view was taken once more, of what had been written to."""
        return node.op == "call_function" and any(
            (node.target, node.args[1:], _look(node)) == (view.target, view.args[1:], _look(view))
            for view in self._memory[given][:-1]
            if not is_getitem(view)
        )

    def _is_same_memory(self, node: fx.Node, given: fx.Node) -> bool:
        call = self._yielded_by(node)
        return call is not None and self._memory[call][-1] is self._memory[given][-1]


def _look(node: fx.Node) -> tuple[Any, ...]:
    value: Any = node.meta.get("val")
    return (value.dtype, *map(str, value.shape)) if is_tensor(value) else ()


def _inputs(call: fx.Node) -> list[fx.Node]:
    """What a call reads, in the order of its schema, each once."""
    found: list[fx.Node] = []
    has_schema = isinstance(call.target, torch._ops.OpOverload)
    given = tuple(arguments(call).values()) if has_schema else (call.args, call.kwargs)
    fx.node.map_arg(given, found.append)
    return list(dict.fromkeys(found))


def _producer(node: fx.Node) -> fx.Node:
    return node.args[0] if is_getitem(node) else node  # type: ignore[return-value]


def _shared(node: fx.Node, gone: bool) -> fx.Node | None:
    """What a node is a view of, or was written into; of a call that has gone what it is given."""
    if is_getitem(node):
        return _producer(node)
    if node.op != "call_function":
        return None
    if isinstance(node.target, torch._ops.OpOverload):
        schema = node.target._schema
        if any(result.alias_info for result in schema.returns):
            named = arguments(node)
            given = [named[p.name] for p in schema.arguments if p.alias_info]
            return next((value for value in given if isinstance(value, fx.Node)), None)
    given = _inputs(node) if gone else []
    return next((value for value in given if is_tensor(value.meta.get("val"))), None)
