"""Drawing by inches with literal text, for pictures made in any thread.

Nothing here touches pyplot or Matplotlib's mathematics, whose state all threads share, nor what
style the notebook has set.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from tapml_nb.judge.verdict import Verdict
from tapml_nb.report.labels import shortened
from tapml_nb.report.outcome import VERDICT_COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

DPI = 100
WIDTH = 10.0  # inches, as every length
MARGIN = 0.25
GUTTER = 0.38
LEFT = MARGIN + GUTTER / 2
FONT = "DejaVu Sans"  # comes with Matplotlib
INK, PAPER, WIRE, CROSSING = "#1b1b1b", "#ffffff", "#8a8a8a", "#e69f00"
FREE = "#757575"
"""Ink on no paper: readable on a white page and on a dark one."""
LITERAL: dict[str, Any] = {"parse_math": False, "usetex": False, "fontfamily": FONT}
"""Names come from models, and "$" in one is no mathematics."""


def title_panel(title: str, axes: Axes) -> None:
    axes.set_title(title, loc="left", fontsize=9, weight="bold", pad=5, color=FREE, **LITERAL)


def axes_at(
    figure: Figure, top: float, height: float, *, left: float = 0.0, width: float | None = None
) -> Axes:
    """Axes by inches; ``left`` without ``width`` leaves a margin on the right."""
    wide, tall = figure.get_size_inches()
    if width is None:
        width = wide - left - (MARGIN + GUTTER / 2 if left else 0)
    return figure.add_axes((left / wide, (top - height) / tall, width / wide, height / tall))


def from_top(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes by inches from the upper left corner."""
    wide, tall = figure.get_size_inches()
    return figure.add_axes((left / wide, 1 - (top + height) / tall, width / wide, height / tall))


def blank(axes: Axes) -> None:
    """Axes for drawing by inches, from the lower left corner."""
    axes.set_axis_off()
    axes.set_xlim(0, axes.bbox.width / DPI)
    axes.set_ylim(0, axes.bbox.height / DPI)


def restyle(axes: Axes, ink: str = FREE) -> None:
    """One ink and no paper, whatever style the notebook has set."""
    axes.set_facecolor("none")
    axes.grid(False)
    axes.tick_params(which="both", colors=ink, labelsize=7, labelfontfamily=FONT)
    for spine in axes.spines.values():
        spine.set_color(ink)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=ink, fontsize=8, **LITERAL)


def relabel_ticks(axis: Axis) -> None:
    """The ticks that the axis has chosen, labelled without mathematics."""
    low, high = sorted(axis.get_view_interval())
    ticks = [tick for tick in axis.get_majorticklocs() if low <= tick <= high]
    axis.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks], **LITERAL)
    axis.set_ticks([], minor=True)


def mix(colour: str, paper: float) -> tuple[float, float, float]:
    """The colour with a share of paper in it."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red + (1 - red) * paper, green + (1 - green) * paper, blue + (1 - blue) * paper


def edge_colour(colour: str) -> str:
    return WIRE if colour == VERDICT_COLOURS[Verdict.UNKNOWN] else colour


def ink_on(colour: str) -> str:
    red, green, blue = mix(colour, 0)
    return PAPER if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.55 else INK


def fitted(text: str, room: float, size: float, weight: str = "normal") -> str:
    """The text in one line of ``room`` inches: what does not fit is left out in the middle."""
    text = drawable(text)
    if text_width(text, size, weight) <= room:
        return text
    kept = _most(
        lambda kept: text_width(shortened(text, kept), size, weight) <= room, min(len(text), 400)
    )
    return shortened(text, kept)


def fitted_path(path: str, room: float, size: float) -> str:
    """As :func:`fitted`, but shortens the longest names in a path: indices tell the most."""
    path = drawable(path)
    if text_width(path, size) <= room:
        return path

    def cut(longest: int) -> str:
        parts = path.split(".")
        return ".".join(shortened(p, longest - 1) if len(p) > longest else p for p in parts)

    longest = _most(lambda longest: text_width(cut(longest), size) <= room, 100)
    return cut(longest) if longest > 4 else fitted(path, room, size)


def _most(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number below ``limit`` that fits, if 0 does and every smaller one."""
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


@cache
def _characters() -> frozenset[int]:
    """The characters that the font can draw."""
    from matplotlib.font_manager import FontProperties, findfont
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(findfont(FontProperties(family=FONT))).get_charmap())


def drawable(text: str) -> str:
    """The text on one line, with a sign for each character that the font has not."""
    known = _characters()
    return "".join(
        c if ord(c) in known and c.isprintable() else " " if c.isspace() else "\ufffd" for c in text
    )


@cache
def _metrics() -> Any:
    from matplotlib.textpath import TextToPath

    return TextToPath()


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Inches that a text is wide."""
    from matplotlib.font_manager import FontProperties

    font = FontProperties(family=FONT, size=size, weight=weight)
    width, _, _ = _metrics().get_text_width_height_descent(text, font, ismath=False)
    return 1.04 * float(width) / 72  # hinting makes small letters wider


def restyle_legend(legend: Legend, ink: str = FREE) -> None:
    for text in legend.get_texts():
        text.set(color=ink, usetex=False)
