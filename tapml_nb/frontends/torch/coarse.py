"""Groups of several ATen calls: those of a module, or of a kernel that TVM deploys."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import fx

from tapml_nb.frontends.granularity import Decide
from tapml_nb.frontends.torch.fusion import build_fusion_module
from tapml_nb.frontends.torch.grouping import (
    Group,
    executable,
    is_assertion,
    is_getitem,
    is_tensor,
    main_node,
)
from tapml_nb.frontends.torch.provenance import module_calls
from tapml_nb.frontends.torch.sizes import exported_size
from tapml_nb.frontends.torch.workarounds import Workaround


def module_groups(graph: fx.Graph, calls: Sequence[Group], depth: int | None) -> list[Group]:
    """Calls by the call of the module that they ran in, in an executable order.

    What a module does between the modules that it calls itself is a group of its own: calls in a
    row, which are convex.  Calls that yield no tensor run on the host, and stay alone.

    Args:
        graph: what the calls are in.
        calls: the nodes of each, in an executable order.
        depth: how many components a module's path has at most; None for no limit.

    Raises:
        ValueError: if no module is that deep.
    """
    stacks = [module_calls(main_node(nodes)) for nodes in calls]
    deepest = max((_depth(path) for stack in stacks for _, path in stack), default=0)
    if depth is not None and depth > deepest:
        raise ValueError(
            f"granularity: 'module:{depth}' matches nothing; the path of the deepest module has "
            f"{deepest} component{'' if deepest == 1 else 's'}"
        )
    rows: list[list[fx.Node]] = []
    alone: list[list[fx.Node]] = []
    last: Hashable = None
    for nodes, stack in zip(calls, stacks, strict=True):
        if not any(is_tensor(node.meta.get("val")) for node in nodes):
            reads = {a for node in nodes for a in node.all_input_nodes}
            if rows and any(node.users for node in nodes) and not reads.isdisjoint(rows[-1]):
                last = None  # what follows may need its number, and it needs what came before
            alone.append(list(nodes))
        elif (module := _module(stack, depth)) == last:
            rows[-1] += nodes
        else:
            rows.append(list(nodes))
            last = module
    return executable(graph, [*rows, *alone])


def _module(stack: Sequence[tuple[str, str]], depth: int | None) -> Hashable:
    """Which call of which module a node is in, down to a depth."""
    if not stack:
        return ("", "")
    if depth is None:
        return stack[-1]
    path = ".".join(stack[-1][1].split(".")[:depth])
    # A list of modules is never called itself: its path counts beside the call around it.
    return ([call for call, outer in stack if _depth(outer) <= depth][-1], path)


def _depth(path: str) -> int:
    return len(path.split(".")) if path else 0


def fused_groups(
    graph: fx.Graph,
    results: Iterable[fx.Node],
    decide: Decide,
    workarounds: Sequence[Workaround],
) -> list[Group]:
    """Nodes by the kernel that they are in when the target deploys the whole model.

    Nodes of which two kernels hold a part join these.  Constants that are folded are together
    where they depend on each other, and what becomes no kernel at all is with what it is a view
    of.  What the importer has no rule for stays alone.

    Args:
        graph: the model's nodes.
        results: the nodes that it returns.
        decide: lets the target decide.
        workarounds: what is to stand in for rules of the importer's.
    """
    single: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        if is_getitem(node):
            single[node.args[0]].append(node)
        elif node.op == "call_function" and not is_assertion(node):
            single[node] = [node]
    env = {node: _concrete(node.meta.get("val")) for node in graph.nodes}
    calls = [
        tuple(nodes) for nodes in single.values() if any(is_tensor(env[node]) for node in nodes)
    ]
    module, made = build_fusion_module(calls, list(results), env, workarounds)
    fusion = decide(module)
    together = _Together(single)
    for kernel in fusion.kernels:
        together.join(made[call][0] for call in kernel)
    constant = {made[call][0] for call in fusion.folded}
    launched = {made[call][0] for kernel in fusion.kernels for call in kernel}
    views = {nodes[0] for nodes in made} - constant - launched
    for node in single:
        sources = [_producer(a) for a in node.all_input_nodes if is_tensor(env[a])]
        if node in views and constant.issuperset(sources):
            constant.add(node)
        if node in constant:
            together.join([node, *(s for s in sources if s in constant)])
        elif node in views and sources[0] in single:
            together.join([node, sources[0]])
    return executable(graph, [[m for n in nodes for m in single[n]] for nodes in together.sets()])


def _concrete(value: Any) -> Any:
    """An example value with the numbers of the export in place of symbols."""
    if isinstance(value, torch.SymInt):
        return exported_size(value)
    if isinstance(value, torch.SymFloat | torch.SymBool):
        return value.node.hint  # None if it depends on data: who needs it cannot be converted
    return value


def _producer(node: fx.Node) -> fx.Node:
    return node.args[0] if is_getitem(node) else node  # type: ignore[return-value]


class _Together:
    """Disjoint sets of nodes."""

    def __init__(self, nodes: Iterable[fx.Node]) -> None:
        self._parent: dict[fx.Node, fx.Node] = {node: node for node in nodes}

    def join(self, nodes: Iterable[fx.Node]) -> None:
        """Put nodes into one set, with all that are in theirs."""
        first, *others = [self._root(node) for node in nodes]
        self._parent.update(dict.fromkeys(others, first))

    def sets(self) -> list[list[fx.Node]]:
        """All sets; nodes in their first order."""
        found: dict[fx.Node, list[fx.Node]] = {}
        for node in self._parent:
            found.setdefault(self._root(node), []).append(node)
        return list(found.values())

    def _root(self, node: fx.Node) -> fx.Node:
        while self._parent[node] is not node:
            self._parent[node] = node = self._parent[self._parent[node]]
        return node
