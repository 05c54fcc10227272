"""The directory: what a kernel tells of its sessions to pages that no widget stands behind."""

from __future__ import annotations

import gc
import json
import logging
from typing import Any

import pytest

import tapml_nb as tapml
from tapml_nb.widgets.directory import Directory
from tapml_nb.widgets.feed import key_of
from tests.conftest import wait_until
from tests.models import two_layers


class RecordingLine:
    """What goes out on the comm."""

    def __init__(self) -> None:
        self.sent: list[tuple[dict[str, Any], list[bytes]]] = []

    def send(self, data: dict[str, Any], *, buffers: list[bytes] | None = None) -> None:
        json.dumps(data, allow_nan=False)
        self.sent.append((data, buffers or []))

    @property
    def sessions(self) -> list[dict[str, Any]] | None:
        """As they were told last."""
        told = [data["sessions"] for data, _ in list(self.sent) if "sessions" in data]
        return told[-1] if told else None

    def said(self, key: str, kind: str) -> list[dict[str, Any]]:
        messages = [d["message"] for d, _ in list(self.sent) if d.get("session") == key]
        return [message for message in messages if message["kind"] == kind]


@pytest.fixture
def line():
    return RecordingLine()


@pytest.fixture
def directory(line):
    directory = Directory(line)
    directory.receive({"list": 0})
    return directory


def test_sessions_are_told_from_first_to_last(line, directory):
    assert wait_until(lambda: line.sessions == [])
    session = tapml.debug(*two_layers(), target="llvm", name="<b>")
    directory.add(session)
    assert wait_until(lambda: line.sessions and line.sessions[0]["judged"] == 0)
    assert line.sessions[0]["id"] == key_of(session)
    assert line.sessions[0]["name"] == "<b>"
    assert line.sessions[0]["target"] == "llvm"
    op = next(op.id for op in session.graph.ops if not op.host)
    session.override(op, lambda *inputs: inputs[0] * 0 + 7)
    session.run()
    assert wait_until(lambda: line.sessions[0]["outcome"] == "1 culprit")
    told = line.sessions[0]
    assert told["worst"]["name"] == "FAIL"
    assert [cause["op"] for cause in told["causes"]] == [op]
    assert told["judged"] == told["operators"] == len(session.graph.ops)
    assert not told["busy"]
    session.close()
    assert wait_until(lambda: line.sessions[0]["state"] == "closed")
    del session
    gc.collect()
    assert wait_until(lambda: line.sessions == [])


def test_the_newest_is_known_by_its_number(line, directory, session):
    directory.add(session)
    directory.add(session)  # as if another had come to lie where one was that is gone
    assert wait_until(lambda: line.sessions and line.sessions[0]["made"] == 2)
    assert len(line.sessions) == 1


def test_a_page_talks_to_a_session_as_a_widget_does(line, directory, session):
    key = key_of(session)
    directory.add(session)
    directory.receive({"session": key, "message": {"kind": "ready"}})
    assert wait_until(lambda: line.said(key, "snapshot"))
    assert line.said(key, "snapshot")[0]["session"] == key
    command = {"kind": "command", "id": 5, "name": "inspect", "args": {"op": 0, "step": 0}}
    directory.receive({"session": key, "message": command})
    assert wait_until(lambda: line.said(key, "reply"))
    assert line.said(key, "reply")[0]["ok"]
    session.run()
    assert wait_until(lambda: line.said(key, "delta"))


@pytest.mark.parametrize("message", [None, 3, [], {}, {"list": "now"}, {"session": 3}])
def test_what_makes_no_sense_is_logged(directory, caplog, message):
    with caplog.at_level(logging.WARNING):
        directory.receive(message)
    assert "which is no message" in caplog.text


def test_who_asks_for_a_session_that_is_gone_hears_what_there_is(line, directory):
    assert wait_until(lambda: line.sessions == [])
    before = len(line.sent)
    directory.receive({"session": "abc", "message": {"kind": "ready"}})
    assert wait_until(lambda: len(line.sent) > before)
