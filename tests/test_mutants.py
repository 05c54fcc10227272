"""Mutants of deployed kernels: the arbiter's rule, and a part of the benchmark played."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.mutants import __main__ as command
from benchmarks.mutants.apart import Batch, line, read
from benchmarks.mutants.arbiter import Ground, Truth
from benchmarks.mutants.results import alarms, missed, recall, report
from benchmarks.mutants.trial import Record, Trial


def test_each_element_has_a_noise_of_its_own():
    exact = np.array([1e-6, 1e6])
    ground = Ground(exact.astype(np.float32), exact, 2.0**-24 * exact)
    assert ground.distance(exact.astype(np.float32)) <= 1
    assert ground.distance((exact * [1.1, 1]).astype(np.float32)) > 1e5


def test_bytes_of_booleans_count():
    source = np.ones(4, bool)
    unwritten = np.full(4, 0xFF, np.uint8).view(bool)
    assert Ground(source, None, None).distance(source.copy()) == 0
    assert Ground(source, None, None).distance(unwritten) == np.inf


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.finfo(np.float32).max])
def test_infinity_and_the_lowest_number_are_far_apart(value):
    exact = np.array([1.0, -np.inf])
    ground = Ground(exact.astype(np.float32), exact, np.array([1e-7, 1e-7]))
    assert ground.distance(exact.astype(np.float32)) == 0
    assert ground.distance(np.array([1, value], np.float32)) == np.inf


def _record(**changes: Any) -> Record:
    given: dict[str, Any] = {
        "model": "m",
        "op": "o",
        "kind": "aten.mul",
        "change": "c",
        "honest": False,
        "seed": 1,
        "digest": "d",
        "truth": "clear",
        "times": 200.0,
        "verdict": "PASS",
        "ratio": 0.5,
        "pattern": "",
        "message": "",
    }
    return Record(**{**given, **changes})


def test_what_counts():
    unseen, seen = _record(), _record(verdict="FAIL")
    same = _record(truth="equivalent", verdict="FAIL")
    rewritten = _record(honest=True, truth="benign", verdict="NONFINITE")
    unclear = _record(truth="unclear", verdict="FAIL")
    records = [unseen, seen, same, rewritten, unclear]
    assert recall(records) == 0.5
    assert missed(records) == [unseen]
    assert alarms(records) == [same, rewritten]
    assert "clear faults seen: 1/2" in report(records)


def test_batches_are_kept():
    batch = Batch("m", "mutants", 3, "key", (_record(times=np.inf),))
    assert read(line(batch)) == batch


def test_a_round_of_each():
    trial = Trial("convolutions", seed=0)
    try:
        assert len(trial.sites) >= 8
        mutants = trial.round(0, honest=False)
        rewrites = trial.round(0, honest=True)
        assert sum(r.truth == Truth.CLEAR for r in mutants) >= 5
        assert not missed(mutants)
        assert all(r.truth in (Truth.EQUIVALENT, Truth.BENIGN) for r in rewrites)
        assert not alarms([*mutants, *rewrites])
        site = trial.sites[0]
        first, second = (trial._made(site, 7, honest=False) for _ in range(2))
        assert first
        assert second
        assert first.digest == second.digest
    finally:
        trial.close()


def test_an_unknown_model(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["nonsense"])
    assert ended.value.code == 2
    assert "no model is called nonsense" in capsys.readouterr().err
