"""A whole model as one Relax module: ``main`` calls a function for every FX node.

It is what the target's compiler decides about fusion on, and is never run: shapes and numbers are
those of the export, and parameters stay parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx
from tvm import relax

from tapml_nb.frontends.program import Unsupported
from tapml_nb.frontends.torch.grouping import Group, is_tensor
from tapml_nb.frontends.torch.units import build_module, tensor_type
from tapml_nb.frontends.torch.workarounds import Workaround


def build_fusion_module(
    calls: Sequence[Group],
    results: Sequence[fx.Node],
    env: Mapping[fx.Node, Any],
    workarounds: Sequence[Workaround],
) -> tuple[Any, list[Group]]:
    """The model as an ``IRModule``, and the calls that its ``main`` makes, in order.

    A call that the importer has no rule for is left out; what it yields becomes a parameter.

    Args:
        calls: nodes that are one call each: a node with the ``getitem`` of its results.
        results: the nodes that the model returns.
        env: a value of every node: tensors for their shapes and dtypes, numbers.
        workarounds: what is to stand in for rules of the importer's.
    """
    builder = relax.BlockBuilder()
    params: list[Any] = []
    known: dict[fx.Node, Any] = {}
    made: list[Group] = []
    unread: dict[fx.Node, Any] = {}
    ends: list[Any] = []

    def expression(node: fx.Node) -> Any:
        unread.pop(node, None)
        if node not in known:
            known[node] = relax.Var(node.name, tensor_type(env[node]))
            params.append(known[node])
        return known[node]

    with builder.function("main"):
        with builder.dataflow():
            for nodes in calls:
                try:
                    unit, inputs, outputs = _call(nodes, env, workarounds)
                    arguments = [expression(node) for node in inputs if is_tensor(env[node])]
                    types = [tensor_type(env[node]) for node in outputs]
                except Unsupported:
                    continue
                callee = builder.add_func(unit.without_attr("global_symbol"), "call")
                value = builder.emit(relax.Call(callee, arguments))
                made.append(nodes)
                single = len(outputs) == 1
                for k, node in enumerate(outputs):
                    item = value if single else relax.TupleGetItem(value, k)
                    # A type that is not the source's is the importer's fault, to be judged as
                    # the source has it: those who read the value get it as a parameter.
                    if (unit.ret_ty if single else unit.ret_ty.fields[k]) == types[k]:
                        known[node] = unread[node] = item
                    else:
                        ends.append(item)
            ends += [expression(node) for node in results]
            result = builder.emit_output(relax.Tuple([*ends, *unread.values()]))
        builder.emit_func_output(result, params)
    return builder.get(), made


def _call(
    nodes: Group, env: Mapping[fx.Node, Any], workarounds: Sequence[Workaround]
) -> tuple[Any, tuple[fx.Node, ...], tuple[fx.Node, ...]]:
    """A call as a Relax function, with what it reads and what it yields."""
    members = set(nodes)
    inputs = tuple(dict.fromkeys(a for n in nodes for a in n.all_input_nodes if a not in members))
    outputs = tuple(node for node in nodes if is_tensor(env[node]))
    module = build_module(nodes, inputs, outputs, env, workarounds).module
    if len(module.functions) > 1:
        raise Unsupported("it brings PrimFuncs of its own: no kernel that TVM would deploy")
    return module["main"], inputs, outputs
