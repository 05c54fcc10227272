"""The unobserved run: the target by itself, compared bit for bit with the hybrid run."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch
from torch import nn

import tapml_nb as tapml
from tapml_nb import Target
from tapml_nb.engine.verbs import runs
from tapml_nb.execute.events import OutputsCompared
from tapml_nb.judge.verdict import Verdict
from tapml_nb.targets.wire.errors import TargetError
from tests import kernels, models
from tests.targets.serving import serving


class Gated(nn.Module):
    """The activation's input is read once more after it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.act = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        return (self.act(hidden) + hidden).reshape(-1)[3:].tanh()


class Counting(nn.Module):
    """What a step returns depends on the steps before it."""

    total: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.SiLU()
        self.register_buffer("total", torch.zeros(3, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total += self.act(x)
        return self.total * 2


@pytest.fixture
def gated(kernel_cache, nothing_left):
    torch.manual_seed(0)
    with tapml.debug(Gated().eval(), (torch.randn(3, 8),)) as session:
        yield session


def offloaded(session):
    session.offload("*")
    return session.hybrid().info


def test_the_same_bits(gated):
    heard: list[OutputsCompared] = []
    gated.on(OutputsCompared, heard.append)
    info = offloaded(gated)
    assert info.outputs is Verdict.PASS
    assert info.unobserved.same
    assert info.unobserved.message == ""
    assert [event.result for event in heard] == [info.unobserved]
    assert "unobserved run: the same outputs, bit for bit" in gated.report.summary()


def test_it_is_made_when_all_is_on_the_target(gated):
    gated.offload("act/*")
    assert gated.hybrid().info.unobserved is None
    assert offloaded(gated).unobserved.same
    gated.restore("act/*")
    assert gated.hybrid().info.unobserved is None


def test_it_is_not_made_twice(gated):
    heard: list[OutputsCompared] = []
    gated.on(OutputsCompared, heard.append)
    first = offloaded(gated).unobserved
    calls = gated.engine.pool.first.calls
    assert offloaded(gated).unobserved is first
    assert gated.engine.pool.first.calls == calls
    assert len(heard) == 1


def test_nothing_comes_back_that_is_the_same(gated):
    offloaded(gated)
    gated.restore("*")
    gated.hybrid()
    gated.offload("*")
    received = []
    gated.on("OpAccumulated", lambda event: received.append(gated.engine.pool.first.bytes_received))
    gated.hybrid()
    assert gated.engine.pool.first.bytes_received == received[-1]
    assert not [
        k for k in gated.engine.pool.first.connection.resident if k.startswith("unobserved")
    ]


def test_operators_of_the_source_and_numpy_functions_in_between(gated):
    gated.override("act/silu", lambda x: x / (1 + np.exp(-x)))
    gated.override("add", lambda x, y: x + y)
    assert offloaded(gated).unobserved.same
    gated.override("first/linear", lambda x, w, b: 1 / 0)  # so the source computes it
    assert offloaded(gated).unobserved.same


def test_a_kernel_that_writes_to_what_others_read(gated):
    """The hybrid run sends the next kernel what the notebook knows, so it does not suffer."""
    gated.override("act/silu", kernels.spoils_its_input)
    info = offloaded(gated)
    assert info.outputs is Verdict.PASS
    assert not info.unobserved.same
    assert info.unobserved.op == "act/silu"
    assert "output 0 differs: 1 of 45 elements" in info.unobserved.message
    assert info.unobserved.message.endswith("it begins at act/silu: it writes to its own inputs")
    assert not gated.report.ok
    assert "DIFFERENT" in gated.report.summary()
    # What was spoiled is spoiled for nobody else.
    gated.override("act/silu", None)
    assert gated.run().counts[Verdict.FAIL] == 0
    assert offloaded(gated).unobserved.same


class Returning(nn.Module):
    """What the activation reads is read again after the source has had its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act = nn.Linear(8, 16), nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        turned = hidden.tanh()
        return self.act(hidden).sin() + hidden * turned


@pytest.mark.parametrize("wrong", [None, kernels.spoils_its_input])
def test_a_kernel_that_writes_to_what_is_read_after_the_source(kernel_cache, nothing_left, wrong):
    torch.manual_seed(0)
    with tapml.debug(Returning().eval(), (torch.randn(3, 8),)) as session:
        if wrong:
            session.override("act/silu", wrong)
        session.offload("*")
        session.restore(["tanh", "sin"])
        runs.hybrid(session.engine, whole=True)
        unobserved = session.report.info.unobserved
        assert unobserved.same is (wrong is None)
        assert ("a kernel writes to what another one reads" in unobserved.message) is bool(wrong)


def test_a_kernel_that_dies_when_nobody_looks(gated):
    """The hybrid run's call is the first in the target's process."""
    gated.override("act/silu", kernels.crashes_on_its_second_call)
    info = offloaded(gated)
    assert info.outputs is Verdict.PASS
    assert not info.unobserved.same
    assert info.unobserved.message.startswith("CRASH: SIGSEGV")
    gated.override("act/silu", None)
    assert offloaded(gated).unobserved.same


def test_state_goes_from_step_to_step(kernel_cache, nothing_left):
    torch.manual_seed(0)
    steps = [(torch.randn(3, 16),) for _ in range(3)]
    with tapml.debug(Counting().eval(), steps) as session:
        info = offloaded(session)
        assert info.outputs is Verdict.PASS
        assert info.unobserved.same
        session.override("act/silu", lambda x: x * np.float32(0.5))
        assert offloaded(session).unobserved.same
        totals = np.cumsum([x.numpy() for (x,) in steps], axis=0, dtype=np.float32)
        for step in range(3):
            found = session.engine.hybrid.array(session.graph.outputs[0], step)
            np.testing.assert_allclose(found, totals[step], rtol=1e-6)


def test_a_llama_migrated(kernel_cache, nothing_left):
    model, inputs = models.llama()
    with tapml.debug(model, inputs) as session:
        migration = session.migrate()
        assert session.report.info.unobserved.same
        # Half of it, so that tensors go to and fro.
        session.restore(migration.offloaded[::2])
        runs.hybrid(session.engine, whole=True)
        assert session.report.info.unobserved.same


def test_a_target_killed_in_between_is_nobodys_fault(gated):
    def kill(event):
        if event.op == "tanh":
            os.kill(gated.engine.pool.first.platform["pid"], signal.SIGKILL)

    forget = gated.on("OpAccumulated", kill)
    assert offloaded(gated).unobserved.same
    forget()
    assert gated.engine.pool.first.restarts == 1


class Transposed(nn.Module):
    """A sum whose order depends on how its input lies in memory."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.tanh().t().sum(-1).sigmoid()


@pytest.mark.parametrize("left", ["source", "accident"])
def test_what_the_source_computes_in_both_runs_is_the_same(kernel_cache, nothing_left, left):
    """The target's values come back contiguous; the source's own lie otherwise."""
    torch.manual_seed(0)
    x = torch.randn(513, 129)
    view = x.tanh().t()
    assert not torch.equal(view.sum(-1), view.contiguous().sum(-1)), "or this shows nothing"
    with tapml.debug(Transposed().eval(), (x,)) as session:
        # Bit for bit what the source has, so that the hybrid run takes the source's own tensor.
        session.override("tanh", lambda x: torch.from_numpy(x.copy()).tanh().numpy())
        session.offload("*")
        if left == "accident":
            session.override("sum", lambda x: 1 / 0)
        else:
            session.restore("sum")
        runs.hybrid(session.engine, whole=True)
        info = session.report.info
        assert info.outputs is Verdict.PASS
        assert info.unobserved.same, info.unobserved.message
        accumulated = session.report.accumulated["sum", 0]
        assert accumulated.max_abs == 0, "computed of the same values in the same layout"


def test_a_fault_that_only_shows_behind_the_source(kernel_cache, nothing_left):
    """That the source's results are taken as they were hides no kernel that spoils their input."""
    torch.manual_seed(0)
    with tapml.debug(Gated().eval(), (torch.randn(3, 8),)) as session:
        session.override("act/silu", kernels.spoils_its_input)
        session.offload("*")
        session.restore("add")
        runs.hybrid(session.engine, whole=True)
        unobserved = session.report.info.unobserved
        assert unobserved.same is False
        assert unobserved.op == "act/silu"


class Buckets(nn.Module):
    """Logarithms as integers: that of 0 is one that 32 bits cannot hold, until it is bounded."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        far = x.log().to(torch.int64)
        near = torch.maximum(far.reshape(-1).reshape(3, 3), torch.zeros_like(far))
        return near.float().tanh()


def test_numbers_that_the_device_cannot_hold(kernel_cache, nothing_left):
    """Views are made where their input is, so the numbers never go to the device for them."""
    torch.manual_seed(0)
    x = torch.rand(3, 3) * 100
    x[0, 0] = 0
    with tapml.debug(Buckets().eval(), (x,), target="webgpu") as session:
        session.offload("*")
        session.restore("to")  # what becomes of -inf there is another matter
        runs.hybrid(session.engine, whole=True)
        info = session.report.info
        assert info.outputs is Verdict.PASS
        assert "cannot hold" in session.report.accumulated["maximum", 0].message
        assert info.unobserved.same, info.unobserved.message


def test_a_run_that_cannot_be_made_is_no_difference(gated, monkeypatch):
    """The hybrid run's calls were all made; then there is no room for an input any more."""
    gated.run()
    gated.offload("*")
    put = gated.engine.pool.first.put

    def full(key, array):
        if key.startswith("unobserved/"):
            raise TargetError("no room for 192 bytes")
        return put(key, array)

    monkeypatch.setattr(gated.engine.pool.first, "put", full)
    gated.override("act/silu", lambda x: x / (1 + np.exp(-x)))
    info = gated.hybrid().info
    assert info.unobserved.same is None
    assert info.unobserved.message == "the target cannot hold a tensor: no room for 192 bytes"
    summary = gated.report.summary()
    assert "unobserved run: could not be made: the target cannot hold a tensor" in summary
    assert "DIFFERENT" not in summary


_FULL = """
from tapml_nb.targets.wire.errors import NoRoom
from pathlib import Path
real = service.SessionService._chain
def chain(self, data):
    if data["observed"]:
        return real(self, data)
    asked = Path("{counter}")
    asked.write_text(asked.read_text() + "." if asked.exists() else ".")
    if len(asked.read_text()) <= {times}:
        raise NoRoom(100, 1000)
    return real(self, data)
service.SessionService._chain = chain
"""


@pytest.mark.parametrize(("times", "same"), [(1, True), (9, None)])
def test_a_full_device_says_nothing_of_kernels(kernel_cache, tmp_path, times, same):
    with serving(_FULL.format(counter=tmp_path / "asked", times=times)) as other:
        target = Target("llvm", rpc=other.at(other.port))
        with tapml.debug(*models.two_layers(), target=target) as session:
            session.offload("*")
            runs.hybrid(session.engine, whole=True)
            unobserved = session.report.info.unobserved
            assert unobserved.same is same
            assert ("no room for 100 bytes" in unobserved.message) == (same is None)
