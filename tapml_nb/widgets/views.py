"""The widgets: one front end, of which each widget shows the views it names.

All widgets of a session share one feed, and so one selection, one placement and one state.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any, ClassVar

import anywidget
import traitlets

from tapml_nb.graph import OpId
from tapml_nb.terminal import printable
from tapml_nb.widgets.feed import feed_of
from tapml_nb.widgets.roles import WatchedSession

_STATIC = Path(__file__).parent / "static"


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
    """Introduced and accumulated error over model order."""

    shows = ("plot",)


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
