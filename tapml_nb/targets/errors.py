"""What can go wrong between the notebook and a target."""

from __future__ import annotations

from typing import Literal

LossReason = Literal["crash", "timeout", "killed", "interrupted", "connection"]


class TargetError(RuntimeError):
    """The target answered with an error; the session goes on."""


class BeyondTarget(TargetError):
    """The target's device cannot do it, whatever the code: a limit, or a feature it lacks."""


class TargetLost(RuntimeError):
    """The target died or went out of reach in the middle of something.

    The session comes back by itself at the next use; nothing is resident there then.

    Attributes:
        reason: ``"crash"``: it died of its own work (a signal such as SIGSEGV, or an exit
            status).  ``"timeout"``: it did not answer before the deadline.  ``"killed"``: it was
            ended from outside.  ``"interrupted"``: by :meth:`TargetSession.interrupt`.
            ``"connection"``: it cannot be reached.
        detail: the signal's name, the last lines it wrote, or the error of the connection.
    """

    def __init__(self, reason: LossReason, detail: str) -> None:
        super().__init__(f"target lost ({reason}): {detail}")
        self.reason: LossReason = reason
        self.detail = detail
