"""Reports: frames, culprits, figures, HTML, comparison."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from tapml_nb import Verdict
from tapml_nb.graph import Graph, Op, SourceLine, TensorSpec, Value
from tapml_nb.judge.results import AccumulatedResult, OpResult
from tapml_nb.numerics import Statistics
from tapml_nb.report import Report, RunInfo
from tapml_nb.report.findings import COLUMNS
from tapml_nb.report.plot import layer_bands

EVIL = "<img src=x onerror=alert(1)>"


def statistics(max_abs=1e-6):
    return Statistics(8, max_abs, 1e-6, 3.0, 1e-7, 1.0, 120.0, 0, 0, 4, 2)


@pytest.fixture
def graph():
    spec = TensorSpec((8,), "float32")
    names = ["layers.0.a", "layers.0.b", "layers.1.a", "layers.1.b", EVIL]
    values = {n: Value(n, "operator", spec, n, f"{n}/mul") for n in names}
    line = SourceLine("/home/me/model.py", 12, f"return x * {EVIL}")
    ops = tuple(
        Op(f"{n}/mul", "aten.mul", n, "M", n[:8], (), (n,), line, ("aten.mul.Tensor",))
        for n in names
    )
    return Graph(EVIL, ops, values, (), ())


def result(op, verdict=Verdict.PASS, ratio=0.5, **more):
    return OpResult(op, 0, verdict, ratio, 1e-6, statistics(), **more)


@pytest.fixture
def report(graph):
    ops = [op.id for op in graph.ops]
    results = {
        (ops[0], 0): result(ops[0]),
        (ops[1], 0): result(ops[1], Verdict.FAIL, 50.0, message="off by one"),
        (ops[2], 0): result(ops[2], Verdict.CRASH, math.nan, message="SIGSEGV"),
        (ops[3], 0): result(ops[3], Verdict.FAIL, 900.0, message="tail"),
        (ops[4], 0): result(ops[4], Verdict.COMPILE_ERROR, math.nan, message=EVIL),
    }
    accumulated = {
        (ops[0], 0): AccumulatedResult(
            ops[0], 0, "target", 2.0, 1e-5, 90.0, 1e-6, 1.5, Verdict.PASS
        )
    }
    info = RunInfo(target="llvm", kernels=3, seconds=1.5, outputs=Verdict.FAIL)
    return Report(graph, 1, results, accumulated, {ops[0]: "target"}, info)


def test_the_plot_has_a_band_for_each_layer_and_names_them_literally(report):
    evil = EVIL[:8]
    assert layer_bands(report) == [("layers.0", 0, 1), ("layers.1", 2, 3), (evil, 4, 4)]
    (axes,) = report.divergence().axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "1", evil]


def test_two_reports_in_one_plot(report):
    worse = dataclasses.replace(
        report,
        introduced={
            op: dataclasses.replace(r, ratio=7e5, verdict=Verdict.FAIL)
            for op, r in report.introduced.items()
        },
    )
    (alone,), (both,) = report.divergence().axes, report.divergence(against=worse).axes
    hollow = [line for line in both.lines if line.get_markerfacecolor() == "none"]
    assert not [line for line in alone.lines if line.get_markerfacecolor() == "none"]
    assert [len(line.get_xdata()) for line in hollow] == [5, 5]
    assert set(hollow[0].get_ydata()) == {7e5}
    assert both.get_ylim()[1] > 7e5
    other = dataclasses.replace(report, graph=Graph("Other", (), {}, (), ()))
    with pytest.raises(ValueError, match=r"^against: "):
        report.divergence(against=other)


def test_frame(report):
    frame = report.frame()
    assert list(frame.columns) == COLUMNS
    row = frame.iloc[0]
    assert (row["verdict"], row["ratio"], row["placement"]) == ("PASS", 0.5, "target")
    assert (row["acc_ratio"], row["gain"], row["line"]) == (2.0, 1.5, 12)
    assert frame.iloc[2]["verdict"] == "CRASH"


def test_culprits_worst_first_and_what_is_missing_apart(report):
    assert [(c.op, c.verdict) for c in report.culprits] == [
        ("layers.1.a/mul", Verdict.CRASH),
        ("layers.1.b/mul", Verdict.FAIL),
        ("layers.0.b/mul", Verdict.FAIL),
    ]
    assert "model.py:12" in report.culprits[0].evidence
    assert [r.op for r in report.missing] == [f"{EVIL}/mul"]


def test_truth(report, graph):
    assert not report
    good = {(op.id, 0): result(op.id) for op in graph.ops}
    assert Report(graph, introduced=good)
    partly = dict(list(good.items())[:-1])
    assert not Report(graph, introduced=partly), "an operator was not judged"
    broken = dataclasses.replace(report, introduced=good)
    assert not broken, "the hybrid run's outputs are off"
    unsupported = good | {(EVIL + "/mul", 0): result(EVIL + "/mul", Verdict.UNSUPPORTED)}
    assert Report(graph, introduced=unsupported)


def test_a_report_is_immutable(report):
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.steps = 3


def test_diff(report, graph):
    good = Report(graph, introduced={(op.id, 0): result(op.id) for op in graph.ops})
    diff = report.diff(good)
    assert diff["op"].tolist()[0] == "layers.0.b/mul"
    assert diff.iloc[0].tolist() == ["layers.0.b/mul", 0, "FAIL", "PASS"]
    assert len(diff) == 4
    assert good.diff(good).empty


def test_steps_take_the_worst(graph):
    op = graph.ops[0].id
    bad = dataclasses.replace(result(op, Verdict.FAIL, 9), step=1)
    results = {(op, 0): result(op), (op, 1): bad}
    report = Report(graph, 2, results)
    assert report.verdict(op) is Verdict.FAIL
    assert report.verdict(op, 0) is Verdict.PASS
    assert report.culprits[0].step == 1


def test_summary_says_what_matters(report):
    text = report.summary()
    assert "3 FAIL" not in text
    assert "2 FAIL" in text
    assert "culprit 1: layers.1.a/mul CRASH" in text
    assert "NOT within the noise floor (FAIL)" in text
    assert f"missing: {EVIL}/mul COMPILE_ERROR" in text


def test_html_escapes_everything_that_comes_from_models(report, tmp_path):
    page = report.to_html(tmp_path / "report.html").read_text()
    for html in (page, report._repr_mimebundle_()["text/html"]):
        assert EVIL not in html
        assert "&lt;img src=x" in html
    assert page.count("data:image/png;base64,") == 2
    assert page.count("</script>") == 2
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://www.w3.org", "")


def test_an_unwritable_path(report, tmp_path):
    with pytest.raises(ValueError, match=r"path: .*cannot be written"):
        report.to_html(tmp_path / "no" / "report.html")


def test_figures_show_the_frame(report):
    figure = report.plot()
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert {"introduced", "accumulated", "noise floor", "culprit", "missing"} <= set(labels)


@pytest.mark.parametrize("rows", ["layer", "scope", "op"])
@pytest.mark.parametrize("cols", ["metric", "kind", "step"])
def test_heatmaps(report, rows, cols):
    table = report.heatmap_table(rows, cols)
    assert np.nanmax(table.to_numpy(dtype=float)) >= 900
    assert report.heatmap(rows, cols).axes


@pytest.mark.parametrize(("rows", "cols"), [("model", "metric"), ("layer", "colour")])
def test_heatmaps_of_something_else(report, rows, cols):
    with pytest.raises(ValueError, match="choose"):
        report.heatmap(rows, cols)
    with pytest.raises(ValueError, match="choose"):
        report.heatmap_table(rows, cols)


def test_an_empty_report_draws(graph):
    report = Report(graph)
    assert report.plot().axes
    assert report.heatmap().axes
    assert report.counts == {Verdict.UNKNOWN: 5}


def test_a_model_of_thousands_of_layers_can_be_drawn():
    spec = TensorSpec((8,), "float32")
    scopes = [f"layers.{k}" for k in range(3000)]
    ops = tuple(
        Op(f"{s}/mul", "aten.mul", s, "M", s, (), (s,), None, ("aten.mul.Tensor",)) for s in scopes
    )
    values = {s: Value(s, "operator", spec, s, f"{s}/mul") for s in scopes}
    introduced = {(op.id, 0): result(op.id) for op in ops}
    report = Report(Graph("deep", ops, values, (), ()), 1, introduced)
    figure = report.heatmap("layer", "kind")
    assert max(figure.get_size_inches()) < 60, "an image has an end"
    assert len(figure.axes[0].get_yticklabels()) == 100, "the worst"
    assert len(report.heatmap_table("layer", "kind")) == 3000, "every layer has its row"
