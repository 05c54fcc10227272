"""The feed: snapshots, numbered deltas, few messages, and no session kept alive."""

from __future__ import annotations

import gc
import json
import logging
import re
import threading
import time
import weakref
from functools import partial
from typing import Any

import numpy as np
import pytest

import tapml_nb as tapml
from tapml_nb import Verdict
from tapml_nb.execute.events import OpJudged, RunFinished, RunProgress, RunStarted
from tapml_nb.judge.results import OpResult
from tapml_nb.report import protocol
from tapml_nb.widgets.feed import feed_of
from tests.conftest import wait_until
from tests.models import two_layers
from tests.widgets.conftest import RecordingPage


def records(buffer: bytes) -> np.ndarray:
    return np.frombuffer(buffer, protocol.INTRODUCED)


def test_nothing_is_sent_before_a_page_listens(session, page):
    session.run()
    time.sleep(0.15)
    assert page.messages == []
    snapshot = page.ready()
    assert snapshot["ops"] == [op.id for op in session.graph.ops]
    assert snapshot["status"]["state"] == "connected"
    assert snapshot["status"]["kernels"] == 3
    judged = records(page.last_buffers("snapshot")[6])
    assert len(judged) == len(session.graph)
    json.dumps(snapshot, allow_nan=False)


def test_deltas_are_numbered_and_complete(session, page):
    snapshot = page.ready()
    session.run()
    wait_until(lambda: page.of("delta") and not page.of("delta")[-1]["status"]["busy"])
    deltas = page.of("delta")
    assert [d["seq"] for d in deltas] == [snapshot["seq"] + 1 + k for k in range(len(deltas))]
    sent = [b for m, b in zip(page.messages, page.buffers, strict=True) if m["kind"] == "delta"]
    ops = np.concatenate([records(b[0])["op"] for b in sent])
    assert sorted(ops) == list(range(len(session.graph)))
    assert deltas[-1]["status"]["run"] == "introduced"
    assert not deltas[-1]["status"]["stopped"]
    for message in page.messages:
        json.dumps(message, allow_nan=False)


def test_a_page_is_told_how_long_a_run_still_takes(session, page):
    emit = session.engine.events.emit
    assert page.ready()["status"]["left"] is None
    emit(RunStarted("introduced", 10))
    emit(RunProgress("introduced", 1, 10, 1000.0))
    emit(RunProgress("compile", 4, 8))  # says nothing of it
    known = page.ready()["status"]["left"]
    assert 0 < known <= 1000
    emit(RunFinished("introduced", False))
    emit(RunStarted("hybrid", 10))
    assert page.ready()["status"]["left"] is None
    emit(RunFinished("hybrid", False))


def test_a_thousand_results_are_a_few_messages(session, page):
    page.ready()
    ops = [op.id for op in session.graph.ops]
    begin = time.monotonic()
    for k in range(1000):
        op = ops[k % len(ops)]
        session.engine.events.emit(OpJudged(op, 0, OpResult(op, 0, Verdict.PASS, ratio=float(k))))
    seconds = time.monotonic() - begin

    def total():
        pairs = zip(page.messages, page.buffers, strict=False)
        sent = [b for m, b in pairs if m["kind"] == "delta"]
        return sum(len(records(b[0])) for b in sent)

    assert wait_until(lambda: total() == 1000)
    assert len(page.of("delta")) <= 2 + seconds * 30


def test_a_question_that_is_asked_again_is_answered_once_at_a_time(session, page):
    def slow(x):
        time.sleep(0.7)
        return x

    session.override("act", slow)
    page.ready()
    args = {"op": 1, "which": "target", "step": 0, "output": 0}
    args |= {"axes": None, "fixed": {}, "window": None}
    question = {"kind": "command", "id": 77, "name": "tensor", "args": args}
    page.feed.receive(page, question)
    time.sleep(0.2)
    page.feed.receive(page, question)
    assert wait_until(lambda: page.of("reply"))
    time.sleep(0.3)
    assert len(page.of("reply")) == 1
    # its answer was lost on the way
    page.feed.receive(page, question)
    assert wait_until(lambda: len(page.of("reply")) == 2)
    assert [reply["ok"] for reply in page.of("reply")] == [True, True]


