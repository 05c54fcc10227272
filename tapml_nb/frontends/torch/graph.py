"""From groups of FX nodes to a graph: one operator for each, what it is called, and where it is.

People find an operator by the module that it ran in, and by the ATen call that they wrote.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

import torch
from torch import fx

from tapml_nb.frontends.builder import GraphBuilder, under, user_line
from tapml_nb.frontends.program import Granularity
from tapml_nb.frontends.torch.grouping import (
    Group,
    TorchOp,
    arguments,
    is_assertion,
    is_getitem,
    is_number,
    main_node,
    reads,
)
from tapml_nb.frontends.torch.model import ExportedModel, spec_of, tensor_specs
from tapml_nb.graph import Graph, Member, Op, OpId
from tapml_nb.graph.model import Constant
from tapml_nb.graph.select import short_kind

_NO_MODULE = "_empty_nn_module_stack_from_metadata_hook"
"""What ``torch.export`` writes where it adds nodes of its own, such as sizes of inputs."""

_LABELS = 4
"""Kinds in an id; what there is beyond is counted."""

_LAYOUT = re.compile(
    r"alias|clone|contiguous|detach|expand|expand_as|flatten|lift_fresh_copy|permute|reshape|"
    r"select|slice|squeeze|t|to|transpose|unflatten|unsqueeze|view|view_as|_to_copy"
)
"""Calls that compute nothing: where there are others, these name a group."""


@dataclass(frozen=True)
class _Name:
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
class _Part:
    """An ATen call in a group: the operator it is, and its nodes that are in the group."""

    op: Op
    nodes: Group

    @property
    def kinds(self) -> list[str]:
        """The call's kind; of a part of a call the kinds of its primitives."""
        whole = len(self.nodes) == len(self.op.primitives)
        own = (_packet(n, str(n.target)) for n in self.nodes if not is_getitem(n))
        return [self.op.kind] if whole else list(own)


@dataclass(frozen=True)
class GroupedGraph:
    """A graph, and the nodes of each of its operators."""

    graph: Graph
    ops: Mapping[OpId, TorchOp]

    def parts(self, nodes: Group) -> list[_Part]:
        """The operators that nodes belong to, in order, each with those of its nodes."""
        parts: dict[OpId, list[fx.Node]] = {}
        for node in nodes:
            parts.setdefault(self._home[node], []).append(node)
        return [_Part(self.graph[op], tuple(part)) for op, part in parts.items()]

    @cached_property
    def _home(self) -> dict[fx.Node, OpId]:
        return {node: op for op, program in self.ops.items() for node in program.nodes}


def build_graph(
    model: ExportedModel,
    groups: Sequence[Group],
    *,
    granularity: Granularity | None = None,
    calls: GroupedGraph | None = None,
) -> GroupedGraph:
    """A model's graph: an operator for each group, in an executable order.

    Where an operator may be more than one call, ``granularity`` says what it is, and ``calls`` is
    the model at operator granularity.
    """
    builder = GraphBuilder()
    inputs = model.declare(builder)
    ops: dict[OpId, TorchOp] = {}
    for nodes in groups:
        parts = calls.parts(nodes) if calls else []
        if calls is None or granularity is None or parts[0].op.host:
            name = _call_name(nodes)
        elif granularity.unit == "fused":
            name = _kernel_name(parts)
        else:
            name = _module_name(parts, granularity.depth, calls.graph)
        op_id = builder.new_id(name.id, nodes[0].name)
        op = ops[op_id] = _operator(nodes, checked=not parts)
        builder.add_op(
            op_id,
            kind=name.kind,
            scope=name.scope,
            module=name.module,
            inputs=[node.name for node in op.inputs if node.name in builder],
            outputs={node.name: spec_of(node.meta.get("val")) for node in op.outputs},
            source=user_line(name.node.meta.get("stack_trace") or ""),
            primitives=[str(node.target) for node in nodes],
            constants=constants(name.node) if len(parts) < 2 else {},
            members=[_member(part) for part in parts],
        )
    return GroupedGraph(builder.build(model.name, inputs=inputs, outputs=model.outputs), ops)


def _operator(nodes: Group, *, checked: bool = False) -> TorchOp:
    """A group with its ends; ``checked`` if assertions are operators, too, and read values."""
    members = set(nodes)
    outputs = tuple(n for n in nodes if _is_output(n, members, checked))
    return TorchOp(nodes, reads(nodes), outputs)


def _member(part: _Part) -> Member:
    op = _operator(part.nodes)
    inputs, outputs = (
        tensor_specs(node.meta.get("val") for node in ends) for ends in (op.inputs, op.outputs)
    )
    return Member(part.op.id, tuple(str(n.target) for n in part.nodes), inputs, outputs)


