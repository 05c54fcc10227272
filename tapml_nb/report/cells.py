"""The numbers behind a heatmap: the worst of what meets in each cell, whose it is, and whether it
is beyond the limit.

``extensions/widgets/src/heatmap/cells.ts`` does the same for a page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from tapml_nb.graph import Op
from tapml_nb.judge.results import OpResult
from tapml_nb.judge.verdict import Verdict
from tapml_nb.report.axes import (
    METRICS,
    RANGED,
    UNORDERED,
    Axis,
    Name,
    axis_of,
    kind_of,
    plural,
    unseen,
)
from tapml_nb.report.findings import Findings
from tapml_nb.report.outcome import BROKEN

if TYPE_CHECKING:
    import pandas as pd

Order = Literal["model", "worst"]


@dataclass(frozen=True)
class Cells:
    """A heatmap in numbers.

    Attributes:
        rows: what the rows are, one of :data:`~tapml_nb.report.axes.AXES`.
        cols: what the columns are, one of :data:`~tapml_nb.report.axes.AXES`, or ``"metric"``.
        row_names: of each row; positions, heads and steps are numbers.
        col_names: of each column.
        values: float64 ``[rows, cols]``: the worst in noise floors, or of the metric; NaN where
            there is none.
        beyond: bool ``[rows, cols]``: whether a culprit's error there is beyond the limit, or has
            no number at all, as that of a crash.
        ops: int32 ``[rows, cols]``: the number of the operator that it is of, or -1.
        steps: int32 ``[rows, cols]``: the step that it is of.
        limit: how many noise floors an operator may be off.
        notes: what is not to be seen here, and why, in words.
    """

    rows: str
    cols: str
    row_names: tuple[Name, ...]
    col_names: tuple[Name, ...]
    values: np.ndarray
    beyond: np.ndarray
    ops: np.ndarray
    steps: np.ndarray
    limit: float
    notes: tuple[str, ...] = ()

    @property
    def table(self) -> pd.DataFrame:
        """The values with the whole names, nothing shortened."""
        import pandas as pd

        frame = pd.DataFrame(self.values, list(self.row_names), list(self.col_names))
        return frame.rename_axis(index=self.rows, columns=self.cols)

    def taken(self, rows: Iterable[int], cols: Iterable[int]) -> Cells:
        """Some rows and columns, in this order."""
        rows, cols = list(rows), list(cols)
        here = np.ix_(np.array(rows, int), np.array(cols, int))
        return replace(
            self,
            row_names=tuple(self.row_names[r] for r in rows),
            col_names=tuple(self.col_names[c] for c in cols),
            values=self.values[here],
            beyond=self.beyond[here],
            ops=self.ops[here],
            steps=self.steps[here],
        )

    def badness(self, axis: int) -> np.ndarray:
        """How bad each row (0) or column (1) is: a crash is worse than any number, nothing known
        better."""
        values = self.values
        if self.cols == "metric":  # only ratios compare with each other
            names = [name == "ratio" for name in self.col_names]
            values = np.where(names, values, np.nan)
        silent = self.beyond & np.isnan(values)
        worth = np.where(silent, math.inf, np.where(np.isnan(values), -1.0, values))
        result: np.ndarray = worth.max(axis=1 - axis, initial=-1.0)
        return result


def cells(
    findings: Findings,
    rows: str = "layer",
    cols: str = "metric",
    *,
    order: Order | None = None,
    beyond_limit: bool = False,
    views: bool = False,
) -> Cells:
    """Gather the worst of each cell (for SNR, the least).

    Args:
        findings: what to show.
        rows: one of :data:`~tapml_nb.report.axes.AXES`; ``"scope:2"`` is the scopes cut to their
            first two components.
        cols: the same, or ``"metric"``.
        order: ``"worst"`` sorts rows and columns by their worst cell, ``"model"`` neither; default:
            columns that have no order of their own (kind, scope, dtype, device).
        beyond_limit: only rows and columns that hold something beyond the limit.
        views: with rows and columns of views alone, which compute nothing.

    Raises:
        ValueError: for other axes and orders, twice the same axis, or if nothing is known by
            position or head.
    """
    if order not in (None, "model", "worst"):
        raise ValueError(f"order: {order!r}; choose 'worst', 'model' or None")
    if rows == cols:
        raise ValueError(f"cols: {cols!r} is what the rows are; choose another")
    down, across = axis_of(findings, rows, "rows"), axis_of(findings, cols, "cols")
    if down.along and across.along:
        raise ValueError(f"cols: {rows} by {cols} was not measured; choose another for one of them")
    for name, of in (("rows", down), ("cols", across)):
        if of.along and not of.names:
            raise ValueError(f"{name}: {of.missing}")
    found, computes = _gathered(findings, down, across, rows, cols)
    notes = [*unseen(findings, down), *unseen(findings, across)]
    every_row = np.arange(len(found.row_names))
    chosen_cols, left = _shown(found, computes, 1, views)
    found = found.taken(every_row, chosen_cols)  # what is left of a row is then what is seen of it
    chosen_rows, left_rows = _shown(found, computes, 0, views)
    found = found.taken(chosen_rows, np.arange(len(chosen_cols)))
    left = [*left_rows, *left]
    notes += [f"left out: {', '.join(left)}"] if left else []
    if beyond_limit:
        marked = [np.flatnonzero(found.beyond.any(axis=1 - axis)) for axis in (0, 1)]
        if cols == "metric":
            marked[1] = np.arange(len(METRICS))
        found = found.taken(marked[0], marked[1])
    sort_rows = order == "worst"
    sort_cols = cols != "metric" and (sort_rows or (order is None and kind_of(cols) in UNORDERED))
    found = found.taken(_ordered(found, 0, sort_rows), _ordered(found, 1, sort_cols))
    return replace(found, notes=tuple(notes))


def _ordered(found: Cells, axis: int, by_worst: bool) -> Sequence[int]:
    if not by_worst:
        return range(found.values.shape[axis])
    worst: list[int] = np.argsort(-found.badness(axis), kind="stable").tolist()
    return worst


def _shown(
    found: Cells, computes: np.ndarray, axis: int, views: bool
) -> tuple[np.ndarray, list[str]]:
    """Which rows (0) or columns (1) say something, and how many of the others there are."""
    what = (found.rows, found.cols)[axis]
    size = found.values.shape[axis]
    everything = np.arange(size)
    if kind_of(what) in (*RANGED, "metric"):
        return everything, []
    known = ((~np.isnan(found.values)) | found.beyond).any(axis=1 - axis)
    idle = np.zeros(size, bool) if views else ~computes.any(axis=1 - axis)
    silent = ~known & ~idle & known.any()
    pairs = ((idle, "of views only"), (silent, "without a number"))
    notes = [
        f"{count} {plural(what, count)} {why}" for which, why in pairs if (count := which.sum())
    ]
    return everything[~(idle | silent)], notes


def _ranges(found: Cells, axis: int, edges: Sequence[int]) -> Cells:
    """Neighbours along an axis together: of every cell the worst."""
    worth = np.where(np.isnan(found.values), -1.0, found.values)
    worth = np.moveaxis(np.where(found.beyond & (worth < 0), np.inf, worth), axis, 0)
    worst = [a + worth[a:b].argmax(axis=0) for a, b in pairwise(edges)]

    def pick(of_cells: np.ndarray) -> np.ndarray:
        moved = np.moveaxis(of_cells, axis, 0)
        picked = [np.take_along_axis(moved, at[None], 0)[0] for at in worst]
        result: np.ndarray = np.moveaxis(np.array(picked), 0, axis)
        return result

    names = (found.row_names, found.col_names)[axis]
    spans = tuple(
        names[a] if b - a == 1 else f"{names[a]}…{names[b - 1]}" for a, b in pairwise(edges)
    )
    marks = np.moveaxis(found.beyond, axis, 0)
    beyond = np.array([marks[a:b].any(axis=0) for a, b in pairwise(edges)])
    return replace(
        found,
        row_names=found.row_names if axis else spans,
        col_names=spans if axis else found.col_names,
        values=pick(found.values),
        ops=pick(found.ops),
        steps=pick(found.steps),
        beyond=np.moveaxis(beyond, 0, axis),
    )


def folded(found: Cells, most_rows: int, most_cols: int) -> Cells:
    """At most so many rows and columns: of steps, positions and heads neighbours together, of
    others the worst; the notes say so."""
    for axis, most in ((0, most_rows), (1, most_cols)):
        what = (found.rows, found.cols)[axis]
        size = found.values.shape[axis]
        if size <= most:
            continue
        if kind_of(what) in RANGED:
            width = -(-size // most)
            found = _ranges(found, axis, [*range(0, size, width), size])
            note = f"{size} {plural(what)} in groups of {width}"
        else:
            worst = np.argsort(-found.badness(axis), kind="stable")[:most]
            chosen = sorted(worst.tolist())
            left = float(np.delete(found.badness(axis), chosen).max())
            rows, cols = map(range, found.values.shape)
            found = found.taken(rows, chosen) if axis else found.taken(chosen, cols)
            note = f"the {most} worst of {size} {plural(what)}"
            note += f"; of the others none is beyond {left:.2g} floors" if left >= 0 else ""
        found = replace(found, notes=(*found.notes, note))
    return found


# -- gathering -------------------------------------------------------------------------------------


def _gathered(
    findings: Findings, down: Axis, across: Axis, rows: str, cols: str
) -> tuple[Cells, np.ndarray]:
    """All cells, and whether anything in each computes, or was not judged."""
    shape = len(down.names), len(across.names)
    worst = np.full(shape, np.nan)
    beyond = np.zeros(shape, bool)
    ops, steps = np.full(shape, -1, np.int32), np.zeros(shape, np.int32)
    computes = np.zeros(shape, bool)
    limit = findings.info.tolerance
    along = down.along or across.along
    for number, op in enumerate(findings.graph.ops):
        for step in range(findings.steps):
            result = findings.introduced.get((op.id, step))
            row, col = (axis.place(number, op, step, result) for axis in (down, across))
            if row is None or col is None:
                continue
            here = row, col
            broken = result is not None and result.verdict in BROKEN
            skipped = result is not None and result.verdict is Verdict.SKIPPED
            if cols == "metric":
                new = np.array(_metrics(findings, op, step, result))
                off = np.zeros(len(METRICS), bool)
                off[0] = broken
            elif along:
                new = np.array(along(result) if result else (), float)
                off = broken & (new > limit)
            else:
                new = np.array(result.ratio if result else np.nan)
                off = np.array(broken)
            known = worst[here]
            more = ~np.isnan(new) & (np.isnan(known) | (new > known)) | (off & np.isnan(known))
            worst[here] = np.where(more & ~np.isnan(new), new, known)
            ops[here] = np.where(more, number, ops[here])
            steps[here] = np.where(more, step, steps[here])
            beyond[here] |= off
            computes[here] |= not skipped
    if cols == "metric":
        less = METRICS.index("snr_db")
        worst[:, less] *= -1
    names = tuple(down.names), tuple(across.names)
    return Cells(rows, cols, *names, worst, beyond, ops, steps, limit), computes


def _metrics(findings: Findings, op: Op, step: int, result: OpResult | None) -> list[float]:
    """The larger, the worse."""
    stats = result.statistics if result else None
    total = findings.accumulated.get((op.id, step))
    return [
        result.ratio if result else math.nan,
        *(
            (stats.max_abs, stats.max_rel, stats.max_ulp, stats.rmse, -stats.snr_db)
            if stats
            else [math.nan] * 5
        ),
        *((total.ratio, total.gain) if total else [math.nan] * 2),
    ]
