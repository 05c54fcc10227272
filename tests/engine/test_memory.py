"""A model that is larger than its target's memory: judged operator by operator, as on any other."""

from __future__ import annotations

import re
from dataclasses import replace

import pandas as pd
import torch
from torch import nn

import tapml_nb as tapml
from tapml_nb import Target
from tapml_nb.api import open_session
from tapml_nb.engine.verbs import runs
from tapml_nb.frontends.torch import import_torch
from tapml_nb.frontends.torch.tensors import memory_of, plain
from tapml_nb.judge.verdict import Verdict
from tests import kernels, models
from tests.targets.serving import serving

BOUND = 300_000
TIMES = ["source_ms", "target_ms", "sent_bytes"]


def large():
    """A Llama whose weights are several times what its target may take."""
    model, inputs = models.llama(layers=6)
    assert sum(p.nbytes for p in model.parameters()) > 3 * BOUND
    return model, inputs


def found(max_memory):
    """What a session finds in every kind of run, and the most that its target held meanwhile."""
    target = Target("llvm", max_memory=max_memory)
    with tapml.debug(*large(), target=target) as session:
        first, held = session.engine.pool.first, []
        for event in ("OpJudged", "OpAccumulated", "OutputsCompared"):
            session.on(event, lambda event: held.append(first.held()))
        report = session.run()
        sent = report.info.sent_bytes
        session.offload(
            [op.id for op in session.graph.ops if report.verdict(op.id) in runs.MOVABLE]
        )
        runs.hybrid(session.engine, whole=True)
        return session.report, max(held), sent


def test_the_same_verdicts_and_the_bound_kept(kernel_cache, nothing_left):
    plain, all_of_it, sent = found(None)
    bounded, held, again = found(BOUND)
    pd.testing.assert_frame_equal(
        plain.frame().drop(columns=TIMES), bounded.frame().drop(columns=TIMES)
    )
    assert plain.verdict("lm_head/linear") is Verdict.PASS
    assert bounded.info.unobserved == plain.info.unobserved
    assert bounded.info.unobserved.same
    assert all_of_it > 3 * BOUND
    assert held <= bounded.info.peak_bytes <= BOUND
    assert plain.info.peak_bytes >= all_of_it
    weights = sum(p.nbytes for p in large()[0].parameters())
    assert sent <= again < sent + weights, "in one run, weights are sent once either way"
    assert bounded.info.sent_bytes > plain.info.sent_bytes


_POOLED = """
import tvm_ffi
service.open_device = lambda *_: devices.PooledTvmDevice(tvm_ffi.device("cpu", 0))
"""


def test_a_pool_of_blocks_keeps_to_the_bound_with_all_that_it_holds(kernel_cache):
    """As on a GPU: what is counted is what the device holds."""
    with serving(_POOLED) as other:
        address, frames = other.at(other.port), []
        for max_memory in (None, BOUND):
            target = Target("llvm", rpc=address, max_memory=max_memory)
            with tapml.debug(*large(), target=target) as session:
                report = session.run()
                session.offload(
                    [op.id for op in session.graph.ops if report.verdict(op.id) in runs.MOVABLE]
                )
                runs.hybrid(session.engine, whole=True)
                frames.append(session.report.frame().drop(columns=TIMES))
                assert session.report.info.unobserved.same
                peak = session.report.info.peak_bytes
                assert peak <= BOUND if max_memory else peak > 3 * BOUND
                assert session.engine.pool.first.connection.peak > 0, "the pool has told"
    pd.testing.assert_frame_equal(*frames)


def test_a_planted_fault_is_found(kernel_cache, nothing_left):
    model, inputs = models.two_layers()
    with tapml.debug(model, inputs, target=Target("llvm", max_memory="2 kB")) as session:
        assert session.run().ok
        session.override("act/silu", kernels.forgets_a_row)
        report = session.run()
        assert [culprit.op for culprit in report.culprits] == ["act/silu"]
        assert report.verdict("second/linear") is Verdict.PASS
        assert session.engine.pool.peak_bytes <= 2000


class Wide(nn.Module):
    """One operator of three is too large for a target of 64 kB."""

    def __init__(self):
        super().__init__()
        self.narrow, self.wide = nn.Linear(16, 16), nn.Linear(16, 1000)

    def forward(self, x):
        return self.wide(self.narrow(x)).sum(-1)


