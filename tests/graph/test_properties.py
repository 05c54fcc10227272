"""Selectors on graphs of any names: what they choose is what was meant, in order, each once."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tapml_nb.graph import Graph, Op, SelectorError, select
from tapml_nb.graph.select import short_kind

words = st.text("abk0[*?", min_size=1, max_size=3)
scopes = st.lists(words, max_size=3).map(".".join)
kinds = st.lists(
    st.sampled_from(["aten.mm", "aten.add", "relax.add", "mm"]), min_size=1, max_size=2
)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Operators of any scope and kind, with names that are nobody else's."""
    drawn = draw(st.lists(st.tuples(scopes, words, kinds), min_size=1, max_size=6))
    ops = [
        Op(f"{scope}/{name}_{k}", "+".join(kind), scope, "M", "", (), (), None, ())
        for k, (scope, name, kind) in enumerate(drawn)
    ]
    return Graph("g", tuple(ops), {}, (), ())


def ordered(graph, chosen):
    return [op.id for op in graph.ops if op.id in chosen]


@given(graphs())
def test_an_id_is_that_operator_whatever_characters_it_has(graph):
    assert select(graph) == [op.id for op in graph.ops]
    for op in graph.ops:
        assert select(graph, op.id) == [op.id]


@given(graphs(), st.data())
def test_a_list_is_what_its_parts_choose(graph, data):
    chosen = data.draw(st.lists(st.sampled_from([op.id for op in graph.ops])))
    assert select(graph, chosen) == ordered(graph, chosen)
    assert select(graph, [chosen, chosen[::-1]]) == ordered(graph, chosen)
    assert select(graph, select(graph, chosen)) == select(graph, chosen)


@given(graphs())
def test_scopes_nest(graph):
    for scope in graph.scopes:
        if scope in graph or not scope or scope.startswith("kind="):
            continue
        inside = [
            op.id for op in graph.ops if op.scope == scope or op.scope.startswith(f"{scope}.")
        ]
        assert select(graph, scope) == inside


@given(graphs(), st.text("ab*?/_.k01", max_size=6))
def test_a_glob_chooses_what_matches_or_says_that_nothing_does(graph, glob):
    assume(glob not in graph)
    assume(glob not in graph.scopes)
    expected = [op.id for op in graph.ops if fnmatchcase(op.id, glob)]
    if expected:
        assert select(graph, glob) == expected
    else:
        with pytest.raises(SelectorError, match="no operator matches"):
            select(graph, glob)


@given(graphs())
def test_kinds_narrow(graph):
    for op in graph.ops:
        for kind in (op.kind, short_kind(op.kind), *op.kind.split("+")):
            chosen = select(graph, kind=kind)
            assert op.id in chosen
            assert chosen == select(graph, f"kind={kind}")
            assert select(graph, op.id, kind=kind) == [op.id]


@given(graphs(), st.sets(st.integers(0, 5)))
def test_a_callable_is_asked_of_each(graph, numbers):
    wanted = [op.id for k, op in enumerate(graph.ops) if k in numbers]
    if wanted:
        assert select(graph, lambda op: op.id in wanted) == wanted
    else:
        with pytest.raises(SelectorError, match="is true for none"):
            select(graph, lambda op: op.id in wanted)
