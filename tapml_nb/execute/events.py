"""The event stream: what a run tells the world while it goes on.

Events are small and frozen.  Callbacks run on the session's own thread, in order (where several
targets share the work, what befalls the others is told on threads of theirs); one that raises is
reported once as a warning and does not disturb the run.  What befalls a target comes from its
session as it is (:mod:`tapml_nb.targets.wire.errors`).
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tapml_nb.graph import OpId
from tapml_nb.targets.wire.errors import Event as Event
from tapml_nb.targets.wire.errors import TargetAwaited as TargetAwaited
from tapml_nb.targets.wire.errors import TargetGone as TargetGone
from tapml_nb.targets.wire.errors import TargetStarted as TargetStarted


@dataclass(frozen=True)
class RunStarted(Event):
    """A run begins: ``run`` is ``"introduced"``, ``"hybrid"``, ``"migration"`` or
    ``"localization"``; ``total`` calls will be made, or operators placed."""

    run: str
    total: int


@dataclass(frozen=True)
class RunProgress(Event):
    """Work done in a phase: ``"source"``, ``"compile"``, ``"introduced"``, ``"hybrid"``,
    ``"migrate"`` (operators) or ``"localize"`` (hybrid runs, of a bound); ``left``: seconds to the
    run's end, where an estimate holds."""

    phase: str
    done: int
    total: int
    left: float | None = None


@dataclass(frozen=True)
class OpStarted(Event):
    """An operator is about to be computed in a run, on ``placement``."""

    run: str
    op: OpId
    step: int
    placement: str


@dataclass(frozen=True)
class OpJudged(Event):
    """An operator has its result (a :class:`~tapml_nb.judge.results.OpResult`)."""

    op: OpId
    step: int
    result: Any


@dataclass(frozen=True)
class OpAccumulated(Event):
    """An operator's accumulated error in a hybrid run is known."""

    op: OpId
    step: int
    result: Any


@dataclass(frozen=True)
class OutputsCompared(Event):
    """The target has computed the model unobserved, and its outputs were compared with the hybrid
    run's (an :class:`~tapml_nb.execute.unobserved.Unobserved`)."""

    result: Any


@dataclass(frozen=True)
class PlacementChanged(Event):
    """These operators now compute on ``placement``."""

    ops: tuple[OpId, ...]
    placement: str


@dataclass(frozen=True)
class OverrideChanged(Event):
    """A kernel of the user's stands in an operator's place; ``name`` is "" if it was taken back."""

    op: OpId
    name: str


@dataclass(frozen=True)
class RunFinished(Event):
    """A run has ended; ``stopped`` if it was told to before all was done."""

    run: str
    stopped: bool


@dataclass(frozen=True)
class SessionClosed(Event):
    """The session has ended; its results stay."""


Callback = Callable[[Any], None]

EVENTS: dict[str, type[Event]] = {
    cls.__name__: cls
    for cls in (
        RunStarted,
        RunProgress,
        OpStarted,
        OpJudged,
        OpAccumulated,
        OutputsCompared,
        PlacementChanged,
        OverrideChanged,
        TargetGone,
        TargetAwaited,
        TargetStarted,
        RunFinished,
        SessionClosed,
    )
}


class EventStream:
    """Delivers events to the callbacks that asked for their type."""

    def __init__(self) -> None:
        self._callbacks: list[tuple[type[Event], Callback]] = []
        self._lock = threading.Lock()
        self._complained: set[int] = set()

    def on(self, event: type[Event] | str, callback: Callback) -> Callable[[], None]:
        """Call back on every event of this type (or name; ``"Event"`` for all).

        Returns:
            A function that ends the subscription.

        Raises:
            ValueError: if there is no such event.
        """
        if isinstance(event, str):
            if event not in EVENTS and event != "Event":
                raise ValueError(f"event: no event {event!r}; there are {', '.join(EVENTS)}")
            event = EVENTS.get(event, Event)
        entry = (event, callback)
        with self._lock:
            self._callbacks.append(entry)

        def unsubscribe() -> None:
            with self._lock:
                if entry in self._callbacks:
                    self._callbacks.remove(entry)

        return unsubscribe

    def emit(self, event: Event) -> None:
        """Deliver one event."""
        with self._lock:
            callbacks = [call for kind, call in self._callbacks if isinstance(event, kind)]
        for call in callbacks:
            try:
                call(event)
            except Exception as error:
                if id(call) not in self._complained:
                    self._complained.add(id(call))
                    warnings.warn(
                        f"a callback on {type(event).__name__} raised {error!r}", stacklevel=2
                    )