def _is_output(node: fx.Node, members: set[fx.Node], checked: bool) -> bool:
    """Whether others read this node; tuples are read through their ``getitem`` members.

    A node that nobody reads at all is dead code in the model, judged all the same.
    """
    value = node.meta.get("val")
    if value is None or isinstance(value, list | tuple):  # None: an assertion
        return False
    readers = [user for user in node.users if checked or not is_assertion(user)]
    return not readers or any(user not in members for user in readers)


def _call_name(nodes: Group) -> _Name:
    """The name of one ATen call."""
    node = main_node(nodes)
    scope, module = _scope_and_class(node)
    history = node.meta.get("from_node")  # the calls that it came from, the user's last
    given = history[-1] if history and not is_number(node) else node
    kind = _packet(node, str(given.target))
    return _Name(under(scope, short_kind(kind)), kind, scope, module, node)


def _kernel_name(parts: Sequence[_Part]) -> _Name:
    """The name of calls that are one kernel, in the innermost module around them all."""
    paths = [part.op.scope.split(".") for part in _computing(parts)]
    levels = (set(names) for names in zip(*paths, strict=False))
    shared = [names.pop() for names in takewhile(lambda names: len(names) == 1, levels)]
    return _joined(parts, ".".join(shared))


def _module_name(parts: Sequence[_Part], depth: int | None, graph: Graph) -> _Name:
    """The name of a module's calls: its path, of at most ``depth`` components, if they are all
    that the module does in a graph of single calls."""
    scope = ".".join(parts[0].op.scope.split(".")[:depth])
    joined = _joined(parts, scope)
    inside = {part.op.id for part in parts}
    beside = (op for op in graph.scopes[scope] if not graph[op].host and op not in inside)
    if not scope or next(beside, None):
        return joined
    of_class = _class_of(joined.node, scope)
    return _Name(scope, of_class or joined.kind, scope, joined.module, joined.node)


def _joined(parts: Sequence[_Part], scope: str) -> _Name:
    kinds = list(dict.fromkeys(kind for part in parts for kind in part.kinds))
    labels = [short_kind(kind) for kind in kinds]
    labels = [label for label in dict.fromkeys(labels) if not _LAYOUT.fullmatch(label)] or labels
    if len(labels) > _LABELS:
        labels[_LABELS - 1 :] = [f"{len(labels) - _LABELS + 1}_more"]
    node = main_node(_computing(parts)[-1].nodes)
    module = _class_of(node, scope).rpartition(".")[2]
    return _Name(under(scope, "+".join(labels)), "+".join(kinds), scope, module, node)


def _computing(parts: Sequence[_Part]) -> Sequence[_Part]:
    """Those that compute something, if any does."""
    return [
        part
        for part in parts
        if not all(_LAYOUT.fullmatch(short_kind(kind)) for kind in part.kinds)
    ] or parts


def _scope_and_class(node: fx.Node) -> tuple[str, str]:
    """Dotted path and class name of the innermost module a node ran in."""
    stack = node.meta.get("nn_module_stack")
    if not stack or _NO_MODULE in stack:
        return "", ""
    path, cls = list(stack.values())[-1]
    name = cls if isinstance(cls, str) else cls.__name__
    return str(path), name.rpartition(".")[2]


def module_calls(node: fx.Node) -> list[tuple[str, str]]:
    """The calls of modules a node ran in, outermost first: a name for the call, and the path."""
    stack = node.meta.get("nn_module_stack") or {}
    return [(call, str(path)) for call, (path, _) in stack.items()]


def _class_of(node: fx.Node, scope: str) -> str:
    """The class of the module at a path that a node ran in, e.g. ``nn.Linear`` or ``LlamaMLP``.

    Empty where no such module was called: a list of modules never is.
    """
    for path, cls in (node.meta.get("nn_module_stack") or {}).values():
        if str(path) == scope:
            name = cls if isinstance(cls, str) else f"{cls.__module__}.{cls.__name__}"
            short = name.rpartition(".")[2]
            return f"nn.{short}" if name.startswith("torch.nn.") else short
    return ""


def _packet(node: fx.Node, target: str) -> str:
    """The ATen overload packet of what a node calls, or called, e.g. ``aten.linear``."""
    parts = target.split(".")
    if len(parts) >= 3:
        return ".".join(parts[:2])
    return target if len(parts) == 2 else f"python.{getattr(node.target, '__name__', target)}"


def constants(node: fx.Node) -> dict[str, Constant]:
    """The plain numbers among a call's arguments by parameter name, defaults included."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {}
    plain = (type(None), bool, int, float, str)
    return {name: value for name, value in arguments(node).items() if isinstance(value, plain)}
