"""What befalls a target, as the notebook is told of it."""

from __future__ import annotations

from dataclasses import dataclass

from tapml_nb.targets.wire.errors import LossReason


@dataclass(frozen=True)
class Event:
    """Base of all events of a session (see :mod:`tapml_nb.execute.events` for the others)."""


@dataclass(frozen=True)
class TargetStarted(Event):
    """The target answers: at first, or again after it was lost (``restarts`` > 0); ``seconds``:
    what that took."""

    address: str
    pid: int
    restarts: int
    seconds: float


@dataclass(frozen=True)
class TargetGone(Event):
    """The target's process died or went out of reach; the session brings it back by itself."""

    reason: LossReason
    detail: str


@dataclass(frozen=True)
class TargetAwaited(Event):
    """The target is a browser's page that is still to come; ``link`` makes any page it."""

    link: str


TargetEvent = TargetStarted | TargetGone | TargetAwaited
