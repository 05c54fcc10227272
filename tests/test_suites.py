"""The peer suites: some of their operators end to end, and what becomes of kills and of lies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import tapml_nb as tapml
from benchmarks.suites import __main__ as command
from benchmarks.suites import onnx_nodes, opinfo
from benchmarks.suites.apart import apart
from benchmarks.suites.explanations import EXPLANATIONS
from benchmarks.suites.measure import close, is_beyond, measure
from benchmarks.suites.records import Judged, Raised, Record, complete, line, newest, read
from benchmarks.suites.results import (
    AGREES,
    BEYOND,
    DIFFERS,
    disagreement,
    document,
    explained,
    failed,
)
from benchmarks.suites.sample import Sample
from benchmarks.suites.ties import breaks_ties
from tests.conftest import wait_until

OP = Judged("aten.add", "PASS", 0.1, "", "", True, True, False, "float32[2]")
RECORD = Record("add/float32/0", "add/float32", 1, "key", ops=(OP,))


class _Sum(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.5


class _Deadly(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return x


class _Branching(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def groups() -> list[str]:
    """This module is a suite, too: of what does harm."""
    return ["deadly", "impossible", "honest", "refused"]


def samples(group: str) -> list[Sample]:
    """As Suite has them."""
    if group == "impossible":
        raise ValueError("on purpose")
    x = torch.linspace(-1, 1, 7)
    models: dict[str, list[torch.nn.Module]] = {
        "deadly": [_Sum(), _Deadly(), _Sum()],
        "honest": [_Sum()],
        "refused": [_Branching()],
    }
    return [Sample(f"{group}/{k}", model.eval(), (x,)) for k, model in enumerate(models[group])]


def test_there_are_enough():
    names = opinfo.groups()
    assert len(set(names)) == len(names) > 2600
    assert {name.rpartition("/")[2] for name in names} == {
        *("float32", "float16", "bfloat16", "int64", "bool")
    }
    assert len(onnx_nodes.groups()) > 1250


def test_the_same_samples_every_time():
    first, second = (opinfo.samples("nn.functional.conv2d/float32") for _ in range(2))
    assert [s.name for s in first] == [s.name for s in second]
    assert len(first) == opinfo.KINDS
    assert all(torch.equal(a, b) for a, b in zip(first[0].inputs, second[0].inputs, strict=True))


def test_operators_of_pytorch():
    groups = ["add/float32", "nn.Linear/float32", "topk/bfloat16"]
    records = list(apart(command.SUITES["opinfo"], groups))
    assert [r.group for r in records] == [g for g in groups for _ in range(2)]
    assert not any(r.error or r.raised for r in records)
    assert [op.verdict for op in records[0].ops] == ["PASS"]
    assert all(op.agrees for r in records for op in r.ops if op.verdict == "PASS")
    assert complete(records) == set(groups)


def test_operators_of_onnx():
    groups = ["add_bcast", "cast_FLOAT_to_FLOAT16", "flexattention"]
    records = sorted(apart(command.SUITES["onnx"], groups), key=lambda r: r.name)
    assert [[op.verdict for op in r.ops] for r in records] == [["PASS"]] * 3
    assert not failed(records)


def test_a_sample_that_kills_its_process_costs_that_sample_only():
    records = list(apart(__name__, ["deadly", "impossible", "honest"]))
    assert [r.name for r in records] == [
        *("deadly/0", "deadly/1", "deadly/2", "impossible", "honest/0")
    ]
    ends = [r.error for r in records]
    assert ends[:3] == ["", "its process ended with status -9", ""]
    assert ends[3:] == ["it cannot be made: ValueError('on purpose')", ""]
    assert failed(records)


def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path, monkeypatch):
    groups = ["abs", "acos", "add", "add_bcast"]
    given = ["onnx", *groups, "--jobs", "1", "--out", str(tmp_path / "suites.md")]
    script = (
        "import pathlib, sys; from benchmarks.suites import __main__ as command;"
        "command.BUILD = pathlib.Path(sys.argv[1]); command.main(sys.argv[2:])"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), *given])
    monkeypatch.setattr(command, "BUILD", tmp_path)
    assert wait_until(lambda: command.kept("onnx"), 240)
    process.kill()
    process.wait()
    before = len(command.kept("onnx"))
    with command.file_of("onnx").open("a") as file:
        file.write('{"name": "add", "gro')  # what a kill may leave
    assert before < len(groups)
    assert command.main(given) == 0
    assert [r.name for r in command.kept("onnx")] == groups  # each once
    assert "4 samples in 4 groups, of 1 version(s)" in (tmp_path / "suites.md").read_text()


def test_a_record_survives_its_line():
    raised = Raised("run", "KeyError", "0", False, "a.py:f")
    record = replace(RECORD, raised=(raised,), ops=(replace(OP, agrees=None),), seconds=1.5)
    record = replace(record, mended=(OP,))
    assert read(line(record)) == record


def test_what_fails_is_taken_once_more_with_workarounds():
    (record, _) = list(apart(command.SUITES["opinfo"], ["mul/bool"]))
    assert [op.verdict for op in record.ops] == ["COMPILE_ERROR"]
    assert [op.verdict for op in record.with_workarounds] == ["PASS"]
    assert command.in_words(record).startswith("aten.mul COMPILE_ERROR, PASS with workarounds;")
    page = document({"A suite": [RECORD, record]})
    assert "- 2 operators, 50.0 % judged: 1 PASS, 1 COMPILE_ERROR." in page
    assert "- With workarounds 100.0 % judged: 2 PASS." in page
    assert "### What fails or does not compile, and is right with workarounds" in page
    assert "in spite of" not in page


def test_a_disagreement_with_workarounds_counts():
    fault = replace(OP, verdict="COMPILE_ERROR", agrees=None)
    record = replace(RECORD, ops=(fault,), mended=(replace(OP, agrees=False, beyond=True),))
    assert failed([record])
    assert not failed([replace(record, mended=(OP,))])
    assert not failed([replace(record, mended=())])
    page = document({"A suite": [replace(record, mended=(fault,))]})
    assert "### What is not judged, in spite of all workarounds" in page


def test_records_of_other_programs_give_way():
    second = replace(RECORD, name="add/float32/1")
    assert list(newest([RECORD, second]).values()) == [RECORD, second]
    assert list(newest([RECORD, second, replace(RECORD, key="new")])) == ["add/float32/0"]
    assert complete([RECORD]) == {"add/float32"}
    assert complete([replace(RECORD, of=2)]) == set()


@pytest.fixture
def planted(monkeypatch):
    """Measure a sum whose kernel on the target is a function of ours."""

    def measured(kernel: Any, **settings: Any) -> Record:
        def debug(model: Any, inputs: Any, **given: Any) -> tapml.Session:
            session = opened(model, inputs, **given, **settings)
            session.override("kind=aten.add", kernel)
            return session

        monkeypatch.setattr(tapml, "debug", debug)
        return measure(samples("honest")[0], "honest", 1, "key")

    opened = tapml.debug
    return measured


@pytest.mark.parametrize(
    ("error", "settings", "kind"),
    [
        (0.0, {}, ""),
        (0.1, {}, ""),  # a fault, and both say so
        (9e-6, {}, AGREES),
        (0.1, {"tolerance": 1e9}, BEYOND),
    ],
)
def test_a_planted_disagreement_is_counted(planted, error, settings, kind):
    record = planted(lambda x: (x + np.float32(0.5 + error)).astype(np.float32), **settings)
    assert record.raised == ()
    (op,) = record.ops
    assert disagreement(op) == kind
    assert failed([record]) is bool(kind)
    page = document({"A suite": [record]})
    assert ("### " + kind.capitalize() + ": not explained" in page) is bool(kind)


def test_an_exception_that_no_documentation_names(planted, monkeypatch):
    def run(self: Any) -> None:
        raise KeyError(0)

    monkeypatch.setattr(tapml.Session, "run", run)
    record = planted(None)
    (raised,) = record.raised
    assert (raised.out_of, raised.type, raised.documented) == ("run", "KeyError", False)
    assert [op.verdict for op in record.ops] == ["UNKNOWN"]
    assert failed([record])


def test_a_refusal_is_documented():
    (record,) = apart(__name__, ["refused"])
    (raised,) = record.raised
    assert (raised.out_of, raised.type, raised.documented) == ("debug", "FrontendError", True)
    assert not failed([record])


def test_a_group_that_is_unknown():
    with pytest.raises(RuntimeError, match="no group is called nothing"):
        list(apart(__name__, ["nothing"]))


def test_what_is_close_and_what_is_beyond():
    source = np.array([1.0, 2.0, np.nan], np.float32)
    assert close(source, source)
    assert not close(source.astype(np.float16), source)
    assert not close(np.array([True]), np.array([False]))
    off = source + np.float32(0.01)
    assert is_beyond(off, source, source.astype(np.float64))
    assert not is_beyond(off, source, source + 0.02)  # the source itself is farther away
    assert is_beyond(np.array([1, 2, 3], np.float32), source, source.astype(np.float64))
    assert disagreement(replace(OP, agrees=False)) == DIFFERS
    assert not failed([replace(RECORD, ops=(replace(OP, agrees=False),))])


def test_explanations_are_distinct():
    assert len({explanation.title for explanation in EXPLANATIONS}) == len(EXPLANATIONS)


def test_a_tie_is_explained_and_another_element_is_not():
    given = np.array([3, 1, 2, 1, 3], np.float16)
    source = np.array([1, 3, 2, 0, 4])
    assert breaks_ties("aten.sort", {"dim": -1}, given, np.array([3, 1, 2, 4, 0]), source)
    assert not breaks_ties("aten.sort", {"dim": -1}, given, np.array([1, 1, 2, 0, 4]), source)
    assert not breaks_ties("aten.sort", {"dim": -1}, given, np.array([3, 1, 0, 2, 4]), source)
    assert not breaks_ties("aten.sort", {"stable": True}, given, np.array([3, 1, 2, 4, 0]), source)
    assert not breaks_ties("aten.add", {"dim": -1}, given, np.array([3, 1, 2, 4, 0]), source)
    rows = np.array([[np.nan, 2, np.nan], [1, 1, 0]], np.float32)
    one = {"dim": 1, "keepdim": False}
    assert breaks_ties("aten.max", one, rows, np.array([2, 1]), np.array([0, 0]))
    assert not breaks_ties("aten.max", one, rows, np.array([2, 2]), np.array([0, 0]))
    assert not breaks_ties("aten.max", one, rows, np.array([3, 1]), np.array([0, 0]))
    both = replace(OP, kind="aten.sort", agrees=False, beyond=True)
    assert explained(replace(both, tied=True))
    assert not explained(both)


def test_narrow_sums_are_explained_within_one_noise_floor():
    pooled = replace(
        OP, kind="aten.adaptive_avg_pool2d", inputs="float16[9]", agrees=False, beyond=True
    )
    assert explained(replace(pooled, ratio=0.7))
    assert not explained(replace(pooled, ratio=1.7))
    assert not explained(replace(pooled, ratio=0.7, inputs="float32[9]"))


def test_a_mean_of_many_weights_is_what_a_sum_in_order_gives():
    """Why the target's loss differs from onnxruntime's, and is no worse than float32 allows."""
    (sample,) = onnx_nodes.samples("sce_NCd1d2d3d4d5_mean_weight")
    scores, labels, weights = map(np.asarray, sample.inputs)
    likely = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    losses = -np.take_along_axis(likely, labels[:, None], 1).reshape(-1)
    each = weights[labels].reshape(-1)

    def in_order(terms: np.ndarray) -> np.float32:
        return np.cumsum(terms, dtype=np.float32)[-1]

    with tapml.debug(sample.model, sample.inputs, target="llvm") as session:
        (op,) = session.graph.ops
        assert session.run().verdict(op.id) is tapml.Verdict.PASS
        target, source = (session.tensor(op.id, side) for side in ("target", "source"))
    assert target == pytest.approx(in_order(losses * each) / in_order(each), rel=5e-7)
    assert target != pytest.approx(source, rel=1e-5)
