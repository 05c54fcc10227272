"""The report: verdicts, culprits and metrics of a session at one moment.  Immutable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapml_nb.extras import may_need_extras
from tapml_nb.graph import Selector, SelectorError, select
from tapml_nb.report import figures, html
from tapml_nb.report.findings import Findings
from tapml_nb.report.plot import divergence
from tapml_nb.terminal import printable

if TYPE_CHECKING:
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
    def heatmap(self, rows: str = "layer", cols: str = "metric") -> Figure:
        """A heatmap of the worst ratio per cell; see :func:`tapml_nb.report.figures.heatmap` for
        the choices and the ValueError that others raise.

        Example:
            >>> report.heatmap("op", "kind").savefig(folder / "kinds.png")
        """
        return figures.heatmap(self, rows, cols)

    @may_need_extras()
    def plot(self) -> Figure:
        """:meth:`divergence` of this report alone."""
        return self.divergence()

    def divergence(self, against: Findings | None = None) -> Figure:
        """Introduced and accumulated error over model order, in noise floors, log scale, layer by
        layer.

        Args:
            against: another report, drawn beside it in hollow marks, operator by operator: of
                another target, of an earlier run, of another version.

        Raises:
            ValueError: if the two have no operator in common.

        Example:
            >>> report.divergence(against=session.report).savefig(folder / "both.png")
        """
        return divergence(self, against)

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
