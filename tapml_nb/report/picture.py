"""A debugging session as one picture, for where no kernel or script runs.

It may be drawn in any thread while the notebook's own thread uses pyplot.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tapml_nb.graph import OpId
from tapml_nb.judge.verdict import Verdict
from tapml_nb.report.drawing import (
    DPI,
    FONT,
    INK,
    LEFT,
    LITERAL,
    MARGIN,
    PAPER,
    WIDTH,
    axes_at,
    blank,
    drawable,
    edge_colour,
    fitted,
    fitted_path,
    relabel_ticks,
    restyle,
    restyle_legend,
    text_width,
    title_panel,
)
from tapml_nb.report.figures import draw_heatmap, heatmap_table, scale_label
from tapml_nb.report.findings import Findings
from tapml_nb.report.outcome import BROKEN, VERDICT_COLOURS
from tapml_nb.report.overview import (
    COLUMNS,
    PITCH,
    draw_legend,
    draw_overview,
    edges_of,
    overview,
)
from tapml_nb.report.plot import draw_divergence

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LAYERS, _KINDS = 40, 30
"""At most so many rows and columns are in the heatmap."""


def picture(findings: Findings) -> bytes:
    """The session as one PNG, 10 inches wide at 100 dpi and as tall as it needs (about 14 at most).

    From top to bottom: the model as boxes of scopes, introduced and accumulated error over model
    order, and the worst ratio by layer and kind (by layer and metric where ratios do not differ).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    boxes = overview(findings)
    rows = math.ceil(len(boxes) / COLUMNS)
    heat = _heat(findings)
    why = "no operator has a number" if findings.introduced else "nothing judged yet"
    parts = {
        "title": 0.54,
        "graph": max(1, rows) * PITCH + 0.2,
        "legend": 0.5,
        "divergence": 2.55 if findings.introduced or findings.accumulated else 0.8,
        "heatmap": heat.height if heat else 0.8,
    }
    height = sum(parts.values())
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor=PAPER)
    figure.set_layout_engine("none")  # whatever the notebook has set
    canvas = FigureCanvasAgg(figure)
    _title(findings, figure, height)
    top = height - parts["title"]
    draw_overview(boxes, edges_of(findings, boxes), axes_at(figure, top, parts["graph"]))
    top -= parts["graph"]
    draw_legend(boxes, axes_at(figure, top, parts["legend"]))
    top -= parts["legend"]
    if findings.introduced or findings.accumulated:
        _divergence(findings, axes_at(figure, top - 0.3, 1.75, left=0.85))
    else:
        _nothing("Divergence", why, axes_at(figure, top, parts["divergence"]))
    top -= parts["divergence"]
    if heat:
        heat.draw(figure, top)
    else:
        _nothing("Layers by kind", why, axes_at(figure, top, parts["heatmap"]))
    png = io.BytesIO()
    canvas.print_png(png)
    return png.getvalue()


def _divergence(findings: Findings, axes: Axes) -> None:
    draw_divergence(findings, axes)
    restyle(axes)
    layers = [drawable(label.get_text()) for label in axes.get_xticklabels()]
    axes.xaxis.set_ticks(axes.get_xticks(), labels=layers, **LITERAL)
    relabel_ticks(axes.yaxis)
    title_panel("Divergence", axes)
    # Above the axes: inside them it would lie on the crosses of operators without a ratio.
    legend = axes.legend(
        loc="lower right",
        bbox_to_anchor=(1, 0.99),
        ncols=6,
        frameon=False,
        borderaxespad=0.2,
        prop={"family": FONT, "size": 7.5},
    )
    restyle_legend(legend)


@dataclass(frozen=True)
class _Heat:
    """The heatmap that findings deserve: its table, cut to what fits, and where culprits are."""

    table: pd.DataFrame
    cols: str
    title: str
    faulty: list[tuple[int, int]]
    rows: list[str]
    labels: list[str]

    @property
    def row(self) -> float:
        return min(0.24, max(0.1, 4.0 / len(self.table)))

    @property
    def body(self) -> float:
        return max(1.25, self.row * len(self.table))

    @property
    def height(self) -> float:
        # Column names are at 45 degrees.
        return 0.3 + self.body + 0.25 + 0.72 * max(text_width(label, 7) for label in self.labels)

    def draw(self, figure: Figure, top: float) -> None:
        from matplotlib.patches import Rectangle

        # Column names lean to the left, and must not leave the picture there either.
        leaning = [0.72 * text_width(s, 7) - 0.22 * (j + 0.5) for j, s in enumerate(self.labels)]
        left = max(0.85, *(0.25 + text_width(row, 7) for row in self.rows), 0.1 + max(leaning))
        width = min(WIDTH - left - MARGIN - 0.75, 0.62 * len(self.labels))
        axes = axes_at(figure, top - 0.3, self.body, left=left, width=width)
        numbers = width / len(self.labels) >= 0.4 and self.row >= 0.13
        image = draw_heatmap(self.table, axes, self.cols, numbers=numbers)
        restyle(axes)
        axes.set_xticks(range(len(self.labels)), self.labels, fontsize=7, **LITERAL)
        size = 7 if self.row >= 0.13 else 6
        axes.set_yticks(range(len(self.rows)), self.rows, fontsize=size, **LITERAL)
        frame: dict[str, Any] = {"fill": False, "edgecolor": edge_colour(_FAULT), "linewidth": 1.5}
        for i, j in self.faulty:
            axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, zorder=3, clip_on=False, **frame))
        bar = axes_at(figure, top - 0.3, self.body, left=left + width + 0.15, width=0.15)
        figure.colorbar(image, cax=bar)
        bar.set_ylabel(scale_label(self.cols))
        restyle(bar)
        relabel_ticks(bar.yaxis)
        title_panel(self.title, axes)


