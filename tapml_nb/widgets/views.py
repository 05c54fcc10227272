"""The widgets: one front end, of which each widget shows the views it names; and a snapshot beside
them, for when they cannot live.

All widgets of a session share one feed, and so one selection, one placement and one state.

Jupyter does not save the state of widgets, and a page without a kernel cannot show them.  So a
picture and a table stand beside a session's workbench, drawn anew after each run.  The page hides
them while the workbench lives; a notebook that is opened without a kernel, on a code host, or as a
document shows them instead.
"""

from __future__ import annotations

import base64
import uuid
import weakref
from pathlib import Path
from typing import Any, ClassVar

import anywidget
import traitlets

from tapml_nb.graph import OpId
from tapml_nb.report import Report
from tapml_nb.report.html import table
from tapml_nb.report.picture import picture
from tapml_nb.report.protocol import overlay
from tapml_nb.terminal import printable
from tapml_nb.widgets.commands import WatchedSession
from tapml_nb.widgets.feed import feed_of

_STATIC = Path(__file__).parent / "static"

_VIEW = "application/vnd.jupyter.widget-view+json"

_STYLE = """\
<style>
/* The picture and this table, while the workbench before them lives, whatever the host puts around
   outputs. Further out, around cells, what holds the workbench holds its table, too. */
{workbench} + {between}:has(+ .{snapshot}, + * .{snapshot}),
{workbench} + {between} + :is(.{snapshot}, :has(.{snapshot})):not(:has(.{live})) {{ display: none }}
/* JupyterLab's place for a workbench that has no kernel. */
.jp-OutputArea-child:not(:has(.tapml-live)):has(+ * + * .{snapshot}) {{ display: none }}
.{snapshot} th, .{snapshot} td {{ text-align: left !important }}
</style>"""


_WORKBENCH = ":is(.{live}, :has(.{live})):not(:has(.{snapshot}))"
_BETWEEN = ":not(.{live}, :has(.{live}, .{snapshot}, textarea, [contenteditable]))"
"""The workbench's output, and the picture's, which has no editor in it: it is no cell."""


class _SessionWidget(anywidget.AnyWidget):
    """A view of a session.

    Args:
        session: what to show.
        height: in CSS pixels; 0 is the view's own.
    """

    _esm = _STATIC / "workbench.js"
    _css = _STATIC / "style.css"
    _views = traitlets.List(traitlets.Unicode()).tag(sync=True)
    _key = traitlets.Unicode().tag(sync=True)
    height = traitlets.Int(0, help="CSS pixels; 0 is the view's own").tag(sync=True)

    shows: ClassVar[tuple[str, ...]]

    def __init__(self, session: WatchedSession, *, height: int = 0) -> None:
        super().__init__(_views=list(self.shows), _key=uuid.uuid4().hex, height=height)
        self._feed = feed_of(session)
        self._graph = session.graph
        self._feed.attach(self)
        self.on_msg(self._receive)

    @property
    def selected(self) -> OpId | None:
        """The operator that is selected in the session's views."""
        number = self._feed.selection["op"]
        return self._graph.ops[number].id if number >= 0 else None

    def _receive(self, _: Any, content: dict[str, Any], buffers: Any) -> None:
        self._feed.receive(self, content)

    def __repr__(self) -> str:
        return printable(f"<{type(self).__name__} of {self._graph.name}>")


class GraphView(_SessionWidget):
    """The model's graph by scopes: verdicts as colours, placement as patterns."""

    shows = ("graph",)


class OperatorTable(_SessionWidget):
    """Every operator in a table to sort, filter and place."""

    shows = ("table",)


class DivergencePlot(_SessionWidget):
    """Introduced and accumulated error over model order, layer by layer.

    Args:
        session: what to show.
        against: another report to be drawn beside it in hollow marks, operator by operator: of
            another target, of an earlier run, of another version.  It need not know all of them.
        height: in CSS pixels; 0 is the view's own.

    Raises:
        ValueError: if no operator of ``against`` is one of the session's.
    """

    shows = ("plot",)
    _against = traitlets.Any().tag(sync=True)

    def __init__(
        self, session: WatchedSession, against: Report | None = None, *, height: int = 0
    ) -> None:
        number = {op.id: k for k, op in enumerate(session.graph.ops)}
        other = None if against is None else overlay(against, number)
        super().__init__(session, height=height)
        self._against = other


class Heatmap(_SessionWidget):
    """Layers by metric, kind, step or token position; one tensor element by element."""

    shows = ("heatmap",)


class Inspector(_SessionWidget):
    """The selected operator: verdict, tensors, code, and an editor to try a fix."""

    shows = ("inspector",)


class TargetStatus(_SessionWidget):
    """The target, the run, and the buttons that begin and end runs."""

    shows = ("status",)


class Workbench(_SessionWidget):
    """All views together."""

    shows = ("status", "graph", "inspector", "plot", "table", "heatmap")


def show(session: WatchedSession, widget: Workbench) -> None:
    """Display the workbench and the snapshot in the cell that runs now."""
    from IPython.display import display

    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    display({_VIEW: view, "text/plain": repr(session)}, raw=True)
    _Snapshot(session).attach()


class _Snapshot:
    """The picture and the table of one output, kept up to date."""

    def __init__(self, session: WatchedSession) -> None:
        self._session = weakref.ref(session)
        self._feed = feed_of(session)
        self._number = id(session)
        self._report = session.report
        self._handles: list[Any] = []

    def attach(self) -> None:
        """Display both, and have them follow the session."""
        from IPython.display import display

        # Drawing takes a moment, in which the kernel would hear nothing from the page.
        first = self._bundles(drawn=bool(self._report.introduced))
        self._handles = [display(bundle, raw=True, display_id=True) for bundle in first]
        if None in self._handles:  # not in a notebook
            return
        self._feed.on_rest[:] = [self.refresh]  # the newest output is the one that is saved

    def refresh(self) -> None:
        """Draw again; on a thread of the feed's."""
        if session := self._session():
            self._report = session.report
            for handle, bundle in zip(self._handles, self._bundles(), strict=True):
                handle.update(bundle, raw=True)

    def _bundles(self, *, drawn: bool = True) -> list[dict[str, Any]]:
        shown = {"text/plain": self._report.summary()}
        if drawn:
            shown["image/png"] = base64.b64encode(picture(self._report)).decode()
        return [shown, {"text/html": still_table(self._report, self._number), "text/plain": ""}]


def still_table(report: Report, number: int) -> str:
    """A report's table as HTML that hides itself, and the output between it and the workbench,
    while the workbench of the session with that number lives in the same document."""
    marks = {"live": f"tapml-live-{number:x}", "snapshot": f"tapml-snapshot-{number:x}"}
    parts = {"workbench": _WORKBENCH.format(**marks), "between": _BETWEEN.format(**marks)}
    style = _STYLE.format(**marks, **parts)
    return f'<div class="{marks["snapshot"]}">{table(report)}</div>{style}'
