"""Who talks with whom: what a session, its pages and its feed are to each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tapml_nb.carve import Bundle
from tapml_nb.compile.kernel import KernelCode
from tapml_nb.engine.verbs.inspection import SessionStatus, Which
from tapml_nb.execute.events import Callback, Event
from tapml_nb.graph import Graph, OpId, Selector
from tapml_nb.migrate import Localization, Migration
from tapml_nb.report import Report


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

    def run(
        self, ops: Selector | None = None, *, augment: bool = False, wait: bool = True
    ) -> Report: ...
    def hybrid(self, *, wait: bool = True) -> Report: ...
    def migrate(self) -> Migration: ...
    def localize(self) -> Localization: ...
    def wait(self, *, progress: bool = True) -> Report: ...
    def stop(self) -> None: ...

    def offload(self, selector: Selector) -> list[OpId]: ...
    def restore(self, selector: Selector) -> list[OpId]: ...
    def override(self, op: Selector, kernel: Any) -> None: ...

    def tensor(
        self, op: Selector, which: Which = "source", step: int = 0, output: int = 0
    ) -> np.ndarray: ...
    def inputs(self, op: Selector, step: int = 0) -> list[np.ndarray]: ...
    def code(self, op: Selector, step: int = 0) -> KernelCode: ...
    def carve(self, path: str | Path, ops: Selector | None = None) -> Bundle: ...
    def repro(self, op: Selector, path: str | Path, step: int = 0) -> Path: ...


class Board(Protocol):
    """A :class:`~tapml_nb.widgets.feed.Feed`, as far as commands of one page show on all.

    Attributes:
        selection: ``op`` (its number, or -1), ``step`` and ``origin`` of what is selected.
        memory: what pages have remembered, by key.
    """

    selection: dict[str, Any]
    memory: dict[str, Any]

    def change(self, *what: str) -> None:
        """Have parts of the state sent anew."""

    def say(self, message: str) -> None:
        """Show a line of text on every page."""


class Page(Protocol):
    """A widget that is shown somewhere: something to send messages to."""

    def send(self, content: dict[str, Any], buffers: list[bytes] | None = None) -> None:
        """Send one message."""
