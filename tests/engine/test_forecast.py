"""The estimate of how long a run still takes: within a fifth after its first tenth, or none."""

from __future__ import annotations

import json
from itertools import accumulate
from pathlib import Path

import pytest

from tapml_nb.engine.forecast import Forecast, Size

RECORDED = json.loads(Path(__file__).with_name("two_runs.json").read_text())
"""A Llama of 4 layers on two busy cores: of each call its name, the bytes that it reads and writes,
the terms that it sums, and its seconds in the session's first run and in the second one."""


def errors(forecast, took):
    """How far off the estimate of the whole is after each call, by the part that is over."""
    whole = sum(took.values())
    for (call, seconds), spent in zip(took.items(), accumulate(took.values()), strict=True):
        forecast.done(call, seconds)
        left = forecast.left()
        yield spent / whole, None if left is None else abs(spent + left - whole) / whole


def test_a_later_run_is_known_within_a_fifth_after_its_first_tenth():
    sizes = {(op, 0): Size.of(op, size, terms) for op, size, terms, *_ in RECORDED}
    before, took = ({(row[0], 0): row[k] for row in RECORDED} for k in (3, 4))
    late = [error for part, error in errors(Forecast(sizes, before), took) if part >= 0.1]
    assert len(late) > 100
    assert None not in late
    assert max(late) < 0.2


def test_a_machine_at_half_its_pace_is_noticed():
    sizes = {(op, 0): Size.of(op, 0, 0) for op in "abcdefghij"}
    forecast = Forecast(sizes, dict.fromkeys(sizes, 1.0))
    assert forecast.left() == pytest.approx(10)
    late = [e for part, e in errors(forecast, dict.fromkeys(sizes, 2.0)) if part >= 0.3]
    assert max(late) < 0.2


def layers(count):
    """Calls of equal layers, and a last one that is like none before."""
    calls = [(f"{k}.{part}", 0) for k in range(count) for part in ("norm", "linear")]
    return {call: Size.of(call[0].partition(".")[2], 0, 10**9) for call in calls}


def test_a_first_run_is_known_by_calls_that_are_alike():
    sizes = layers(20)
    seconds = {
        "norm": 0.2,
        "linear": 3.0,
    }  # of which the work of both, which is equal, says nothing
    took = {call: seconds[size.like] for call, size in sizes.items()}
    found = list(errors(Forecast(sizes, {}), took))
    assert all(error is None for part, error in found if part < 0.09)
    late = [error for part, error in found if part >= 0.1]
    assert None not in late
    assert max(late) < 0.05


def test_nothing_is_said_while_much_would_be_a_guess():
    sizes = layers(4) | {("head", 0): Size.of("head", 0, 10**10)}
    forecast = Forecast(sizes, {})
    for call in layers(4):
        forecast.done(call, 1.0)
        assert forecast.left() is None
    forecast.done(("head", 0), 10.0)
    assert forecast.left() == 0


def test_a_call_that_is_new_in_a_later_run_is_guessed_by_its_work():
    sizes = layers(10) | {("new", 0): Size.of("new", 0, 10**9)}
    forecast = Forecast(sizes, dict.fromkeys(layers(10), 3.0))
    assert forecast.left() == pytest.approx(63)
    few = Forecast(sizes, dict.fromkeys(layers(2), 3.0))
    assert few.left() is None


def test_a_run_without_calls():
    assert Forecast({}, {}).left() == 0
