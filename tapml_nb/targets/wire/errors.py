"""What can go wrong between the notebook and a target, and what the notebook is told of a target.

Only three of these speak of a kernel: :class:`KernelRaised`, :class:`Rejected`, and a
:class:`TargetLost` that names the kernel whose launch was open.  All else is trouble of the tool,
of the line or of the machine, and never a verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LossReason = Literal["crash", "timeout", "killed", "interrupted", "connection", "machine"]


class TargetError(RuntimeError):
    """The target answered with an error; the session goes on."""


class BeyondTarget(TargetError):
    """The target's device cannot do it, whatever the code: a limit, or a feature it lacks."""


class BeyondMemory(BeyondTarget):
    """What is to be done needs more memory than the target's ``max_memory`` allows.

    Attributes:
        needed, allowed: bytes.
    """

    def __init__(self, needed: int, allowed: int) -> None:
        super().__init__(f"it needs {needed:,} bytes there, and max_memory allows {allowed:,}")
        self.needed, self.allowed = needed, allowed


class KernelRaised(TargetError):
    """A kernel was launched, and said itself that it failed."""


class Rejected(TargetError):
    """The code cannot be loaded, whatever else the machine does: it lacks a function, or the
    driver rejects it."""


class NoTensor(TargetError, KeyError):
    """There is no tensor under a key."""

    def __str__(self) -> str:
        return RuntimeError.__str__(self)


class NoRoom(TargetError):
    """The device had no room for a tensor, or for what a kernel allocates for itself.

    Attributes:
        size: the tensor's bytes; 0 if it is for a kernel.
        capacity: bytes that the device has when nobody else uses it; None if it does not say.
    """

    def __init__(self, size: int, capacity: int | None) -> None:
        of = "" if capacity is None else f" of {capacity}"
        super().__init__(f"no room for {f'{size} bytes' if size else 'a kernel'}{of}")
        self.size, self.capacity = size, capacity

    @property
    def hopeless(self) -> bool:
        """Whether an empty device would have no room for it either."""
        return self.capacity is not None and self.size > self.capacity


class TargetLost(RuntimeError):
    """The target died or went out of reach in the middle of something.

    The session comes back by itself at the next use; nothing is resident there then.

    Attributes:
        reason: ``"crash"``: it died of its own work (a signal such as SIGSEGV, or an exit
            status).  ``"timeout"``: it did not answer before the deadline.  ``"killed"``: it was
            ended from outside.  ``"interrupted"``: by :meth:`TargetSession.interrupt`.
            ``"connection"``: it cannot be reached, or what comes over the line makes no sense.
            ``"machine"``: its machine cannot do its part (a full disk, a file that is gone).
        detail: the signal's name, the last lines it wrote, or what is the matter with the
            connection and what to do.
        running: the key of the kernel whose launch was open when it ended; "" if none was.  A
            crash or a timeout is a kernel's only with this.
        before: the key of the kernel that had been launched last in that process; "" if none.

    Example:
        >>> tapml.debug(model, (x,), target=tapml.Target("llvm", rpc="127.0.0.1:1/key")).run()
        Traceback (most recent call last):
        tapml_nb.targets.wire.errors.TargetLost: target lost (connection): ...
    """

    def __init__(
        self, reason: LossReason, detail: str, *, running: str = "", before: str = ""
    ) -> None:
        super().__init__(f"target lost ({reason}): {detail}")
        self.reason: LossReason = reason
        self.detail = detail
        self.running = running
        self.before = before


class GivenUp(TargetLost):
    """It was lost again when the same was tried once more on a fresh connection."""


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
