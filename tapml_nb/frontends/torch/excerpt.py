"""A program of some calls of another one, to see what they become when it is decomposed."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.utils import _pytree as pytree

from tapml_nb.frontends.torch.grouping import is_getitem, origin
from tapml_nb.frontends.torch.stretches import Stretch

Became = dict[fx.Node, Any]
"""What nodes have become: a node each, or the members of a tuple, or what is no tensor."""


class Unlike(Exception):
    """What calls become alone cannot stand for what they become in their program."""


@dataclass(frozen=True)
class Piece:
    """One node of what a stretch becomes.

    Attributes:
        node: as it is in the excerpt.
        call: the position in the stretch of the call that it comes from.
        line: of the one whose line in the user's code it has; another, where a view is taken again.
    """

    node: fx.Node
    call: int
    line: int


@dataclass(frozen=True)
class Recipe:
    """What a stretch becomes.

    Attributes:
        pieces: in order.
        reads: what stands for what the stretch reads: a node, or what is no tensor as it is.
        values: example values of that.
        results: what becomes of the stretch's results.
        writes: what is in the end where the stretch writes into what it reads.
    """

    pieces: Sequence[Piece]
    reads: Sequence[Any]
    values: Sequence[Any]
    results: Sequence[Any]
    writes: Sequence[Any]

    @property
    def is_general(self) -> bool:
        """Whether it holds for whatever looks like what the stretch reads here."""
        reads = [given for given in self.reads if isinstance(given, fx.Node)]
        own = {*reads, *(piece.node for piece in self.pieces)}
        used = {given for piece in self.pieces for given in piece.node.all_input_nodes}
        leaves = pytree.tree_leaves((self.results, self.writes))
        yielded = {leaf for leaf in leaves if isinstance(leaf, fx.Node)}
        return len(set(reads)) == len(reads) and used | yielded <= own


def become(found: Mapping[fx.Node, Any], node: fx.Node) -> Any:
    """What is known of a node, or of the tuple that it is a member of."""
    if node not in found and is_getitem(node):
        return found[node.args[0]][node.args[1]]  # type: ignore[index]
    return found[node]


class Excerpt:
    """A program of stretches of another one.

    What a stretch reads of another one that is here, or of one that is equal to it, it reads here
    as well; all else is an input.
    """

    def __init__(self) -> None:
        self._graph = fx.Graph()
        self._reads: list[list[Any]] = []
        self._results: list[list[Any]] = []
        self._writes: list[list[fx.Node]] = []
        self._copies: Became = {}
        self._calls: dict[str, tuple[int, int]] = {}

    @property
    def calls(self) -> int:
        """How many there are."""
        return len(self._calls)

    def add(self, stretch: Stretch, values: Sequence[Any]) -> int:
        """Add a stretch with example values of what it reads, and return its number."""
        copies: Became = {}
        for node, value in zip(stretch.reads, values, strict=True):
            copies[node] = self._given(node, value, [*copies.values()])
        reads = [*copies.values()]
        for place, call in enumerate(stretch.calls):
            args, kwargs = fx.node.map_arg((call.args, call.kwargs), copies.__getitem__)
            copy = self._graph.create_node("call_function", call.target, args, kwargs, call.name)
            copy.meta = {**call.meta, "stack_trace": copy.name}  # whose line it is
            copies[call] = copy
            self._calls[copy.name] = len(self._reads), place
        self._reads.append(reads)
        self._writes.append([copies[node] for node in stretch.writes])
        self._results.append([self._members(copies[node]) for node in stretch.results])
        return self.equal(stretch, len(self._results) - 1)

    def equal(self, stretch: Stretch, number: int) -> int:
        """Let a stretch of a number stand for another one as well."""
        self._copies.update(zip(stretch.results, self._results[number], strict=True))
        for node in stretch.writes:  # who reads it later reads something else
            self._copies.pop(node, None)
        return number

    def decompose(self, program: ExportedProgram, table: Mapping[Any, Any]) -> list[Recipe]:
        """What becomes of the stretches, which are of ``program``.

        Raises:
            Unlike: if it makes constants of its own, or PyTorch sees other writes than the schemas.
        """
        yielded = [leaf for leaf in pytree.tree_leaves(self._results) if isinstance(leaf, fx.Node)]
        given = [node for node in self._graph.nodes if node.op == "placeholder"]
        whole = self._program(given, yielded, program).run_decompositions(dict(table))
        inputs = [node for node in whole.graph.nodes if node.op == "placeholder"]
        outputs = [*whole.graph.output_node().args[0]]
        specs = whole.graph_signature.output_specs
        if len(inputs) != len(given) or len(outputs) != len(specs):
            raise Unlike
        places = {node.name: node for node in given}
        written = {
            places[str(spec.target)]: node
            for spec, node in zip(specs, outputs, strict=True)
            if spec.kind is OutputKind.USER_INPUT_MUTATION
        }
        del outputs[: len(written)]
        if len(outputs) != len(yielded) or written.keys() != set(chain(*self._writes)):
            raise Unlike
        pieces: list[list[Piece]] = [[] for _ in self._reads]
        for node in whole.graph.nodes:
            if node.op == "call_function" and origin(node) in self._calls:
                number, place = self._calls[origin(node)]
                other, line = self._calls.get(node.meta.get("stack_trace"), (number, place))
                pieces[number].append(Piece(node, place, line if other == number else place))
            elif node.op not in ("placeholder", "output"):
                raise Unlike
        became = dict(zip([*given, *yielded], [*inputs, *outputs], strict=True))
        return [
            Recipe(
                pieces=[*_with_members(pieces[number])],
                reads=_of_nodes(became.__getitem__, reads),
                values=_of_nodes(lambda n: (n if n in given else became[n]).meta["val"], reads),
                results=_of_nodes(became.__getitem__, self._results[number]),
                writes=[written[node] for node in self._writes[number]],
            )
            for number, reads in enumerate(self._reads)
        ]

    def _given(self, node: fx.Node, value: Any, others: Sequence[Any]) -> Any:
        """What a stretch is to read in place of a node: what it reads elsewhere are ``others``,
        and equal ones are not the same."""
        here = node in self._copies or (is_getitem(node) and node.args[0] in self._copies)
        copy = become(self._copies, node) if here else value
        if isinstance(value, torch.Tensor) and (not here or any(copy is o for o in others)):
            with self._graph.inserting_before():  # at the beginning
                copy = self._graph.placeholder(f"given_{node.name}")
            copy.meta["val"] = value
            if not here:
                self._copies[node] = copy
        return copy

    def _members(self, node: fx.Node) -> Any:
        """A node, or the members of the tuple that it yields."""
        value = node.meta["val"]
        if not isinstance(value, list | tuple):
            return node
        return [
            _member(node, i) if isinstance(member, torch.Tensor) else member
            for i, member in enumerate(value)
        ]

    def _program(
        self, given: Sequence[fx.Node], yielded: Sequence[fx.Node], program: ExportedProgram
    ) -> ExportedProgram:
        """The excerpt as a program that has no weights."""
        self._graph.output(tuple(yielded))
        examples = tuple(node.meta["val"] for node in given)
        whole = ModuleCallSignature(
            inputs=[],
            outputs=[],
            in_spec=pytree.tree_structure((examples, {})),
            out_spec=pytree.tree_structure(tuple(yielded)),
            forward_arg_names=[node.name for node in given],
        )
        inputs = [InputSpec(_INPUT, TensorArgument(node.name), None) for node in given]
        outputs = [OutputSpec(_OUTPUT, TensorArgument(node.name), None) for node in yielded]
        return ExportedProgram(
            root={},
            graph=self._graph,
            graph_signature=ExportGraphSignature(inputs, outputs),
            state_dict={},
            range_constraints={},
            module_call_graph=[ModuleCallEntry("", whole)],
            example_inputs=(examples, {}),
            verifiers=program.verifiers,
        )


_INPUT, _OUTPUT = InputKind.USER_INPUT, OutputKind.USER_OUTPUT


def _of_nodes(function: Callable[[fx.Node], Any], found: Any) -> Any:
    return pytree.tree_map_only(fx.Node, function, found)


def _member(node: fx.Node, place: int) -> fx.Node:
    """A member of the tuple that a node yields, which nobody reads yet."""
    graph = node.graph
    with graph.inserting_after(node):
        member = graph.call_function(operator.getitem, (node, place))
    member.meta = {**node.meta, "val": node.meta["val"][place]}
    return member


def _with_members(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Pieces with all members of tuples, in order: those that nobody reads are named, too."""
    for piece in pieces:
        node = piece.node
        if is_getitem(node):
            continue
        yield piece
        value = node.meta.get("val")
        if isinstance(value, list | tuple):
            members = {user.args[1]: user for user in node.users if is_getitem(user)}
            for i in range(len(value)):
                yield replace(piece, node=members.get(i) or _member(node, i))
