"""Which axis of a tensor the attention's heads are on, and a fault in one head."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tapml_nb as tapml
from tapml_nb.graph import Graph, Member, Op, TensorSpec, Value
from tapml_nb.judge.heads import head_axes
from tests.models import llama

ATTENTION = "aten.scaled_dot_product_attention"


def graph(shapes, *, kind=ATTENTION, members=()):
    """One operator whose first input is the first tensor; all tensors are operators' results."""
    values = {
        name: Value(name, "operator", TensorSpec(shape, "float32"), name, "op")
        for name, shape in shapes.items()
    }
    first, *_ = values
    op = Op("op", kind, "", "M", "", (first,), (), None, (), members=tuple(members))
    return Graph("Net", (op,), values, (), ())


SHAPES = {
    "query": (1, 8, 12, 16),
    "before the transpose": (1, 12, 8, 16),
    "key of fewer heads": (1, 2, 12, 16),
    "of another width": (1, 8, 12, 12),
    "joined": (1, 12, 128),
}


def test_tensors_of_the_queries_sizes_have_its_heads():
    assert head_axes(graph(SHAPES)) == {"query": 1, "before the transpose": 2}


def test_without_attention_nothing_is_claimed():
    assert head_axes(graph(SHAPES, kind="aten.bmm")) == {}


def test_where_heads_and_tokens_are_equally_many_nothing_is_claimed():
    assert head_axes(graph({"query": (1, 8, 8, 16), "other": (1, 8, 8, 16)})) == {}


def test_attention_inside_a_fused_operator():
    query = TensorSpec((1, 8, 12, 16), "float32")
    inside = Member(f"attn/{ATTENTION.removeprefix('aten.')}", (), (query,), (query,))
    found = graph(SHAPES, kind="aten.mul+" + ATTENTION, members=[inside])
    assert head_axes(found) == {"query": 1, "before the transpose": 2}


@pytest.mark.compiles
def test_a_fault_in_one_head_is_there_and_nowhere_else():
    def attend(q, k, v, *mask):
        query, key, value = (torch.from_numpy(np.array(x)) for x in (q, k, v))
        given = torch.from_numpy(np.array(mask[0])) if mask else None
        y = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=given, is_causal=not mask, enable_gqa=True
        ).numpy()
        y[:, 5] *= np.float32(1.01)
        return y

    with tapml.debug(*llama(layers=1)) as session:
        op = next(op.id for op in session.graph.ops if op.kind == ATTENTION)
        session.override(op, attend)
        report = session.run("model.layers.0.self_attn")
        row = report.heatmap_table("op", "head").loc[op]
        assert (row > 8).tolist() == [head == 5 for head in range(8)]
        other = next(r for r in report.introduced.values() if r.heads and r.op != op)
        assert len(other.heads) == 8
        assert other.device == "llvm"
        assert report.heatmap_table("device", "kind").index.tolist() == ["llvm"]