def test_what_does_not_fit_even_alone_is_unsupported_with_both_sizes(kernel_cache, nothing_left):
    torch.manual_seed(0)
    inputs = (torch.randn(4, 16),)
    with tapml.debug(Wide().eval(), inputs, target=Target("llvm", max_memory="64 kB")) as session:
        report = session.run()
        assert report.verdict("narrow/linear") is Verdict.PASS
        result = report.introduced["wide/linear", 0]
        assert result.verdict is Verdict.UNSUPPORTED
        needed, allowed = re.search(
            r"it needs ([\d,]+) bytes there, and max_memory allows ([\d,]+)", result.message
        ).groups()
        assert allowed == "64,000"
        weight, output = 1000 * 16 * 4, 4 * 1000 * 4
        assert int(needed.replace(",", "")) >= 2 * weight + 3 * output
        assert result.sent_bytes == 0
        assert report.verdict("sum") is Verdict.PASS
        assert report.ok
        assert session.engine.pool.peak_bytes <= 64_000
        session.offload("*")
        runs.hybrid(session.engine, whole=True)
        report = session.report
        assert "computed by the source" in report.accumulated["wide/linear", 0].message
        assert report.info.outputs is Verdict.PASS
        assert report.info.unobserved.same
        assert session.engine.pool.peak_bytes <= 64_000
    roomy = Target("llvm", max_memory=int(needed.replace(",", "")))
    with tapml.debug(Wide().eval(), inputs, target=roomy) as session:
        assert session.run("wide/linear").verdict("wide/linear") is Verdict.PASS


def test_each_worker_has_its_bound(kernel_cache, nothing_left):
    target = Target("llvm", workers=2, max_memory=BOUND)
    with tapml.debug(*large(), target=target) as session:
        report = session.run()
        assert report.counts[Verdict.UNSUPPORTED] == 0
        assert report.counts[Verdict.FAIL] == 0
        sessions = session.engine.pool.sessions
        assert all(0 < one.peak_bytes <= BOUND for one in sessions)
        assert report.info.peak_bytes == max(one.peak_bytes for one in sessions)


def test_a_kernel_that_spoils_what_another_reads_is_seen_in_parts_as_well(
    kernel_cache, nothing_left
):
    """Where what it has written to goes, and comes back as it was, for want of room."""

    class Reading(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.SiLU()

        def forward(self, x, y):
            return self.act(x).sum() + (y @ y @ y @ y @ y @ y).sum() + x.tanh().sum()

    torch.manual_seed(0)
    inputs = (torch.randn(3, 16), torch.randn(64, 64))
    for max_memory in (None, "100 kB"):
        target = Target("llvm", max_memory=max_memory)
        with tapml.debug(Reading().eval(), inputs, target=target) as session:
            session.override("act/silu", kernels.spoils_its_input)
            session.offload("*")
            runs.hybrid(session.engine, whole=True)
            messages = [r.message for r in session.report.accumulated.values()]
            assert not any("computed by the source" in message for message in messages)
            unobserved = session.report.info.unobserved
            assert unobserved.same is False, max_memory
            assert unobserved.op == "act/silu"


def over_there(program):
    """A program of PyTorch whose values are handled as those on a GPU are: as its own tensors."""

    def memory(tensor):
        found = memory_of(tensor)
        return found and replace(found, data=lambda: torch.from_numpy(found.data()))

    program.array_of = plain
    program.memory = memory
    return program


def test_a_budget_for_values_on_a_gpu_changes_no_result(kernel_cache, nothing_left):
    frames, spilled = [], []
    for max_memory in (None, "1 kB"):
        program = over_there(import_torch(*models.llama()))
        with open_session(program, "llvm", max_memory=max_memory) as session:
            session.run()
            session.migrate()
            runs.hybrid(session.engine)
            frames.append(session.report.frame().drop(columns=TIMES))
            storage = session.engine.source.storage
            spilled.append(storage.spilled)
            assert not max_memory or storage.resident <= 1000
    pd.testing.assert_frame_equal(*frames)
    assert spilled[0] == 0
    assert spilled[1] > 50_000
