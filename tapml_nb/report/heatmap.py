"""A heatmap drawn by inches: as large as its labels need, every one readable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tapml_nb.judge.verdict import Verdict
from tapml_nb.report.axes import plural
from tapml_nb.report.cells import Cells, folded
from tapml_nb.report.drawing import FONT, LITERAL, drawable, fitted, from_top, ink_on, text_width
from tapml_nb.report.labels import apart
from tapml_nb.report.outcome import VERDICT_COLOURS
from tapml_nb.report.theme import Theme, theme_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

LIMIT_INK = VERDICT_COLOURS[Verdict.FAIL]
"""Frames what is beyond the limit; its contrast to both ends of the colours is above 3."""

MOST_ROWS, MOST_COLS = 100, 40
"""At most so many rows and columns are drawn: an image has an end."""

LEAST = 1e-2
"""Noise floors from which the colours differ; they end at a hundred times the limit."""

_SIZE = 8.0  # of labels, in points
_ROW = 0.19  # inches
_WIDE, _NARROW, _NUMBERED = 0.46, 0.24, 24
"""How wide a column is with numbers and without; up to how many columns have numbers."""
_LEAST_CELL = 0.18
"""Columns nearer to each other than this would have labels that touch."""
_ANGLE = math.radians(55)
_ROW_NAME, _COL_NAME = 36, 28
"""Characters of a label."""
_MARGIN, _GAP = 0.15, 0.08
_KEY = 0.46  # inches high is the legend
_NOTE = 0.16
_LEAST_WIDTH = 6.6


@dataclass(frozen=True)
class Layout:
    """Where the parts of a heatmap are, in inches.

    Attributes:
        rows: labels of the rows.
        cols: labels of the columns.
        left: from the left edge to the cells.
        head: from the cells up to the end of the column's labels.
        width: of all cells.
        height: of all cells.
        overhang: how far the last column's label leans out to the right.
    """

    rows: list[str]
    cols: list[str]
    left: float
    head: float
    width: float
    height: float
    overhang: float

    @property
    def numbered(self) -> bool:
        """Whether every cell's number is written into it."""
        return self.width >= 0.4 * len(self.cols)

    @classmethod
    def of(cls, cells: Cells, room: float = math.inf) -> Layout:
        """The place that cells need, in ``room`` inches of width if they can."""
        rows = _labels(cells.row_names, _ROW_NAME)
        cols = _labels(cells.col_names, _COL_NAME)
        longest = [text_width(label, _SIZE) for label in cols] or [0.0]
        leaning = [0.05 + length * math.cos(_ANGLE) for length in longest]
        left = _MARGIN + max((text_width(row, _SIZE) for row in rows), default=0.0) + _GAP
        cell = _WIDE if len(cols) <= _NUMBERED else _NARROW
        cell = min(cell, max(_LEAST_CELL, (room - left - max(leaning)) / len(longest)))
        width = len(longest) * cell
        ends = [(j + 0.5) * cell + lean for j, lean in enumerate(leaning)]
        return cls(
            rows,
            cols,
            left=left,
            head=max(longest) * math.sin(_ANGLE) + 0.2,
            width=width,
            height=max(1, len(rows)) * _ROW,
            overhang=max(0.0, max(ends) - width),
        )


def _labels(names: tuple[Any, ...], most: int) -> list[str]:
    return apart([drawable(str(name)) for name in names], most)


