"""Several equal devices share the judging: the same report, whoever computes what."""

from __future__ import annotations

import math
import time

import numpy as np
import psutil
import pytest

import tapml_nb as tapml
from tapml_nb import Target
from tapml_nb.judge.verdict import Verdict
from tapml_nb.targets.client.endpoint import LocalServer
from tapml_nb.targets.wire.errors import TargetLost
from tests import kernels, models


def essence(report):
    """What must not depend on who has judged."""
    return {
        call: (r.verdict, None if math.isnan(r.ratio) else r.ratio, r.message, r.pattern)
        for call, result in report.introduced.items()
        for r in [_Result(result)]
    }


class _Result:
    def __init__(self, result):
        self.verdict, self.ratio, self.message = result.verdict, result.ratio, result.message
        self.pattern = result.diagnosis.pattern if result.diagnosis else None


@pytest.fixture(scope="module")
def alone(kernel_cache):
    with tapml.debug(*models.llama()) as session:
        yield essence(session.run())


def test_four_workers_give_the_same_report(alone, nothing_left):
    with tapml.debug(*models.llama(), target=Target("llvm", workers=4)) as session:
        told = []
        session.on("OpStarted", lambda event: told.append(("started", event.op)))
        session.on("OpJudged", lambda event: told.append(("judged", event.op)))
        report = session.run()
        assert essence(report) == alone
        assert [t for t, _ in told] == ["started", "judged"] * len(session.graph)
        assert [a for _, a in told[::2]] == [b for _, b in told[1::2]]
        assert all(one.calls for one in session.engine.pool.sessions)
        assert len({one.platform["pid"] for one in session.engine.pool.sessions}) == 4
        again = session.run()
        assert again.info.sent_bytes < 4 * report.info.sent_bytes
        assert session.migrate().offloaded
        assert session.report.info.unobserved.same


def test_killing_one_in_mid_run_changes_nothing_but_time(alone, nothing_left):
    with tapml.debug(*models.llama(), target=Target("llvm", workers=4)) as session:
        session.run("model.layers.0.*")  # all four have their hands full
        killed = []

        def kill(event):
            if event.done == 20 and event.phase == "introduced":
                for one in session.engine.pool.sessions[1:3]:
                    psutil.Process(one.platform["pid"]).kill()
                    killed.append(one)

        session.on("RunProgress", kill)
        report = session.run()
        assert len(killed) == 2
        assert essence(report) == alone
        assert report.info.restarts == 2


def test_a_device_that_dies_for_good_is_dropped(alone, kernel_cache, nothing_left):
    servers = [LocalServer() for _ in range(3)]
    addresses = [f"127.0.0.1:{server.port}/{server.token}" for server in servers]
    try:
        with tapml.debug(*models.llama(), target=Target("llvm", rpc=addresses)) as session:

            def close(event):
                if event.done == 20 and event.phase == "introduced":
                    servers[0].close()  # that of the session's own thread, of all
                    servers[2].close()

            session.on("RunProgress", close)
            assert essence(session.run()) == alone
    finally:
        for server in servers:
            server.close()


def test_when_the_last_is_gone_the_run_ends_with_what_it_has(kernel_cache, nothing_left):
    servers = [LocalServer() for _ in range(2)]
    addresses = [f"127.0.0.1:{server.port}/{server.token}" for server in servers]
    try:
        with tapml.debug(*models.llama(), target=Target("llvm", rpc=addresses)) as session:

            def close(event):
                if event.done == 4 and event.phase == "introduced":  # the other is ahead
                    for server in servers:
                        server.close()

            session.on("RunProgress", close)
            with pytest.raises(TargetLost):
                session.run()
            assert 1 <= len(session.report.introduced) < len(session.graph)
    finally:
        for server in servers:
            server.close()


def test_faults_cost_one_verdict(kernel_cache, nothing_left):
    target = Target("llvm", workers=3, timeout=1.0)
    with tapml.debug(*models.two_layers(), target=target) as session:
        for kernel, verdict in (
            (kernels.segfaults, Verdict.CRASH),
            (kernels.loops, Verdict.TIMEOUT),
            (kernels.forgets_a_row, Verdict.FAIL),
        ):
            session.override("act/silu", kernel)
            report = session.run()
            assert [report.verdict(op.id) for op in session.graph.ops] == [
                Verdict.PASS,
                verdict,
                Verdict.PASS,
            ]


def test_stopping_ends_all(kernel_cache, nothing_left):
    target = Target("llvm", workers=3, timeout=60)
    with tapml.debug(*models.two_layers(), target=target) as session:
        for op in session.graph.ops:
            if op.id == "act/silu":
                session.override(op.id, kernels.loops)
        session.run(wait=False)
        time.sleep(1.0)
        begin = time.monotonic()
        session.stop()
        assert time.monotonic() - begin < 15
        assert session.report.info.stopped
        session.override("act/silu", None)
        assert session.run().ok


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"workers": 0}, "workers is 0"),
        ({"rpc": []}, "one address per worker"),
        ({"rpc": ["127.0.0.1:1/k"], "workers": 2}, "one address per worker"),
        ({"rpc": ["127.0.0.1:1/k", "nowhere"]}, "rpc is 'nowhere'"),
    ],
)
def test_bad_input(said, words):
    with pytest.raises(ValueError, match=words):
        Target("llvm", **said)


def test_gpus_have_numbers():
    members = Target("cuda", device=2, workers=3).members
    assert [(member.device, member.workers) for member in members] == [(2, 1), (3, 1), (4, 1)]
    assert np.all([member.device == 0 for member in Target("llvm", workers=2).members])
