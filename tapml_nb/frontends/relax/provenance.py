"""Where a Relax operator comes from: weights' names tell scopes, spans tell lines."""

from __future__ import annotations

import linecache
import os
from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import Any

from tapml_nb.frontends.relax.bindings import RelaxOp
from tapml_nb.graph import OpId, SourceLine, ValueId


def scopes(ops: Iterable[RelaxOp], weights: Mapping[ValueId, str]) -> dict[OpId, str]:
    """The module path of every operator, as far as the names of weights tell.

    An operator that reads ``layers.0.mlp.up.weight``, or what was made of weights alone, is in
    ``layers.0.mlp.up``; one that reads none is in the module that holds all those that its inputs
    come from.
    """
    found: dict[OpId, str] = {}
    owner = {value: name.rpartition(".")[0] for value, name in weights.items()}
    made: dict[ValueId, str] = {}
    for op in ops:
        read = [owner[value] for value in op.inputs if value in owner]
        before = [made[value] for value in op.inputs if value in made]
        scope = _common(read or before)
        found[op.id] = scope
        if op.inputs and all(value in owner for value in op.inputs):
            owner |= dict.fromkeys(op.outputs, scope)
        else:  # who reads this is in the same module, or beside it where it has weights of its own
            around = scope.rpartition(".")[0] if read else scope
            made |= dict.fromkeys(op.outputs, around)
    return found


def _common(paths: list[str]) -> str:
    """The longest path that all paths begin with."""
    parts = zip(*(path.split(".") for path in paths), strict=False)
    same = takewhile(lambda members: len(set(members)) == 1, parts)
    return ".".join(members[0] for members in same)


def source_line(span: Any) -> SourceLine | None:
    """The line of TVMScript that a binding was read from, if it was."""
    name = str(span.source_name.name) if span is not None else ""
    if not os.path.isfile(name):
        return None
    return SourceLine(name, int(span.line), linecache.getline(name, int(span.line)).strip())
