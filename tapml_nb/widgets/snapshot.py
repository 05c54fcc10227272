"""A session as a cell's output: the live workbench, and a snapshot for when it cannot live.

Jupyter does not save the state of widgets, and a page without a kernel cannot show them.  So a
picture and a table stand beside the workbench, drawn anew after each run.  The page hides them
while the workbench lives; a notebook that is opened without a kernel, on a code host, or as a
document shows them instead.
"""

from __future__ import annotations

import base64
import weakref
from typing import Any

from tapml_nb.report import Report
from tapml_nb.widgets.feed import feed_of
from tapml_nb.widgets.roles import WatchedSession
from tapml_nb.widgets.views import Workbench

_VIEW = "application/vnd.jupyter.widget-view+json"

_STYLE = """\
<style>
/* The picture and this table, while the workbench above them lives. */
.jp-OutputArea-child:has(.{live}) + .jp-OutputArea-child,
.jp-OutputArea-child:has(.{live}) + .jp-OutputArea-child + .jp-OutputArea-child {{ display: none }}
/* The place of a workbench that has no kernel. */
.jp-OutputArea-child:not(:has(.tapml-live)):has(+ * + * .{snapshot}) {{ display: none }}
.{snapshot} th, .{snapshot} td {{ text-align: left !important }}
</style>"""


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
        self._mark = f"tapml-snapshot-{id(session):x}"
        self._live = f"tapml-live-{id(session):x}"
        self._report = session.report
        self._handles: list[Any] = []

    def attach(self) -> None:
        """Display both, and have them follow the session."""
        from IPython.display import display

        # Drawing takes a moment, in which the kernel would hear nothing from the page.
        first = self._bundles() if self._report.introduced else self._blank()
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

    def _bundles(self) -> list[dict[str, Any]]:
        from tapml_nb.report.snapshot import picture  # matplotlib takes half a second

        return [
            {
                "image/png": base64.b64encode(picture(self._report)).decode(),
                "text/plain": self._report.summary(),
            },
            self._table(self._report),
        ]

    def _blank(self) -> list[dict[str, Any]]:
        return [{"text/plain": self._report.summary()}, self._table(self._report)]

    def _table(self, report: Report) -> dict[str, Any]:
        from tapml_nb.report.snapshot import table

        style = _STYLE.format(live=self._live, snapshot=self._mark)
        html = f'<div class="{self._mark}">{table(report)}</div>{style}'
        return {"text/html": html, "text/plain": ""}
