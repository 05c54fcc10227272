"""What an operator is called: its id, its kind, and the module it belongs to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from torch import fx

from tapml_nb.frontends.builder import under
from tapml_nb.frontends.torch.grouping import Group, is_getitem, main_node
from tapml_nb.frontends.torch.provenance import class_of, kind, packet, scope_and_class
from tapml_nb.graph import Graph, Op
from tapml_nb.graph.select import short_kind

_LABELS = 4
"""Kinds in an id; what there is beyond is counted."""

_LAYOUT = re.compile(
    r"alias|clone|contiguous|detach|expand|expand_as|flatten|lift_fresh_copy|permute|reshape|"
    r"select|slice|squeeze|t|to|transpose|unflatten|unsqueeze|view|view_as|_to_copy"
)
"""Calls that compute nothing: where there are others, these name a group."""


@dataclass(frozen=True)
class Name:
    """What an operator is called.

    Attributes:
        id: not yet unique.
        kind, scope, module: as those of :class:`~tapml_nb.graph.Op`.
        node: the one that stands for it where people look for it in their code.
    """

    id: str
    kind: str
    scope: str
    module: str
    node: fx.Node


@dataclass(frozen=True)
class Part:
    """An ATen call in a group: the operator it is, and its nodes that are in the group."""

    op: Op
    nodes: Group

    @property
    def kinds(self) -> list[str]:
        """The call's kind; of a part of a call the kinds of its primitives."""
        whole = len(self.nodes) == len(self.op.primitives)
        return [self.op.kind] if whole else [packet(n) for n in self.nodes if not is_getitem(n)]


def call_name(nodes: Group) -> Name:
    """The name of one ATen call."""
    node = main_node(nodes)
    scope, module = scope_and_class(node)
    of_call = kind(node)
    return Name(under(scope, short_kind(of_call)), of_call, scope, module, node)


def kernel_name(parts: Sequence[Part]) -> Name:
    """The name of calls that are one kernel, in the innermost module around them all."""
    paths = [part.op.scope.split(".") for part in _computing(parts)]
    levels = (set(names) for names in zip(*paths, strict=False))
    shared = [names.pop() for names in takewhile(lambda names: len(names) == 1, levels)]
    return _joined(parts, ".".join(shared))


def module_name(parts: Sequence[Part], depth: int | None, graph: Graph) -> Name:
    """The name of a module's calls: its path, if they are all that the module does.

    Args:
        parts: the calls.
        depth: how many components the path has at most.
        graph: the model at operator granularity.
    """
    scope = ".".join(parts[0].op.scope.split(".")[:depth])
    joined = _joined(parts, scope)
    inside = {part.op.id for part in parts}
    beside = (op for op in graph.scopes[scope] if not graph[op].host and op not in inside)
    if not scope or next(beside, None):
        return joined
    of_class = class_of(joined.node, scope)
    return Name(scope, of_class or joined.kind, scope, joined.module, joined.node)


def _joined(parts: Sequence[Part], scope: str) -> Name:
    kinds = list(dict.fromkeys(kind for part in parts for kind in part.kinds))
    labels = [short_kind(kind) for kind in kinds]
    labels = [label for label in dict.fromkeys(labels) if not _LAYOUT.fullmatch(label)] or labels
    if len(labels) > _LABELS:
        labels[_LABELS - 1 :] = [f"{len(labels) - _LABELS + 1}_more"]
    node = main_node(_computing(parts)[-1].nodes)
    module = class_of(node, scope).rpartition(".")[2]
    return Name(under(scope, "+".join(labels)), "+".join(kinds), scope, module, node)


def _computing(parts: Sequence[Part]) -> Sequence[Part]:
    """Those that compute something, if any does."""
    return [
        part
        for part in parts
        if not all(_LAYOUT.fullmatch(short_kind(kind)) for kind in part.kinds)
    ] or parts
