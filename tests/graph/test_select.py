"""Selectors: every form, order, and errors that help."""

import pytest

from tapml_nb.graph import Graph, Op, SelectorError, select


def make_op(op_id: str, kind: str) -> Op:
    scope = op_id.rpartition("/")[0]
    return Op(op_id, kind, scope, "Module", "", (), (), None, ())


@pytest.fixture
def graph() -> Graph:
    ops = (
        make_op("model.embed/embedding", "aten.embedding"),
        make_op("model.layers.0.mlp.gate/linear", "aten.linear"),
        make_op("model.layers.0.mlp.act/silu", "aten.silu"),
        make_op("model.layers.1.mlp.gate/linear", "aten.linear"),
        make_op("model.layers.1.mlp.act/silu", "aten.silu"),
        make_op("head/linear", "aten.linear"),
    )
    return Graph("m", ops, {}, (), ())


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (None, [0, 1, 2, 3, 4, 5]),
        ("model.layers.0.mlp.act/silu", [2]),
        ("model.layers.*.mlp.*", [1, 2, 3, 4]),
        ("model.layers.1", [3, 4]),
        ("model.layers.1.mlp.act", [4]),
        ("aten.linear", [1, 3, 5]),
        ("linear", [1, 3, 5]),
        ("kind=silu", [2, 4]),
        (["head/linear", "kind=silu"], [2, 4, 5]),
        (lambda op: op.kind == "aten.embedding", [0]),
        ([["head"], "model.embed"], [0, 5]),
    ],
)
def test_forms(graph, selector, expected):
    assert select(graph, selector) == [graph.ops[i].id for i in expected]


def test_kind_narrows(graph):
    assert select(graph, "model.layers.0", kind="linear") == ["model.layers.0.mlp.gate/linear"]


def test_a_scope_is_not_a_string_prefix(graph):
    with pytest.raises(SelectorError):
        select(graph, "model.layers.0.ml")


@pytest.mark.parametrize(
    ("selector", "hint"),
    [
        ("model.layers.0.mlp.act/sillu", "model.layers.0.mlp.act/silu"),
        ("kind=linaer", "linear"),
        ("model.layer.0", "model.layers.0"),
        (["head", "hea"], "head"),
    ],
)
def test_a_miss_names_what_is_near(graph, selector, hint):
    with pytest.raises(SelectorError, match=f"did you mean.*{hint}"):
        select(graph, selector)


def test_a_callable_that_matches_nothing(graph):
    with pytest.raises(SelectorError, match="true for none of 6 operators"):
        select(graph, lambda op: False)


def test_a_kind_that_leaves_nothing(graph):
    with pytest.raises(SelectorError, match="names no operator of kind 'embedding'"):
        select(graph, "head", kind="embedding")


def test_no_selector(graph):
    with pytest.raises(TypeError, match="not int"):
        select(graph, 3)  # type: ignore[arg-type]
