"""Selectors: how people name operators.

A selector is an operator id, a glob over ids (``"model.layers.*.mlp.*"``), a scope, an op kind
(``"aten.mm"``, ``"mm"`` or ``"kind=softmax"``), a callable on :class:`Op`, or an iterable of
these.  A kind also names the operators that hold a call of it among others.  A selector that
matches nothing is a mistake and says what is near.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from fnmatch import translate

from tapml_nb.graph.model import Graph, Op, OpId

Selector = str | Callable[[Op], bool] | Iterable["Selector"]


class SelectorError(ValueError):
    """A selector that names no operator of this graph.

    Example:
        >>> session.run("kind=gelo")
        Traceback (most recent call last):
        tapml_nb.graph.select.SelectorError: no operator matches 'kind=gelo'; did you mean 'gelu'?
    """


def select(
    graph: Graph, selector: Selector | None = None, *, kind: str | None = None
) -> list[OpId]:
    """The operators a selector names, in graph order, each once.

    Args:
        graph: where to look.
        selector: see the module's text; None means every operator.
        kind: keep only operators of this kind (``"softmax"`` or ``"aten.softmax"``).

    Raises:
        SelectorError: if some part of the selector matches nothing.
        TypeError: if the selector is of no known form.
    """
    chosen = {op.id for op in graph.ops} if selector is None else _match(graph, selector)
    if kind is not None:
        chosen &= _match(graph, f"kind={kind}")
        if not chosen:
            raise SelectorError(f"selector {selector!r} names no operator of kind {kind!r}")
    return [op.id for op in graph.ops if op.id in chosen]


def _match(graph: Graph, selector: Selector) -> set[OpId]:
    if isinstance(selector, str):
        return _match_text(graph, selector)
    if callable(selector):
        found = {op.id for op in graph.ops if selector(op)}
        if not found:
            name = getattr(selector, "__name__", repr(selector))
            raise SelectorError(f"selector {name} is true for none of {len(graph)} operators")
        return found
    if isinstance(selector, Iterable):
        return set().union(*(_match(graph, part) for part in selector))
    raise TypeError(
        f"a selector is an operator id, glob, scope, kind, callable or a list of these, "
        f"not {type(selector).__name__}"
    )


def _match_text(graph: Graph, text: str) -> set[OpId]:
    if text in graph:
        return {text}
    if text.startswith("kind="):
        wanted = text.removeprefix("kind=")
        found = {op.id for op in graph.ops if wanted in _kinds(op, short=True)}
    elif text in graph.scopes:
        found = set(graph.scopes[text])
    else:
        glob = re.compile(translate(text))
        found = {op.id for op in graph.ops if glob.match(op.id) or text in _kinds(op)}
        found = found or {op.id for op in graph.ops if text in _kinds(op, short=True)}
    if not found:
        raise SelectorError(f"no operator matches {text!r}{_near(graph, text)}")
    return found


def short_kind(kind: str) -> str:
    """An op kind without its namespaces: ``aten.silu+aten.mul`` → ``silu+mul``."""
    return "+".join(part.rpartition(".")[2] for part in kind.split("+"))


def _kinds(op: Op, *, short: bool = False) -> set[str]:
    """What an operator may be called by: its kind and those of its calls; or these in short."""
    kinds = {op.kind, *op.kind.split("+")}
    return kinds | {short_kind(kind) for kind in kinds} if short else kinds


def _near(graph: Graph, text: str) -> str:
    """A hint that names the closest ids, scopes or kinds, if any are close."""
    if text.startswith("kind="):
        pool = {short_kind(op.kind) for op in graph.ops}
    else:
        pool = {op.id for op in graph.ops} | {op.kind for op in graph.ops} | set(graph.scopes)
    near = difflib.get_close_matches(text.removeprefix("kind="), sorted(pool), n=3, cutoff=0.5)
    return f"; did you mean {', '.join(map(repr, near))}?" if near else ""
