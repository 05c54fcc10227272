"""What computes masks and positions: by where values come from, not by names."""

from __future__ import annotations

from tapml_nb.graph import Graph, Op, TensorSpec, Value, masks_and_positions
from tapml_nb.graph.model import Role

LEAVES: dict[str, tuple[Role, str, tuple[int, ...]]] = {
    "ids": ("input", "int64", (1, 12)),
    "image": ("input", "float32", (1, 3, 8, 8)),
    "weight": ("parameter", "float32", (4,)),
    "table": ("buffer", "float32", (8,)),
    "causal": ("buffer", "bool", (12, 12)),
    "least": ("constant", "float32", ()),
    "quantized": ("parameter", "int8", (4, 4)),
    "bias": ("constant", "float32", (12, 12)),
}


def found(**reads: tuple[str, ...]) -> set[str]:
    """The operators found in a model whose operators read these values; each yields its name."""
    values = {
        name: Value(name, role, TensorSpec(shape, dtype), name)
        for name, (role, dtype, shape) in LEAVES.items()
    }
    spec = TensorSpec((12,), "float32")
    values |= {name: Value(name, "operator", spec, name, name) for name in reads}
    ops = tuple(
        Op(name, "aten.op", "", "M", "", inputs, (name,), None, ())
        for name, inputs in reads.items()
    )
    return set(masks_and_positions(Graph("M", ops, values, (), ())))


def test_what_sees_token_ids_sizes_and_single_numbers_alone_is_found():
    masks = {"arange": (), "ne": ("ids",), "where": ("ne", "causal", "least"), "f": ("where",)}
    assert found(**masks, linear=("weight",)) == set(masks)


def test_weights_and_activations_are_not_and_neither_is_what_follows_from_them():
    for leaf in ("weight", "image", "table", "quantized", "bias"):
        assert found(arange=(), reads=(leaf,), after=("reads", "arange")) == {"arange"}, leaf


def test_a_model_of_nothing_else_has_no_such_operators():
    assert found(arange=(), ne=("ids",)) == set()
