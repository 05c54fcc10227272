"""Which FX nodes make one operator: those that came from one ATen call of the user's model.

``run_decompositions`` turns ``aten.linear`` into permute, view and mm; people wrote ``linear``.
Every decomposed node remembers the call it came from (``meta["from_node"]``), and that is the
key.  ``getitem`` belongs to the producer of its tuple.  No kernel yields sizes: those that a call
computes and others read, too, are an operator of their own.  A group must be convex (no path leaves
it and comes back), or it could not run as one kernel; one that is not is cut where it must be.
"""

from __future__ import annotations

import heapq
import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

Group = tuple[fx.Node, ...]

PLACES = "tapml_places"
"""Where a node's ``meta`` has the places, by name, that what it reads has in its ATen call."""


@dataclass(frozen=True)
class TorchOp:
    """An operator's nodes, the nodes it reads, as :func:`reads` orders them, and the nodes others
    read of it."""

    nodes: Group
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]


def group_nodes(graph: fx.Graph) -> list[Group]:
    """The graph's computing nodes as convex groups in an executable order."""
    members: dict[str, list[fx.Node]] = {}
    key_of: dict[fx.Node, str] = {}
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        key = key_of[node.args[0]] if is_getitem(node) else origin(node)
        key_of[node] = key
        members.setdefault(key, []).append(node)
    return executable(graph, (part for nodes in members.values() for part in _sizes_apart(nodes)))


def executable(graph: fx.Graph, groups: Iterable[list[fx.Node]]) -> list[Group]:
    """Groups in an executable order; those that are not convex are cut."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    parts = [
        part
        for nodes in groups
        for part in _convex_parts(sorted(nodes, key=order.__getitem__), order)
    ]
    return _executable(parts, order)


def main_node(group: Group) -> fx.Node:
    """The node that a group is named and traced by: its last one that computes."""
    computing = (n for n in reversed(group) if not is_getitem(n) and not is_assertion(n))
    return next(computing, group[0])


def reads(group: Group) -> tuple[fx.Node, ...]:
    """The nodes outside a group that it reads: call by call, in the order of each ATen call's
    arguments; last, in the order of first use, what is none of them."""
    members = set(group)
    calls: dict[str, dict[fx.Node, float]] = {}
    for node in group:
        places = node.meta.get(PLACES, {})
        read = calls.setdefault(origin(node), {})
        for given in node.all_input_nodes:
            if given not in members:
                read[given] = places.get(given.name, math.inf)
    ordered = (sorted(read, key=read.__getitem__) for read in calls.values())
    return tuple(dict.fromkeys(given for read in ordered for given in read))


def arguments(node: fx.Node) -> dict[str, Any]:
    """An ATen call's arguments by name, in the order of its schema, defaults filled in."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    named = {p.name: node.kwargs.get(p.name, p.default_value) for p in schema}
    return named | dict(zip(named, node.args, strict=False))


def is_getitem(node: fx.Node) -> bool:
    """Whether a node takes one member of its producer's tuple of tensors."""
    return (
        node.target is operator.getitem
        and isinstance(node.args[0], fx.Node)
        and node.args[0].op == "call_function"
    )


def _sizes_apart(nodes: list[fx.Node]) -> list[list[fx.Node]]:
    rest, sizes = dict.fromkeys(nodes), list[fx.Node]()
    for node in nodes:
        if is_number(node) and rest.keys().isdisjoint(node.all_input_nodes):
            sizes.append(node)
            del rest[node]
    shared = any(user not in nodes for node in sizes for user in node.users)
    return [sizes, list(rest)] if shared and rest else [nodes]


def is_complex(node: fx.Node) -> bool:
    """Whether a node yields a complex tensor."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_complex()


def is_number(node: fx.Node) -> bool:
    """Whether a node yields a number on the host, such as a size."""
    numbers = (int, float, torch.SymInt, torch.SymFloat, torch.SymBool)
    return isinstance(node.meta.get("val"), numbers)


def is_assertion(node: fx.Node) -> bool:
    """Whether a node yields nothing at all: it checks what others yield."""
    return node.op == "call_function" and not node.users and node.meta.get("val") is None


def origin(node: fx.Node) -> str:
    """The name of the call in the undecomposed program that a node came from."""
    history = node.meta.get("from_node")
    return str(history[-1].name) if history else str(node.name)


def origin_target(node: fx.Node) -> str:
    """What that call calls, e.g. ``aten.bernoulli.default``."""
    history = node.meta.get("from_node")
    return str(history[-1].target if history else node.target)


def is_tensor(value: object) -> bool:
    """Whether a node's example value is a tensor."""
    return isinstance(value, torch.Tensor)


def _convex_parts(nodes: list[fx.Node], order: dict[fx.Node, int]) -> list[Group]:
    if len(nodes) == 1 or _is_convex(nodes, order):
        return [tuple(nodes)]
    parts: list[list[fx.Node]] = []
    for node in nodes:
        if is_getitem(node):
            next(p for p in parts if node.args[0] in p).append(node)
        elif parts and _is_convex([*parts[-1], node], order):
            parts[-1].append(node)
        else:
            parts.append([node])
    return [tuple(part) for part in parts]


def _is_convex(nodes: Sequence[fx.Node], order: dict[fx.Node, int]) -> bool:
    """Whether no path leaves the group and re-enters it.

    Only nodes up to the group's last one can lie on such a path, so the walk stays local.
    """
    inside = set(nodes)
    last = max(order[n] for n in nodes)
    stack = [u for n in nodes for u in n.users if u not in inside]
    seen: set[fx.Node] = set()
    while stack:
        node = stack.pop()
        if node in seen or order[node] > last:
            continue
        seen.add(node)
        for user in node.users:
            if user in inside:
                return False
            stack.append(user)
    return True


def _executable(groups: list[Group], order: dict[fx.Node, int]) -> list[Group]:
    """Kahn's algorithm over the groups, earliest node first.

    Convex groups can still wait for each other (a1→b1 and b2→a2); those are cut into their
    nodes, which always have an order.
    """
    home = {node: i for i, group in enumerate(groups) for node in group}
    needs = [{home[a] for n in g for a in n.all_input_nodes if a in home} for g in groups]
    users: list[list[int]] = [[] for _ in groups]
    for i, need in enumerate(needs):
        need.discard(i)
        for j in need:
            users[j].append(i)
    waiting = [len(need) for need in needs]
    ready = [(order[g[0]], i) for i, g in enumerate(groups) if not waiting[i]]
    heapq.heapify(ready)
    done: list[Group] = []
    placed: set[int] = set()
    while ready:
        _, i = heapq.heappop(ready)
        done.append(groups[i])
        placed.add(i)
        for j in users[i]:
            waiting[j] -= 1
            if not waiting[j]:
                heapq.heappush(ready, (order[groups[j][0]], j))
    if len(done) == len(groups):
        return done
    cut = [
        part
        for i, group in enumerate(groups)
        for part in ([group] if i in placed else _single_nodes(group))
    ]
    return _executable(cut, order)


def _single_nodes(group: Group) -> list[Group]:
    singles = {node: [node] for node in group if not is_getitem(node)}
    for node in group:
        if is_getitem(node):
            singles[node.args[0]].append(node)  # type: ignore[index]
    return [tuple(nodes) for nodes in singles.values()]
