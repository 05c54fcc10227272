"""One tensor drawn element by element: where it is beyond the limit, how far along its sides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tapml_nb.report.drawing import FONT, LITERAL, drawable, fitted, from_top
from tapml_nb.report.heatmap import LIMIT_INK, compact
from tapml_nb.report.tensors import Picture, picture
from tapml_nb.report.theme import Theme, theme_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

_WIDTH, _LEFT, _TOP, _SIDE, _GAP = 6.6, 0.75, 0.62, 0.42, 0.06  # inches
_SIGNED = ("#004488", "#5698cd", "#f7f7f7", "#ee9944", "#994400")
"""Blue, white, orange: told apart by people who see colours differently."""
_DECADES = 6
"""How far a difference's colours reach below its largest."""


def tensor_heatmap(
    values: np.ndarray,
    marks: np.ndarray,
    name: str,
    signed: bool,
    axes: tuple[int, int] | None = None,
    fixed: Mapping[int, int] | None = None,
    theme: str = "any",
) -> Figure:
    """Draw a tensor.

    Args:
        values: any shape, any real dtype; parts of complex numbers on the last axis.
        marks: bool, of the same shape, or without the axis of parts: what is beyond the limit.
        name: the title.
        signed: whether its sign says something: colours are then linear around 0, else
            logarithmic in its magnitude.
        axes: which axes are rows and columns; default the last two.
        fixed: index by axis, for axes that are not shown.
        theme: as of :func:`~tapml_nb.report.heatmap.heatmap`.

    Raises:
        ValueError: if axes or theme do not fit, or the tensor has no elements.
    """
    from matplotlib.cm import ScalarMappable

    from tapml_nb.report.sheet import Sheet  # not at the top: Matplotlib takes a while

    look = theme_of(theme)
    if not values.size:
        raise ValueError(f"op: its tensor {list(values.shape)} has no elements")
    if marks.ndim < values.ndim:
        marks = np.broadcast_to(marks[..., None], values.shape)
    shown = picture(values, axes, fixed, marks=marks)
    rows, cols = shown.values.shape
    body = _WIDTH - _LEFT - _SIDE - 0.2
    tall = min(body, max(0.5, body * rows / cols))
    height = _TOP + _SIDE + tall + 1.15
    sheet = Sheet(_WIDTH, height)
    text: dict[str, Any] = {"va": "center", **LITERAL}
    room = _WIDTH - 0.3
    extent = " x ".join(map(str, values.shape)) or "one number"
    for words, size, colour, y in (
        (name, 10, look.ink, 0.2),
        (f"{extent}{shown.note}; {_found(shown, marks)}", 7.5, look.dim, 0.42),
    ):
        weight = "bold" if size == 10 else "normal"
        line = fitted(drawable(words), room, size, weight)
        at = 0.15 / _WIDTH, 1 - y / height
        sheet.text(*at, line, fontsize=size, weight=weight, color=colour, **text)
    colours, scale, shades = _shades(shown.values, signed)
    main = from_top(sheet, _LEFT + _SIDE, _TOP + _SIDE, body, tall)
    main.imshow(
        np.ma.masked_invalid(shades),
        cmap=colours,
        norm=scale,
        aspect="auto",
        interpolation="nearest",
        extent=(shown.window[2], shown.window[3], shown.window[1], shown.window[0]),
    )
    _style(main, look)
    main.set_facecolor("#cc4fa7")  # not finite
    main.tick_params(left=False, labelleft=False)
    main.set_xlabel(f"axis {shown.axes[1]}", color=look.ink, fontsize=8, **LITERAL)
    _outline(main, shown)
    with np.errstate(invalid="ignore"):
        sizes = np.where(np.isfinite(shown.values), np.abs(shown.values), np.inf)
    _profiles(sheet, main, shown, _fractions(sizes, signed), look, (body, tall))
    bar = from_top(sheet, 0.15, height - 0.5, 2.4, 0.11)
    bar.set_facecolor("none")
    bar.grid(False)
    colour_bar = sheet.colorbar(ScalarMappable(scale, colours), cax=bar, orientation="horizontal")
    colour_bar.outline.set_visible(False)
    largest = float(np.max(np.abs(shown.values), where=np.isfinite(shown.values), initial=0.0))
    ends = (-largest, 0.0, largest) if signed else (largest * 10**-_DECADES, largest)
    places = np.linspace(scale.vmin or 0.0, scale.vmax or 1.0, len(ends)).tolist()
    ticks = [compact(end) if signed or k else f"≤ {compact(end)}" for k, end in enumerate(ends)]
    bar.set_xticks([], minor=True)
    bar.set_xticks(places, ticks, fontsize=7, color=look.ink, **LITERAL)
    for label, ha in zip(
        bar.get_xticklabels(), ("left", *["center"] * (len(ends) - 2), "right"), strict=True
    ):
        label.set(ha=ha)
    bar.tick_params(length=2, width=0.6, color=look.ink, pad=1.5)
    key: dict[str, Any] = {"fontsize": 7.5, "color": look.ink, **text}
    y = 1 - (height - 0.445) / height
    sheet.text(2.9 / _WIDTH, y, "▢", fontsize=10, color=LIMIT_INK, weight="bold", **text)
    sheet.text(3.1 / _WIDTH, y, "beyond the limit", **key)
    sheet.text(4.3 / _WIDTH, y, "■", fontsize=10, color="#cc4fa7", **text)
    sheet.text(4.5 / _WIDTH, y, "NaN or infinite", **key)
    return sheet