def test_pages_of_one_session_stay_in_step(session, page):
    other = RecordingPage(page.feed)
    page.ready()
    other.ready()
    assert page.value("select", op=1, step=0, origin="me") is None
    assert wait_until(lambda: any(d.get("selection") for d in other.of("delta")))
    assert other.of("delta")[-1]["selection"] == {"op": 1, "step": 0, "origin": "me"}
    session.run()
    page.value("offload", ops=[0])
    assert wait_until(lambda: any(d.get("placement") for d in other.of("delta")))
    assert other.last_buffers("delta")[2][0] == 1


def test_after_a_run_the_worst_cause_is_selected_for_who_looks_first(session, page):
    session.override("act", lambda x: 2 * x)
    session.run()
    assert page.ready()["selection"] == {"op": 1, "step": 0, "origin": ""}


def test_a_run_that_finds_nothing_selects_nothing(session, page):
    session.run()
    assert page.ready()["selection"]["op"] == -1


def test_a_run_that_ends_selects_only_if_nobody_has(session, page):
    session.override("act", lambda x: 2 * x)
    page.ready()
    session.run()
    assert wait_until(lambda: any(d.get("selection") for d in page.of("delta")))
    assert page.of("delta")[-1]["selection"] == {"op": 1, "step": 0, "origin": ""}
    page.value("select", op=-1, step=0, origin="me")  # to have nothing selected is a choice, too
    session.override("second", lambda x, w, b: x)
    session.run()
    assert wait_until(lambda: any(len(d["findings"]["causes"]) == 2 for d in found(page)))
    assert page.of("delta")[-1].get("selection", {"origin": "me"})["origin"] == "me"
    assert RecordingPage(page.feed).ready()["selection"] == {"op": -1, "step": 0, "origin": "me"}


def found(page):
    return [delta for delta in page.of("delta") if "findings" in delta]


def test_the_state_says_what_is_known_of_the_outputs(session, page):
    def told():
        return page.ready()["status"]["outputs"]

    session.override("act", lambda x: 2 * x)
    session.run()
    assert told() == "outputs not known: nothing is on the target"
    session.offload("*")
    assert told() == "outputs not known: run hybrid()"
    session.hybrid()
    assert re.fullmatch(r"outputs differ: [\d.e+]+ floors off", told())
    session.restore("act")
    assert told() == "outputs not known: run hybrid()", "it was of another placement"
    session.hybrid()
    assert told() == "outputs right with 2 of 3 operators offloaded"
    session.override("act", None)
    assert told() == "outputs right with 2 of 3 operators offloaded", "it is on the source"
    session.offload("act")
    assert (
        session.hybrid().told == "no culprit among 2 judged operators, 1 not judged; outputs right"
    )
    assert told() == "outputs right"
    session.override("act", lambda x: 2 * x)
    assert told() == "outputs not known: run hybrid()"


def test_a_new_page_sees_what_the_old_one_left(session, page):
    page.ready()
    page.value("select", op=2, step=0)
    page.value("remember", key="open", value=["first"])
    session.run()
    session.offload("second")
    again = RecordingPage(page.feed)
    snapshot = again.ready()
    assert snapshot["selection"] == {"op": 2, "step": 0, "origin": ""}
    assert snapshot["ui"] == {"open": ["first"]}
    placement = again.last_buffers("snapshot")[5]
    assert list(placement) == [session.placement[op.id] == "target" for op in session.graph.ops]


def test_a_page_that_lost_something_begins_anew(session, page):
    first = page.ready()
    session.run()
    second = page.ready()
    assert second["seq"] > first["seq"]
    assert len(records(page.last_buffers("snapshot")[6])) == len(session.graph)


