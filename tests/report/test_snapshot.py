"""The snapshot of a session, picture and table: their size, what they show, what they never do."""

from __future__ import annotations

import io
import math
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tapml_nb import Verdict
from tapml_nb.graph import Graph, Op, TensorSpec, Value
from tapml_nb.graph.model import layer_of
from tapml_nb.judge.results import AccumulatedResult, OpResult
from tapml_nb.numerics import Statistics
from tapml_nb.report import Report, RunInfo
from tapml_nb.report.drawing import drawable, fitted_path, text_width
from tapml_nb.report.html import table
from tapml_nb.report.outcome import VERDICT_COLOURS, VERDICT_SYMBOLS
from tapml_nb.report.overview import BOXES, edges_of, overview
from tapml_nb.report.picture import _heat, picture

EVIL = "<img src=x onerror=alert(1)>"
SPEC = TensorSpec((8,), "float32")
STATISTICS = Statistics(8, 1e-6, 1e-6, 3.0, 1e-7, 1.0, 120.0, 0, 0, 4, 2)


def chain(scopes, name="Chain", kinds=("aten.mul", "aten.add")):
    """One operator per scope, each reading the one before."""
    ops, values, before = [], {}, tuple[str, ...]()
    for i, scope in enumerate(scopes):
        op = f"{scope}/op_{i}"
        values[op] = Value(op, "operator", SPEC, op, op)
        kind = kinds[i % len(kinds)]
        ops.append(Op(op, kind, scope, "M", layer_of(scope), before, (op,), None, ()))
        before = (op,)
    return Graph(name, tuple(ops), values, (), ())


def blocks(layers, parts=("norm", "attn", "mlp")):
    return [f"model.layers.{n}.{part}" for n in range(layers) for part in parts]


def judged(graph, faults=(), steps=1, **more):
    """A report in which everything passes with different ratios but ``faults``: {op: verdict}."""
    faults = dict(faults)
    results = {}
    for step in range(steps):
        for i, op in enumerate(graph.ops):
            verdict = faults.get(op.id, Verdict.PASS)
            crashed = verdict in (Verdict.CRASH, Verdict.TIMEOUT, Verdict.COMPILE_ERROR)
            ratio = {Verdict.PASS: 0.1 + i % 7 / 10, Verdict.FAIL: 900.0 + i}.get(verdict, math.nan)
            results[op.id, step] = OpResult(
                op.id, step, verdict, ratio, 1e-6, None if crashed else STATISTICS
            )
    return Report(graph, steps, results, info=RunInfo(target="llvm"), **more)


def pixels(png):
    """As it looks on a white page."""
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image.convert("RGBA"))
    return np.asarray(page.convert("RGB"))


def share(image, colour):
    """How many pixels have exactly this colour."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((image == rgb).all(axis=-1).sum())


def boundary_is_clear(png):
    """Whether nothing, and no paper, is at the edges: the page's own colour shows there."""
    image = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))[..., 3]
    edges = (image[:3], image[-3:], image[:, :3], image[:, -3:])
    return all((edge == 0).all() for edge in edges)