def _found(shown: Picture, marks: np.ndarray) -> str:
    """How much is beyond the limit, in words."""
    count = int(np.count_nonzero(marks))
    if not count:
        return "no element is beyond the limit"
    where = f" in {len(shown.blocks)} block{'s' if len(shown.blocks) > 1 else ''}"
    return f"{count} of {marks.size} elements are beyond the limit{where}"


def _shades(values: np.ndarray, signed: bool) -> tuple[Colormap, Normalize, np.ndarray]:
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    largest = float(np.max(np.abs(values), where=np.isfinite(values), initial=0.0)) or 1.0
    if signed:
        colours = LinearSegmentedColormap.from_list("signed", _SIGNED)
        return colours, Normalize(-largest, largest), values
    sizes = np.log10(np.maximum(np.abs(values), largest * 10**-_DECADES))
    top = math.log10(largest)
    return colormaps["cividis"], Normalize(top - _DECADES, top), sizes


def _fractions(sizes: np.ndarray, signed: bool) -> np.ndarray:
    """Magnitudes from 0 to 1 on the scale of the colours; 1 where not finite."""
    largest = float(np.max(sizes, where=np.isfinite(sizes), initial=0.0)) or 1.0
    part = np.where(np.isfinite(sizes), sizes / largest, 1.0)
    if signed:
        return part
    result: np.ndarray = np.maximum(0.0, 1 + np.log10(np.maximum(part, 1e-30)) / _DECADES)
    return result


def _profiles(
    sheet: Figure,
    main: Axes,
    shown: Picture,
    sizes: np.ndarray,
    look: Theme,
    body: tuple[float, float],
) -> None:
    """The largest of every column above it, and of every row beside it."""
    top, bottom, left, right = shown.window
    rows, cols = sizes.shape
    above = from_top(sheet, _LEFT + _SIDE, _TOP, body[0], _SIDE - _GAP)
    above.stairs(sizes.max(axis=0), np.linspace(left, right, cols + 1), fill=True, color=look.dim)
    above.set_xlim(main.get_xlim())
    above.set_ylim(0, 1.02)
    beside = from_top(sheet, _LEFT, _TOP + _SIDE, _SIDE - _GAP, body[1])
    beside.stairs(
        sizes.max(axis=1),
        np.linspace(top, bottom, rows + 1),
        fill=True,
        color=look.dim,
        orientation="horizontal",
    )
    beside.set_ylim(main.get_ylim())
    beside.set_xlim(1.02, 0)
    for axes in (above, beside):
        _style(axes, look)
        for spine in axes.spines.values():
            spine.set_visible(False)
    above.set_xticks([])
    above.set_yticks([])
    beside.set_xticks([])
    beside.set_ylabel(f"axis {shown.axes[0]}", color=look.ink, fontsize=8, **LITERAL)


def _outline(axes: Axes, shown: Picture) -> None:
    """A line around what is beyond the limit."""
    from matplotlib.collections import LineCollection

    if shown.beyond is None or not shown.beyond.any():
        return
    top, bottom, left, right = shown.window
    rows, cols = shown.beyond.shape
    y, x = np.linspace(top, bottom, rows + 1), np.linspace(left, right, cols + 1)
    inside = np.pad(shown.beyond, 1)
    across = np.argwhere(inside[1:, 1:-1] != inside[:-1, 1:-1])  # between two rows
    down = np.argwhere(inside[1:-1, 1:] != inside[1:-1, :-1])
    lines = [[(x[c], y[r]), (x[c + 1], y[r])] for r, c in across]
    lines += [[(x[c], y[r]), (x[c], y[r + 1])] for r, c in down]
    axes.add_collection(LineCollection(lines, colors=LIMIT_INK, linewidths=1.4, clip_on=False))


def _style(axes: Axes, look: Theme) -> None:
    axes.set_facecolor("none")
    axes.grid(False)
    axes.tick_params(which="both", length=2, colors=look.ink, labelsize=7, labelfontfamily=FONT)
    for spine in axes.spines.values():
        spine.set(color=look.dim, linewidth=0.6)
