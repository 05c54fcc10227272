"""From groups of FX nodes to a graph: one operator for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import fx

from tapml_nb.frontends.builder import GraphBuilder
from tapml_nb.frontends.granularity import Granularity
from tapml_nb.frontends.torch.grouping import Group, is_assertion
from tapml_nb.frontends.torch.model import ExportedModel, spec_of, tensor_specs
from tapml_nb.frontends.torch.naming import Part, call_name, kernel_name, module_name
from tapml_nb.frontends.torch.provenance import constants, source_line
from tapml_nb.graph import Graph, Member, OpId


@dataclass(frozen=True)
class TorchOp:
    """An operator's nodes, the nodes it reads, and the nodes others read of it."""

    nodes: Group
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]


@dataclass(frozen=True)
class GroupedGraph:
    """A graph, and the nodes of each of its operators."""

    graph: Graph
    ops: Mapping[OpId, TorchOp]

    def parts(self, nodes: Group) -> list[Part]:
        """The operators that nodes belong to, in order, each with those of its nodes."""
        parts: dict[OpId, list[fx.Node]] = {}
        for node in nodes:
            parts.setdefault(self._home[node], []).append(node)
        return [Part(self.graph[op], tuple(part)) for op, part in parts.items()]

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
    """A model's graph.

    Args:
        model: whose nodes the groups hold.
        groups: the nodes of each operator, in an executable order.
        granularity: what an operator is, if it is more than one call.
        calls: the model at operator granularity, then.
    """
    builder = GraphBuilder()
    inputs = model.declare(builder)
    ops: dict[OpId, TorchOp] = {}
    for nodes in groups:
        parts = calls.parts(nodes) if calls else []
        if calls is None or granularity is None or parts[0].op.host:
            name = call_name(nodes)
        elif granularity.unit == "fused":
            name = kernel_name(parts)
        else:
            name = module_name(parts, granularity.depth, calls.graph)
        op_id = builder.new_id(name.id, nodes[0].name)
        op = ops[op_id] = _operator(nodes, checked=not parts)
        builder.add_op(
            op_id,
            kind=name.kind,
            scope=name.scope,
            module=name.module,
            inputs=[node.name for node in op.inputs if node.name in builder],
            outputs={node.name: spec_of(node.meta.get("val")) for node in op.outputs},
            source=source_line(name.node),
            primitives=[str(node.target) for node in nodes],
            constants=constants(name.node) if len(parts) < 2 else {},
            members=[_member(part) for part in parts],
        )
    return GroupedGraph(builder.build(model.name, inputs=inputs, outputs=model.outputs), ops)


def _operator(nodes: Group, *, checked: bool = False) -> TorchOp:
    """A group with its ends; ``checked`` if assertions are operators, too, and read values."""
    members = set(nodes)
    inputs = dict.fromkeys(a for n in nodes for a in n.all_input_nodes if a not in members)
    outputs = tuple(n for n in nodes if _is_output(n, members, checked))
    return TorchOp(nodes, tuple(inputs), outputs)


def _member(part: Part) -> Member:
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
