"""Weights that go ahead of need: a run finds the same, sends the same, and ends as cleanly."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import nn

import tapml_nb as tapml
from tapml_nb import ModelChanged, Target, Verdict
from tapml_nb.execute.events import OpJudged, OpStarted
from tapml_nb.execute.preparation import Call
from tapml_nb.execute.weights import WeightsAhead
from tapml_nb.targets.client.prefetch import Prefetch, Transfer
from tests import kernels
from tests.targets.proxy import Proxy
from tests.targets.serving import Serving, serving
from tests.targets.test_prefetch import MARK, Meter, all_is_sent

KB = 1 << 10


class Model(nn.Module):
    """Operators with small weights, and two with 512 KB each; those of the first are marked."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.act = nn.SiLU()
        self.second = nn.Linear(16, 8192)
        self.third = nn.Linear(8192, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.third(self.second(self.act(self.first(x))))


def model() -> tuple[Model, tuple[torch.Tensor]]:
    torch.manual_seed(0)
    made = Model().eval().requires_grad_(False)
    made.second.weight.fill_(float(np.frombuffer(bytes([MARK] * 4), np.float32)[0]))
    return made, (torch.randn(3, 8),)


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving() as running:
        yield running


@pytest.fixture
def proxy(server) -> Iterator[Proxy]:
    line = Proxy(server.port)
    yield line
    line.close()


@pytest.fixture
def given() -> tuple[Model, tuple[torch.Tensor]]:
    return model()


@pytest.fixture
def opened(nothing_left, kernel_cache, given, proxy, server) -> Iterator[tapml.Session]:
    with tapml.debug(*given, target=Target("llvm", rpc=server.at(proxy.port))) as session:
        yield session


@pytest.fixture
def sent_ahead(monkeypatch) -> list[bool]:
    """Whatever is announced is sent before the next operator is judged; for each weight that an
    operator needs and that was under way, whether it got there so."""
    found: list[bool] = []
    announce, finish = WeightsAhead.of, Transfer.finish

    def announced(self: WeightsAhead, calls: Sequence[Call]) -> None:
        announce(self, calls)
        assert all_is_sent()

    def noted(self: Transfer, array: np.ndarray) -> bool:
        found.append(finish(self, array))
        return found[-1]

    monkeypatch.setattr(WeightsAhead, "of", announced)
    monkeypatch.setattr(Transfer, "finish", noted)
    return found


@pytest.mark.parametrize("crashes", [False, True], ids=["all well", "a kernel crashes"])
def test_the_same_is_found_and_sent(opened, proxy, server, sent_ahead, monkeypatch, crashes):
    """With and without, also where a process that had them all ends."""

    def settled(event: OpJudged) -> None:
        assert all_is_sent()

    def run(session: tapml.Session) -> dict[str, tuple[Verdict, int]]:
        session.on("OpJudged", settled)
        if crashes:
            session.override("act/silu", kernels.segfaults)
        report = session.run()
        assert report.verdict("act/silu") is (Verdict.CRASH if crashes else Verdict.PASS)
        assert report.info.restarts == crashes
        return {r.op: (r.verdict, r.sent_bytes) for r in report.introduced.values()}

    with monkeypatch.context() as without:
        without.setattr(WeightsAhead, "of", lambda self, calls: None)
        with tapml.debug(*model(), target=Target("llvm", rpc=server.at(proxy.port))) as session:
            expected = run(session)
    assert sent_ahead == []
    assert run(opened) == expected
    assert len(sent_ahead) == 2
    assert all(sent_ahead[crashes:])  # who comes first in a new process need not wait for anything


def test_stop_leaves_nothing_half_done(opened, proxy):
    meter = Meter(proxy)
    meter.at, meter.then = 100 * KB, meter.hold
    opened.run(wait=False)
    assert meter.reached.wait(60)
    opened.stop()
    meter.gate.set()
    assert all_is_sent()
    assert opened.report.info.stopped
    assert opened.run().counts == {Verdict.PASS: 4}


def test_a_line_that_is_cut_changes_nothing(opened, proxy, server):
    meter = Meter(proxy)
    meter.at, meter.then = 100 * KB, meter.cut
    assert opened.run().counts == {Verdict.PASS: 4}
    assert meter.at is None
    assert all_is_sent()


def test_a_model_that_changes_meanwhile_is_noticed(given, opened, proxy):
    meter = Meter(proxy)

    def change(_: bytearray) -> None:
        """In the middle of its way."""
        given[0].second.weight.add_(1)
        changed.set()

    def wait(event: OpStarted) -> None:
        """Its operator looks at it after that."""
        if event.op.startswith("second"):
            assert changed.wait(60)

    changed = threading.Event()
    meter.at, meter.then = 100 * KB, change
    opened.on(OpStarted, wait)
    with pytest.raises(ModelChanged, match=r"second\.weight"):
        opened.run()
    assert all_is_sent()


def test_of_several_devices_none_is_sent_what_another_may_need(server, proxy, monkeypatch):
    added: list[str] = []
    monkeypatch.setattr(Prefetch, "add", lambda self, order, key, *rest: added.append(key))
    for lines in (1, 2):
        target = Target("llvm", rpc=[server.at(proxy.port)] * lines)
        with tapml.debug(*model(), target=target) as session:
            assert session.run().counts == {Verdict.PASS: 4}
        assert len(added) == 2
