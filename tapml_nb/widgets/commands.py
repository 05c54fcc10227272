"""What a page may ask for: every button, click and keystroke that reaches the session.

A command takes plain JSON and answers with plain JSON (``messages.py`` says which) and binary
buffers; what it raises is shown to the person who asked.  Commands run on the feed's threads, never
on the kernel's.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from tapml_nb.carve import Bundle
from tapml_nb.compile.kernel import KernelCode
from tapml_nb.engine.jobs import SessionBusy
from tapml_nb.engine.verbs.inspection import SessionStatus, Which
from tapml_nb.execute.events import Callback, Event
from tapml_nb.graph import Graph, Op, OpId, Selector
from tapml_nb.migrate import Localization, Migration
from tapml_nb.numerics import as_parts
from tapml_nb.report import Report
from tapml_nb.report.cells import cells
from tapml_nb.report.facts import Facts, facts
from tapml_nb.report.protocol import plain
from tapml_nb.report.tensors import picture, summarize
from tapml_nb.widgets import messages
from tapml_nb.widgets.kernel_text import kernel_from_text, primfunc_text

T = TypeVar("T")
Answer = tuple[T, list[bytes]]

_PATIENCE = 1.0
"""Seconds to wait for a run that is just ending before another may begin."""

_KEPT_TENSORS = 4

_MOST_REMEMBERED = 1000
_LARGEST_REMEMBERED = 4 << 20
"""Bytes of one value that a page has remembered."""

_SHOWN: tuple[Which, ...] = ("source", "target", "difference")


class WatchedSession(Protocol):
    """A :class:`tapml_nb.session.Session`, as far as pages watch it and ask things of it."""

    graph: Graph

    @property
    def steps(self) -> int: ...
    @property
    def report(self) -> Report: ...
    @property
    def status(self) -> SessionStatus: ...
    @property
    def placement(self) -> Mapping[OpId, str]: ...
    @property
    def overrides(self) -> Mapping[OpId, str]: ...

    def on(self, event: type[Event] | str, callback: Callback) -> Callable[[], None]: ...

    def run(self, ops: Selector | None = None, *, wait: bool = True) -> Report: ...
    def hybrid(self, *, wait: bool = True) -> Report: ...
    def migrate(self) -> Migration: ...
    def localize(self) -> Localization: ...
    def wait(self, *, progress: bool = True) -> Report: ...
    def stop(self) -> None: ...

    def offload(self, selector: Selector) -> list[OpId]: ...
    def restore(self, selector: Selector) -> list[OpId]: ...
    def override(self, op: Selector, kernel: Any) -> None: ...

    def tensor(self, op: Selector, which: Which, step: int, output: int) -> np.ndarray: ...
    def beyond(self, op: Selector, step: int, output: int) -> np.ndarray: ...
    def inputs(self, op: Selector, step: int = 0) -> list[np.ndarray]: ...
    def code(self, op: Selector, step: int = 0) -> KernelCode: ...
    def carve(self, path: str | Path, ops: Selector | None = None) -> Bundle: ...
    def repro(self, op: Selector, path: str | Path, step: int = 0) -> Path: ...


class Board(Protocol):
    """A :class:`~tapml_nb.widgets.feed.Feed`, as far as commands of one page show on all.

    Attributes:
        memory: what pages have remembered, by key.
    """

    memory: dict[str, Any]

    def select(self, op: int, step: int, origin: str) -> None: ...
    def change(self, *what: str) -> None: ...
    def say(self, message: str) -> None: ...


class Commands:
    """Does what pages ask of one session, each command in the method of its name."""

    def __init__(self, session: WatchedSession, feed: Board) -> None:
        self._weak = weakref.ref(session)
        self._feed = feed
        self._ops = session.graph.ops
        self._tensors: dict[tuple[Any, ...], np.ndarray] = {}

    def do(self, name: str, args: Mapping[str, Any]) -> Answer[Any]:
        """Do one command.

        Raises:
            ValueError: if there is no such command, or its arguments do not fit.
            Exception: whatever the session raises.
        """
        if name not in messages.COMMANDS:
            raise ValueError(f"no command {name!r}")
        answer: Answer[Any] = getattr(self, f"_{name}")(messages.checked(name, args))
        return answer

    @property
    def _session(self) -> WatchedSession:
        session = self._weak()
        if session is None:
            raise RuntimeError("the session is gone; make a new one with tapml_nb.debug")
        return session

    def _op(self, args: messages.OpArguments) -> Op:
        return self._numbered(args["op"])

    def _numbered(self, number: int) -> Op:
        if not 0 <= number < len(self._ops):
            raise ValueError(f"op: {number!r}; there are {len(self._ops)} operators")
        return self._ops[number]

    def _ids(self, numbers: list[int]) -> list[OpId]:
        return [self._numbered(number).id for number in numbers]

    # -- runs ------------------------------------------------------------------------------------

    def _run(self, args: messages.RunArguments) -> Answer[None]:
        session = self._session
        chosen = self._ids(args.get("ops", [])) or None
        _when_idle(lambda: session.run(chosen, wait=False))
        return None, []

    def _hybrid(self, _: messages.Nothing) -> Answer[None]:
        session = self._session
        _when_idle(lambda: session.hybrid(wait=False))
        return None, []

    def _migrate(self, _: messages.Nothing) -> Answer[None]:
        self._feed.say(self._session.migrate().summary())
        return None, []

    def _localize(self, _: messages.Nothing) -> Answer[None]:
        self._feed.say(self._session.localize().summary())
        return None, []

    def _stop(self, _: messages.Nothing) -> Answer[None]:
        self._session.stop()
        return None, []

    # -- placement -------------------------------------------------------------------------------

    def _offload(self, args: messages.OpsArguments) -> Answer[int]:
        session = self._session
        wanted = self._ids(args["ops"])
        try:
            moved = session.offload(wanted)
        finally:
            self._feed.change("placement")  # the page has shown what was asked for, not what is
        left = [op for op in wanted if op not in set(moved)]
        if left:
            some = ", ".join(left[:3]) + (", …" if len(left) > 3 else "")
            self._feed.say(f"No kernel on the target, so still on the source: {some}")
        return len(moved), []

    def _restore(self, args: messages.OpsArguments) -> Answer[int]:
        try:
            return len(self._session.restore(self._ids(args["ops"]))), []
        finally:
            self._feed.change("placement")

    # -- what views share ------------------------------------------------------------------------

    def _select(self, args: messages.SelectArguments) -> Answer[None]:
        op = -1 if args["op"] == -1 else self._ops.index(self._op(args))
        step, origin = args["step"], _sendable(args.get("origin", ""))
        steps = session.steps if (session := self._weak()) else 1
        if not 0 <= step < steps:
            raise ValueError(f"step: {step!r}; there are {steps} steps")
        self._feed.select(op, step, origin)
        return None, []

    def _remember(self, args: messages.RememberArguments) -> Answer[None]:
        key, value = _sendable(args["key"]), _sendable(args["value"])
        known = self._feed.memory
        if key not in known and len(known) >= _MOST_REMEMBERED:
            raise ValueError(f"key: {key!r}; {len(known)} others are remembered, and no more")
        known[key] = value
        return None, []

    # -- questions -------------------------------------------------------------------------------

    def _inspect(self, args: messages.CallArguments) -> Answer[Facts]:
        return self._facts(self._op(args), args["step"]), []

    def _facts(self, op: Op, step: int) -> Facts:
        session = self._session
        return facts(session.report, op, step, session.overrides.get(op.id, ""))

    def _values(self, args: messages.CallArguments) -> Answer[messages.ValuesAnswer]:
        session, op, step = self._session, self._op(args), args["step"]
        values = session.graph.values
        tensors = [v for v in op.inputs if not values[v].host]
        shown: list[tuple[str, str, np.ndarray]] = []
        note = ""
        if op.host:
            return {"facts": self._facts(op, step), "values": [], "note": "computes no tensor"}, []
        for value, array in zip(tensors, session.inputs(op.id, step), strict=True):
            shown.append((values[value].name, "input", as_parts(array)))
        for k, value in enumerate(op.outputs):
            for which in _SHOWN:
                try:
                    array = self._fetch(op, which, step, k)
                except (RuntimeError, ValueError) as error:
                    note = f"No tensor from the target: {error}"
                    break
                shown.append((values[value].name, which, array))
        summaries = [summarize(array) for _, _, array in shown]
        rows: list[messages.Spread] = [
            {
                "name": name,
                "which": which,
                "low": plain(s.low),
                "high": plain(s.high),
                "mean": plain(s.mean),
                "zeros": s.zeros,
                "nan": s.nan,
                "inf": s.inf,
            }
            for (name, which, _), s in zip(shown, summaries, strict=True)
        ]
        bins = np.array([s.bins for s in summaries], "<f4").tobytes()
        told = self._facts(op, step)
        return {"facts": told, "values": rows, "note": note}, [bins]

    def _tensor(self, args: messages.TensorArguments) -> Answer[messages.TensorAnswer]:
        op = self._op(args)
        if op.host:
            raise ValueError("it computes no tensor")
        array = self._fetch(op, args["which"], args["step"], args["output"])
        if array.size == 0:
            raise ValueError(f"its tensor {list(array.shape)} has no elements")
        fixed = {int(axis): at for axis, at in args["fixed"].items()}
        marks, unmarked = None, ""
        if args.get("marks", True):
            marks, unmarked = self._marks(op, args["step"], args["output"], array)
        shown = picture(array, args["axes"], fixed, args["window"], marks)
        beyond = np.zeros(shown.values.shape, bool) if shown.beyond is None else shown.beyond
        rows, cols = shown.values.shape
        reply: messages.TensorAnswer = {
            "shape": list(array.shape) if array.ndim > 1 else [1, *array.shape][-2:],
            "axes": shown.axes,
            "window": shown.window,
            "rows": rows,
            "cols": cols,
            "outputs": len(op.outputs),
            "note": shown.note + unmarked,
            "blocks": list(shown.blocks),
        }
        return reply, [shown.values.astype("<f4").tobytes(), beyond.astype("u1").tobytes()]

    def _marks(
        self, op: Op, step: int, output: int, array: np.ndarray
    ) -> tuple[np.ndarray | None, str]:
        """What of a tensor is beyond the limit; None, and why, where that cannot be told."""
        key = (*self._key(op, step, output), "beyond")
        try:
            marks = self._kept(key, lambda: self._session.beyond(op.id, step, output))
        except (RuntimeError, ValueError) as error:
            return None, f"; what is beyond the limit is not known: {error}"
        return np.broadcast_to(
            marks[..., None] if marks.ndim < array.ndim else marks, array.shape
        ), ""

    def _fetch(self, op: Op, which: Which, step: int, output: int) -> np.ndarray:
        """A tensor of the operator."""
        key = (*self._key(op, step, output), which)
        return self._kept(key, lambda: as_parts(self._session.tensor(op.id, which, step, output)))

    def _key(self, op: Op, step: int, output: int) -> tuple[Any, ...]:
        version = id(self._session.report.introduced.get((op.id, step)))
        return op.id, step, output, self._session.overrides.get(op.id), version

    def _kept(self, key: tuple[Any, ...], fetch: Callable[[], np.ndarray]) -> np.ndarray:
        """What was fetched; the last few are kept for zooming."""
        if key not in self._tensors:
            self._tensors[key] = fetch()
            for old in list(self._tensors)[:-_KEPT_TENSORS]:
                self._tensors.pop(old, None)
        return self._tensors[key]

    def _cells(self, args: messages.CellsArguments) -> Answer[messages.CellsAnswer]:
        found = cells(
            self._session.report,
            args["rows"],
            args["cols"],
            order=args["order"] or None,
            beyond_limit=args["beyond"],
            views=args["views"],
        )
        arrays = (found.values, found.beyond, found.ops, found.steps)
        types = ("<f4", "u1", "<i4", "<i4")
        return {
            "rows": [str(name) for name in found.row_names],
            "cols": [str(name) for name in found.col_names],
            "notes": list(found.notes),
        }, [array.astype(kind).tobytes() for array, kind in zip(arrays, types, strict=True)]

    def _code(self, args: messages.CallArguments) -> Answer[messages.CodeAnswer]:
        op = self._op(args)
        if op.host:
            raise ValueError("it runs on the host: it computes no tensor")
        code = self._session.code(op.id, args["step"])
        return {
            "relax": code.relax,
            "tir": code.tir,
            "source": code.source,
            "language": {"llvm": "LLVM IR", "c": "C", "python": "Python"}.get(
                code.language, code.language
            ),
            "message": code.message,
        }, []

    # -- fixes -----------------------------------------------------------------------------------

    def _template(self, args: messages.OpArguments) -> Answer[str]:
        return primfunc_text(self._session.code(self._op(args).id).tir), []

    def _override(self, args: messages.OverrideArguments) -> Answer[str]:
        session, op, text = self._session, self._op(args), args["text"]
        kernel = kernel_from_text(text) if text.strip() else None
        _when_idle(lambda: session.override(op.id, kernel))
        _when_idle(lambda: session.run(op.id, wait=False))
        session.wait(progress=False)
        report = session.report
        verdict = report.verdict(op.id)
        message = next(
            (r.message for s in range(session.steps) if (r := report.introduced.get((op.id, s)))),
            "",
        )
        return f"{verdict}{': ' if message else ''}{message}", []

    def _pytest(self, args: messages.OpArguments) -> Answer[messages.FileAnswer]:
        op = self._op(args)
        folder = Path(f"carved_{_file_name(op)}")
        with tempfile.TemporaryDirectory(prefix="tapml-") as scratch:
            bundle = self._session.carve(Path(scratch) / "carved.tapml", op.id)
            bundle.to_pytest(folder)
        return {"path": str(folder), "text": (folder / "test_carved.py").read_text()}, []

    def _repro(self, args: messages.CallArguments) -> Answer[messages.FileAnswer]:
        op = self._op(args)
        path = Path(f"repro_{_file_name(op)}.py")
        self._session.repro(op.id, path, args["step"])
        return {"path": str(path), "text": path.read_text()}, []


def _file_name(op: Op) -> str:
    return re.sub(r"[^0-9A-Za-z]+", "_", op.id).strip("_")


def _sendable(value: Any) -> Any:
    """A value of a page's that every page can be sent: one that cannot would keep the others from
    being sent, too.

    Raises:
        ValueError: if it is none, or too large.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # no lone surrogates
    if len(text) > _LARGEST_REMEMBERED:
        raise ValueError(
            f"it takes {len(text)} bytes, and more than {_LARGEST_REMEMBERED} are not kept"
        )
    return value


def _when_idle(work: Callable[[], Any]) -> None:
    """A run that has just said it is done may take another moment."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            work()
            return
        except SessionBusy:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
