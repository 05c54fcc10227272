"""The divergence plot: error over model order, of numbers that are in the report's frame."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tapml_nb.judge.verdict import Verdict
from tapml_nb.report.drawing import new_figure
from tapml_nb.report.findings import Findings
from tapml_nb.report.outcome import BROKEN, MISSING, VERDICT_COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by people who see colours differently.
_BLUE, _ORANGE, _GREY, _RED = "#0072b2", "#e69f00", "#777777", "#d55e00"

_LEAST = 1e-3
"""Ratios below this are drawn here: a log scale has no zero."""


def divergence(findings: Findings) -> Figure:
    """Introduced and accumulated error over model order, in noise floors, on a log scale.

    Culprits are crosses, at the top where they have no finite ratio; there stands a plus for what
    is missing.
    """
    figure, axes = new_figure(10, 3.6)
    draw_divergence(findings, axes)
    axes.set_title(findings.title, parse_math=False)
    return figure


def draw_divergence(findings: Findings, axes: Axes) -> None:
    """Draw :func:`divergence` into axes, without a title.

    It reads the results, not the frame, which takes seconds to build for very large models.
    """
    introduced, accumulated = (
        np.array([findings.worst_ratio(op.id, accumulated=a) for op in findings.graph.ops], float)
        for a in (False, True)
    )
    x = np.arange(len(findings.graph))
    top = 10 ** math.ceil(math.log10(max(100.0, _largest(introduced), _largest(accumulated)))) * 3
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
    axes.set_yscale("log")
    axes.set_ylim(_LEAST / 2, top)
    axes.set_xlim(-1, max(1, len(x)))
    axes.set_xlabel("operator, in model order")
    axes.set_ylabel("error / noise floor")
    axes.legend(loc="upper right", ncols=6, fontsize=8, frameon=False)


def _largest(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else 0.0


def _clip(values: np.ndarray, top: float) -> np.ndarray:
    result: np.ndarray = np.clip(np.where(np.isposinf(values), top / 2, values), _LEAST, top / 2)
    return result
