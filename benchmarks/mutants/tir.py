"""TIR as a tree that can be walked and rebuilt: TVM has no mutator for Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tvm
from tvm import s_tir, tirx

Node = Any
Stack = list[tuple[Node, str]]
"""The nodes above one, outermost first, each with the field that leads down."""

Change = Callable[[Node, int, Stack], Node]
"""Gives what is to stand in a node's place: the node, its number, what is above it."""

_BINARY = (
    "Add", "Sub", "Mul", "Div", "Mod", "FloorDiv", "FloorMod", "Min", "Max", "EQ", "NE", "LT", "LE",
    "GT", "GE", "And", "Or", "LShift", "RShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor",
)  # fmt: skip


def kind(node: Node) -> str:
    """What a node is: ``"Add"``, ``"For"``, …"""
    return type(node).__name__


_FIELDS: dict[str, tuple[tuple[str, ...], Callable[..., Node]]] = {
    **{name: (("a", "b"), lambda old, a, b: getattr(tirx, kind(old))(a, b)) for name in _BINARY},
    "Not": (("a",), lambda old, a: tirx.Not(a)),
    "Cast": (("value",), lambda old, value: tirx.Cast(dtype(old), value)),
    "Select": (
        ("condition", "true_value", "false_value"),
        lambda old, *parts: tirx.Select(*parts),
    ),
    "Let": (("value", "body"), lambda old, value, body: tirx.Let(old.var, value, body)),
    "Call": (
        ("args",),
        lambda old, args: tvm.ir.Call(old.op, args, old.attrs, old.ty_args, ret_ty=old.ty),
    ),
    "TensorLoad": (
        ("source", "indices"),
        lambda old, source, indices: tirx.BufferLoad(source, indices),
    ),
    "BufferStore": (
        ("value", "indices", "buffer"),
        lambda old, value, indices, buffer: tirx.BufferStore(buffer, value, indices),
    ),
    "SeqStmt": (("seq",), lambda old, seq: tirx.SeqStmt(seq)),
    "IfThenElse": (
        ("condition", "then_case", "else_case"),
        lambda old, *parts: tirx.IfThenElse(*parts),
    ),
    "Evaluate": (("value",), lambda old, value: tirx.Evaluate(value)),
    "For": (
        ("extent", "body"),
        lambda old, extent, body: tirx.For(
            old.loop_var,
            old.min,
            extent,
            old.kind,
            body,
            old.thread_binding,
            old.annotations,
            old.step,
        ),
    ),
    "SBlockRealize": (
        ("iter_values", "predicate", "block"),
        lambda old, *parts: s_tir.SBlockRealize(*parts),
    ),
    "SBlock": (
        ("init", "body", "alloc_buffers"),
        lambda old, init, body, allocated: s_tir.SBlock(
            old.iter_vars,
            old.reads,
            old.writes,
            old.name_hint,
            body,
            init,
            allocated,
            old.match_buffers,
            old.annotations,
        ),
    ),
}
_LEAVES = frozenset(("Var", "IntImm", "FloatImm", "StringImm"))


class Strange(Exception):
    """TIR of a kind that is not rebuilt here; the message names it."""


def dtype(node: Node) -> str:
    """The dtype of an expression's value."""
    return str(node.ty.dtype) if hasattr(node.ty, "dtype") else str(node.ty)


def children(node: Node) -> Iterator[tuple[Node, str]]:
    """The nodes right below one, each with the field that holds it."""
    if kind(node) in _LEAVES:
        return
    if kind(node) not in _FIELDS:
        raise Strange(f"a {kind(node)}")
    for field in _FIELDS[kind(node)][0]:
        below = getattr(node, field)
        for child in _listed(below):
            yield child, field


def rebuilt(root: Node, change: Change) -> Node:
    """The tree with ``change`` made at every node, from the leaves up.

    Nodes are numbered in the order in which they are met; a node that stands in two places is met
    twice.

    Raises:
        Strange: if there is TIR in it that is not known here.
    """
    count = 0
    stack: Stack = []

    def visit(node: Node) -> Node:
        nonlocal count
        if kind(node) not in _LEAVES:
            if kind(node) not in _FIELDS:
                raise Strange(f"a {kind(node)}")
            fields, make = _FIELDS[kind(node)]
            parts, same = [], True
            for field in fields:
                old = getattr(node, field)
                stack.append((node, field))
                new = [visit(child) for child in _listed(old)]
                stack.pop()
                same &= all(a is b for a, b in zip(new, _listed(old), strict=True))
                parts.append(new if _is_list(old) else new[0] if new else None)
            node = node if same else make(node, *parts)
        number, count = count, count + 1
        return change(node, number, stack)

    return visit(root)