def test_a_page_that_cannot_be_reached_disturbs_nobody(session, page):
    class Gone:
        def send(self, content, buffers=None):
            raise OSError("no such page")

    gone = Gone()
    page.feed.attach(gone)
    page.feed.receive(gone, {"kind": "ready"})
    page.feed.receive(gone, {"kind": "command", "id": 1, "name": "inspect", "args": {}})
    page.ready()
    session.run()
    assert wait_until(lambda: page.of("delta") and not page.of("delta")[-1]["status"]["busy"])


def test_a_text_that_exits_costs_one_reply(page):
    assert page.error("override", op=0, text="import sys; sys.exit(3)") == "3"
    assert page.value("inspect", op=0, step=0)["kind"] == "aten.linear"


def test_an_override_clears_results_and_is_named(session, page):
    session.run()
    page.ready()
    session.override("act", np.tanh)
    number = [op.id for op in session.graph.ops].index("act/silu")
    assert wait_until(lambda: any("cleared" in d for d in page.of("delta")))
    delta = next(d for d in page.of("delta") if "cleared" in d)
    assert delta["cleared"] == [(number, 0)]
    assert "tanh" in delta["overrides"]["act/silu"]
    session.override("act", None)
    assert wait_until(lambda: page.of("delta")[-1].get("overrides") == {})


def test_results_after_an_override_are_not_cleared_with_it(session, page):
    page.ready()
    session.override("act", lambda x: x * 2)
    session.run()
    assert wait_until(lambda: page.of("delta") and not page.of("delta")[-1]["status"]["busy"])
    state: dict[Any, Any] = {}
    for message, buffers in zip(page.messages, page.buffers, strict=True):
        if message["kind"] == "delta":
            for op, _ in message.get("cleared", []):
                state.pop(op, None)
            state |= {int(r["op"]): int(r["verdict"]) for r in records(buffers[0])}
    number = [op.id for op in session.graph.ops].index("act/silu")
    assert list(Verdict)[state[number]] is Verdict.FAIL


def test_widgets_do_not_keep_a_session_alive():
    session = tapml.debug(*two_layers(), target="llvm")
    widget, feed = session.widget, feed_of(session)
    assert session.widget is widget
    alive = weakref.ref(session)
    threads = {t.name for t in threading.enumerate()}
    assert "tapml-feed" in threads
    del session
    gc.collect()
    assert wait_until(lambda: alive() is None)
    assert wait_until(lambda: not feed._thread.is_alive())
    page = RecordingPage(feed)
    assert "the session is gone" in page.error("hybrid")


def test_results_stay_on_view_when_the_session_is_closed(session, page):
    session.run()
    page.ready()
    session.close()
    assert wait_until(
        lambda: page.of("delta") and page.of("delta")[-1]["status"]["state"] == "closed"
    )
    snapshot = RecordingPage(page.feed).ready()
    assert snapshot["status"]["state"] == "closed"
    assert page.value("inspect", op=0, step=0)["judged"]
    assert "closed" in page.error("run")


