"""Kernels come a few at a time, and verdicts with them."""

from __future__ import annotations

import threading

import pytest
import torch

import tapml_nb as tapml
from tapml_nb import Target
from tapml_nb.compile.trouble import CompilerTrouble
from tapml_nb.judge.verdict import Verdict
from tapml_nb.targets.client.endpoint import LocalServer
from tests.conftest import wait_until
from tests.execute.test_kernels import Wide, cache, good

__all__ = ["cache"]


class Held:
    """Kernels that are compiled after a first one wait for this, but not for ever."""

    def __init__(self, session, monkeypatch):
        monkeypatch.setattr("tapml_nb.execute.preparation._FIRST_LOAD", 0.0)
        self.released = threading.Event()
        self.in_time = True
        self._first = True
        self._compile = session.engine.compiler.compile
        monkeypatch.setattr(session.engine.compiler, "compile", self.compile)

    def compile(self, modules):
        for result in self._compile(modules):
            if not self._first:
                self.in_time &= self.released.wait(60)
            self._first = False
            yield result


def test_verdicts_come_while_later_kernels_are_compiled(cache, monkeypatch, nothing_left):
    with tapml.debug(Wide(10).eval(), (torch.randn(2, 10),)) as session:
        held = Held(session, monkeypatch)
        known: list[object] = []

        def judged(event):
            if event.result.verdict is Verdict.PASS and not known:
                known.append(session.engine.kernels.prepared("layers.11/linear", 0))
                held.released.set()

        session.on("OpJudged", judged)
        report = session.run()
        assert held.in_time
        assert known == [None]  # the last operator had no kernel yet
        assert good(report)
        assert set(report.introduced) == {(op.id, 0) for op in session.graph.ops}


def test_what_is_asked_meanwhile_has_its_kernels_too(cache, monkeypatch, nothing_left):
    with tapml.debug(Wide(10).eval(), (torch.randn(2, 10),)) as session:
        held = Held(session, monkeypatch)
        moved: list[str] = []
        asking = threading.Thread(target=lambda: moved.extend(session.offload("layers.11")))

        def judged(event):
            if event.result.verdict is Verdict.PASS and not held.released.is_set():
                asking.start()
                assert wait_until(lambda: not session.engine.jobs._queue.empty())
                held.released.set()

        session.on("OpJudged", judged)
        report = session.run()
        asking.join()
        assert moved == ["layers.11/linear"]
        assert good(report)
        assert not report.info.stopped
        assert len(report.introduced) == len(session.graph)


def test_a_warm_cache_costs_one_link(cache, monkeypatch, nothing_left):
    model, inputs = Wide(10).eval(), (torch.randn(2, 10),)
    with tapml.debug(model, inputs) as session:
        session.run()
    monkeypatch.setattr("tapml_nb.execute.preparation._WARM", 600.0)
    with tapml.debug(model, inputs) as session:
        links, link = [], session.engine.compiler.link

        def counted(kernels, library):
            links.append(len(kernels))
            return link(kernels, library)

        monkeypatch.setattr(session.engine.compiler, "link", counted)
        assert good(session.run())
        assert links == [session.report.info.kernels]
        assert session.engine.compiler.compiled == 0


def test_a_stop_at_the_first_verdict_keeps_it(cache, monkeypatch, nothing_left):
    with tapml.debug(Wide(10).eval(), (torch.randn(2, 10),)) as session:
        held = Held(session, monkeypatch)
        session.on("OpJudged", lambda _: held.released.set() or session.stop())
        report = session.run()
        assert report.info.stopped
        assert 1 <= len(report.introduced) < len(session.graph)


def test_kernels_come_though_the_first_device_is_gone(cache, monkeypatch, nothing_left):
    servers = [LocalServer() for _ in range(2)]
    addresses = [f"127.0.0.1:{server.port}/{server.token}" for server in servers]
    try:
        target = Target("llvm", rpc=addresses)
        with tapml.debug(Wide(10).eval(), (torch.randn(2, 10),), target=target) as session:
            held = Held(session, monkeypatch)

            def judged(event):
                if event.result.verdict is Verdict.PASS and not held.released.is_set():
                    servers[0].close()
                    held.released.set()

            session.on("OpJudged", judged)
            report = session.run()
            assert held.in_time
            assert good(report)
            assert len(report.introduced) == len(session.graph)
    finally:
        for server in servers:
            server.close()


def test_an_error_of_the_compilers_ends_the_run_and_keeps_what_was_judged(
    cache, monkeypatch, nothing_left
):
    with tapml.debug(Wide(10).eval(), (torch.randn(2, 10),)) as session:
        held = Held(session, monkeypatch)
        compile_ = held._compile

        def fails(modules):
            yield next(compile_(modules))
            assert held.released.wait(60)
            raise CompilerTrouble("no disk")

        held._compile = fails
        session.on("OpJudged", lambda _: held.released.set())
        with pytest.raises(CompilerTrouble, match="no disk"):
            session.run()
        assert 1 <= len(session.report.introduced) < len(session.graph)
