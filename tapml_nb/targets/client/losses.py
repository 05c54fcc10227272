"""Why a target was lost: from what is known of a connection that broke to whose doing it was."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass, field

from tapml_nb.targets.wire.envelope import Garbled
from tapml_nb.targets.wire.errors import LossReason, TargetLost
from tapml_nb.targets.wire.recorder import (
    CLOSED,
    DEVICE_GONE,
    GUARD_PAGE_HIT,
    HUNG_UP,
    READ_ONLY_HIT,
    ExitReport,
    Record,
)

_FAULT = re.compile(r"^Fatal Python error: (.+)$", re.MULTILINE)
"""What Python's ``faulthandler`` writes at once; its words for signals:"""

_SIGNALS = {
    "Segmentation fault": "SIGSEGV",
    "Bus error": "SIGBUS",
    "Aborted": "SIGABRT",
    "Illegal instruction": "SIGILL",
    "Floating-point exception": "SIGFPE",
    "Floating point exception": "SIGFPE",
}

_OF_A_TRACE = (
    "File",
    "!!!",
    "Fatal Python",
    "Current thread",
    "<no Python frame>",
    "Extension mod",
)
"""How lines of a stack trace begin, which say nothing of the kernel."""


@dataclass(frozen=True)
class Evidence:
    """What is known of a connection that broke."""

    elsewhere: str = ""  # the server's address; "" if it is the session's own
    problem: Exception | None = None  # what was raised, if something was
    seconds: float = 0.0  # the deadline
    waited: float = 0.0  # how long it has taken
    late: bool = False  # whether the watchdog has broken it off,
    overdue: bool = False  # for it saw that the launch in ``record`` was open for too long
    stopped: bool = False  # whether the watchdog saw that the process was stopped (``SIGSTOP``)
    record: Record = field(default_factory=Record)  # what the process was at
    report: ExitReport | None = None  # the listener's word on how it ended, if it had one
    server_killed: bool = False  # whether the session's own server ended with it
    stock: bool = False  # whether the server is TVM's own, which
    refuses: bool = False  # takes no new session since, or was lost in the same kernel before

    def lost(self, reason: LossReason, detail: str) -> TargetLost:
        """A loss at what the process was at."""
        record = self.record
        return TargetLost(reason, detail, running=record.running, before=record.kernel)


def classify(found: Evidence) -> TargetLost:
    """Whose doing a loss was."""
    no_answer = f"no answer within {found.seconds:g} s"
    if found.stock:
        return _of_stock_server(found, no_answer)
    if found.overdue:
        return _late(found, no_answer)
    if isinstance(found.problem, Garbled):
        return _broken(found, str(found.problem))
    if found.report is not None:
        return _by_report(found, found.report, no_answer)
    if found.server_killed:
        return found.lost("killed", "the target server was killed")
    if found.late and not found.elsewhere and (found.record.doing or found.stopped):
        return TargetLost("timeout", no_answer, before=found.record.kernel)
    return _broken(found, _why(found))


def _by_report(found: Evidence, report: ExitReport, no_answer: str) -> TargetLost:
    """By the listener's word on how the process ended."""
    if report.signal == signal.SIGALRM and found.record.doing:
        return _late(found, no_answer)
    if report.code == HUNG_UP and not found.record.doing:
        return _broken(found, _why(found))
    name = signal.Signals(report.signal).name if report.signal else ""
    words = _telling(report.log)
    if report.code == DEVICE_GONE:
        return found.lost("killed", words.removeprefix(": "))
    if report.signal in (signal.SIGKILL, signal.SIGTERM):
        return found.lost("killed", f"by {name}{words}")
    if report.code == CLOSED:
        why, before = "it closed descriptors that are the target's own", found.record.kernel
        return TargetLost("crash", why, running=before, before=before)
    return found.lost("crash", f"{name or f'exit status {report.code}'}{words}")


def _of_stock_server(found: Evidence, no_answer: str) -> TargetLost:
    """TVM's own server says nothing of how a session ended: what happened next tells.

    It takes no new session after one of its own has crashed, or while one hangs; after a line was
    cut it does.
    """
    reason: LossReason = "timeout" if found.overdue else "crash"
    silence = "TVM's own servers do not say why"
    detail = no_answer if found.overdue else f"the connection broke while it ran; {silence}"
    if not found.record.running:
        return _broken(found, silence)
    if found.refuses:
        return TargetLost(reason, detail, running=found.record.running)
    return _broken(found, detail)


def _broken(found: Evidence, what: str) -> TargetLost:
    """A loss that is nobody's but the connection's."""
    if not found.elsewhere:
        return TargetLost("connection", f"the connection to the target server broke: {what}")
    return TargetLost(
        "connection",
        f"the connection to {found.elsewhere} broke: {what}; see whether the line holds and the "
        "server still runs there.  What was judged is kept: run again",
    )


def _why(found: Evidence) -> str:
    """Why a line broke, as far as the operating system says; what TVM says of it helps nobody."""
    problem = found.problem
    if found.late:
        return f"no answer for {found.waited:.0f} s"
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    if isinstance(problem, ConnectionError):
        return str(problem)
    return "the other side hung up"


def _late(found: Evidence, no_answer: str) -> TargetLost:
    """A launch that was open for too long; or whose process was dying when its time was up.

    TVM's handler looks up names for a stack trace, which takes seconds on a busy machine.
    """
    if found.report and (fault := _FAULT.search(found.report.log)):
        return found.lost("crash", _SIGNALS.get(fault[1], fault[1]))
    return found.lost("timeout", no_answer)


def _telling(log: str) -> str:
    """What a dying session's log tells: the kernel function it died in, else its last words.

    TVM's signal handler writes a stack trace; of that, only our kernels' frames mean something.
    """
    hit = re.search(f"^{GUARD_PAGE_HIT}(.*)$", log, re.MULTILINE)
    if hit:
        return f" at a guard page: {hit[1]}"
    if hit := re.search(f"^{READ_ONLY_HIT}(.*)$", log, re.MULTILINE):
        return f": {hit[1]}"
    function = re.search(r"\bk[0-9a-f]{16}_(\w+?)(_compute_)?\b", log)
    if function:
        return f" in {function[1]}"
    lines = [line.strip() for line in log.splitlines()]
    words = [line for line in lines if line and not line.startswith(_OF_A_TRACE)]
    return f": {words[-1]}" if words else ""
