"""What a session says to whoever looks on, in a terminal or in a notebook's cell: a line of
progress while somebody waits, and an invitation to become its target.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Self

from tapml_nb.execute.events import (
    EventStream,
    OpJudged,
    RunProgress,
    TargetAwaited,
    TargetStarted,
)
from tapml_nb.graph import OpId
from tapml_nb.judge.verdict import Verdict, worse
from tapml_nb.report.outcome import outcome

_INTERVAL = 0.1
"""Seconds between redraws."""

_PHASES = {
    "source": "running on the source",
    "compile": "compiling",
    "introduced": "judging operators",
    "augmented": "trying derived inputs",
    "hybrid": "running the hybrid model",
    "migrate": "migrating",
    "localize": "localizing",
}


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this (and not plain IPython in a terminal)."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


def invite(link: str) -> None:
    """Show what makes a browser's page the target: in a notebook a widget that does so with the
    notebook's own page, elsewhere the link to open."""
    if in_notebook():
        from IPython.display import display

        from tapml_nb.jupyter.page import TargetPage

        display(TargetPage(link))
    else:
        print(f"open {link} in a browser with WebGPU; that page is the target")


class ProgressLine:
    """Follows an event stream; :meth:`draw` shows where it is.  Use as a context manager.

    The waiting thread draws it: prints of other threads land in the wrong cell.
    """

    def __init__(self, events: EventStream, ending: Callable[[], str]) -> None:
        """``ending`` says at the end what came of it, in the report's own words."""
        self._text = self._resumed = "starting"
        self._ending = ending
        self._verdicts: dict[OpId, Verdict] = {}
        self._counts = Counter[Verdict]()
        """How many operators have each."""

        self._begin = time.monotonic()
        self._drawn = 0.0
        self._end: float | None = None
        self._handle: Any = None
        self._subscriptions = [
            events.on(RunProgress, self._on_progress),
            events.on(OpJudged, self._on_judged),
            events.on(TargetAwaited, self._on_awaited),
            events.on(TargetStarted, self._on_started),
        ]
        self._in_notebook = in_notebook()
        self._in_terminal = not self._in_notebook and sys.stderr.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for unsubscribe in self._subscriptions:
            unsubscribe()
        if kind is None:
            self._text, self._end = "done", None
        elif kind is KeyboardInterrupt:
            self._text, self._end = "stopped; results so far are kept", None
        self._show(self._ending())
        if self._in_terminal:
            sys.stderr.write("\n")

    def draw(self) -> None:
        """Redraw if it is time to."""
        if time.monotonic() - self._drawn >= _INTERVAL:
            self._show(outcome(dict(self._counts)) if self._verdicts else "")

    def _on_progress(self, event: RunProgress) -> None:
        self._text = f"{_PHASES[event.phase]} {event.done}/{event.total}"
        if event.left is not None:
            self._end = time.monotonic() + event.left

    def _on_judged(self, event: OpJudged) -> None:
        op, verdict = event.result.op, event.result.verdict
        if op in self._verdicts:
            self._counts[self._verdicts[op]] -= 1
            verdict = worse(self._verdicts[op], verdict)
        self._verdicts[op] = verdict
        self._counts[verdict] += 1

    def _on_awaited(self, event: TargetAwaited) -> None:
        self._resumed = self._text
        self._text = f"waiting for a browser's page; this notebook's, or open {event.link}"

    def _on_started(self, _: TargetStarted) -> None:
        if self._text.startswith("waiting"):
            self._text = self._resumed

    def _show(self, results: str) -> None:
        self._drawn = time.monotonic()
        seconds = f"{self._drawn - self._begin:.1f} s"
        left = "" if self._end is None else f"{max(self._end - self._drawn, 0):.0f} s left"
        line = ", ".join(filter(None, (self._text, results, seconds, left)))
        if self._in_terminal:
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
        elif self._in_notebook:
            self._display(line)

    def _display(self, line: str) -> None:
        from IPython.display import display

        data = {"text/plain": line}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)
