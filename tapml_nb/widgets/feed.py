"""Keeps every page of a session up to date, and does what pages ask for.

The session's events arrive on its own thread and are only noted down; one thread of the feed
sends what has gathered, at most thirty times a second.  A page says ``ready`` when it listens
and gets a snapshot; from then on it gets deltas, numbered, and asks again if one is missing.

Nothing here keeps the session alive: pages stay in ipywidgets' registry for good.
"""

from __future__ import annotations

import logging
import queue
import reprlib
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from tapml_nb.execute.events import (
    Event,
    OpAccumulated,
    OpJudged,
    OpStarted,
    OverrideChanged,
    PlacementChanged,
    RunFinished,
    RunProgress,
    RunStarted,
    SessionClosed,
    TargetAwaited,
    TargetStarted,
)
from tapml_nb.judge.results import AccumulatedResult, OpResult
from tapml_nb.report import Report, protocol
from tapml_nb.widgets.commands import Commands, WatchedSession
from tapml_nb.widgets.messages import COMMANDS

_INTERVAL = 1 / 30
"""Seconds between two messages: what a screen can show, and far below the limit of Jupyter's
server (a thousand messages a second)."""

_QUIET = 0.3
"""Seconds without an event before a session's output is drawn again."""

_GATHERED = 0.5
"""Seconds between two groupings by cause while a run goes on, at least."""

_SELDOM = 10
"""How many times as long as the last grouping took: of thousands of culprits each takes long, and
the run waits meanwhile."""

Message = dict[str, Any]

_UNTOUCHED: Message = {"op": -1, "step": 0, "origin": ""}
"""The selection that nobody has made.  One without an origin is the session's own choice, and pages
bring it into view."""

_log = logging.getLogger(__name__)

_feeds: weakref.WeakKeyDictionary[WatchedSession, Feed] = weakref.WeakKeyDictionary()


class Page(Protocol):
    """A widget that is shown somewhere: something to send messages to."""

    def send(self, content: dict[str, Any], buffers: list[bytes] | None = None) -> None: ...


class _Worker:
    """Does calls in their order on daemon threads: an executor's would hold up Python's end.

    What a call raises is logged, and the next one is done.
    """

    def __init__(self, name: str, threads: int = 1) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        for _ in range(threads):
            threading.Thread(target=self._serve, name=name, daemon=True).start()

    def do(self, call: Callable[[], None]) -> None:
        self._calls.put(call)

    def close(self) -> None:
        self._calls.put(None)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except BaseException:  # a text to try may even call sys.exit
                _log.exception("a call on a thread of the feed's failed")
            del call  # it may hold what should be freed
        self._calls.put(None)  # for the next thread


