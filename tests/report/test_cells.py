"""The numbers of heatmaps: every pair of axes, against the frame; marks, orders, and folding."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from tapml_nb import Verdict
from tapml_nb.graph import Graph, Op, TensorSpec, Value
from tapml_nb.graph.model import layer_of
from tapml_nb.judge.results import OpResult
from tapml_nb.report import Report
from tapml_nb.report.axes import AXES
from tapml_nb.report.cells import cells, folded

SCOPES = ["embed", "layers.0.attn.q", "layers.0.mlp", "layers.1.attn.q", "layers.1.mlp", "head"]
KINDS = ["aten.embedding", "aten.view", "aten.silu", "aten.view", "aten.silu", "aten.mm"]
FAULTY, CRASHED = "layers.1.mlp/op", "head/op"


@pytest.fixture
def report():
    """Two steps of six operators: views, one that fails in the second step, one that crashes."""
    ops, values = [], {}
    for k, (scope, kind) in enumerate(zip(SCOPES, KINDS, strict=True)):
        dtype = "float16" if k == 4 else "float32"
        values[scope] = Value(scope, "operator", TensorSpec((4,), dtype), scope, f"{scope}/op")
        ops.append(Op(f"{scope}/op", kind, scope, "M", layer_of(scope), (), (scope,), None, ()))
    results = {}
    for step in range(2):
        for k, op in enumerate(ops):
            base = OpResult(op.id, step, Verdict.PASS, ratio=0.1 + k / 10, device=f"cuda:{k % 2}")
            along: dict[str, Any] = {
                "positions": (0.1, 0.2, 0.1 + k / 10),
                "heads": (0.1, 0.1 + k / 10),
            }
            if op.kind == "aten.view":
                base = dataclasses.replace(base, verdict=Verdict.SKIPPED, ratio=0.0, device="")
            elif op.id == CRASHED:
                base = dataclasses.replace(base, verdict=Verdict.CRASH, ratio=math.nan)
            elif op.id == FAULTY and step == 1:
                far: dict[str, Any] = {"positions": (0.1, 90.0, 0.2), "heads": (90.0, 0.2)}
                base = dataclasses.replace(base, verdict=Verdict.FAIL, ratio=90.0, **far)
            elif op.kind == "aten.silu":
                base = dataclasses.replace(base, **along)
            results[op.id, step] = base
    return Report(Graph("Net", tuple(ops), values, (), ()), 2, results)


def names_of(report, frame, axis):
    """What a row of the frame is called on an axis that no tensor has."""
    ops = [report.graph[op] for op in frame["op"]]
    if axis == "dtype":
        return [report.graph.values[op.outputs[0]].spec.dtype for op in ops]
    if axis == "device":
        keys = zip(frame["op"], frame["step"], strict=True)
        return [report.introduced[key].device for key in keys]
    if axis.startswith("scope:"):
        return [".".join(op.scope.split(".")[: int(axis[6:])]) for op in ops]
    return {"layer": [op.layer for op in ops]}.get(axis) or frame[axis].tolist()


PLAIN = ["layer", "kind", "scope", "scope:1", "scope:2", "op", "step", "dtype", "device"]


@pytest.mark.parametrize("rows", PLAIN)
@pytest.mark.parametrize("cols", PLAIN)
def test_every_pair_is_the_worst_of_the_frame(report, rows, cols):
    if rows == cols:
        with pytest.raises(ValueError, match="is what the rows are"):
            report.heatmap_table(rows, cols)
        return
    frame = report.frame()
    frame["row"], frame["col"] = names_of(report, frame, rows), names_of(report, frame, cols)
    expected = frame.groupby(["row", "col"])["ratio"].max()
    table = report.heatmap_table(rows, cols, views=True)
    assert (table.index.name, table.columns.name) == (rows, cols)
    known = table.stack().dropna()
    somewhere = [all(name != "" for name in cell) for cell in expected.index]
    assert len(known) == len(expected[somewhere].dropna()), "what no device judged has no cell"
    for cell, ratio in known.items():
        assert ratio == expected[cell]
    assert known.max() == 90


@pytest.mark.parametrize("rows", PLAIN)
@pytest.mark.parametrize("cols", ["position", "head"])
def test_where_along_a_tensor(report, rows, cols):
    found = cells(report, rows, cols)
    r, c = np.unravel_index(np.nanargmax(found.values), found.values.shape)
    assert found.values[r, c] == 90
    assert found.col_names[c] == ("1:1" if cols == "position" else 0)
    assert found.beyond.sum() == 1
    assert found.beyond[r, c]
    assert report.graph.ops[found.ops[r, c]].id == FAULTY
    assert found.steps[r, c] == 1
    axis = "tokens" if cols == "position" else "heads"
    assert f"of 6 judged operators 2 have an axis of {axis}" in found.notes
    assert "1 culprits have none and are not here" in found.notes
    turned = cells(report, cols, rows, order="model")
    assert np.nanmax(turned.values) == 90


def test_tokens_and_heads_together_were_not_measured(report):
    with pytest.raises(ValueError, match="head by position was not measured"):
        cells(report, "head", "position")


def test_views_are_left_out_unless_asked_for(report):
    found = cells(report, "layer", "kind")
    assert found.col_names == ("aten.mm", "aten.silu", "aten.embedding")
    assert found.notes == ("left out: 1 kind of views only",)
    assert "aten.view" in cells(report, "layer", "kind", views=True).col_names


def test_what_has_no_number_is_left_out_but_a_crash_is_marked(report):
    found = cells(report, "op", "step")
    crash = found.row_names.index(CRASHED)
    assert np.isnan(found.values[crash]).all()
    assert found.beyond[crash].all()
    unjudged = {key: r for key, r in report.introduced.items() if key[0] != "embed/op"}
    partly = dataclasses.replace(report, introduced=unjudged)
    assert "left out: 1 layer without a number" in cells(partly, "layer", "step").notes
    nothing = dataclasses.replace(report, introduced={})
    assert len(cells(nothing, "layer", "step").row_names) == 4, "of nothing, nothing is missing"


def test_orders(report):
    def names(**how):
        found = cells(report, "layer", "kind", **how)
        return found.row_names, found.col_names

    model = ("embed", "layers.0", "layers.1", "head")
    assert names() == (model, ("aten.mm", "aten.silu", "aten.embedding"))
    assert names(order="model") == (model, ("aten.embedding", "aten.silu", "aten.mm"))
    assert names(order="worst")[0] == ("head", "layers.1", "layers.0", "embed")
    assert cells(report, "kind", "layer").col_names == model, "layers have an order of their own"
    assert cells(report, "layer", "step").col_names == (0, 1)


def test_only_what_is_beyond_the_limit(report):
    found = cells(report, "layer", "kind", beyond_limit=True)
    assert found.row_names == ("layers.1", "head")
    assert set(found.col_names) == {"aten.silu", "aten.mm"}
    metrics = cells(report, "op", "metric", beyond_limit=True)
    assert metrics.row_names == (FAULTY, CRASHED)
    assert len(metrics.col_names) == 8
    good = {k: r for k, r in report.introduced.items() if r.verdict is Verdict.PASS}
    none = cells(dataclasses.replace(report, introduced=good), "layer", "kind", beyond_limit=True)
    assert none.values.shape == (0, 0)


@pytest.mark.parametrize(
    ("rows", "cols", "match"),
    [
        ("metric", "layer", "rows: 'metric'; choose among 'layer', .* 'device' and 'scope:1'"),
        ("layer", "colour", "cols: 'colour'; choose among .*'metric'"),
        ("scope:0", "kind", "rows: 'scope:0'"),
        ("layer", "layer", "cols: 'layer' is what the rows are"),
    ],
)
def test_other_axes(report, rows, cols, match):
    with pytest.raises(ValueError, match=match):
        cells(report, rows, cols)


def test_another_order(report):
    with pytest.raises(ValueError, match="order: 'best'; choose"):
        cells(report, order="best")  # type: ignore[arg-type]


@pytest.mark.parametrize("axis", ["position", "head"])
def test_what_nobody_measured(report, axis):
    bare = {
        key: dataclasses.replace(r, positions=(), heads=()) for key, r in report.introduced.items()
    }
    with pytest.raises(ValueError, match=f"cols: '{axis}': no operator was judged by {axis}"):
        cells(dataclasses.replace(report, introduced=bare), "layer", axis)


def test_folding_keeps_the_worst_and_says_what_is_left_out(report):
    found = cells(report, "op", "step")
    small = folded(found, 2, 9)
    assert small.row_names == (FAULTY, CRASHED)
    assert small.notes[-1] == "the 2 worst of 4 operators; of the others none is beyond 0.3 floors"
    assert folded(found, 9, 9) is found


def test_folding_puts_neighbours_together(report):
    found = cells(report, "op", "position")
    small = folded(found, 9, 3)
    assert small.col_names == ("0:0…0:1", "0:2…1:0", "1:1…1:2")
    row = small.row_names.index(FAULTY)
    assert small.values[row].tolist() == [0.2, 0.5, 90.0]
    assert small.beyond[row].tolist() == [False, False, True]
    assert small.steps[row].tolist() == [0, 0, 1]
    assert small.notes[-1] == "6 tokens in groups of 2"


def test_all_axes_are_known_to_the_tests():
    assert {*PLAIN, "position", "head"} == {*AXES, "scope:1", "scope:2"}