_FAULT = VERDICT_COLOURS[Verdict.FAIL]


def _heat(findings: Findings) -> _Heat | None:
    """The heatmap's numbers; None where nothing was judged or nothing has a number."""
    if not findings.introduced:
        return None
    cols, faults = "kind", _faults(findings)
    table = heatmap_table(findings, "layer", cols)
    values = table.to_numpy(dtype=float)
    ratios = np.unique(values[~np.isnan(values)])
    if len(ratios) > 1 or (len(ratios) and faults):
        # Kinds that only crash have no ratio, but matter most.
        silent = dict.fromkeys(kind for _, kind in faults if kind not in table.columns)
        table = table.reindex(columns=[*table.columns, *silent])
    else:
        cols, faults = "metric", []
        table = heatmap_table(findings, "layer", cols).dropna(axis="columns", how="all")
    if not table.shape[1]:
        return None
    layers, kinds = len(table), table.shape[1]
    table = _cut(findings, table, cols)
    cut = [
        f"the {n} worst of {total} {what}"
        for n, total, what in ((len(table), layers, "layers"), (table.shape[1], kinds, f"{cols}s"))
        if n < total
    ]
    title = f"Layers by {cols}" + (f": {', '.join(cut)}" if cut else "")
    title += "; framed: culprits" if faults else ""
    row_of = {layer: i for i, layer in enumerate(table.index)}
    column_of = {column: j for j, column in enumerate(table.columns)}
    cells = [(row_of[r], column_of[c]) for r, c in faults if r in row_of and c in column_of]
    rows = [fitted_path(str(layer), 2.0, 7) for layer in table.index]
    labels = [fitted_path(str(column), 1.1, 7) for column in table.columns]
    return _Heat(table, cols, title, cells, rows, labels)


def _faults(findings: Findings) -> list[tuple[str, str]]:
    """Layer and kind of the culprits, in model order."""
    faulty = (op for op in findings.graph.ops if findings.verdict(op.id) in BROKEN)
    return list(dict.fromkeys((op.layer or "(model)", op.kind) for op in faulty))


def _cut(findings: Findings, table: pd.DataFrame, cols: str) -> pd.DataFrame:
    """The worst rows (and kinds) that fit, in their order."""
    layers, kinds = dict[str, tuple[bool, float]](), dict[str, tuple[bool, float]]()
    for op in findings.graph.ops:
        badness = _badness(findings, op.id, findings.verdict(op.id) in BROKEN)
        layer = op.layer or "(model)"
        layers[layer] = max(layers.get(layer, badness), badness)
        kinds[op.kind] = max(kinds.get(op.kind, badness), badness)
    rows = set(sorted(table.index, key=layers.__getitem__, reverse=True)[:_LAYERS])
    table = table.loc[[layer for layer in table.index if layer in rows]]
    if cols == "kind":
        worst = set(sorted(table.columns, key=kinds.__getitem__, reverse=True)[:_KINDS])
        table = table[[kind for kind in table.columns if kind in worst]]
    return table


def _badness(findings: Findings, op: OpId, faulty: bool) -> tuple[bool, float]:
    """Orders operators: faulty ones last, of these the ones without a ratio."""
    worst = findings.worst_ratio(op)
    return faulty, (math.inf if faulty else -1.0) if math.isnan(worst) else worst


def _nothing(title: str, why: str, axes: Axes) -> None:
    blank(axes)
    top = axes.get_ylim()[1]
    for text, weight, below in ((title, "bold", 0.12), (why, "normal", 0.4)):
        style = {"fontsize": 9, "weight": weight, "va": "center", "color": INK, **LITERAL}
        axes.text(LEFT, top - below, text, **style)


def _title(findings: Findings, figure: Figure, height: float) -> None:
    steps = f" in {findings.steps} steps" if findings.steps > 1 else ""
    total = f"{len(findings.graph)} operator{'s' if len(findings.graph) != 1 else ''}{steps}"
    x, room = LEFT / WIDTH, WIDTH - 2 * LEFT
    line = f"{total}: {findings.tally}; {findings.told}" if findings.tally else total
    small = next((size for size in (9, 8, 7) if text_width(line, size) <= room), 6)
    for text, size, weight, y in (
        (findings.title, 12, "bold", 0.19),
        (line, small, "normal", 0.42),
    ):
        text = fitted(text, room, size, weight)
        style = {"fontsize": size, "weight": weight, "va": "center", "color": INK, **LITERAL}
        figure.text(x, 1 - y / height, text, **style)
