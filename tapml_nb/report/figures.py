"""Heatmaps of findings.  Every one shows numbers that are in the report's frame."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tapml_nb.judge.tokens import ErrorByToken
from tapml_nb.report.drawing import new_figure, shortened
from tapml_nb.report.findings import Findings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

METRICS = ("ratio", "max_abs", "max_rel", "max_ulp", "rmse", "snr_db", "acc_ratio", "gain")
"""The columns of a heatmap by metric."""

_ROWS, _COLUMNS = 200, 64
"""At most so many rows and columns of a heatmap have their names, and make it larger: an image has
an end, and a name takes milliseconds to draw."""

_LEAST = 1e-3
"""Ratios below this are drawn here: a log scale has no zero."""

_LONGEST = 40
"""Characters of a name on an axis; the kind of a group of many calls has more."""


def heatmap(findings: Findings, rows: str = "layer", cols: str = "metric") -> Figure:
    """Where it is worst: one cell per layer and metric, op kind, step or token.

    Args:
        findings: what to show.
        rows: ``"layer"``, ``"scope"`` or ``"op"``.
        cols: ``"metric"`` (each column scaled on its own), ``"kind"``, ``"step"`` or
            ``"position"`` (the ratio).  Positions are those of each step's tokens, step after
            step; an operator whose tensors have no clear axis of tokens has no cells there, and
            the figure says how many have.

    Raises:
        ValueError: for any other ``rows`` or ``cols``, or if nothing was judged by position.
    """
    table = heatmap_table(findings, rows, cols)
    wide, tall = min(_COLUMNS, len(table.columns)), min(_ROWS, len(table))
    figure, axes = new_figure(max(5, 0.7 * wide + 3), max(3.0, 0.26 * tall + 2.2))
    image = draw_heatmap(table, axes, cols)
    figure.colorbar(image, ax=axes, label=scale_label(cols))
    axes.set_title(f"{findings.title}: {rows} by {cols}", parse_math=False)
    if cols == "position":
        judged = {op for op, _ in findings.introduced}
        known = {op for (op, _), result in findings.introduced.items() if result.positions}
        axes.set_xlabel(
            f"token{' (step:position)' if findings.steps > 1 else ''}; "
            f"of {len(judged)} judged operators {len(known)} have an axis of tokens"
        )
    return figure


def draw_heatmap(
    table: pd.DataFrame, axes: Axes, cols: str, *, numbers: bool | None = None
) -> AxesImage:
    """Draw a :func:`heatmap_table` into axes, without title and colour bar.

    ``numbers`` writes each cell's value into it (default: where there are at most 400 cells).
    """
    values = table.to_numpy(dtype=float)
    shown = np.log10(np.clip(values, _LEAST, 1e9))
    if cols == "metric":
        badness = np.where([c == "snr_db" for c in table.columns], -values, values)
        shown = _scaled(badness)
    image = axes.imshow(shown, aspect="auto", cmap="cividis", interpolation="nearest")
    # Names come from models: "$" is no mathematics.
    for places, names, most, style in (
        (axes.set_xticks, table.columns, _COLUMNS, {"rotation": 45, "ha": "right"}),
        (axes.set_yticks, table.index, _ROWS, {"fontsize": 8}),
    ):
        named = range(0, len(names), math.ceil(len(names) / most) or 1)
        places(named, [_label(names[k]) for k in named], parse_math=False, **style)
    if values.size <= 400 if numbers is None else numbers:
        middle = np.nanmean([np.nanmin(shown), np.nanmax(shown)]) if np.isfinite(shown).any() else 0
        for (i, j), value in np.ndenumerate(values):
            if math.isfinite(value):
                colour = "black" if shown[i, j] > middle else "white"
                axes.text(j, i, f"{value:.2g}", ha="center", va="center", fontsize=7, color=colour)
    return image


def scale_label(cols: str) -> str:
    """What the colours of a heatmap with these columns mean."""
    return "worst of column = 1" if cols == "metric" else "log10(error / noise floor)"


def heatmap_table(findings: Findings, rows: str = "layer", cols: str = "metric") -> pd.DataFrame:
    """The numbers behind :func:`heatmap`: the worst of each cell (for SNR, the least)."""
    if rows not in ("layer", "scope", "op"):
        raise ValueError(f"rows: {rows!r}; choose 'layer', 'scope' or 'op'")
    if cols not in ("metric", "kind", "step", "position"):
        raise ValueError(f"cols: {cols!r}; choose 'metric', 'kind', 'step' or 'position'")
    if cols == "position":
        return _by_position(findings, rows)
    if cols == "metric":
        frame = findings.frame()
        frame["layer"] = [findings.graph[op].layer or "(model)" for op in frame["op"]]
        frame["scope"] = frame["scope"].replace("", "(model)")
        how = {metric: "min" if metric == "snr_db" else "max" for metric in METRICS}
        return frame.groupby(rows, sort=False)[list(METRICS)].agg(how)
    frame = _ratios(findings)
    table = frame.pivot_table(
        index=rows, columns=cols, values="ratio", aggfunc="max", sort=False, dropna=False
    )
    return table.dropna(axis="columns", how="all") if cols == "kind" else table


def _by_position(findings: Findings, rows: str) -> pd.DataFrame:
    """The worst ratio of each row at each token, step after step; NaN where none is known."""
    import pandas as pd

    groups = {op.id: op.id if rows == "op" else getattr(op, rows) for op in findings.graph.ops}
    found = ErrorByToken.of(findings.introduced.values(), findings.steps, groups)
    if not any(found.lengths):
        raise ValueError(
            "cols: 'position': no operator was judged by position; that takes token ids "
            "[batch, positions] among the model's inputs, and run()"
        )
    several = findings.steps > 1
    columns = [f"{s}:{p}" if several else p for s, n in enumerate(found.lengths) for p in range(n)]
    return pd.DataFrame(found.ratios, [r or "(model)" for r in found.rows], columns)


def _ratios(findings: Findings) -> pd.DataFrame:
    """The frame's columns that a heatmap of ratios needs; the whole takes long to build."""
    import pandas as pd

    rows = [
        (op.id, op.kind, op.layer or "(model)", op.scope or "(model)", step, found and found.ratio)
        for op in findings.graph.ops
        for step in range(findings.steps)
        for found in [findings.introduced.get((op.id, step))]
    ]
    frame = pd.DataFrame(rows, columns=["op", "kind", "layer", "scope", "step", "ratio"])
    return frame.astype({"ratio": float})


def _label(name: object) -> str:
    """A name for an axis, cut in the middle where it would leave the figure no room."""
    text = str(name)
    return text if len(text) <= _LONGEST else shortened(text, _LONGEST)


def _scaled(values: np.ndarray) -> np.ndarray:
    """Each column from 0 (least bad) to 1 (worst); positive ones on a logarithmic scale."""
    with np.errstate(all="ignore"):
        positive = (np.nan_to_num(values, nan=0.0) >= 0).all(axis=0)
        size = np.where(positive, np.log10(np.clip(values, 1e-12, 1e12)), values)
        finite = np.isfinite(size)
        low = np.where(finite, size, np.inf).min(axis=0)
        high = np.where(finite, size, -np.inf).max(axis=0)
        size = np.clip(size, low, high)  # an infinite SNR is as good as the best finite one
        result: np.ndarray = (size - low) / np.where(high > low, high - low, 1.0)
    return result
