"""Core ATen of a program, where calls that are equal are decomposed once.

PyTorch decomposes a program by running all of it once more, at some milliseconds a call.  Here the
different calls of a program stand side by side in a program of their own, each with inputs of its
own; PyTorch decomposes that one, and what a call becomes is written down wherever an equal one
stands.  Equal are calls of one overload with the same constants, on tensors that look the same.

What writes into memory is decomposed together with all that could tell
(:mod:`~tapml_nb.frontends.torch.stretches`).  Programs that this is not enough for are left to
PyTorch: those that write to what they are given other than to buffers, leave sizes open, or call
graphs.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ConstantArgument,
    ExportGraphSignature,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx.traceback import NodeSource
from torch.utils import _pytree as pytree

from tapml_nb.frontends.torch.excerpt import Excerpt, Recipe, Unlike, become
from tapml_nb.frontends.torch.grouping import is_getitem
from tapml_nb.frontends.torch.stretches import Memory, Stretch, stretches

Table = Mapping[Any, Any]
"""Decompositions by overload."""

Key = tuple[Any, ...]
"""All of a stretch that its decomposition may depend on."""

_ROUNDS = 8
"""Programs that need more are decomposed as a whole."""


def run_decompositions(
    program: ExportedProgram, table: Table, *, worth: int = 300
) -> ExportedProgram:
    """What ``ExportedProgram.run_decompositions`` yields, sooner where many calls are equal.

    Where views are written to, it counts the names of nodes otherwise.

    Args:
        program: what to decompose; it stays as it is.
        table: decompositions by overload.
        worth: of how many calls less there have to be to decompose.
    """
    if _is_plain(program):
        memory = Memory(program.graph)
        given = memory.given()
        if not given or _are_buffers(program, given):
            parts = stretches(program.graph, memory)
            try:
                recipes = _recipes(program, parts, table, worth)
                return _written(program, parts, recipes)
            except Unlike:
                pass
    whole: ExportedProgram = program.run_decompositions(dict(table))
    return whole


def _is_plain(program: ExportedProgram) -> bool:
    """Whether all that there is are calls of ATen on tensors of known sizes."""
    kinds = {spec.kind for spec in program.graph_signature.output_specs}
    if kinds - {OutputKind.USER_OUTPUT}:
        return False
    for node in program.graph.nodes:
        if node.op == "call_function":
            plain = isinstance(node.target, torch._ops.OpOverload) or is_getitem(node)
        else:
            plain = node.op != "get_attr"
        if not plain or any(map(_is_open, pytree.tree_leaves(node.meta.get("val")))):
            return False
    return True


def _are_buffers(program: ExportedProgram, nodes: Sequence[fx.Node]) -> bool:
    """Whether all are buffers that have their memory for themselves."""
    tensors = {**program.state_dict, **program.constants}
    found = [t for t in tensors.values() if isinstance(t, torch.Tensor)]
    owners = Counter(tensor.untyped_storage().data_ptr() for tensor in found)
    names = [program.graph_signature.inputs_to_buffers.get(node.name) for node in nodes]
    return all(
        name in tensors and owners[tensors[name].untyped_storage().data_ptr()] == 1
        for name in names
    )


def _is_open(value: Any) -> bool:
    """Whether a value is no plain tensor, or has sizes that are not known."""
    if isinstance(value, torch.Tensor):
        plain = type(value) is FakeTensor and value.layout is torch.strided
        return not plain or any(
            isinstance(n, torch.SymInt) for n in (*value.shape, *value.stride())
        )
    return not isinstance(value, int | float | str | None) and not isinstance(
        value, ConstantArgument
    )


# -- which are equal -------------------------------------------------------------------------------


def _recipes(
    program: ExportedProgram, parts: Sequence[Stretch], table: Table, worth: int
) -> list[Recipe]:
    """What each stretch becomes.

    A tensor need not lie in memory as the program has it, once what yields it is decomposed: what
    looks otherwise than it was thought to is decomposed in another round.

    Raises:
        Unlike: if that cannot be told from parts of the program, or too few calls are equal.
    """
    given = {n: n.meta["val"] for n in program.graph.nodes if n.op == "placeholder"}
    known: dict[Key, Recipe] = {}
    for _ in range(_ROUNDS):
        excerpt, numbers = Excerpt(), dict[Key, int]()
        values, found, excerpted = dict(given), list[Recipe](), list[Stretch]()
        for part in parts:
            read = [become(values, node) for node in part.reads]
            key = _key(part, read)
            if recipe := known.get(key):
                found.append(recipe)
                values |= zip((*part.results, *part.writes), _yielded(recipe, read), strict=True)
                continue
            if key in numbers:
                excerpt.equal(part, numbers[key])
            else:
                numbers[key] = excerpt.add(part, read)
                excerpted.append(part)
            values |= ((node, node.meta["val"]) for node in part.results)
        if not excerpted:
            return found
        if sum(len(part.calls) for part in parts) - excerpt.calls < worth:
            raise Unlike
        for part, recipe in zip(excerpted, excerpt.decompose(program, table), strict=True):
            if recipe.is_general:
                known[_key(part, recipe.values)] = recipe
    raise Unlike


def _yielded(recipe: Recipe, read: Sequence[Any]) -> Any:
    """Example values of what a recipe yields, and leaves, where it reads others."""
    given = dict(zip(recipe.reads, read, strict=True))
    return pytree.tree_map_only(
        fx.Node,
        lambda n: given[n] if n in given else n.meta["val"],
        [*recipe.results, *recipe.writes],
    )


def _key(stretch: Stretch, values: Sequence[Any]) -> Key:
    places = {node: place for place, node in enumerate((*stretch.reads, *stretch.calls))}

    def plain(argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return fx.Node, places[argument]
        if isinstance(argument, list | tuple):
            return tuple(map(plain, argument))
        return type(argument), repr(argument)

    return (
        tuple(map(_look, values)),
        tuple(
            (call.target, plain(call.args), tuple((k, plain(v)) for k, v in call.kwargs.items()))
            for call in stretch.calls
        ),
        tuple(places[node] for node in stretch.results),
    )


def _look(value: Any) -> Key:
    if isinstance(value, torch.Tensor):
        return (
            value.dtype,
            value.device,
            value.shape,
            value.stride(),
            value.storage_offset(),
            value.requires_grad,
            value.is_conj(),
            value.is_neg(),
        )
    if isinstance(value, list | tuple):
        return tuple(map(_look, value))
    return type(value), repr(value)


# -- the program with all of it --------------------------------------------------------------------


def _written(
    program: ExportedProgram, parts: Sequence[Stretch], recipes: Sequence[Recipe]
) -> ExportedProgram:
    """The program with what its stretches become in their place."""
    graph = fx.Graph()
    became: dict[fx.Node, Any] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            became[node] = graph.node_copy(node)
            became[node].name = node.name  # also where a copy is not called so, such as "input"
    for part, recipe in zip(parts, recipes, strict=True):
        metas = [_meta(call) for call in part.calls]
        read = (become(became, node) for node in part.reads)
        copies = dict(zip(recipe.reads, read, strict=True))
        for piece in recipe.pieces:
            node = piece.node
            name = getattr(node.target, "_opname", None)  # as PyTorch's tracer calls it
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), copies.__getitem__)
            made = copies[node] = graph.create_node(node.op, node.target, args, kwargs, name)
            made.meta = {**metas[piece.call], "val": node.meta.get("val")}
            if piece.line != piece.call:
                made.meta["stack_trace"] = metas[piece.line].get("stack_trace")
        yielded = (*part.results, *part.writes), (*recipe.results, *recipe.writes)
        for node, result in zip(*yielded, strict=True):
            became[node] = pytree.tree_map_only(fx.Node, copies.__getitem__, result)
    output = program.graph.output_node()
    results = fx.node.map_arg(output.args[0], lambda node: become(became, node))
    written = {node.name: became[node] for part in parts for node in part.writes}
    signature = program.graph_signature
    buffers = [name for name in signature.inputs_to_buffers if name in written]
    graph.output((*(written[name] for name in buffers), *results)).meta = dict(output.meta)
    graph.eliminate_dead_code()
    specs = [
        OutputSpec(
            OutputKind.BUFFER_MUTATION,
            TensorArgument(written[name].name),
            signature.inputs_to_buffers[name],
        )
        for name in buffers
    ]
    specs += [
        OutputSpec(spec.kind, TensorArgument(result.name), spec.target)
        if isinstance(result, fx.Node)
        else spec
        for spec, result in zip(signature.output_specs, results, strict=True)
    ]
    module = fx.GraphModule({}, fx.Graph())
    module._graph = graph  # nobody runs it: writing its Python code would cost as much again
    graph.owning_module = module
    whole = copy.copy(program)
    whole._graph_module = module
    whole._graph_signature = ExportGraphSignature(signature.input_specs, specs)
    return whole


def _meta(call: fx.Node) -> dict[str, Any]:
    """What all that becomes of a call has in its ``meta``."""
    kept = {key: value for key, value in call.meta.items() if key != "tensor_meta"}
    return {**kept, "from_node": [NodeSource(call, "run_decompositions")]}