def heatmap(cells: Cells, title: str, theme: str = "any") -> Figure:
    """Cells as a figure, its size by theirs.

    Raises:
        ValueError: if there is no such theme.
    """
    from tapml_nb.report.sheet import Sheet  # not at the top: Matplotlib takes a while

    look = theme_of(theme)
    cells = folded(cells, MOST_ROWS, MOST_COLS)
    layout = Layout.of(cells)
    width = max(_LEAST_WIDTH, layout.left + layout.width + layout.overhang + _MARGIN)
    notes = _wrapped(cells.notes, width - 2 * _MARGIN)
    below = _KEY + _NOTE * len(notes) + 0.1
    height = 0.4 + layout.head + layout.height + 0.12 + below
    sheet = Sheet(width, height)
    style: dict[str, Any] = {"color": look.ink, "va": "center", **LITERAL}
    heading = fitted(title, width - 2 * _MARGIN, 10, "bold")
    sheet.text(_MARGIN / width, 1 - 0.2 / height, heading, fontsize=10, weight="bold", **style)
    axes = from_top(sheet, layout.left, 0.4 + layout.head, layout.width, layout.height)
    draw_cells(cells, layout, axes, look)
    draw_key(cells, sheet, _MARGIN, height - below, look)
    for k, note in enumerate(notes):
        y = below - _KEY - _NOTE * (k + 0.5)
        style = {"color": look.dim, "va": "center", **LITERAL}
        sheet.text(_MARGIN / width, y / height, note, fontsize=7.5, **style)
    return sheet


def draw_cells(cells: Cells, layout: Layout, axes: Axes, look: Theme) -> None:
    """Cells with their labels into axes of the layout's size: what has no value shows a hatch,
    what is beyond the limit has a frame."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    rows, cols = cells.values.shape
    _blank(axes, look)
    if not rows or not cols:
        axes.set_axis_off()
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        why = "nothing is beyond the limit" if not cells.beyond.any() else "nothing to show"
        axes.text(0, 0.5, why, color=look.ink, va="center", fontsize=_SIZE, **LITERAL)
        return
    colours, scale, shades = _shades(cells)
    axes.pcolormesh(np.ma.masked_invalid(shades), cmap=colours, norm=scale, linewidth=0)
    axes.set_xlim(0, cols)
    axes.set_ylim(rows, 0)
    name: dict[str, Any] = {"fontsize": _SIZE, "color": look.ink, **LITERAL}
    axes.set_yticks([r + 0.5 for r in range(rows)], layout.rows, **name)
    axes.set_xticks([])
    cell = layout.width / cols
    for c, label in enumerate(layout.cols):
        lean: dict[str, Any] = {
            "rotation": math.degrees(_ANGLE),
            "rotation_mode": "anchor",
            "va": "center",
        }
        up = -0.1 / (layout.height / rows)
        axes.text(c + 0.5, up, label, ha="left", clip_on=False, **lean, **name)
    frames = [
        Rectangle((c + 0.03 / cell, r + 0.08), 1 - 0.06 / cell, 0.84)
        for r, c in np.argwhere(cells.beyond)
    ]
    axes.add_collection(
        PatchCollection(frames, facecolor="none", edgecolor=LIMIT_INK, linewidth=1.6, zorder=3)
    )
    if not layout.numbered:
        return
    for (r, c), value in np.ndenumerate(cells.values):
        if not math.isnan(value):
            tone = colours(scale(shades[r, c]))
            ink = _ink(tone)
            style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7, "zorder": 4}
            axes.text(c + 0.5, r + 0.52, compact(value), color=ink, **style, **LITERAL)


def draw_key(cells: Cells, figure: Figure, left: float, top: float, look: Theme) -> None:
    """The colour bar, and what the frame and the hatch mean; ``left`` and ``top`` in inches from
    the upper left corner."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.patches import Rectangle

    colours, scale, _ = _shades(cells)
    bar = from_top(figure, left, top, 2.4, 0.11)
    bar.set_facecolor("none")
    bar.grid(False)
    colour_bar = figure.colorbar(ScalarMappable(scale, colours), cax=bar, orientation="horizontal")
    colour_bar.outline.set_visible(False)
    limit = cells.limit
    ticks, words = [0.0, 1.0], ["best of its column", "worst of its column"]
    if cells.cols != "metric":
        ticks = [math.log10(x) for x in (LEAST, 1, limit, 100 * limit)]
        words = [f"≤ {LEAST:g}", "1", f"{limit:g} (limit)", f"{100 * limit:g}+ floors"]
    bar.set_xticks([], minor=True)
    bar.set_xticks(ticks, words, fontsize=7, color=look.ink, **LITERAL)
    sides = ("left", *["center"] * (len(ticks) - 2), "right")
    for label, ha in zip(bar.get_xticklabels(), sides, strict=True):
        label.set(ha=ha)
    bar.tick_params(length=2, width=0.6, color=look.ink, pad=1.5)
    keys = from_top(figure, left + 2.75, top - 0.02, 3.4, 0.15)
    _blank(keys, look, hatched=False)
    keys.set_axis_off()
    keys.set_xlim(0, 3.4)
    keys.set_ylim(0, 0.15)
    box: dict[str, Any] = {"width": 0.26, "height": 0.13, "fill": False}
    keys.add_patch(Rectangle((0.02, 0.01), **box, ec=LIMIT_INK, lw=1.6))
    keys.add_patch(Rectangle((1.5, 0.01), **box, ec=look.dim, lw=0.4, hatch="/////"))
    style: dict[str, Any] = {"fontsize": 7.5, "va": "center", "color": look.ink, **LITERAL}
    keys.text(0.36, 0.075, "beyond the limit", **style)
    keys.text(1.84, 0.075, "no value", **style)


