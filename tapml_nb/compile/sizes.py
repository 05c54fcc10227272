"""Sizes that are known only when a kernel is called, as plain data.

A size is a number, the name of a symbol, or an operation on sizes: ``("+", "n0", 1)``.  What runs
kernels needs no compiler to know how large a buffer is.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

Size: TypeAlias = "int | str | tuple[Any, ...]"
"""A number, a symbol's name, or an operation's name with its operands."""

OPERATIONS: dict[str, Callable[..., int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "min": min,
    "max": max,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "not": operator.not_,
    "select": lambda condition, yes, no: yes if condition else no,
}
"""What can be done with sizes; truth is a number, too."""


class SizeMisfit(ValueError):
    """Shapes are not those that a kernel is for; the message says where."""


def evaluate(size: Size, symbols: Mapping[str, int]) -> int:
    """The number that a size is.

    Raises:
        KeyError: if it holds a symbol that is not among ``symbols``.
    """
    if isinstance(size, int):
        return size
    if isinstance(size, str):
        return symbols[size]
    name, *operands = size
    return int(OPERATIONS[name](*[evaluate(operand, symbols) for operand in operands]))


def symbols_in(size: Size) -> Iterator[str]:
    """The symbols that a size depends on."""
    if isinstance(size, str):
        yield size
    elif isinstance(size, tuple):
        for operand in size[1:]:
            yield from symbols_in(operand)


def bind(
    declared: Sequence[Sequence[Size]],
    given: Sequence[Sequence[int]],
    known: Mapping[str, int],
) -> dict[str, int]:
    """What symbols are, by shapes declared with them and given as numbers.

    Args:
        declared: a shape per tensor; a symbol is known by the first axis that it alone is.
        given: the shapes that tensors have.
        known: symbols that no shape tells.

    Raises:
        SizeMisfit: if the shapes contradict each other or what is declared.
    """
    symbols = dict(known)
    for ours, theirs in zip(declared, given, strict=True):
        if len(ours) != len(theirs):
            raise SizeMisfit(f"{len(theirs)} axes {list(theirs)}, it takes {len(ours)}")
        for size, number in zip(ours, theirs, strict=True):
            if isinstance(size, str):
                symbols.setdefault(size, number)
    for ours, theirs in zip(declared, given, strict=True):
        for axis, (size, number) in enumerate(zip(ours, theirs, strict=True)):
            if (wanted := evaluate(size, symbols)) != number:
                raise SizeMisfit(f"axis {axis} of {list(theirs)} is to be {wanted}")
    return symbols


def parse(data: Any) -> Any:
    """Sizes as JSON has them, whose lists were tuples."""
    return tuple(map(parse, data)) if isinstance(data, list | tuple) else data
