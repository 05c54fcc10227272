"""The event stream: by type, by name, in order, undisturbed."""

from typing import Any

import pytest

from tapml_nb.execute.events import EVENTS, Event, EventStream, OpStarted, RunProgress

STARTED = OpStarted("introduced", "a/mul", 0, "target")
PROGRESS = RunProgress("compile", 1, 2)


def test_by_type_by_name_and_all():
    seen: list[Any] = []
    stream = EventStream()
    stream.on(OpStarted, lambda e: seen.append(("type", e)))
    stream.on("OpStarted", lambda e: seen.append(("name", e)))
    stream.on("Event", lambda e: seen.append(("all", e)))
    stream.emit(STARTED)
    stream.emit(PROGRESS)
    assert seen == [("type", STARTED), ("name", STARTED), ("all", STARTED), ("all", PROGRESS)]


def test_unsubscribing():
    seen: list[Event] = []
    stream = EventStream()
    unsubscribe = stream.on(Event, seen.append)
    stream.emit(STARTED)
    unsubscribe()
    unsubscribe()
    stream.emit(STARTED)
    assert seen == [STARTED]


def test_a_callback_that_raises_is_reported_once_and_stops_nobody():
    seen: list[Any] = []
    stream = EventStream()

    def bad(event):
        raise RuntimeError("no")

    stream.on(Event, bad)
    stream.on(Event, seen.append)
    with pytest.warns(UserWarning, match="OpStarted raised RuntimeError"):
        stream.emit(STARTED)
    stream.emit(STARTED)
    assert seen == [STARTED, STARTED]


def test_a_callback_may_unsubscribe_itself():
    seen: list[Any] = []
    stream = EventStream()

    def once(event):
        seen.append(event)
        unsubscribe()

    unsubscribe = stream.on(Event, once)
    stream.emit(STARTED)
    stream.emit(STARTED)
    assert seen == [STARTED]


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="there are RunStarted, RunProgress"):
        EventStream().on("Started", print)
    assert set(EVENTS) >= {"OpStarted", "OpJudged", "RunProgress", "TargetGone"}
