"""What a page may ask for, and what it is answered.

``extensions/widgets/messages.py`` makes the page's types of it.  Tensors travel as binary buffers
behind an answer.  No ``from __future__ import annotations`` here: TypedDict would not see which
keys may be missing.
"""

import reprlib
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict, get_args, get_origin, get_type_hints

from tapml_nb.report.facts import Facts

_WORDS = {int: "a whole number", str: "text", bool: "true or false"}

# -- arguments -------------------------------------------------------------------------------------


class Nothing(TypedDict):
    """A command without arguments."""


class OpArguments(TypedDict):
    """Operators go by their number in graph order."""

    op: int


class CallArguments(OpArguments):
    step: int


class OpsArguments(TypedDict):
    ops: list[int]


class RunArguments(TypedDict):
    """Without operators, or with none, a run is of all."""

    ops: NotRequired[list[int]]


class SelectArguments(CallArguments):
    """Operator -1 is none."""

    origin: NotRequired[str]


class RememberArguments(TypedDict):
    key: str
    value: Any


class TensorArguments(CallArguments):
    """``fixed`` is an index by axis that is not shown; ``window`` the first and last (exclusive)
    row and column; ``marks``: whether to tell what is beyond the limit, which of large tensors
    takes longer than the picture."""

    which: Literal["source", "target", "float64", "difference"]
    output: int
    axes: tuple[int, int] | None
    fixed: dict[str, int]
    window: tuple[int, int, int, int] | None
    marks: NotRequired[bool]


class CellsArguments(TypedDict):
    """As of :func:`tapml_nb.report.cells.cells`; ``order`` may be empty."""

    rows: str
    cols: str
    order: Literal["", "model", "worst"]
    beyond: bool
    views: bool


class OverrideArguments(OpArguments):
    """No text takes the override back."""

    text: str


# -- answers ---------------------------------------------------------------------------------------


class Spread(TypedDict):
    """What a tensor holds; not a number is null, and infinite is text."""

    name: str
    which: str
    low: float | str | None
    high: float | str | None
    mean: float | str | None
    zeros: int
    nan: int
    inf: int


class ValuesAnswer(TypedDict):
    """Behind it one buffer: float32, every tensor's histogram in turn."""

    facts: Facts
    values: list[Spread]
    note: str


class TensorAnswer(TypedDict):
    """Behind it two buffers, ``rows`` times ``cols``: the values (float32), and whether an element
    there is beyond the limit (bytes).  ``blocks`` are where in the whole of both axes such elements
    are: first and last (exclusive) row and column of each.  Where there is no target to compare
    with, blocks and the second buffer are missing."""

    shape: list[int]
    axes: tuple[int, int]
    window: tuple[int, int, int, int]
    rows: int
    cols: int
    outputs: int
    note: str
    blocks: NotRequired[list[tuple[int, int, int, int]]]


class CellsAnswer(TypedDict):
    """A heatmap's names and what is not to be seen in it.  Behind it four buffers by row and
    column: the worst (float32, NaN where none is known), whether it is beyond the limit (bytes),
    whose it is (int32, the operator's number or -1) and in which step (int32)."""

    rows: list[str]
    cols: list[str]
    notes: list[str]


class CodeAnswer(TypedDict):
    relax: str
    tir: str
    source: str
    language: str
    message: str


class FileAnswer(TypedDict):
    path: str
    text: str


# -- commands --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """One thing to ask for.

    Attributes:
        arguments: a TypedDict.
        answer: a TypedDict, or what else JSON can say.
        question: whether it changes nothing, so that a page may ask again.
        patience: seconds in which a page has heard nothing at all before it gives up.
    """

    arguments: type
    answer: Any = None
    question: bool = False
    patience: int = 60


_LONG = 3600
"""It may compile the whole model, or run it many times."""

COMMANDS = {
    "run": Command(RunArguments),
    "hybrid": Command(Nothing),
    "migrate": Command(Nothing, patience=_LONG),
    "localize": Command(Nothing, patience=_LONG),
    "stop": Command(Nothing),
    "offload": Command(OpsArguments, int, patience=_LONG),
    "restore": Command(OpsArguments, int, patience=_LONG),
    "select": Command(SelectArguments),
    "remember": Command(RememberArguments),
    "inspect": Command(CallArguments, Facts, question=True),
    "values": Command(CallArguments, ValuesAnswer, question=True, patience=600),
    "tensor": Command(TensorArguments, TensorAnswer, question=True, patience=600),
    "cells": Command(CellsArguments, CellsAnswer, question=True),
    "code": Command(CallArguments, CodeAnswer, question=True, patience=600),
    "template": Command(OpArguments, str, question=True, patience=600),
    "override": Command(OverrideArguments, str, patience=_LONG),
    "pytest": Command(OpArguments, FileAnswer, patience=_LONG),
    "repro": Command(CallArguments, FileAnswer, patience=_LONG),
}


def checked(command: str, args: Mapping[str, Any]) -> Any:
    """Arguments that are what the command's TypedDict says; others beside them do not count.

    Raises:
        ValueError: if one is missing, or of another type.
    """
    kind = COMMANDS[command].arguments
    for name, hint in get_type_hints(kind).items():
        if name not in args:
            if name in kind.__required_keys__:  # type: ignore[attr-defined]
                raise ValueError(f"{name!r} is missing")
        elif not _fits(args[name], hint):
            wanted = _WORDS.get(hint, str(hint))
            raise ValueError(f"{name}: {reprlib.repr(args[name])}; give {wanted}")
    return args


def _fits(value: Any, hint: Any) -> bool:
    of, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if of is Literal:
        return isinstance(value, str) and value in inner
    if of is types.UnionType:
        return any(_fits(value, one) for one in inner)
    if of is list:
        return isinstance(value, list) and all(_fits(item, inner[0]) for item in value)
    if of is tuple:
        items = value if isinstance(value, list) and len(value) == len(inner) else None
        return items is not None and all(map(_fits, items, inner))
    if of is dict:
        return isinstance(value, dict) and all(_fits(item, inner[1]) for item in value.values())
    return type(value) is hint  # True is no number