REPORTS = {
    "nothing judged": Report(chain(blocks(3))),
    "no operators": Report(chain([])),
    "one operator": judged(chain([""])),
    "two layers": judged(chain(["first", "act", "second"])),
    "steps": judged(chain(blocks(4)), steps=3),
    "every verdict": judged(
        g := chain(blocks(6)),
        faults=zip([op.id for op in g.ops], Verdict, strict=False),
        accumulated={
            (op.id, 0): AccumulatedResult(
                op.id, 0, "target", 2.0, 1e-5, 90, 1e-6, 1.5, Verdict.PASS
            )
            for op in g.ops
        },
        placement={op.id: "target" for op in g.ops[3:9]} | {g.ops[0].id: "target"},
    ),
    "only crashes": judged(g := chain(blocks(2)), faults={op.id: Verdict.CRASH for op in g.ops}),
    "no ratios differ": Report(
        g,
        introduced={
            (op.id, 0): OpResult(op.id, 0, Verdict.PASS, math.nan, 0.0, STATISTICS) for op in g.ops
        },
    ),
    "many layers and kinds": judged(
        chain(
            [f"a_model_of_many.layers.{n}.{part * 9}" for n in range(90) for part in "abc"],
            kinds=[f"aten.a_very_long_operator_kind_{k}" for k in range(43)],
        )
    ),
    "unequal names": judged(
        chain(
            [
                r"$\frac{$.a$_",
                "a$b$.__x^^",
                EVIL,
                "层.注意",
                "x" * 500,
                "\x00\x1b[0m\n",
                "\U0001f600",
            ],
            name=r"$\oops{ <_ 模型 " + "long " * 90,
            kinds=[r"$\sum_{$", "a^_$_$", EVIL],
        )
    ),
}


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS.keys())
def test_every_report_has_a_picture_with_nothing_cut_off(report):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph, an all-NaN slice
        png = picture(report)
    height, width, _ = pixels(png).shape
    assert width == 1000
    assert 150 < height <= 1700
    assert boundary_is_clear(png)


def test_the_picture_shows_faults_in_their_colour():
    graph = chain(blocks(2))
    good = pixels(picture(judged(graph)))
    broken = pixels(picture(judged(graph, {graph.ops[4].id: Verdict.NONFINITE})))
    assert share(good, VERDICT_COLOURS[Verdict.NONFINITE]) == 0
    assert share(broken, VERDICT_COLOURS[Verdict.NONFINITE]) > 300
    assert share(good, VERDICT_COLOURS[Verdict.PASS]) > share(broken, VERDICT_COLOURS[Verdict.PASS])


def test_placement_and_crossing_edges_are_drawn():
    graph = chain(["a", "b", "c"])
    moved = judged(graph, placement={graph.ops[1].id: "target"})
    boxes = overview(moved)
    assert [box.placement for box in boxes] == ["source", "target", "source"]
    assert edges_of(moved, boxes) == {(0, 1): True, (1, 2): True}
    stay = judged(graph)
    assert edges_of(stay, overview(stay)) == {(0, 1): False, (1, 2): False}
    assert (pixels(picture(moved)) != pixels(picture(stay))).any()


def test_the_style_of_the_notebook_does_not_matter():
    import matplotlib

    report = judged(chain(blocks(2)))
    plain = picture(report)
    dark: dict[Any, Any] = {"figure.facecolor": "black", "axes.facecolor": "black"}
    dark |= {
        "text.color": "white",
        "axes.grid": True,
        "figure.constrained_layout.use": True,
        "savefig.dpi": 30,
    }
    with matplotlib.rc_context(dark | {"axes.labelcolor": "white", "xtick.color": "white"}):
        assert (pixels(picture(report)) == pixels(plain)).all()


# -- the overview ---------------------------------------------------------------------------------


def names(report, **more):
    return [box.name for box in overview(report, **more)]


def test_scopes_open_level_by_level_in_model_order():
    report = judged(chain(["embed", *blocks(2), "model.norm", "", "head"]))
    assert names(report) == [
        "embed",
        *("model.layers.0.norm", "model.layers.0.attn", "model.layers.0.mlp"),
        *("model.layers.1.norm", "model.layers.1.attn", "model.layers.1.mlp"),
        *("model.norm", "(model)", "head"),
    ]
    assert names(report, limit=6) == [
        *("embed", "model.layers.0", "model.layers.1", "model.norm", "(model)", "head")
    ]
    assert names(report, limit=1) == ["(model)"]


