"""Which calls of a program are to be decomposed together.

Most are on their own.  A call that writes into memory changes what others read that look at the
same memory: then all calls go together, from the one that makes that memory on to the last write
or, where there are views of it, to the last call that reads it.  What the program is given, such as
a cache, is there before: its calls begin with the first that looks at it or writes to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from tapml_nb.frontends.torch.grouping import arguments, is_getitem

_PERHAPS_THE_SAME = {"alpha_dropout", "dropout", "feature_dropout", "type_as"}
"""Calls that may return what they are given, though their schemas do not say so."""


@dataclass(frozen=True)
class Stretch:
    """Calls in a row that are decomposed together.

    Attributes:
        calls: in order; members of tuples that come from elsewhere are none.
        reads: what they read of others, in the order of first use.
        results: those of them that others read, or nobody.
        writes: those of what they read that they write into.
    """

    calls: Sequence[fx.Node]
    reads: Sequence[fx.Node]
    results: Sequence[fx.Node]
    writes: Sequence[fx.Node]


class Memory:
    """Which nodes of a graph may look at the same memory, by the schemas of its calls.

    Attributes:
        writes: the calls that write into a memory, by the first node that looks at it.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self._order = {node: place for place, node in enumerate(graph.nodes)}
        self._first: dict[fx.Node, fx.Node] = {}
        self._nodes: dict[fx.Node, list[fx.Node]] = {}
        self.writes: dict[fx.Node, list[fx.Node]] = {}
        for node in graph.nodes:
            self._first[node], self._nodes[node] = node, [node]
            for given in _looked_through(node):
                self._join(given, node)
        for node in graph.nodes:
            for given in _written(node):
                self.writes.setdefault(self[given], []).append(node)

    def __getitem__(self, node: fx.Node) -> fx.Node:
        """The first node that looks at a node's memory."""
        return self._first[node]

    def spans(self) -> dict[int, int]:
        """From where on to where, in the graph's order, there is memory that is written to in
        place."""
        found: dict[int, int] = {}
        for first in self.writes:
            begin = self._begin(first)
            found[begin] = max(self._end(first), found.get(begin, -1))
        return found

    def given(self) -> list[fx.Node]:
        """What the graph is given and writes to, in order."""
        nodes = (node for first in self.writes for node in self._nodes[first])
        return sorted((n for n in nodes if n.op == "placeholder"), key=self._order.__getitem__)

    def _join(self, one: fx.Node, other: fx.Node) -> None:
        first, later = sorted((self[one], self[other]), key=self._order.__getitem__)
        if first is not later:
            moved = self._nodes.pop(later)
            self._nodes[first] += moved
            self._first.update(dict.fromkeys(moved, first))

    def _begin(self, first: fx.Node) -> int:
        seen = (node for node in self._nodes[first] if node.op != "placeholder")
        return min(self._order[node] for node in (*seen, *self.writes[first]))

    def _end(self, first: fx.Node) -> int:
        """The last write; where there are views, the last call that reads one, for that is where
        PyTorch takes them once more."""
        writes = set(self.writes[first])
        seen = self._nodes[first]
        if not _is_composite(first) and all(node is first or node in writes for node in seen):
            return max(self._order[node] for node in writes)
        readers = {user for node in seen for user in node.users if user.op == "call_function"}
        return max(self._order[node] for node in writes | readers)


def stretches(graph: fx.Graph, memory: Memory) -> list[Stretch]:
    """All calls of a graph, as they are to be decomposed."""
    spans = memory.spans()
    parts: list[list[fx.Node]] = []
    end = -1
    for place, node in enumerate(graph.nodes):
        if node.op == "call_function":
            if place > end:
                parts.append([])
            parts[-1].append(node)
        end = max(end, spans.get(place, -1))
    found = (_stretch(part, memory) for part in parts)
    return [stretch for stretch in found if stretch.calls]


def _stretch(part: Iterable[fx.Node], memory: Memory) -> Stretch:
    calls: dict[fx.Node, None] = {}
    for node in part:
        if not is_getitem(node) or node.args[0] in calls:
            calls[node] = None
    given = dict.fromkeys(node for call in calls for node in call.all_input_nodes)
    reads = [node for node in given if node not in calls]
    results = [call for call in calls if call.users.keys() - calls.keys() or not call.users]
    writes = [node for node in reads if calls.keys() & set(memory.writes.get(memory[node], ()))]
    return Stretch([*calls], reads, results, writes)


def _is_composite(node: fx.Node) -> bool:
    """Whether a call is made of others, the last of which may be a view (that of a ``linear``)."""
    if node.op != "call_function":
        return False
    name, key = node.target.name(), "CompositeImplicitAutograd"  # type: ignore[union-attr]
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(name, key))


def _looked_through(node: fx.Node) -> list[fx.Node]:
    """What of its arguments a node may be a view of."""
    if is_getitem(node):
        return node.all_input_nodes
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    schema = node.target._schema
    if node.target._opname in _PERHAPS_THE_SAME:
        return node.all_input_nodes[:1]
    if not any(result.alias_info for result in schema.returns):
        return []
    return _nodes(arguments(node)[p.name] for p in schema.arguments if p.alias_info)


def _written(node: fx.Node) -> list[fx.Node]:
    """What of its arguments a node writes into."""
    if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.is_mutable:
        return []
    return _nodes(
        arguments(node)[p.name]
        for p in node.target._schema.arguments
        if p.alias_info is not None and p.alias_info.is_write
    )


def _nodes(given: Iterable[Any]) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.node.map_arg(list(given), found.append)
    return found
