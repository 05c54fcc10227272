"""An operator's verdict from a trial and references, without any device."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tapml_nb.execute.caller import CallFailure
from tapml_nb.execute.trial import Call, Run, Trial
from tapml_nb.graph import Op
from tapml_nb.judge.floor import reference_of
from tapml_nb.judge.operator import Along, Expected, OperatorJudge
from tapml_nb.judge.results import OpResult
from tapml_nb.judge.verdict import Verdict
from tapml_nb.targets.wire.calls import CallResult

SOURCE = np.linspace(-3, 3, 64, dtype=np.float32).reshape(8, 8)
RIGHT = SOURCE.copy()
WRONG = SOURCE * np.float32(1.01)
BASE = OpResult("act/silu", 0, Verdict.UNKNOWN)


def judge():
    """The judge of an operator that gives :data:`SOURCE`."""
    op = Op(
        "act/silu", "aten.silu", "act", "SiLU", "act", ("x",), ("y",), None, ("aten.silu.default",)
    )
    reference = reference_of(SOURCE, SOURCE.astype(np.float64), 1)
    return OperatorJudge(lambda: Expected(op, [reference], [Along()], lambda: [SOURCE]))


def call(last, first=None, *, stale=False, notes=()):
    same = first is None
    result = CallResult((1.0,), (same,), (last is None,), (), stale, (), notes)
    return Call(result, Run((last,)), None if same else Run((first,)))


def verdict(*calls, **trial):
    return judge().result(BASE, Trial("key", calls=calls, **trial))


def test_what_is_the_sources_needs_no_array():
    result = verdict(call(None), sent=256, ms=1.5)
    assert result.verdict is Verdict.PASS
    assert (result.kernel, result.sent_bytes, result.target_ms) == ("key", 256, 1.5)


def test_what_is_wrong_is_suspected_and_diagnosed():
    trial = Trial("key", calls=(call(WRONG),))
    one = judge()
    assert one.suspects(trial)
    result = one.result(BASE, trial)
    assert result.verdict is Verdict.FAIL
    assert "scaled by 1.01" in result.diagnosis.words


def test_what_is_right_is_not_suspected():
    assert not judge().suspects(Trial("key", calls=(call(RIGHT),)))


def test_runs_of_one_call_that_differ_need_no_second_call():
    trial = Trial("key", calls=(call(RIGHT, WRONG),))
    one = judge()
    assert not one.suspects(trial)
    assert one.result(BASE, trial).verdict is Verdict.NONDETERMINISTIC


def test_right_only_the_second_time():
    result = verdict(call(WRONG), call(None))
    assert result.verdict is Verdict.NONDETERMINISTIC
    assert result.message.startswith("differs from run to run on the same inputs")


def test_what_memory_held_before():
    result = verdict(call(RIGHT, WRONG, stale=True))
    assert result.message.startswith("reads memory that nothing wrote")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("crash", Verdict.CRASH),
        ("timeout", Verdict.TIMEOUT),
        ("refused", Verdict.UNSUPPORTED),
        ("uncompiled", Verdict.COMPILE_ERROR),
    ],
)
def test_no_result(kind, expected):
    result = verdict(failure=CallFailure(kind, "why"))
    assert (result.verdict, result.message) == (expected, "why")


def test_harm_comes_before_values():
    assert verdict(overwritten=(1,)).message == (
        "it writes into its own input 1, which it may only read"
    )
    result = verdict(overruns=("writes 4 bytes past output 0", "reads past input 0"))
    assert result.verdict is Verdict.FAIL
    assert result.ratio == math.inf
    assert result.message == "it writes 4 bytes past output 0; it reads past input 0"


def test_nothing_ran():
    view = {"description": "a view", "computed": False}
    result = verdict(call(RIGHT), **view)
    assert result.verdict is Verdict.SKIPPED
    assert result.message == "a view: nothing runs (values compared)"
    assert math.isnan(result.target_ms)
    assert verdict(call(WRONG), **view).verdict is Verdict.FAIL


def test_what_was_noted_stands_behind_the_verdict():
    result = verdict(call(RIGHT, notes=["it sets flush-to-zero"]), description="override f")
    assert result.verdict is Verdict.PASS
    assert result.message == "override f: it sets flush-to-zero"