def test_where_a_level_does_not_fit_the_fault_opens():
    graph = chain(blocks(3))
    report = judged(graph, {"model.layers.1.attn/op_4": Verdict.FAIL})
    # Of 7 boxes two layers could be open, but the second one for no reason.
    assert names(report, limit=5) == names(report, limit=7)
    assert names(report, limit=5) == [
        "model.layers.0",
        *("model.layers.1.norm", "model.layers.1.attn", "model.layers.1.mlp"),
        "model.layers.2",
    ]
    assert [(b.verdict, b.broken) for b in overview(report, limit=5)][2] == (Verdict.FAIL, 1)


@pytest.mark.parametrize("layers", [1, 2, 13, 14, 39, 40, 41, 200, 1000])
def test_no_more_boxes_than_fit_and_every_operator_in_one(layers):
    graph = chain(["embed", *blocks(layers), "", "head"])
    report = judged(graph, {graph.ops[2].id: Verdict.CRASH})
    boxes = overview(report)
    assert len(boxes) <= BOXES
    assert sorted(op for box in boxes for op in box.ops) == sorted(op.id for op in graph.ops)
    assert len(boxes) >= min(15, 3 * layers), "room is used"
    assert sum(box.broken for box in boxes) == 1


def test_names_are_shortened_where_they_tell_least():
    name = "model.layers.17.post_attention_layernorm"
    short = fitted_path(name, 1.6, 7)
    assert text_width(short, 7) <= 1.6 < text_width(name, 7)
    assert short.startswith("model.layers.17.post")
    assert "…" in short
    assert drawable("a层\n") == "a\ufffd "


def test_the_font_has_all_symbols():
    assert set(VERDICT_COLOURS) == set(VERDICT_SYMBOLS) == set(Verdict)
    assert len(set(VERDICT_SYMBOLS.values())) == len(set(VERDICT_COLOURS.values())) == len(Verdict)
    for symbol in VERDICT_SYMBOLS.values():
        assert drawable(symbol) == symbol


# -- the heatmap ----------------------------------------------------------------------------------


def test_of_many_layers_the_worst_are_shown():
    graph = chain(blocks(60))
    op = graph.ops[3 * 57 + 1].id  # ratios of good operators repeat, so the last layers tie
    heat = _heat(judged(graph, {op: Verdict.CRASH}))
    assert heat is not None
    layers = heat.cells.row_names
    assert len(layers) == 30
    assert [layers[i] for i, _ in np.argwhere(heat.cells.beyond)] == ["model.layers.57"]
    assert "the 30 worst of 60 layers" in heat.title


def test_of_many_faulty_layers_the_worst_are_shown():
    graph = chain(blocks(60))
    report = judged(graph, {op.id: Verdict.FAIL for op in graph.ops})  # the ratio grows
    heat = _heat(report)
    assert heat is not None
    assert list(heat.cells.row_names) == [f"model.layers.{n}" for n in range(30, 60)]


def test_metrics_where_no_ratios_differ():
    heat = _heat(REPORTS["no ratios differ"])
    assert heat is not None
    assert heat.cells.cols == "metric"
    assert "max_abs" in heat.cells.col_names
    assert "ratio" not in heat.cells.col_names


def test_ratios_are_those_of_the_frame():
    report = REPORTS["every verdict"]
    frame = report.frame()
    frame["layer"] = [report.graph[op].layer for op in frame["op"]]
    expected = frame.groupby(["layer", "kind"])["ratio"].max()
    cells = report.heatmap_table("layer", "kind").stack().dropna()
    assert len(cells)
    for cell, ratio in cells.items():
        assert ratio == expected[cell]


# -- threads and time -----------------------------------------------------------------------------


