"""The divergence plot: error over model order, of numbers that are in the report's frame."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tapml_nb.judge.verdict import Verdict
from tapml_nb.report.drawing import (
    FONT,
    LITERAL,
    WIDTH,
    drawable,
    fitted,
    from_top,
    relabel_ticks,
    restyle,
    restyle_legend,
)
from tapml_nb.report.findings import Findings
from tapml_nb.report.outcome import BROKEN, MISSING, VERDICT_COLOURS
from tapml_nb.report.theme import theme_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by people who see colours differently.
_BLUE, _ORANGE, _GREY, _RED = "#0072b2", "#e69f00", "#777777", "#d55e00"

_LEAST = 1e-3
"""Ratios below this are drawn here: a log scale has no zero."""


_CHARACTER = 0.07
"""Inches that a character of a layer's name takes."""


def divergence(findings: Findings, against: Findings | None = None, theme: str = "any") -> Figure:
    """Introduced and accumulated error over model order, in noise floors, on a log scale, layer by
    layer.

    Culprits are crosses, at the top where they have no finite ratio; there stands a plus for what
    is missing.  ``against`` is drawn beside it in hollow marks, operator by operator.

    Raises:
        ValueError: if the two have no operator in common, or there is no such theme.
    """
    from tapml_nb.report.sheet import Sheet  # not at the top: Matplotlib takes a while

    look = theme_of(theme)
    if against is not None and not any(op.id in findings.graph for op in against.graph.ops):
        raise ValueError(f"against: {against.title!r} has no operator of {findings.title}")
    sheet = Sheet(WIDTH, 3.6)
    axes = from_top(sheet, 0.85, 0.65, WIDTH - 1.1, 2.55)
    draw_divergence(findings, axes, against)
    restyle(axes, look.ink)
    layers = [drawable(label.get_text()) for label in axes.get_xticklabels()]
    axes.xaxis.set_ticks(axes.get_xticks(), labels=layers, **LITERAL)
    relabel_ticks(axes.yaxis)
    legend = axes.legend(
        loc="lower right",
        bbox_to_anchor=(1, 0.99),
        ncols=6,
        frameon=False,
        prop={"family": FONT, "size": 8},
    )
    restyle_legend(legend, look.ink)
    beside = f", hollow: {against.title}" if against is not None else ""
    title = fitted(f"{findings.title}{beside}", WIDTH - 1.1, 10, "bold")
    style: dict[str, Any] = {"fontsize": 10, "weight": "bold", "color": look.ink}
    sheet.text(0.85 / WIDTH, 1 - 0.18 / 3.6, title, va="center", **style, **LITERAL)
    return sheet


def draw_divergence(findings: Findings, axes: Axes, against: Findings | None = None) -> None:
    """Draw :func:`divergence` into axes, without a title.

    It reads the results, not the frame, which takes seconds to build for very large models.
    """
    introduced, accumulated = (
        _worst(findings, findings, accumulated=total) for total in (False, True)
    )
    x = np.arange(len(findings.graph))
    others = [] if against is None else [_worst(findings, against, accumulated=False)]
    largest = max(100.0, *map(_largest, (introduced, accumulated, *others)))
    top = 10 ** math.ceil(math.log10(largest)) * 3
    verdicts = [findings.verdict(op.id) for op in findings.graph.ops]
    axes.plot(x, _clip(introduced, top), ".", color=_BLUE, markersize=4, label="introduced")
    if np.isfinite(accumulated).any():
        axes.plot(x, _clip(accumulated, top), "-", color=_ORANGE, linewidth=1, label="accumulated")
    axes.axhline(1, color=_GREY, linewidth=1, linestyle=":", label="noise floor")
    limit = findings.info.tolerance
    axes.axhline(limit, color=_RED, linewidth=1, linestyle="--", label=f"limit ({limit:g} floors)")
    height = np.where(np.isnan(introduced), top / 2, _clip(introduced, top))
    for label, which, mark, colour in (
        ("culprit", BROKEN, "x", _RED),
        ("missing", MISSING, "+", VERDICT_COLOURS[Verdict.COMPILE_ERROR]),
    ):
        here = np.array([verdict in which for verdict in verdicts], dtype=bool)
        if here.any():
            axes.plot(x[here], height[here], mark, color=colour, markersize=8, label=label)
    if against is not None:
        _draw_other(findings, against, axes, top)
    axes.set_yscale("log")
    axes.set_ylim(_LEAST / 2, top)
    axes.set_xlim(-1, max(1, len(x)))
    _draw_layers(findings, axes)
    axes.set_ylabel("error / noise floor")
    axes.legend(loc="upper right", ncols=6, fontsize=8, frameon=False)


