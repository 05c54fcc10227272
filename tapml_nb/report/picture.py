"""A debugging session as one picture, for where no kernel or script runs.

It may be drawn in any thread while the notebook's own thread uses pyplot.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tapml_nb.report.cells import Cells, cells, folded
from tapml_nb.report.drawing import (
    DPI,
    FONT,
    FREE,
    LEFT,
    LITERAL,
    MARGIN,
    WIDTH,
    axes_at,
    blank,
    drawable,
    fitted,
    relabel_ticks,
    restyle,
    restyle_legend,
    text_width,
    title_panel,
)
from tapml_nb.report.findings import Findings
from tapml_nb.report.heatmap import Layout, describe, draw_cells, draw_key
from tapml_nb.report.overview import (
    COLUMNS,
    PITCH,
    draw_legend,
    draw_overview,
    edges_of,
    overview,
)
from tapml_nb.report.plot import draw_divergence
from tapml_nb.report.theme import THEMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LAYERS, _KINDS = 30, 30
"""At most so many rows and columns are in the heatmap."""


def picture(findings: Findings) -> bytes:
    """The session as one PNG, 10 inches wide at 100 dpi and as tall as it needs (about 17 at most).

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
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="none")
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
    """The heatmap that findings deserve, and where its parts are."""

    cells: Cells
    layout: Layout

    @property
    def title(self) -> str:
        return "; ".join([describe(self.cells).capitalize(), *self.cells.notes])

    @property
    def height(self) -> float:
        return 0.3 + self.layout.head + self.layout.height + 0.65

    def draw(self, figure: Figure, top: float) -> None:
        layout, look = self.layout, THEMES["any"]
        title = fitted(self.title, WIDTH - 2 * LEFT, 9, "bold")
        style = {"fontsize": 9, "weight": "bold", "va": "center", "color": look.ink, **LITERAL}
        tall = figure.get_size_inches()[1]
        figure.text(LEFT / WIDTH, (top - 0.12) / tall, title, **style)
        top -= 0.3 + layout.head
        axes = axes_at(figure, top, layout.height, left=layout.left, width=layout.width)
        draw_cells(self.cells, layout, axes, look)
        draw_key(self.cells, figure, LEFT, tall - top + layout.height + 0.15, look)


def _heat(findings: Findings) -> _Heat | None:
    """The heatmap's numbers; None where nothing was judged or nothing has a number.

    Kinds by layer, if ratios differ or something is broken; else metrics.
    """
    if not findings.introduced:
        return None
    found = cells(findings, "layer", "kind")
    ratios = np.unique(found.values[~np.isnan(found.values)])
    if len(ratios) < 2 and not found.beyond.any():
        found = cells(findings, "layer", "metric")
        known = np.flatnonzero(~np.isnan(found.values).all(axis=0))
        if not known.size:
            return None
        found = found.taken(range(len(found.row_names)), known)
    found = folded(found, _LAYERS, _KINDS)
    return _Heat(found, Layout.of(found, WIDTH - MARGIN))


def _nothing(title: str, why: str, axes: Axes) -> None:
    blank(axes)
    top = axes.get_ylim()[1]
    for text, weight, below in ((title, "bold", 0.12), (why, "normal", 0.4)):
        style = {"fontsize": 9, "weight": weight, "va": "center", "color": FREE, **LITERAL}
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
        style = {"fontsize": size, "weight": weight, "va": "center", "color": FREE, **LITERAL}
        figure.text(x, 1 - y / height, text, **style)
