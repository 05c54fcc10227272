"""In a row operators give what they give one by one, and what goes wrong is said of the right
one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import tapml_nb as tapml
from tapml_nb.frontends.torch.program import TorchProgram
from tapml_nb.frontends.torch.tensors import plain
from tapml_nb.numerics import bitwise_equal
from tapml_nb.targets.client.service import LineService
from tapml_nb.targets.client.session import TargetSession
from tapml_nb.targets.wire.calls import ChainCall
from tapml_nb.targets.wire.errors import TargetError
from tests import kernels
from tests.judge.holders import looking_costs

WRONG = [
    None,
    kernels.segfaults,
    kernels.loops,
    kernels.spoils_its_input,
    kernels.forgets_a_row,
    kernels.returns_nan,
    kernels.crashes_on_its_second_call,
]


def named(kernel):
    return kernel.attrs["global_symbol"] if kernel else "honest"


class Gates(nn.Module):
    """The input of each activation is read once more after it."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ModuleList([nn.SiLU() for _ in range(3)])
        self.turn = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(5):  # nothing runs for these
            x = x.reshape(48).reshape(3, 16)
        for act in self.act:
            hidden = self.turn(x)
            x = act(hidden) + hidden.reshape(16, 3).reshape(3, 16)
        return x.reshape(-1)[3:].tanh()


@pytest.fixture
def asked(monkeypatch):
    """How many calls there were in each request."""
    counts: list[int] = []
    call, chain = LineService.call, LineService.chain

    def called(self, requests):
        counts.append(len(requests))
        return call(self, requests)

    def chained(self, request):
        counts.append(len(request.calls))
        return chain(self, request)

    monkeypatch.setattr(LineService, "call", called)
    monkeypatch.setattr(LineService, "chain", chained)
    return counts


def opened(wrong):
    torch.manual_seed(0)
    target = tapml.Target("llvm", timeout=2)
    session = tapml.debug(Gates().eval(), (torch.randn(3, 16),), target=target)
    if wrong:
        session.override("act.1/silu", wrong)
    return session


def figures(report):
    """What a report says of operators, but for times."""
    return report.frame().drop(columns=["source_ms", "target_ms", "sent_bytes"])


def one_by_one(monkeypatch):
    monkeypatch.setattr(TargetSession, "takes_rows", property(lambda self: False))


def hybrid(wrong):
    """What a hybrid run says, and all its values."""
    with opened(wrong) as session:
        session.offload("*")
        reports = [session.hybrid()]
        session.restore("turn/linear")  # the first of them
        reports.append(session.hybrid())
        run, graph = session.engine.hybrid, session.graph
        values = {v: run.array(v, 0) for op in graph.ops for v in op.outputs if not op.host}
    return list(map(figures, reports)), values


@pytest.mark.parametrize("wrong", WRONG, ids=named)
def test_a_hybrid_run(kernel_cache, nothing_left, monkeypatch, asked, wrong):
    reports, values = hybrid(wrong)
    assert max(asked) > 2, "they were called in a row"
    one_by_one(monkeypatch)
    singly, theirs = hybrid(wrong)
    for ours, other in zip(reports, singly, strict=True):
        pd.testing.assert_frame_equal(ours, other)
    assert values.keys() == theirs.keys()
    assert all(bitwise_equal(values[v], theirs[v]) for v in values)


def judged(wrong):
    """What two runs say."""
    with opened(wrong) as session:
        return [figures(session.run()) for _ in range(2)]


@pytest.mark.parametrize("wrong", WRONG, ids=named)
def test_introduced_errors(kernel_cache, nothing_left, monkeypatch, asked, wrong):
    monkeypatch.setattr(TorchProgram, "array_of", staticmethod(plain))
    with looking_costs():
        reports = judged(wrong)
        assert max(asked) > 2, "they were called in a row"
        one_by_one(monkeypatch)
        singly = judged(wrong)
    for ours, other in zip(reports, singly, strict=True):
        pd.testing.assert_frame_equal(ours, other)
    broken = wrong is not None
    assert (ours.set_index("op").verdict["act.1/silu"] not in ("PASS", "SKIPPED")) is broken


@pytest.fixture
def target(kernel_cache, nothing_left):
    with opened(kernels.spoils_its_input) as session:
        session.run()
        yield session.engine.pool.first, session


def test_a_chain_that_is_observed_tells_what_it_has_spoiled_of_its_own(target):
    target, session = target
    spoils = session.engine.kernels["act.1/silu", 0].label
    honest = session.engine.kernels["act.0/silu", 0].label
    target.put("x", np.ones((3, 16), np.float32))
    calls = [ChainCall(honest, ("x",), ("y",)), ChainCall(spoils, ("y",), ("z",))]
    assert target.chain(calls, ["y", "z"], observed=True).overwritten == ("y",)
    assert target.chain(calls, ["y", "z"]).overwritten == (), "it was not looked at"


def test_a_view_has_the_size_of_what_it_shows(target):
    target, _ = target
    target.put("x", np.ones((3, 16), np.float32))
    with pytest.raises(TargetError, match="a view of 200 bytes of a tensor of 192"):
        target.chain([ChainCall(None, ("x",), ("v",), shape=(50,), dtype="float32")], ["v"])


def test_what_equals_a_reference_does_not_stay(target):
    target, session = target
    honest = session.engine.kernels["act.0/silu", 0].label
    target.put("x", np.ones((3, 16), np.float32))
    call = ChainCall(honest, ("x",), ("y",))
    assert target.chain([call], ["y"]).equals == (-1,)
    again = ChainCall(honest, ("x",), ("z",))
    assert target.chain([again], ["z"], [["x", "y"]]).equals == (1,)
    assert not target.resident("z")