ODD: tuple[Any, ...] = ("\ud800", True, -7, 1e400, 10**30, {"a": []}, [[None]])
KNOWN: dict[str, dict[str, Any]] = {
    "select": {"op": 0, "step": 0, "origin": ""},
    "inspect": {"op": 0, "step": 0},
    "values": {"op": 0, "step": 0},
    "offload": {"ops": [0]},
    "restore": {"ops": [0]},
    "run": {"ops": [0]},
    "code": {"op": 0, "step": 0},
    "remember": {"key": "a", "value": 1},
}
NO_NAMES: tuple[Any, ...] = (None, 1.5, [], {}, "x", True)
REST: tuple[dict[str, Any], ...] = (
    {},
    {"args": {}},
    {"id": 1},
    {"id": 1, "args": None},
    {"id": 1, "args": [1]},
    {"id": {}, "args": {}},
)
MALFORMED: list[Any] = [
    None,
    5,
    "ready",
    [],
    [{"kind": "ready"}],
    {},
    {"kind": None},
    {"kind": ["ready"]},
    {"kind": {"a": 1}},
    {"kind": "unknown"},
    {"kind": "command"},
    *({"kind": "command", "id": n, "name": n, "args": n} for n in NO_NAMES),
    *(
        {"kind": "command", "name": name, **rest}
        for name in ("offload", "restore", "migrate", "select", "inspect", "tensor", "stop")
        for rest in REST
    ),
    *(
        {"kind": "command", "id": 1, "name": name, "args": {**known, argument: odd}}
        for name, known in KNOWN.items()
        for argument in known
        for odd in ODD
    ),
]


def test_malformed_messages_end_nothing(session, page, caplog):
    """After a flood of them honest questions are answered, on each of the feed's threads."""
    caplog.set_level(logging.CRITICAL)  # there is a lot to say
    threads = {t for t in threading.enumerate() if t.name.startswith("tapml-")}
    page.ready()
    for message in MALFORMED:
        page.feed.receive(page, message)
    for name in ("hybrid", "stop"):  # and what was asked by the way is over
        page.ask(name)
    session.wait(progress=False)
    assert page.value("offload", ops=[0]) == 1
    assert page.value("inspect", op=0, step=0)["kind"] == "aten.linear"
    assert page.value("inspect", op=1, step=0)["kind"] == "aten.silu"
    assert page.value("select", op=1, step=0, origin="me") is None
    assert page.value("remember", key="open", value=["first"]) is None
    page.value("migrate")
    assert all(thread.is_alive() for thread in threads if thread.name != "tapml-session")
    for message in page.messages:
        json.dumps(message, ensure_ascii=False, allow_nan=False).encode()
    snapshot = RecordingPage(page.feed).ready()
    assert snapshot["selection"] == {"op": 1, "step": 0, "origin": "me"}
    assert snapshot["ui"]["open"] == ["first"]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"name": "inspect", "args": {"op": 0, "step": 0}}, "id: None; a command has a number"),
        ({"id": 7, "args": {}}, "a command has a name"),
        ({"id": 7, "name": "inspect"}, "arguments by theirs"),
        ({"id": 7, "name": "inspect", "args": {"op": 0}}, "'step' is missing"),
        ({"id": 7, "name": "inspect", "args": {"op": True, "step": 0}}, "op: True"),
        ({"id": 7, "name": "select", "args": {"op": 0, "step": 9}}, "there are 1 steps"),
        ({"id": 7, "name": "remember", "args": {"key": "\ud800", "value": 1}}, "surrogates"),
    ],
)
def test_a_malformed_command_is_answered(page, message, words):
    page.feed.receive(page, {"kind": "command", **message})
    assert wait_until(lambda: page.of("reply"))
    (reply,) = page.of("reply")
    assert reply["id"] == message.get("id")
    assert not reply["ok"]
    assert words in reply["error"]


def test_a_message_of_no_kind_is_logged(page, caplog):
    page.feed.receive(page, {"kind": "\x1b[31m"})
    (record,) = caplog.records
    assert "which is no message" in record.message
    assert "\x1b" not in record.message


def test_a_still_that_raises_is_told(session, page, caplog):
    drawn: list[bool] = []

    def fails():
        raise ZeroDivisionError("no picture")

    def drawn_for(count):
        return len(drawn) >= count

    page.ready()
    page.feed.on_rest[:] = [fails, lambda: drawn.append(True)]
    for count in (1, 2):  # the thread that draws lives on
        session.run()
        assert wait_until(partial(drawn_for, count))
    assert wait_until(
        lambda: page.of("delta")[-1]["status"]["message"].endswith("drawn: no picture")
    )
    assert "ZeroDivisionError" in caplog.text
