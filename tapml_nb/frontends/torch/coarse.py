"""Groups of several ATen calls: those of a module, or of a kernel that TVM deploys.

What a target's compiler decides about fusion on is the whole model as one Relax module, whose
``main`` calls a function for every call.  It is never run: shapes and numbers are those of the
export, and parameters stay parameters.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from tvm import relax

from tapml_nb.frontends.program import Decide, Unsupported
from tapml_nb.frontends.torch.graph import module_calls
from tapml_nb.frontends.torch.grouping import (
    Group,
    TorchOp,
    executable,
    is_assertion,
    is_getitem,
    is_tensor,
    main_node,
    reads,
)
from tapml_nb.frontends.torch.sizes import exported_size
from tapml_nb.frontends.torch.units import build_module, tensor_type
from tapml_nb.frontends.torch.workarounds import Workaround


def module_groups(graph: fx.Graph, calls: Sequence[Group], depth: int | None) -> list[Group]:
    """Calls by the call of the module that they ran in, in an executable order.

    What a module does between the modules that it calls itself is a group of its own: calls in a
    row, which are convex.  Calls that yield no tensor run on the host, and stay alone.

    A module's path has ``depth`` components at most; None for no limit.

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
            if rows and any(n.users for n in nodes) and not set(rows[-1]).isdisjoint(reads(nodes)):
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
    of.  What the importer has no rule for stays alone.  ``results`` are what the model returns.
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
    module, made = _fusion_module(calls, results, env, workarounds)
    fusion = decide(module)
    together = {node: [node] for node in single}  # those in one group share one list

    def join(nodes: Sequence[fx.Node]) -> None:
        largest = max((together[node] for node in nodes), key=len)
        for node in nodes:
            if (joined := together[node]) is not largest:
                largest += joined
                together.update(dict.fromkeys(joined, largest))

    for kernel in fusion.kernels:
        join([made[call][0] for call in kernel])
    constant = {made[call][0] for call in fusion.folded}
    launched = {made[call][0] for kernel in fusion.kernels for call in kernel}
    views = {nodes[0] for nodes in made} - constant - launched
    for node in single:
        sources = [_producer(a) for a in node.all_input_nodes if is_tensor(env[a])]
        if node in views and constant.issuperset(sources):
            constant.add(node)
        if node in constant:
            join([node, *(s for s in sources if s in constant)])
        elif node in views and sources[0] in single:
            join([node, sources[0]])
    groups = {id(nodes): nodes for nodes in together.values()}.values()
    return executable(graph, [[m for n in nodes for m in single[n]] for nodes in groups])


def _fusion_module(
    calls: Iterable[Group],
    results: Iterable[fx.Node],
    env: Mapping[fx.Node, Any],
    workarounds: Sequence[Workaround],
) -> tuple[Any, list[Group]]:
    """The model as an ``IRModule``, and the calls that its ``main`` makes, in order.

    Each of ``calls`` is a node with the ``getitem`` of its results.  One that the importer has no
    rule for is left out; what it yields becomes a parameter.
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
                outputs = tuple(node for node in nodes if is_tensor(env[node]))
                call = TorchOp(nodes, reads(nodes), outputs)
                try:
                    module, _ = build_module(call, env, workarounds)
                    if len(module.functions) > 1:
                        continue  # it has PrimFuncs of its own: no kernel that TVM would deploy
                    arguments = [expression(node) for node in call.inputs if is_tensor(env[node])]
                    types = [tensor_type(env[node]) for node in outputs]
                except Unsupported:
                    continue
                unit = module["main"]
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
            ends += [expression(node) for node in results if _has_sizes(env[node])]
            result = builder.emit_output(relax.Tuple([*ends, *unread.values()]))
        builder.emit_func_output(result, params)
    return builder.get(), made


def _concrete(value: Any) -> Any:
    """An example value with the numbers of the export in place of symbols."""
    if isinstance(value, torch.SymInt):
        return exported_size(value)
    if isinstance(value, torch.SymFloat | torch.SymBool):
        return value.node.hint  # None if it depends on data: who needs it cannot be converted
    return value


def _has_sizes(tensor: torch.Tensor) -> bool:
    """Whether values decide none of a tensor's sizes; what yields such a one is not fused."""
    return None not in map(exported_size, tensor.shape)


def _producer(node: fx.Node) -> fx.Node:
    return node.args[0] if is_getitem(node) else node  # type: ignore[return-value]
