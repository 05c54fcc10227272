"""Heatmaps as figures: no label missing or on another, marks, themes, files."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.patches import StepPatch
from matplotlib.transforms import Affine2D

from tapml_nb import Verdict
from tapml_nb.report.cells import cells
from tapml_nb.report.drawing import FREE
from tapml_nb.report.heatmap import LIMIT_INK, Layout, compact
from tapml_nb.report.tensor_heatmap import tensor_heatmap
from tapml_nb.report.theme import THEMES
from tests.report.test_snapshot import blocks, chain, judged

FUSED = [f"aten.view+aten.transpose+aten.mul+aten.slice+aten.op{k}+aten.cat" for k in range(40)]


@pytest.fixture(scope="module")
def deep():
    """Twelve layers of fused kinds with long names, one of them broken."""
    graph = chain(blocks(12), kinds=FUSED)
    return judged(graph, {graph.ops[22].id: Verdict.FAIL, graph.ops[5].id: Verdict.CRASH})


def labels_of(axes):
    """What is written above the columns; numbers are in the cells."""
    return [text for text in axes.texts if text.get_rotation()]


def strips(texts):
    """Where leaning labels lie across the direction in which they lean, in pixels."""
    found = []
    for text in texts:
        angle = text.get_rotation()
        x, y = text.get_transform().transform(text.get_position())
        across = Affine2D().rotate_deg(-angle).transform((x, y))[1]
        upright = text.get_fontsize() * text.figure.dpi / 72
        found.append((across - upright / 2, across + upright / 2))
    return sorted(found)


@pytest.mark.parametrize("rows", ["layer", "op"])
@pytest.mark.parametrize("cols", ["kind", "step", "metric"])
def test_every_label_is_there_inside_and_on_no_other(deep, rows, cols):
    figure = deep.heatmap(rows, cols)
    axes = figure.axes[0]
    figure.canvas.draw()
    table = deep.heatmap_table(rows, cols)
    names, columns = axes.get_yticklabels(), labels_of(axes)
    assert len(names) == len(table.index)
    assert len(columns) == len(table.columns)
    for texts in (names, columns):
        assert len({text.get_text() for text in texts}) == len(texts)
    page = figure.bbox
    boxes = [text.get_window_extent() for text in (*names, *columns)]
    for box in boxes:
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1
        assert page.y0 <= box.y0
        assert box.y1 <= page.y1
    for above, below in pairwise(sorted((b for b in boxes[: len(names)]), key=lambda b: -b.y0)):
        assert below.y1 <= above.y0 + 1
    for one, other in pairwise(strips(columns)):
        assert one[1] <= other[0] + 0.5
    tall = axes.bbox.height / max(1, len(names))
    assert tall >= max(box.height for box in boxes[: len(names)])


def test_a_frame_marks_what_is_beyond_the_limit(deep):
    axes = deep.heatmap("layer", "kind").axes[0]
    (frames,) = (c for c in axes.collections if isinstance(c, PatchCollection))
    assert len(frames.get_paths()) == 2
    good = judged(deep.graph).heatmap("layer", "kind").axes[0]
    (frames,) = (c for c in good.collections if isinstance(c, PatchCollection))
    assert len(frames.get_paths()) == 0


def test_no_value_is_not_zero(deep):
    axes = deep.heatmap("layer", "kind").axes[0]
    assert axes.patch.get_hatch()
    shades = axes.collections[0].get_array()
    assert np.ma.getmaskarray(shades).any()
    written = [text.get_text() for text in axes.texts if not text.get_rotation()]
    assert len(written) == 0, "40 kinds have no room for numbers"
    numbers = deep.heatmap("layer", "step").axes[0].texts
    assert all(t.get_text() != "nan" for t in numbers)


def test_of_many_the_worst_are_drawn_and_the_figure_says_so():
    graph = chain([f"layers.{k}" for k in range(3000)], kinds=[f"aten.k{k}" for k in range(60)])
    report = judged(graph, {graph.ops[1234].id: Verdict.FAIL})
    figure = report.heatmap("layer", "kind")
    assert max(figure.get_size_inches()) < 30, "an image has an end"
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(names) == 100
    assert "layers.1234" in names
    said = " ".join(text.get_text() for text in figure.texts)
    assert "the 100 worst of 3000 layers" in said
    assert "the 40 worst of 60 kinds" in said
    assert len(report.heatmap_table("layer", "kind")) == 3000


def test_an_empty_choice_says_so(deep):
    figure = judged(deep.graph).heatmap("layer", "kind", beyond_limit=True)
    assert [t.get_text() for t in figure.axes[0].texts] == ["nothing is beyond the limit"]


def test_names_are_no_mathematics(deep, monkeypatch):
    from matplotlib.mathtext import MathTextParser

    def parse(*_, **__):
        raise AssertionError("parsed")

    monkeypatch.setattr(MathTextParser, "parse", parse)
    graph = chain(["a.$x$", "b.$y$"], name="$Model$")
    judged(graph).heatmap("scope", "kind").canvas.draw()


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("draw", ["heatmap", "plot"])
def test_figures_have_no_paper_and_one_ink(deep, theme, draw):
    figure = getattr(deep, draw)(theme=theme)
    assert figure.get_facecolor()[3] == 0
    assert all(axes.get_facecolor()[3] == 0 for axes in figure.axes)
    ink = THEMES[theme].ink
    shown = [axes for axes in figure.axes if axes.axison]
    labels = [label for axes in shown for label in axes.get_xticklabels()]
    assert {label.get_color() for label in labels if label.get_text()} == {ink}


def luminance(colour):
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_inks_can_be_read():
    """WCAG 2.2 asks 4.5 of small text and 3 of what is no text."""
    assert contrast(THEMES["light"].ink, "#ffffff") > 4.5
    assert contrast(THEMES["dark"].ink, "#111111") > 4.5
    assert contrast(FREE, "#ffffff") > 4.5
    assert contrast(FREE, "#111111") > 4
    for end in ("#00224e", "#fee838"):  # of cividis
        assert contrast(LIMIT_INK, end) > 3


def test_another_theme(deep):
    for draw in (deep.heatmap, deep.plot):
        with pytest.raises(ValueError, match="theme: 'blue'; choose 'any', 'light', 'dark'"):
            draw(theme="blue")


@pytest.mark.parametrize("kind", ["svg", "pdf", "png"])
def test_files_are_the_same_and_hold_text(deep, tmp_path, kind, monkeypatch):
    files = []
    for k, epoch in enumerate(("0", "86400000")):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)  # what Matplotlib takes for today
        path = tmp_path / f"{k}.{kind}"
        deep.heatmap("layer", "kind").savefig(path)
        files.append(path.read_bytes())
    assert files[0] == files[1]
    if kind == "svg":
        assert b">model.layers.3</text>" in files[0]
    if kind == "pdf":
        assert b"CreationDate" not in files[0]
        assert b"/Type3" not in files[0]


def test_a_notebook_gets_a_transparent_picture(deep):
    png = deep.heatmap()._repr_png_()
    assert png.startswith(b"\x89PNG")


def test_numbers_in_few_characters():
    values = [0.0, 1e-9, 0.0123, 0.999, 7.25, 99.6, 210.4, 9999.6, 1e30, -3.0, math.inf, -math.inf]
    assert max(len(compact(value)) for value in values) <= 6


def test_in_a_given_room_columns_come_nearer(deep):
    found = cells(deep, "layer", "kind")
    free, tight = Layout.of(found), Layout.of(found, 10)
    assert tight.width <= free.width
    assert tight.left + tight.width + tight.overhang <= 10.05


# -- one tensor ------------------------------------------------------------------------------------


def test_a_tensor_with_what_is_beyond_the_limit():
    values = np.zeros((3, 40), np.float32)
    marks = np.zeros(values.shape, bool)
    values[1, 5:7], marks[1, 5:7] = 2.0, True
    values[2, 30], marks[2, 30] = np.nan, True
    figure = tensor_heatmap(values, marks, "a/$op$: difference", signed=False)
    figure.canvas.draw()
    said = [text.get_text() for text in figure.texts]
    assert "3 x 40; 3 of 120 elements are beyond the limit in 2 blocks" in said
    main = figure.axes[0]
    (lines,) = main.collections
    assert isinstance(lines, LineCollection)
    assert len(lines.get_segments()) == 6 + 4
    above, beside = figure.axes[1:3]
    for axes, places in ((above, [5, 6, 30]), (beside, [1, 2])):
        (profile,) = axes.patches
        assert isinstance(profile, StepPatch)
        assert np.flatnonzero(profile.get_data()[0]).tolist() == places


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
@pytest.mark.parametrize("signed", [True, False])
def test_tensors_of_any_shape(shape, signed):
    values = np.full(shape, 0.0)
    figure = tensor_heatmap(values, np.zeros(shape, bool), "op", signed, theme="dark")
    figure.canvas.draw()
    assert any("no element is beyond the limit" in text.get_text() for text in figure.texts)


def test_marks_without_the_parts_of_complex_numbers():
    figure = tensor_heatmap(np.ones((4, 2)), np.eye(4, dtype=bool)[0], "op", signed=True)
    assert any("1 block" in text.get_text() for text in figure.texts)


def test_an_empty_tensor():
    with pytest.raises(ValueError, match="no elements"):
        tensor_heatmap(np.zeros((0, 3)), np.zeros((0, 3), bool), "op", signed=True)
