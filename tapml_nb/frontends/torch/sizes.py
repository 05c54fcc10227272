"""Sizes that an exported model leaves open, or leaves to values, as one operator sees them.

``torch.export`` has a sympy expression for every such size.  In an operator's unit each becomes an
expression of TVM's over variables ``n0``, ``n1``, …: one for every expression that is an axis of an
input and cannot be computed from other axes, then one for every number that no axis tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import sympy
import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils._pytree import tree_leaves
from torch.utils._sympy.functions import FloorDiv, Mod
from tvm import tirx

from tapml_nb.frontends.torch.grouping import is_tensor


class OpenSizes:
    """The open sizes among what an operator reads.

    Attributes:
        variables: all variables.
        numbers: the inputs that are variables by themselves: no axis tells them.
    """

    def __init__(self, inputs: Sequence[fx.Node]) -> None:
        self._inputs = inputs
        self.variables: list[Any] = []
        self.numbers: list[fx.Node] = []
        self._known: dict[sympy.Expr, Any] = {}
        axes = [_expression(size) for node in inputs for size in _shape(node)]
        for axis in axes:
            if isinstance(axis, sympy.Symbol):
                self._name(axis)
        for axis in axes:
            if self._computed(axis) is None:
                self._name(axis)
        for node in inputs:
            value = node.meta.get("val")
            if isinstance(value, torch.SymInt) and self.of(value) is None:
                self._name(_expression(value))
                self.numbers.append(node)

    def of(self, size: int | torch.SymInt) -> Any:
        """A size in a unit: a number or an expression of TVM's; None if nothing tells it."""
        expression = _expression(size)
        if isinstance(expression, sympy.Integer):
            return int(expression)
        return self._computed(expression)

    def shape(self, node: fx.Node) -> list[Any]:
        """The shape of a tensor input in a unit."""
        return [self.of(size) for size in _shape(node)]

    def fit(self, values: Mapping[fx.Node, Any]) -> bool:
        """Whether inputs have the sizes that the model says they have."""
        bound: dict[sympy.Expr, int] = {}
        pairs: list[tuple[Any, int]] = []
        for node in self._inputs:
            value, expected = values[node], node.meta.get("val")
            if is_tensor(value):
                if value.dim() != len(_shape(node)):
                    return False
                pairs += zip(_shape(node), map(int, value.shape), strict=True)
            elif isinstance(expected, torch.SymInt):
                pairs.append((expected, int(value)))
        for size, number in pairs:
            if _expression(size) in self._known:
                bound.setdefault(_expression(size), number)
        return all(_expression(size).xreplace(bound) == number for size, number in pairs)

    def _name(self, expression: sympy.Expr) -> None:
        if expression not in self._known:
            variable = tirx.Var(f"n{len(self.variables)}", "int64")
            self._known[expression] = variable
            self.variables.append(variable)

    def _computed(self, expression: sympy.Expr) -> Any:
        """An expression over the variables; None if it cannot be made of them."""
        if expression in self._known:
            return self._known[expression]
        if isinstance(expression, sympy.Integer):
            return tirx.IntImm("int64", int(expression))
        parts = [self._computed(part) for part in expression.args]
        if not parts or any(part is None for part in parts):
            return None
        if isinstance(expression, sympy.Add):
            return reduce(lambda a, b: a + b, parts)
        if isinstance(expression, sympy.Mul):
            return reduce(lambda a, b: a * b, parts)
        if isinstance(expression, FloorDiv):
            return tirx.floordiv(*parts)
        if isinstance(expression, Mod):
            return tirx.floormod(*parts)
        return None


class SeenSizes:
    """Sizes that an exported model does not know, as one operator met them on the source.

    What values decide (how many elements a mask selects) nothing tells before a run.  The source
    has run: its results tell, and nothing but their sizes is looked at.
    """

    def __init__(self, values: Mapping[fx.Node, Any]) -> None:
        """``values``: what the operator has read and yielded."""
        self._known: dict[sympy.Expr, int] = {}
        for node, value in values.items():
            if is_tensor(value):
                for size, number in zip(_shape(node), value.shape, strict=False):
                    if isinstance(size, torch.SymInt):
                        self._known.setdefault(_expression(size), int(number))

    def like(self, example: torch.Tensor) -> torch.Tensor:
        """An example tensor of the export with the sizes that it has here; itself where they are
        not known."""
        if all(isinstance(size, int) for size in example.shape):
            return example
        shape = [_expression(size).xreplace(self._known) for size in example.shape]
        if not all(isinstance(size, int | sympy.Integer) for size in shape):
            return example
        return torch.empty([int(size) for size in shape], dtype=example.dtype, device="meta")


def decided_by_values(node: fx.Node) -> bool:
    """Whether a call yields a size that no axis of what it reads tells, but values do."""
    told = {symbol for given in node.all_input_nodes for symbol in _undecided(given)}
    return not _undecided(node) <= told


def _undecided(node: fx.Node) -> set[sympy.Symbol]:
    value = node.meta.get("val")
    tensors = [member for member in tree_leaves(value) if is_tensor(member)]
    return {symbol for tensor in tensors for symbol in free_unbacked_symbols(tensor)}


def exported_size(size: int | torch.SymInt) -> int | None:
    """A size as it was when the model was exported; None if values decide it.

    ``int()`` of a symbolic one would fix it for good.
    """
    if isinstance(size, int):
        return size
    if isinstance(size.node.expr, sympy.Integer):
        return int(size.node.expr)
    return None if size.node.hint is None else int(size.node.hint)


def _shape(node: fx.Node) -> tuple[Any, ...]:
    value: Any = node.meta.get("val")
    return tuple(value.shape) if is_tensor(value) else ()


def _expression(size: Any) -> sympy.Expr:
    return sympy.Integer(size) if isinstance(size, int) else size.node.expr