def compact(value: float) -> str:
    """A number in at most six characters.

    >>> [compact(x) for x in (0.0, 0.01234, 7.25, 210.4, 12345.0, math.inf)]
    ['0', '0.012', '7.2', '210', '1.2e4', '∞']
    """
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    size = abs(value)
    if size and (size < 1e-2 or size >= 9999.5):
        digits, _, exponent = f"{value:.1e}".partition("e")
        return f"{digits.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.0f}" if size >= 99.5 else f"{value:.2g}"


def describe(cells: Cells) -> str:
    """What a heatmap is of, in words."""
    across = cells.cols if cells.cols == "metric" else plural(cells.cols, 1)
    return f"{plural(cells.rows)} by {across}"


def _shades(cells: Cells) -> tuple[Colormap, Normalize, np.ndarray]:
    """Colours, their scale, and what of each cell is on it."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    colours = colormaps["cividis"]
    if cells.cols == "metric":
        badness = np.where([c == "snr_db" for c in cells.col_names], -cells.values, cells.values)
        return colours, Normalize(0, 1), _by_column(badness)
    low, high = math.log10(LEAST), math.log10(100 * cells.limit)
    return colours, Normalize(low, high), np.log10(np.clip(cells.values, LEAST, 100 * cells.limit))


def _by_column(values: np.ndarray) -> np.ndarray:
    """Each column from 0 (least bad) to 1 (worst); positive ones on a logarithmic scale."""
    if not values.size:
        return values
    with np.errstate(all="ignore"):
        positive = (np.nan_to_num(values, nan=0.0) >= 0).all(axis=0)
        size = np.where(positive, np.log10(np.clip(values, 1e-12, 1e12)), values)
        finite = np.isfinite(size)
        low = np.where(finite, size, np.inf).min(axis=0)
        high = np.where(finite, size, -np.inf).max(axis=0)
        size = np.clip(size, low, high)  # an infinite SNR is as good as the best finite one
        result: np.ndarray = (size - low) / np.where(high > low, high - low, 1.0)
    return result


def _blank(axes: Axes, look: Theme, *, hatched: bool = True) -> None:
    """Nothing but a hatch, whatever style the notebook has set."""
    axes.set_facecolor("none")
    axes.grid(False)
    axes.tick_params(which="both", length=0, pad=3, labelfontfamily=FONT)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if hatched:
        axes.patch.set(hatch="/////", edgecolor=look.dim, linewidth=0, visible=True)


def _ink(tone: tuple[float, float, float, float]) -> str:
    red, green, blue = (round(255 * part) for part in tone[:3])
    return ink_on(f"#{red:02x}{green:02x}{blue:02x}")


def _wrapped(notes: tuple[str, ...], room: float) -> list[str]:
    """Notes in lines of so many inches."""
    lines: list[str] = []
    for note in notes:
        both = f"{lines[-1]}; {note}" if lines else note
        if lines and text_width(both, 7.5) <= room:
            lines[-1] = both
        else:
            lines.append(fitted(note, room, 7.5))
    return lines
