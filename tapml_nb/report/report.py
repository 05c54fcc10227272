"""The report: verdicts, culprits and metrics of a session at one moment.  Immutable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapml_nb.extras import may_need_extras
from tapml_nb.graph import Selector, SelectorError, select
from tapml_nb.report import html
from tapml_nb.report.cells import Order, cells
from tapml_nb.report.findings import Findings
from tapml_nb.report.heatmap import describe, heatmap
from tapml_nb.report.plot import divergence
from tapml_nb.terminal import printable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Report(Findings):
    """Everything that is known of a model on a target at one moment.

    What it holds is described at :class:`~tapml_nb.report.findings.Findings`; true where
    :attr:`ok` is.

    Attributes:
        opener: judges the calls that an operator holds (:meth:`drill`); None where no session is
            behind the report.

    Example:
        >>> report
        <Report of Net: 2 PASS, 1 FAIL; 1 culprit>
    """

    opener: Callable[[Selector], Report] | None = field(default=None, compare=False)

    def drill(self, op: Selector) -> Report:
        """Open an operator of granularity ``"fused"`` or ``"module"`` into its ATen calls.

        Every call that the operator holds, or holds a part of, is judged alone by the session
        behind this report: on the same target and the source's own values, as at granularity
        ``"operator"``.  What :meth:`~tapml_nb.Session.override` put in the operator's place is
        of the whole operator, and not looked into.

        Args:
            op: the operator, or a selector that names exactly one.

        Returns:
            A report on these calls alone.

        Raises:
            SelectorError: if ``op`` does not name exactly one operator.
            ValueError: if it is one ATen call already.
            RuntimeError: if the session is closed, gone or busy, or there is none.

        Example:
            >>> with tapml.debug(model, (x,), granularity="module") as session:
            ...     session.report.drill("pool")
            <Report of Net: 1 FAIL; 1 culprit>
        """
        (chosen, *others) = select(self.graph, op)
        if others:
            raise SelectorError(f"op: {op!r} names {len(others) + 1} operators; name one")
        if not self.graph[chosen].members:
            raise ValueError(f"op: {chosen} is one ATen call; there is nothing inside")
        if self.opener is None:
            raise RuntimeError("no session is behind this report; make one with tapml_nb.debug")
        return self.opener(chosen)

    @may_need_extras()
    def heatmap(
        self,
        rows: str = "layer",
        cols: str = "metric",
        *,
        order: Order | None = None,
        beyond_limit: bool = False,
        views: bool = False,
        theme: str = "any",
    ) -> Figure:
        """Where it is worst: one cell for what meets in a row and a column, in noise floors.

        The figure is as large as its labels need.  A frame marks what is beyond the limit, a hatch
        what has no value.  Of more than 100 rows or 40 columns the worst are drawn, of steps,
        positions and heads neighbours together; the figure says so, and
        :meth:`heatmap_table` has them all.

        Args:
            rows: ``"layer"``, ``"kind"``, ``"scope"`` or ``"scope:2"`` (scopes cut to their first
                two components), ``"op"``, ``"step"``, ``"position"`` (of tokens, step after
                step), ``"head"`` (of the attention), ``"dtype"`` (of the output) or ``"device"``
                (which of the target's).
            cols: the same, or ``"metric"`` (each column scaled on its own).
            order: ``"worst"`` sorts rows and columns by their worst cell, ``"model"`` neither;
                default: columns that have no order of their own (kind, scope, dtype, device).
            beyond_limit: only rows and columns that hold something beyond the limit.
            views: with rows and columns of views alone, which compute nothing.
            theme: ``"light"`` or ``"dark"``, for such a page; ``"any"`` can be read on both.

        Returns:
            A transparent Matplotlib figure.  Its ``savefig`` to SVG and PDF keeps text as text and
            writes no dates.

        Raises:
            ValueError: for other choices, or if nothing is known by position or head: no tensor
                has an axis of which it is clear that it is that.

        Example:
            >>> report.heatmap("op", "kind").savefig(folder / "kinds.svg")
        """
        found = cells(self, rows, cols, order=order, beyond_limit=beyond_limit, views=views)
        return heatmap(found, f"{self.title}: {describe(found)}", theme)

    @may_need_extras()
    def heatmap_table(
        self,
        rows: str = "layer",
        cols: str = "metric",
        *,
        order: Order | None = None,
        beyond_limit: bool = False,
        views: bool = False,
    ) -> pd.DataFrame:
        """The numbers behind :meth:`heatmap`, whole, with names that are not shortened; NaN where
        there is none.  Arguments and errors are the same.

        Example:
            >>> report.heatmap_table("layer", "kind", beyond_limit=True).columns.tolist()
            ['aten.avg_pool2d']
        """
        found = cells(self, rows, cols, order=order, beyond_limit=beyond_limit, views=views)
        return found.table

    @may_need_extras()
    def plot(self, *, theme: str = "any") -> Figure:
        """:meth:`divergence` of this report alone."""
        return self.divergence(theme=theme)

    def divergence(self, against: Findings | None = None, *, theme: str = "any") -> Figure:
        """Introduced and accumulated error over model order, in noise floors, log scale, layer by
        layer.

        Args:
            against: another report, drawn beside it in hollow marks, operator by operator: of
                another target, of an earlier run, of another version.
            theme: as of :meth:`heatmap`.

        Raises:
            ValueError: if the two have no operator in common, or there is no such theme.

        Example:
            >>> report.divergence(against=session.report).savefig(folder / "both.png")
        """
        return divergence(self, against, theme)

    @may_need_extras()
    def to_html(self, path: str | Path) -> Path:
        """Write the report as one HTML file that needs nothing else.

        Graph, plot, heatmaps and table are as the workbench shows them, live, without a kernel or
        a network.

        Raises:
            ValueError: if the file cannot be written.

        Example:
            >>> report.to_html(folder / "report.html").name
            'report.html'
        """
        path = Path(path)
        try:
            path.write_text(html.page(self), encoding="utf-8")
        except OSError as error:
            raise ValueError(f"path: {path} cannot be written ({error.strerror})") from None
        return path

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/plain": self.summary(), "text/html": html.fragment(self)}

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {verdict}" for verdict, n in self.counts.items())
        return printable(f"<Report of {self.graph.name}: {counts}; {self.outcome}>")