def test_a_thread_draws_without_pyplot():
    code = (
        "import sys, threading\n"
        "from tests.report.test_snapshot import REPORTS\n"
        "from tapml_nb.report.picture import picture\n"
        "made = []\n"
        "draw = lambda: made.append(picture(REPORTS['every verdict']))\n"
        "thread = threading.Thread(target=draw)\n"
        "thread.start(); thread.join()\n"
        "assert made[0].startswith(b'\\x89PNG')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_threads_draw_while_pyplot_does():
    import matplotlib.pyplot as plt

    report = REPORTS["every verdict"]
    expected = picture(report)
    made: list[bytes] = []
    threads = [threading.Thread(target=lambda: made.append(picture(report))) for _ in range(3)]
    for thread in threads:
        thread.start()
    figure, axes = plt.subplots()
    axes.set_title(r"$\frac{a}{b}$")
    while any(thread.is_alive() for thread in threads):
        figure.canvas.draw()
    assert plt.gcf() is figure
    plt.close(figure)
    assert made == [expected] * 3


def test_mathematics_is_never_parsed(monkeypatch):
    from matplotlib.mathtext import MathTextParser

    def parse(*_, **__):
        raise AssertionError("parsed")

    monkeypatch.setattr(MathTextParser, "parse", parse)
    for report in REPORTS.values():
        picture(report)


def test_twenty_thousand_operators():
    graph = chain([f"{scope}.{i}" for scope in blocks(80) for i in range(84)])
    assert len(graph) > 20_000
    report = judged(graph, {graph.ops[777].id: Verdict.FAIL})
    assert pixels(picture(report)).shape[0] <= 1700
    assert table(report)


# -- the table ------------------------------------------------------------------------------------


def test_the_table_names_the_culprit_and_its_layer():
    graph = chain(blocks(3))
    html = table(judged(graph, {"model.layers.1.attn/op_4": Verdict.FAIL}))
    culprits, layers = html.split("<h4>Layers</h4>")
    assert "9 operators: 8 PASS, 1 FAIL" in culprits
    assert "<td>model.layers.1.attn/op_4</td><td>✗ FAIL</td><td>904</td>" in culprits
    assert "<td>model.layers.1</td><td>3</td><td>0</td><td>✗ FAIL</td><td>904</td>" in layers
    assert "<td>model.layers.0</td><td>3</td><td>0</td><td>✓ PASS</td><td>0.3</td>" in layers


def test_the_table_is_cut():
    graph = chain(blocks(70))
    missing = {op.id: Verdict.COMPILE_ERROR for op in graph.ops[:25]}
    report = judged(graph, missing)
    reasons = {
        key: replace(result, message="no rule for " + "i" * i)
        for i, (key, result) in enumerate(report.introduced.items())
    }
    html = table(replace(report, introduced=reasons))
    before, layers = html.split("<h4>Layers</h4>")
    assert before.count("C COMPILE_ERROR</td>") == 10
    assert "… and 15 more" in before
    # without a reason they are one row for each kind
    alike, _ = table(report).split("<h4>Layers</h4>")
    assert alike.count("C COMPILE_ERROR</td>") == len({graph[op].kind for op in missing})
    assert layers.count("<tr>") == 1 + 60
    assert "… and 10 more" in layers


def test_names_are_escaped():
    graph = chain([EVIL, "good"], name=EVIL, kinds=[EVIL])
    results = {
        (op.id, 0): OpResult(op.id, 0, verdict, math.inf, message=EVIL)
        for op, verdict in zip(graph.ops, (Verdict.FAIL, Verdict.UNSUPPORTED), strict=True)
    }
    html = table(Report(graph, introduced=results, info=RunInfo(target=EVIL)))
    assert "<img" not in html
    assert html.count("&lt;img src=x") >= 6
    assert "<script" not in html


def test_the_table_of_nothing():
    html = table(REPORTS["nothing judged"])
    assert "nothing judged yet" in html
    assert "? UNKNOWN" in html
    assert table(REPORTS["no operators"])


def test_the_table_needs_no_pandas():
    code = (
        "import sys\n"
        "from tapml_nb.graph import Graph\n"
        "from tapml_nb.report import Report\n"
        "from tapml_nb.report.html import table\n"
        "table(Report(Graph('g', (), {}, (), ())))\n"
        "assert not {'pandas', 'matplotlib'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
