"""What sessions this kernel has, told to pages that show them beside its cells.

JupyterLab's extension shows sessions in a panel, and workbenches in tabs that outlive every cell's
output, so no widget stands behind them.  One comm serves them all.  It is never opened: a page that
does not know it drops what comes under its id without a word, one that comes late finds it among
the kernel's comms, and one that comes late to a kernel at work hears of it with the next news.

The kernel says ``{"sessions": [...]}`` when anything of that has changed, and ``"subshells"``:
whether a page can have a shell of its own to be heard on while a cell runs.  What a session's feed
says to its pages it says as ``{"session": id, "message": ...}``, with buffers.  A page says
``{"list": seconds}`` (tell me now, and from then on at most so often), and the same two names for
what it says to a feed.
"""

from __future__ import annotations

import itertools
import logging
import reprlib
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any, Protocol

from tapml_nb.execute.events import (
    Event,
    OpJudged,
    OverrideChanged,
    RunFinished,
    RunProgress,
    RunStarted,
)
from tapml_nb.judge.verdict import SEVERITY, Verdict
from tapml_nb.owner import finalize
from tapml_nb.report.outcome import VERDICT_COLOURS, VERDICT_SYMBOLS
from tapml_nb.report.protocol import plain
from tapml_nb.widgets.commands import WatchedSession
from tapml_nb.widgets.feed import feed_of, key_of

COMM = "tapml_nb"
"""The comm's id, and its target's name."""

_PACE = (0.1, 1.0, 60.0)
"""Seconds between two tellings: the least, the usual and the most that a page can ask for."""

_SELDOM = 20
"""Times as long as the last telling took, at least, until the next: a large model's findings take a
tenth of a second to gather."""

_MOST = 5
"""Causes of one session that are told."""

_log = logging.getLogger(__name__)


class Line(Protocol):
    """A comm of ipykernel's, as far as it is needed here."""

    def send(self, data: dict[str, Any], *, buffers: list[bytes] | None = None) -> None: ...


class _Beside:
    """All pages that show one session without a widget: for its feed they are one."""

    def __init__(self, line: Line, key: str) -> None:
        self._line = line
        self._key = key

    def send(self, content: dict[str, Any], buffers: list[bytes] | None = None) -> None:
        self._line.send({"session": self._key, "message": content}, buffers=buffers)


class _Entry:
    """One session, and what was told of it last."""

    def __init__(self, session: WatchedSession, made: int, line: Line) -> None:
        self.key = key_of(session)
        self.session = weakref.ref(session)
        self.page: _Beside | None = None
        self._line = line
        self._facts: dict[str, Any] = {
            "id": self.key,
            "made": made,
            "name": session.graph.name,
            "target": session.report.info.target,
            "operators": len(session.graph.ops),
        }
        self._run: dict[str, Any] = {"run": "", "phase": "", "done": 0, "total": 0}
        self._found: dict[str, Any] = {}
        self._stale = True

    def hear(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._run = {"run": event.run, "phase": "", "done": 0, "total": 0}
        elif isinstance(event, RunProgress):
            self._run |= {"phase": event.phase, "done": event.done, "total": event.total}
        elif isinstance(event, OpJudged | OverrideChanged | RunFinished):
            self._stale = True

    def receive(self, session: WatchedSession, message: Any) -> None:
        """What a page says to the session."""
        feed = feed_of(session)
        if self.page is None:
            self.page = _Beside(self._line, self.key)
            feed.attach(self.page)
        feed.receive(self.page, message)

    def told(self, session: WatchedSession) -> dict[str, Any]:
        """The session in plain JSON."""
        status = session.status
        if self._stale:
            self._stale = False
            self._found = _found(session)
        return self._facts | self._run | self._found | {"state": status.state, "busy": status.busy}


class Directory:
    """All sessions of this process."""

    def __init__(self, line: Line, *, subshells: bool = False) -> None:
        self._line = line
        self._subshells = subshells
        self._entries: dict[str, _Entry] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._pace = _PACE[1]
        threading.Thread(target=self._serve, name="tapml-directory", daemon=True).start()

    def add(self, session: WatchedSession) -> None:
        """Tell of a session from now on, as long as it lives; does not keep it alive."""
        entry = _Entry(session, next(self._numbers), self._line)
        with self._lock:
            self._entries[entry.key] = entry

        def hear(event: Event) -> None:
            entry.hear(event)
            self._news.set()

        session.on(Event, hear)
        finalize(session, self._remove, entry).atexit = False
        self._news.set()

    def receive(self, message: Any) -> None:
        """What a page says.  It may be anything: what makes no sense is logged."""
        known = message if isinstance(message, Mapping) else {}
        pace, key = known.get("list"), known.get("session")
        entry = self._entries.get(key) if isinstance(key, str) else None
        if isinstance(pace, int | float):
            self._pace = min(max(pace, _PACE[0]), _PACE[2])
            self._news.set()
        elif entry is not None and (session := entry.session()) is not None:
            entry.receive(session, known.get("message"))
        elif isinstance(key, str):
            self._news.set()  # it asks for a session that is gone: tell it what there is
        else:
            _log.warning("a page sent %s, which is no message", reprlib.repr(message))

    def _remove(self, entry: _Entry) -> None:
        with self._lock:
            if self._entries.get(entry.key) is entry:
                del self._entries[entry.key]
        self._news.set()

    def _serve(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            try:
                self._line.send({"sessions": self._told(), "subshells": self._subshells})
            except Exception:  # what comes later is no less worth telling
                _log.exception("this kernel's sessions could not be told")
            time.sleep(self._pace)

    def _told(self) -> list[dict[str, Any]]:
        with self._lock:
            entries = list(self._entries.values())
        living = [(entry, session) for entry in entries if (session := entry.session())]
        return [entry.told(session) for entry, session in living]


def announce(session: WatchedSession) -> None:
    """Tell the pages of this process's kernel of a session."""
    global _directory
    if _directory is None:
        import comm
        from IPython import get_ipython

        features = get_ipython().kernel.kernel_info.get("supported_features", ())
        # ipykernel 7.4 has a comm hear where it spoke last: on the shell that may wait for a cell.
        # So what hears never speaks, and pages that have a shell of their own are heard there.
        mouth, ear = (
            comm.create_comm(target_name=COMM, comm_id=COMM, primary=False) for _ in range(2)
        )
        comm.get_comm_manager().register_comm(ear)
        _directory = directory = Directory(mouth, subshells="kernel subshells" in features)
        ear.on_msg(lambda message: directory.receive(message["content"]["data"]))
    _directory.add(session)


_directory: Directory | None = None


def _found(session: WatchedSession) -> dict[str, Any]:
    """What a session has found: in a phrase, its worst verdict, and by cause."""
    report = session.report
    worst = min(
        (result.verdict for result in report.introduced.values()),
        key=SEVERITY.index,
        default=Verdict.UNKNOWN,
    )
    return {
        "judged": len({op for op, _ in report.introduced}),
        "outcome": report.outcome,
        "worst": {
            "name": str(worst),
            "colour": VERDICT_COLOURS[worst],
            "symbol": VERDICT_SYMBOLS[worst],
        },
        "causes": [
            {
                "verdict": str(cause.verdict),
                "symbol": VERDICT_SYMBOLS[cause.verdict],
                "op": cause.worst,
                "ratio": plain(cause.ratio),
                "count": cause.count,
            }
            for cause in report.causes[:_MOST]
        ],
        "more": max(0, len(report.causes) - _MOST),
    }