class Feed:
    """The one feed of a session; see the module's text."""

    def __init__(self, session: WatchedSession) -> None:
        self._session = weakref.ref(session, lambda _: self.close())
        self._graph = session.graph
        self._structure = protocol.Structure.of(session.graph)
        self._number = self._structure.number
        self._commands = Commands(session, self)
        self._pages: dict[Page, int] = {}
        self._ready: list[Page] = []
        self._answering: set[tuple[Page, Any]] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._introduced: list[OpResult] = []
        self._accumulated: list[AccumulatedResult] = []
        self._cleared: list[tuple[int, int]] = []
        self._changed: set[str] = set()
        self._run: Message = {"run": "", "phase": "", "done": 0, "total": 0, "stopped": False}
        self._at: Message = {"current": -1, "step": 0}
        self._running = False
        self._began = self._ended = 0.0
        self._end: float | None = None
        self.message = self._awaited = ""
        self.selection: Message = dict(_UNTOUCHED)
        self.memory: dict[str, Any] = {}
        self.on_rest: list[Callable[[], None]] = []
        self._stale = self._ungrouped = False
        self._grouped, self._apart = 0.0, _GATHERED
        self._resting = threading.Lock()
        # Placement in the order of the clicks; questions beside them, so that nothing waits long.
        self._acts = _Worker("tapml-acts")
        self._asks = _Worker("tapml-asks", 2)
        self._runs = _Worker("tapml-runs")
        self._drawing = _Worker("tapml-drawing")
        self._unsubscribe = session.on(Event, self._hear)
        self._thread = threading.Thread(target=self._serve, name="tapml-feed", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End; the session is gone.  Idempotent."""
        self._closed = True
        self._wake.set()
        for worker in (self._acts, self._asks, self._runs, self._drawing):
            worker.close()

    # -- pages ---------------------------------------------------------------------------------

    def attach(self, page: Page) -> None:
        """A page exists; it will say when it listens."""
        with self._lock:
            self._pages[page] = -1

    def receive(self, page: Page, message: Any) -> None:
        """What a page says.  Returns at once: this may be a thread of the kernel's.

        It may be anything: what makes no sense is logged, and answered where it asks.
        """
        kind = message.get("kind") if isinstance(message, Mapping) else None
        if kind == "ready":
            with self._lock:
                self._ready.append(page)
            self._wake.set()
        elif kind == "command":
            name = message.get("name")
            answer = partial(self._answer, page, message)
            if self._closed or not isinstance(name, str):
                answer()  # that there is no session any more
            elif name == "stop":  # not behind anything
                threading.Thread(target=answer, daemon=True).start()
            else:
                worker = {"migrate": self._runs, "localize": self._runs}.get(name, self._asks)
                (self._acts if name in ("offload", "restore") else worker).do(answer)
        else:
            _log.warning("a page sent %s, which is no message", reprlib.repr(message))

    def change(self, *what: str) -> None:
        """Have ``"status"``, ``"selection"``, ``"placement"`` or ``"overrides"`` sent anew."""
        with self._lock:
            self._changed.update(what)
        self._wake.set()

    def select(self, op: int, step: int, origin: str) -> None:
        """Have an operator (by number; -1 for none) selected on every page, for a page."""
        with self._lock:
            self.selection = {"op": op, "step": step, "origin": origin}
        self.change("selection")

    def _look(self, report: Report) -> bool:
        """After a run, select the worst cause for whoever looks first; whether that was done.

        What somebody has selected stays.
        """
        with self._lock:
            if self._running or not report.causes or self.selection != _UNTOUCHED:
                return False
            worst = report.culprit_of[report.causes[0].worst]
            self.selection = {"op": self._number[worst.op], "step": worst.step, "origin": ""}
        return True

    def say(self, message: str) -> None:
        """Show a line of text on every page."""
        self.message = message
        self.change("status")

    def _answer(self, page: Page, message: Message) -> None:
        """Do a command and say what came of it; not twice at a time, should a page ask again."""
        asked = (page, str(message.get("id")))
        with self._lock:
            if asked in self._answering:
                return
            self._answering.add(asked)
        try:
            self._do(page, message)
        finally:
            with self._lock:
                self._answering.discard(asked)

    def _do(self, page: Page, message: Message) -> None:
        reply: Message = {"kind": "reply", "id": message.get("id"), "ok": True}
        buffers: list[bytes] = []
        try:
            name, args = _command(message)
            reply["value"], buffers = self._commands.do(name, args)
        except BaseException as error:  # a text to try may even call sys.exit
            reply |= {"ok": False, "error": _words(error)}
        self._send(page, reply, buffers)

    def _send(self, page: Page, message: Message, buffers: list[bytes]) -> None:
        """Send one message; a page that cannot be reached gets no more until it asks again."""
        try:
            page.send(message, buffers)
        except Exception:
            _log.warning("a page could not be reached", exc_info=True)
            with self._lock:
                self._pages[page] = -1

    # -- events, on the session's thread -------------------------------------------------------

    def _hear(self, event: Event) -> None:
        with self._lock:
            self._note(event)
        self._wake.set()
        if isinstance(event, SessionClosed):
            self._rest()  # there may be no later

    def _note(self, event: Event) -> None:
        if isinstance(event, OpJudged):
            self._introduced.append(event.result)
        elif isinstance(event, OpAccumulated):
            self._accumulated.append(event.result)
        elif isinstance(event, OpStarted):
            self._at = {"current": self._number[event.op], "step": event.step}
        elif isinstance(event, RunProgress):
            self._run |= {"phase": event.phase, "done": event.done, "total": event.total}
            if event.left is not None:
                self._end = time.monotonic() + event.left
        elif isinstance(event, RunStarted):
            self._running, self._began, self._end = True, time.monotonic(), None
            self._run = {"run": event.run, "phase": "", "done": 0, "total": 0, "stopped": False}
            self.message = ""
        elif isinstance(event, RunFinished):
            self._running, self._ended = False, time.monotonic()
            self._run["stopped"] = event.stopped
            self._at = {"current": -1, "step": 0}
        elif isinstance(event, TargetAwaited):
            self.message = f"Waiting for a browser's page: this notebook's, or open {event.link}"
            self._awaited = self.message
        elif isinstance(event, TargetStarted):
            self.message = "" if self.message == self._awaited else self.message
        elif isinstance(event, PlacementChanged):
            self._changed.add("placement")
        elif isinstance(event, OverrideChanged):
            op = self._number[event.op]
            self._introduced = [r for r in self._introduced if r.op != event.op]
            self._cleared += [(op, step) for step in range(self._steps)]
            self._changed.add("overrides")
        if isinstance(event, OpJudged | OverrideChanged):
            self._ungrouped = True
        if isinstance(event, OpJudged | OpAccumulated | PlacementChanged | OverrideChanged):
            self._stale = True
        self._changed.add("status")

    @property
    def _steps(self) -> int:
        session = self._session()
        return session.steps if session else 1

    # -- the feed's thread ---------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._closed:
            quiet = not self._wake.wait(_QUIET if self._stale else None)
            self._wake.clear()
            try:
                self._flush()
            except Exception:  # what comes later is no less worth showing
                _log.exception("what the session has told could not be sent")
            if quiet and not self._running and not self._closed:
                self._drawing.do(self._rest)
            time.sleep(_INTERVAL)

    def _rest(self) -> None:
        """What is worth doing only while no run goes on."""
        with self._resting:
            if self._stale:
                self._stale = False
                for call in self.on_rest:
                    try:
                        call()
                    except Exception as error:
                        _log.exception("the still picture could not be drawn")
                        self.say(f"The still picture could not be drawn: {_words(error)}")

    def _flush(self) -> None:
        with self._lock:
            ready, self._ready = self._ready, []
            new, self._introduced = self._introduced, []
            total, self._accumulated = self._accumulated, []
            cleared, self._cleared = self._cleared, []
            changed, self._changed = self._changed, set()
            listening = [p for p, seq in self._pages.items() if seq >= 0 and p not in ready]
            late = time.monotonic() - self._grouped > self._apart
            group = bool(listening) and self._ungrouped and (late or not self._running)
            if group:
                self._ungrouped, self._grouped = False, time.monotonic()
        if listening and (new or total or cleared or changed or group):
            delta: Message = {"kind": "delta"}
            buffers = [
                protocol.introduced(new, self._number),
                protocol.accumulated(total, self._number),
            ]
            session = self._session()
            if changed or new or total or group:
                delta["status"] = self._status(session)
            if group and session:
                begin = time.monotonic()
                report = session.report
                delta["findings"] = protocol.findings(report, self._number)
                self._apart = max(_GATHERED, _SELDOM * (time.monotonic() - begin))
                if self._look(report):
                    changed.add("selection")
            if cleared:
                delta["cleared"] = cleared
            if "selection" in changed:
                delta["selection"] = self.selection
            if "overrides" in changed and session:
                delta["overrides"] = session.overrides
            if "placement" in changed and session:
                delta["placement"] = True
                buffers.append(protocol.placement(self._graph, dict(session.placement)))
            for page in listening:
                self._pages[page] += 1
                self._send(page, delta | {"seq": self._pages[page]}, buffers)
        for page in dict.fromkeys(ready):
            self._pages[page] = max(0, self._pages.get(page, 0)) + 1
            self._send_state(page)

    def _send_state(self, page: Page) -> None:
        """Send all there is, to a page that begins."""
        session = self._session()
        if session is None:
            return
        report = session.report
        self._look(report)
        told, buffers = protocol.snapshot(report, self._structure)
        snapshot = told | {
            "seq": self._pages[page],
            "session": key_of(session),
            "commands": list(COMMANDS),
            "overrides": session.overrides,
            "status": self._status(session),
            "selection": self.selection,
            "ui": self.memory,
        }
        self._send(page, snapshot, buffers)

    def _status(self, session: WatchedSession | None) -> Message:
        if session is None:
            return {"state": "closed", "busy": False}
        status = session.status
        end = time.monotonic() if self._running else self._ended
        return {
            "state": status.state,
            "address": status.address,
            "restarts": status.restarts,
            "kernels": status.kernels,
            "compiled": status.compiled,
            "cache_hits": status.cache_hits,
            "sent": status.sent_bytes,
            "busy": self._running,
            "waiting": status.waiting,
            **self._run,
            **self._at,
            "elapsed": end - self._began,
            "left": None if self._end is None else max(self._end - end, 0.0),
            "outputs": str(status.known or ""),
            "right": status.known and status.known.right,
            "message": self.message,
        }


def key_of(session: WatchedSession) -> str:
    """What pages call a session by."""
    return f"{id(session):x}"


def feed_of(session: WatchedSession) -> Feed:
    """The session's feed, made with its first page."""
    if session not in _feeds:
        _feeds[session] = Feed(session)
    return _feeds[session]


def _command(message: Message) -> tuple[str, Mapping[str, Any]]:
    """A command's name and arguments.

    Raises:
        ValueError: if the message is no command.
    """
    number, name, args = (message.get(part) for part in ("id", "name", "args"))
    if not isinstance(number, int | str):
        raise ValueError(f"id: {reprlib.repr(number)}; a command has a number")
    if not isinstance(name, str) or not isinstance(args, Mapping):
        raise ValueError("a command has a name, and arguments by theirs")
    return name, args


def _words(error: BaseException) -> str:
    """What was raised, in words; a text to try may raise errors that cannot be printed."""
    try:
        words = str(error)
    except Exception:
        words = ""
    if isinstance(error, KeyError):
        return f"{words} is missing"
    return words or type(error).__name__
