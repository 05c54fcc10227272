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
    """What is known of a connection that broke.

    Attributes:
        elsewhere: the server's address; "" if it is the session's own.
        problem: what was raised, if something was.
        seconds: the deadline.
        waited: how long it has taken.
        late: whether the watchdog has broken it off,
        overdue: for it saw that the launch in ``record`` was open for too long.
        stopped: whether the watchdog saw that the process was stopped (``SIGSTOP``).
        record: what the process was at.
        report: the listener's word on how it ended; None if it had none.
        server_killed: whether the session's own server ended with it.
        stock: whether the server is TVM's own, which
        refuses: takes no new session since, or was lost in the same kernel before.
    """

    elsewhere: str = ""
    problem: Exception | None = None
    seconds: float = 0.0
    waited: float = 0.0
    late: bool = False
    overdue: bool = False
    stopped: bool = False
    record: Record = field(default_factory=Record)
    report: ExitReport | None = None
    server_killed: bool = False
    stock: bool = False
    refuses: bool = False


def classify(found: Evidence) -> TargetLost:
    """Whose doing a loss was."""
    no_answer = f"no answer within {found.seconds:g} s"
    running, before = found.record.running, found.record.kernel
    if found.stock:
        return _of_stock_server(found, no_answer)
    if found.overdue:
        return _late(found, no_answer)
    if isinstance(found.problem, Garbled):
        return _broken(found, str(found.problem))
    if found.report is not None:
        return _by_report(found, found.report, no_answer)
    if found.server_killed:
        why = "the target server was killed"
        return TargetLost("killed", why, running=running, before=before)
    if found.late and not found.elsewhere and (found.record.doing or found.stopped):
        return TargetLost("timeout", no_answer, before=before)
    return _broken(found, _why(found))


def _by_report(found: Evidence, report: ExitReport, no_answer: str) -> TargetLost:
    """By the listener's word on how the process ended."""
    running, before = found.record.running, found.record.kernel
    if report.signal == signal.SIGALRM and found.record.doing:
        return _late(found, no_answer)
    if report.code == HUNG_UP and not found.record.doing:
        return _broken(found, _why(found))
    name = signal.Signals(report.signal).name if report.signal else ""
    words = _telling(report.log)
    if report.code == DEVICE_GONE:
        return TargetLost("killed", words.removeprefix(": "), running=running, before=before)
    if report.signal in (signal.SIGKILL, signal.SIGTERM):
        return TargetLost("killed", f"by {name}{words}", running=running, before=before)
    if report.code == CLOSED:
        why = "it closed descriptors that are the target's own"
        return TargetLost("crash", why, running=before, before=before)
    how = name or f"exit status {report.code}"
    return TargetLost("crash", f"{how}{words}", running=running, before=before)


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
    running, before = found.record.running, found.record.kernel
    if found.report and (fault := _FAULT.search(found.report.log)):
        name = _SIGNALS.get(fault[1], fault[1])
        return TargetLost("crash", name, running=running, before=before)
    return TargetLost("timeout", no_answer, running=running, before=before)


def _telling(log: str) -> str:
    """What a dying session's log tells: the kernel function it died in, else its last words.

    TVM's signal handler writes a stack trace; of that, only our kernels' frames mean something.
    """
    hit = re.search(f"^{GUARD_PAGE_HIT}(.*)$", log, re.MULTILINE)
    if hit:
        return f" at a guard page: {hit[1]}"
    function = re.search(r"\bk[0-9a-f]{16}_(\w+?)(_compute_)?\b", log)
    if function:
        return f" in {function[1]}"
    lines = [line.strip() for line in log.splitlines()]
    words = [line for line in lines if line and not line.startswith(_OF_A_TRACE)]
    return f": {words[-1]}" if words else ""
