"""Operators are judged while the source is still at others: it changes when, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import tapml_nb as tapml
from tapml_nb import ModelChanged, Verdict
from tests.models import TwoLayers

PIECE = "tapml_nb.engine.turns._PIECE"
WHOLE = 1e9
"""A piece in which every source comes to its end, in seconds."""


def made():
    torch.manual_seed(0)
    return TwoLayers().eval(), (torch.randn(3, 8),)


class Chain(nn.Module):
    """One function after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.acts = nn.ModuleList(nn.SiLU() for _ in range(8))

    def forward(self, x):
        for act in self.acts:
            x = act(x)
        return x


def silu(x):
    return (x / (1 + np.exp(-x))).astype(x.dtype)


def from_later(x):
    """Gives what is made two operators later."""
    return silu(silu(silu(x)))


def linear(x, weight, bias):
    return x @ weight.T + bias


def in_numpy(session):
    """Nothing is compiled, so that each operator can be judged as soon as the source has run it."""
    for op in session.graph.ops:
        session.override(op.id, silu if op.kind == "aten.silu" else linear)


def figures(report):
    """What is found, without the times that anything took."""
    return {
        call: repr(replace(result, source_ms=0.0, target_ms=0.0))
        for call, result in report.introduced.items()
    }


@pytest.mark.parametrize("max_memory", [None, 1])
def test_verdicts_come_while_the_source_runs_and_are_the_same(
    max_memory, monkeypatch, nothing_left
):
    torch.manual_seed(0)
    inputs = (4 * torch.randn(8, 32),)
    found, early = [], []
    for piece in (0.0, WHOLE):
        monkeypatch.setattr(PIECE, piece)
        with tapml.debug(Chain().eval(), inputs, max_memory=max_memory) as session:
            in_numpy(session)
            session.override("acts.3/silu", from_later)
            complete: list[bool] = []
            source = session.engine.source
            session.on("OpJudged", lambda _: complete.append(source.is_complete))  # noqa: B023
            report = session.run()
            (wrong,) = report.culprits
            assert wrong.op == "acts.3/silu"
            assert "acts.5/silu" in str(wrong.diagnosis)
            found.append(figures(report))
            early.append(complete.count(False))
    assert early == [3, 0]
    assert found[0] == found[1]


def test_a_stop_in_between_keeps_what_has_run(monkeypatch, nothing_left):
    monkeypatch.setattr(PIECE, 0.0)
    with tapml.debug(*made()) as session:
        in_numpy(session)
        ran = []
        program = session.engine.program
        run = program.run
        monkeypatch.setattr(program, "run", lambda op, values: ran.append(op) or run(op, values))
        go_on = session.on("OpJudged", lambda _: session.stop())
        report = session.run()
        go_on()
        assert report.info.stopped
        assert ran == ["first/linear"]
        assert not session.engine.source.is_complete
        report = session.run()
        assert ran == [op.id for op in session.graph.ops]
        assert set(report.counts) == {Verdict.PASS}


def written_to(model):
    with torch.no_grad():
        model.second.weight.mul_(3)


def another(model):
    model.second.weight = nn.Parameter(torch.randn(4, 16))


@pytest.mark.parametrize("change", [written_to, another], ids=lambda c: c.__name__)
@pytest.mark.parametrize("stops", [False, True])
def test_a_weight_that_changes_before_the_source_reads_it(stops, change, monkeypatch, nothing_left):
    """There are verdicts on the model as it was."""
    monkeypatch.setattr(PIECE, 0.0)
    monkeypatch.setattr("tapml_nb.execute.given._TOGETHER", 0)
    model, inputs = made()
    with tapml.debug(model, inputs) as session:
        in_numpy(session)
        seen = session.on("OpJudged", lambda _: session.stop() if stops else change(model))
        if stops:
            session.run()
            seen()
            change(model)
        with pytest.raises(ModelChanged, match=r"second\.weight"):
            session.run()
        assert session.report.verdict("first/linear") is Verdict.PASS
        assert session.report.verdict("second/linear") is Verdict.UNKNOWN


def test_weights_are_hashed_as_the_source_comes_to_them(monkeypatch, nothing_left):
    monkeypatch.setattr("tapml_nb.execute.given._TOGETHER", 0)
    order: list[str] = []
    model, inputs = made()
    with tapml.debug(model, inputs) as session:
        source = session.engine.source
        given, program = source._given_tensors, session.engine.program
        note, run = given.note, program.run
        monkeypatch.setattr(
            given, "note", lambda slots: order.extend(value for value, _ in slots) or note(slots)
        )
        monkeypatch.setattr(program, "run", lambda op, values: order.append(op) or run(op, values))
        session.run()
    reads = {op.id: op.inputs for op in session.graph.ops}
    parameters = {v.id for v in session.graph.values.values() if v.role == "parameter"}
    assert parameters < set(order)
    for value in parameters:
        first = next(op for op in reads if value in reads[op])
        before = list(reads)[: list(reads).index(first)]
        assert order.index(value) < order.index(first)
        assert all(order.index(op) < order.index(value) for op in before)


def test_the_target_comes_up_while_the_source_runs(monkeypatch, nothing_left):
    model, inputs = made()
    with tapml.debug(model, inputs) as session:
        there = []
        program, endpoint = session.engine.program, session.engine.pool.first.endpoint
        run = program.run

        def noted(op, values):
            there.append(endpoint.server is not None)
            return run(op, values)

        monkeypatch.setattr(program, "run", noted)
        assert endpoint.server is None
        session.run()
        assert there == [True] * len(session.graph)


def test_a_run_of_some_operators_takes_the_source_to_its_end(monkeypatch, nothing_left):
    monkeypatch.setattr(PIECE, 0.0)
    model, inputs = made()
    with tapml.debug(model, inputs) as session:
        session.run("first/*")
        assert session.engine.source.is_complete


@pytest.mark.compiles
@pytest.mark.parametrize("large", [0, 1 << 26], ids=["sent early", "in its turn"])
def test_what_the_first_kernel_reads_is_sent_while_it_is_compiled(
    large, kernel_cache, monkeypatch, nothing_left
):
    """It is told as sent for that operator all the same."""
    monkeypatch.setattr("tapml_nb.execute.caller._LARGE", large)
    with tapml.debug(*made()) as session:
        engine = session.engine
        sent: list[int] = []
        link = engine.compiler.link

        def counted(kernels, library):
            sent.append(engine.pool.bytes_sent)
            return link(kernels, library)

        monkeypatch.setattr(engine.compiler, "link", counted)
        report = session.run()
        first = session.graph.ops[0]
        reads = sum(session.engine.source.array(v, 0).nbytes for v in first.inputs)
        assert sent[0] == (0 if large else reads)
        result = report.introduced[first.id, 0]
        assert result.verdict is Verdict.PASS
        assert result.sent_bytes >= reads
        assert sum(r.sent_bytes for r in report.introduced.values()) == report.info.sent_bytes
