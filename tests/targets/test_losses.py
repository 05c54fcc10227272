"""Whose doing a loss was, from the evidence alone: no process, no line."""

import errno
import signal

import pytest

from tapml_nb.targets.client.losses import Evidence, classify
from tapml_nb.targets.wire.envelope import Garbled
from tapml_nb.targets.wire.recorder import (
    CLOSED,
    DEVICE_GONE,
    GUARD_PAGE_HIT,
    HUNG_UP,
    ExitReport,
    Record,
)

DYING = "Fatal Python error: Segmentation fault\n\nCurrent thread 0x7f (most recent call first):\n"
LAUNCH = Record("launch", 0.5, "k")
IDLE = Record(kernel="k")
HIT = f"!!! stack\n{GUARD_PAGE_HIT}it reaches 4 bytes past the end of input 0\n"


@pytest.mark.parametrize(
    ("report", "record", "reason", "detail", "running"),
    [
        (ExitReport(signal.SIGSEGV, 0, HIT), LAUNCH, "crash", "SIGSEGV at a guard page: it", "k"),
        (ExitReport(0, 3, "so long"), LAUNCH, "crash", "exit status 3: so long", "k"),
        (ExitReport(signal.SIGABRT, 0, "in k0123456789abcdef_add()"), IDLE, "crash", "in add", ""),
        (ExitReport(signal.SIGALRM), LAUNCH, "timeout", "no answer within 2 s", "k"),
        (ExitReport(signal.SIGALRM, 0, DYING), LAUNCH, "crash", "SIGSEGV", "k"),
        (ExitReport(signal.SIGABRT, 0, f"so long\n{DYING}"), LAUNCH, "crash", "SIGABRT: so", "k"),
        (ExitReport(signal.SIGALRM), IDLE, "crash", "SIGALRM", ""),
        (ExitReport(signal.SIGKILL), LAUNCH, "killed", "by SIGKILL", "k"),
        (ExitReport(0, DEVICE_GONE, "the page was closed"), LAUNCH, "killed", "the page was", "k"),
        (ExitReport(0, HUNG_UP), IDLE, "connection", "the other side hung up", ""),
        (ExitReport(0, HUNG_UP), LAUNCH, "crash", "exit status 72", "k"),
        (ExitReport(0, CLOSED), IDLE, "crash", "it closed descriptors", "k"),
    ],
)
def test_how_the_process_ended(report, record, reason, detail, running):
    lost = classify(Evidence(seconds=2, report=report, record=record))
    assert (lost.reason, lost.running) == (reason, running)
    assert detail in lost.detail


@pytest.mark.parametrize(
    ("found", "reason", "detail", "running"),
    [
        (Evidence(late=True, overdue=True, record=LAUNCH), "timeout", "no answer within 0 s", "k"),
        (
            Evidence(late=True, overdue=True, record=LAUNCH, report=ExitReport(9, 0, DYING)),
            "crash",
            "SIGSEGV",
            "k",
        ),
        (Evidence(late=True, stopped=True, record=IDLE), "timeout", "no answer within 0 s", ""),
        (Evidence(late=True, waited=70), "connection", "broke: no answer for 70 s", ""),
        (Evidence("host:1", late=True, record=LAUNCH), "connection", "to host:1 broke: no", ""),
        (Evidence(server_killed=True, record=LAUNCH), "killed", "the target server was", "k"),
        (Evidence(problem=Garbled("damaged")), "connection", "broke: damaged", ""),
        (Evidence(problem=OSError(errno.EPIPE, "Broken pipe")), "connection", "Broken pipe", ""),
    ],
)
def test_without_a_word_on_how_it_ended(found, reason, detail, running):
    lost = classify(found)
    assert (lost.reason, lost.running) == (reason, running)
    assert detail in lost.detail


@pytest.mark.parametrize(
    ("record", "overdue", "refuses", "reason", "detail", "running"),
    [
        (IDLE, False, False, "connection", "TVM's own servers do not say why", ""),
        (LAUNCH, False, False, "connection", "the connection broke while it ran", ""),
        (LAUNCH, False, True, "crash", "the connection broke while it ran", "k"),
        (LAUNCH, True, True, "timeout", "no answer within 2 s", "k"),
    ],
)
def test_tvms_own_server(record, overdue, refuses, reason, detail, running):
    found = Evidence("host:1", None, 2, 3, overdue, overdue, record=record, stock=True)
    lost = classify(Evidence(**{**vars(found), "refuses": refuses}))
    assert (lost.reason, lost.running) == (reason, running)
    assert detail in lost.detail