def _worst(findings: Findings, of: Findings, *, accumulated: bool) -> np.ndarray:
    """The ratios ``of`` a report, float64 ``[operators]`` in the order of ``findings``; NaN where
    it has none."""
    ratios = (of.worst_ratio(op.id, accumulated=accumulated) for op in findings.graph.ops)
    return np.fromiter(ratios, float, len(findings.graph))


def _draw_other(findings: Findings, other: Findings, axes: Axes, top: float) -> None:
    """Another report's errors, hollow, and rings around its culprits."""
    x = np.arange(len(findings.graph))
    introduced = _worst(findings, other, accumulated=False)
    accumulated = _worst(findings, other, accumulated=True)
    hollow: dict[str, Any] = {"markerfacecolor": "none", "linestyle": "none"}
    axes.plot(x, _clip(introduced, top), "o", color=_GREY, markersize=4, **hollow)
    if np.isfinite(accumulated).any():
        axes.plot(x, _clip(accumulated, top), "--", color=_ORANGE, linewidth=0.8)
    height = np.where(np.isnan(introduced), top / 2, _clip(introduced, top))
    known = {op.id for op in other.graph.ops}
    verdicts = [other.verdict(op.id) if op.id in known else None for op in findings.graph.ops]
    here = np.array([verdict in BROKEN for verdict in verdicts], dtype=bool)
    axes.plot(x[here], height[here], "o", color=_RED, markersize=10, **hollow)


def _draw_layers(findings: Findings, axes: Axes) -> None:
    """Bands for layers, and names for those that have room."""
    bands = layer_bands(findings)
    for k, (_, first, last) in enumerate(bands):
        if k % 2 == 0:
            axes.axvspan(first - 0.5, last + 0.5, color=_GREY, alpha=0.12, linewidth=0)
    inches = axes.bbox.width / axes.figure.dpi / max(1, len(findings.graph))
    named = _names(bands, inches)
    places = [(first + last) / 2 for _, (_, first, last) in named]
    # Names come from models: "$" is no mathematics.
    axes.set_xticks(places, [name for name, _ in named], fontsize=8, parse_math=False)
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("layer, in model order")


def layer_bands(findings: Findings) -> list[tuple[str, int, int]]:
    """Operators in a row of the same layer: its name, the first and the last one's number."""
    bands = list[tuple[str, int, int]]()
    for number, op in enumerate(findings.graph.ops):
        name = op.layer or "(model)"
        if bands and bands[-1][0] == name:
            bands[-1] = name, bands[-1][1], number
        else:
            bands.append((name, number, number))
    return bands


def _names(
    bands: list[tuple[str, int, int]], inches: float
) -> list[tuple[str, tuple[str, int, int]]]:
    """What to write at which band, ``inches`` wide an operator.

    Numbered layers are written alike, as their number, every one or every second, fifth, …
    """

    def number(band: tuple[str, int, int]) -> str:
        last = band[0].rpartition(".")[2]
        return last if last.isdigit() else ""

    def width(band: tuple[str, int, int]) -> float:
        return inches * (band[2] - band[1] + 1)

    room = float(np.median([width(band) for band in bands if number(band)] or [1.0]))
    every = next((k for k in (1, 2, 5, 10, 20, 50, 100) if k * room >= 4 * _CHARACTER), 200)
    named = []
    for band in bands:
        if text := number(band):
            named += [(text, band)] if int(text) % every == 0 else []
        elif width(band) >= (len(band[0]) + 2) * _CHARACTER:
            named.append((band[0], band))
    return named


def _largest(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else 0.0


def _clip(values: np.ndarray, top: float) -> np.ndarray:
    result: np.ndarray = np.clip(np.where(np.isposinf(values), top / 2, values), _LEAST, top / 2)
    return result