def walk(root: Node) -> Iterator[tuple[Node, int, Stack]]:
    """Every node as :func:`rebuilt` meets it, with its number and a copy of what is above it."""
    met: list[tuple[Node, int, Stack]] = []

    def note(node: Node, number: int, stack: Stack) -> Node:
        met.append((node, number, list(stack)))
        return node

    rebuilt(root, note)
    return iter(met)


def replaced(root: Node, number: int, new: Node) -> Node:
    """The tree with another node in the place of the one of this number."""
    return rebuilt(root, lambda node, n, _: new if n == number else node)


def substituted(root: Node, new: dict[Node, Node]) -> Node:
    """The tree with variables and buffers replaced, where they are read, written and allocated."""
    return rebuilt(root, lambda node, n, _: new.get(node, node) if kind(node) == "Var" else node)


def refreshed(function: Node) -> Node:
    """A PrimFunc whose blocks say what they now read and write."""

    def fresh(node: Node, number: int, stack: Stack) -> Node:
        if kind(node) != "SBlock" or not node.iter_vars:
            return node
        buffers = {n: n for n, _, _ in walk(node) if kind(n) == "Var" and is_buffer(n)}
        found = s_tir.analysis.get_sblock_access_region(node, buffers)
        reads = [*found[0], *found[2]]
        return s_tir.SBlock(
            node.iter_vars, reads, [*found[1], *found[2]], node.name_hint, node.body, node.init,
            node.alloc_buffers, node.match_buffers, node.annotations,
        )  # fmt: skip

    return function.with_body(rebuilt(function.body, fresh))


def with_filled_workspaces(function: Node) -> Node:
    """A PrimFunc that fills the buffers it allocates before all else: with NaN, or with zeros."""
    root = function.body.block
    fills = [_filled(buffer) for buffer in root.alloc_buffers]
    if not fills:
        return function
    rest = list(root.body.seq) if kind(root.body) == "SeqStmt" else [root.body]
    body = tirx.SeqStmt([*fills, *rest])
    block = s_tir.SBlock(
        root.iter_vars, root.reads, root.writes, root.name_hint, body, root.init,
        root.alloc_buffers, root.match_buffers, root.annotations,
    )  # fmt: skip
    return function.with_body(s_tir.SBlockRealize([], True, block))


def _filled(buffer: Node) -> Node:
    """A loop nest that fills a buffer."""
    at = [tirx.Var(f"f{k}", "int64") for k in range(len(buffer.shape))]
    name = str(buffer.dtype)
    value = tirx.const(float("nan"), name) if "float" in name else tirx.const(0, name)
    statement: Node = tirx.BufferStore(buffer, value, at)
    for var, size in reversed(list(zip(at, buffer.shape, strict=True))):
        extent = tirx.const(int(size), "int64")
        zero = tirx.const(0, "int64")
        statement = tirx.For(var, zero, extent, tirx.ForKind.SERIAL, statement)
    return statement


def is_buffer(var: Node) -> bool:
    """Whether a variable is a buffer."""
    return type(var.ty).__name__ == "BufferType"


def is_float(node: Node) -> bool:
    """Whether an expression's value is a floating-point number."""
    return dtype(node).startswith(("float", "bfloat"))


def in_index(stack: Stack) -> bool:
    """Whether a node is part of an index."""
    return any(field == "indices" for _, field in stack)


def in_value(stack: Stack) -> bool:
    """Whether a node is part of what is stored, and of no index or loop."""
    fields = [field for _, field in stack]
    inside = any(kind(above) == "BufferStore" and field == "value" for above, field in stack)
    return inside and "indices" not in fields


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) or type(value).__name__ == "Array"


def _listed(value: Any) -> list[Node]:
    if value is None:
        return []
    return list(value) if _is_list(value) else [value]
