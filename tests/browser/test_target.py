"""A browser's page as the target: the WGSL of a whole model in a real Chromium's WebGPU."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import psutil
import pytest
import torch
from playwright.sync_api import Browser, Page, expect
from torch import nn

import tapml_nb as tapml
from tapml_nb.judge.verdict import Verdict
from tapml_nb.targets.client import supervisor
from tapml_nb.targets.client.session import TargetSession
from tapml_nb.targets.spec import Target
from tapml_nb.targets.wire.errors import TargetError, TargetLost
from tests import kernels, models
from tests.browser.conftest import WEBGPU, launch, new_page
from tests.conftest import wait_until

SERVING = "This page is the target"


def browser_target(timeout: float = 10.0) -> Target:
    return Target("webgpu", rpc="browser", timeout=timeout)


@pytest.fixture
def page(gpu_browser: Browser, nothing_left) -> Iterator[Page]:
    with new_page(gpu_browser) as page:
        yield page


@pytest.fixture
def session(kernel_cache, page: Page) -> Iterator[tapml.Session]:
    model, inputs = models.two_layers()
    with tapml.debug(model, inputs, target=browser_target()) as session:
        page.goto(session.link)
        yield session


def state(page: Page) -> Any:
    return expect(page.get_by_role("status"))


def judged(session: tapml.Session, kernel: Any) -> Any:
    session.override("act/silu", kernel)
    report = session.run()
    assert report.verdict("second/linear") is Verdict.PASS
    return report.introduced["act/silu", 0]


def gpu_processes() -> set[psutil.Process]:
    """The browsers' processes that talk to the GPU."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "--type=gpu-process" in process.cmdline():
                found.add(process)
    return found


def test_the_link_is_printed(kernel_cache, nothing_left, capsys):
    model, inputs = models.two_layers()
    with tapml.debug(model, inputs, target=browser_target()) as session:
        assert f"open {session.link} in a browser" in capsys.readouterr().out
    with (
        tapml.debug(model, inputs, target="llvm") as session,
        pytest.raises(RuntimeError, match="the target is no browser"),
    ):
        session.link  # noqa: B018


def test_a_model_is_judged_and_moves_over(session, page):
    state(page).to_contain_text("Ready: ")
    report = session.run()
    state(page).to_contain_text(SERVING)
    assert report.ok
    assert report.counts == {Verdict.PASS: 3}
    assert session.run().info.sent_bytes == report.info.sent_bytes
    assert len(session.migrate().offloaded) == 3
    assert session.report.info.unobserved.same
    assert "@compute" in session.code("act/silu").source
    assert "Chrome" in session.engine.pool.first.platform["device"]["name"]


def test_tensors_travel_unchanged(page):
    numbers = np.random.default_rng(0)
    session = TargetSession(browser_target())
    page.goto(session.link)
    with session:
        for shape in ((), (0, 3), (5,), (3, 7)):
            for dtype in ("float32", "float16", "int8", "int64", "bool", "bfloat16"):
                sent = (numbers.normal(size=shape) * 50).astype(
                    ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
                )
                session.put(f"{dtype} {shape}", sent)
                fetched = session.fetch(f"{dtype} {shape}")
                assert fetched.dtype == sent.dtype
                assert np.array_equal(fetched, sent)
        large = numbers.normal(size=(3, 1000, 1001)).astype(np.float32)  # several messages
        session.put("large", large)
        assert np.array_equal(session.fetch("large"), large)
        with pytest.raises(TargetError, match="the value 4294967296; integers have 32 bits"):
            session.put("wide", np.array([1, 1 << 32]))


def test_kernels_of_the_users(session):
    assert judged(session, kernels.honest).verdict is Verdict.PASS
    forgetful = judged(session, kernels.forgets_a_row)
    assert forgetful.verdict is Verdict.FAIL
    assert forgetful.message == "never writes 16 of 48 elements, from [2, 0] on"
    # Of the logarithm of a negative number, WGSL promises nothing.
    assert judged(session, kernels.returns_nan).verdict in (Verdict.NONFINITE, Verdict.FAIL)


def test_a_limit_is_no_crash(session):
    result = judged(session, kernels.wants_many_threads)
    assert result.verdict is Verdict.UNSUPPORTED
    assert "workgroups of 8192 threads; the device allows" in result.message


def test_what_the_browser_rejects_is_told(kernel_cache, page):
    """TVM 0.27 makes an array of i8 of a tensor of bool, a type that WGSL does not have."""

    class Compare(nn.Module):
        def forward(self, x):
            return x > 0

    with tapml.debug(Compare().eval(), (torch.randn(5),), target=browser_target()) as session:
        page.goto(session.link)
        result = session.run().introduced["gt", 0]
    assert result.verdict is Verdict.COMPILE_ERROR
    assert "line 5, column" in result.message


def test_a_session_killed_in_mid_run_comes_back_to_the_page(session, page):
    session.on(
        "OpJudged",
        lambda event: (
            event.op == "first/linear"
            and psutil.Process(session.engine.pool.first.platform["pid"]).kill()
        ),
    )
    report = session.run()
    assert report.ok
    assert report.info.restarts == 1
    state(page).to_contain_text(SERVING)


def test_a_page_closed_in_mid_run_and_opened_again(kernel_cache, gpu_browser, nothing_left):
    """What was judged stays judged, the run waits and goes on; so it does in another page."""
    model, inputs = models.llama()
    with tapml.debug(model, inputs, target=browser_target()) as session:
        judged, awaited = [], []
        session.on("OpJudged", lambda event: judged.append(event.op))
        session.on("TargetAwaited", lambda event: awaited.append(event.link))
        with new_page(gpu_browser) as first:
            first.goto(session.link)
            session.run(wait=False)
            assert wait_until(lambda: len(judged) > 10, 60)
        assert wait_until(lambda: len(awaited) == 2, 20)
        before = len(judged)
        assert session.engine.jobs.run.done.is_set() is False
        with new_page(gpu_browser) as second:
            second.goto(awaited[-1])
            report = session.wait()
        assert report.info.restarts == 1
        assert len(judged) == len(set(judged)) == len(session.graph.ops) > before
        # TVM 0.27 has no way to write bool, and thereby causal masks, in WGSL; of sine and cosine
        # WGSL promises no more than 2^-11, and SwiftShader keeps no more.
        assert report.counts[Verdict.PASS] > 100
        bad = {report.verdict(culprit.op) for culprit in report.culprits}
        assert bad <= {Verdict.COMPILE_ERROR, Verdict.FAIL}
        failing = [c.op for c in report.culprits if report.verdict(c.op) is Verdict.FAIL]
        assert set(failing) <= {"model.rotary_emb/cos", "model.rotary_emb/sin"}


def test_the_next_page_takes_over(session, page, gpu_browser):
    assert session.run().ok
    with new_page(gpu_browser) as second:
        second.goto(session.link)
        state(second).to_contain_text("Ready: ")
        page.close()
        assert session.run().ok
        state(second).to_contain_text(SERVING)


def test_a_page_that_never_comes(kernel_cache, nothing_left, monkeypatch):
    monkeypatch.setattr(supervisor, "PAGE_SECONDS", 1.5)
    model, inputs = models.two_layers()
    with tapml.debug(model, inputs, target=browser_target()) as session:
        begin = time.monotonic()
        with pytest.raises(TargetLost, match=rf"no page came within 1\.5 s; open {session.link}"):
            session.run()
        assert time.monotonic() - begin < 30


def test_waiting_for_a_page_can_be_stopped(kernel_cache, nothing_left):
    model, inputs = models.two_layers()
    with tapml.debug(model, inputs, target=browser_target()) as session:
        awaited: list[Any] = []
        session.on("TargetAwaited", awaited.append)
        session.run(wait=False)
        assert wait_until(lambda: bool(awaited), 20)
        begin = time.monotonic()
        session.stop()
        assert time.monotonic() - begin < 15  # a page is awaited for minutes
        assert session.report.info.stopped


def test_a_session_that_ends_lets_its_page_go(kernel_cache, page):
    model, inputs = models.two_layers()
    with tapml.debug(model, inputs, target=browser_target()) as session:
        page.goto(session.link)
        assert session.run().ok
    state(page).to_contain_text("The session has ended", timeout=10_000)


class TestAnEndlessLoop:
    """In WGSL; SwiftShader has no watchdog, so somebody has to end the browser's GPU process."""

    @pytest.fixture
    def hang(self, kernel_cache, playwright, nothing_left) -> Iterator[Callable[..., Any]]:
        model, inputs = models.two_layers()
        others = gpu_processes()
        with (
            launch(playwright, *WEBGPU) as browser,
            new_page(browser) as page,
            tapml.debug(model, inputs, target=browser_target(4.0)) as session,
        ):
            page.goto(session.link)
            assert session.run().ok
            session.override("act/silu", kernels.spins)

            def run(seconds: float) -> Any:
                """Kill the GPU process some seconds after the run began."""
                session.run(wait=False)
                time.sleep(seconds)
                for process in gpu_processes() - others:
                    process.kill()
                return session.wait()

            yield run

    def test_the_device_does_not_answer(self, hang):
        report = hang(7.0)
        result = report.introduced["act/silu", 0]
        assert (result.verdict, result.message) == (Verdict.TIMEOUT, "no answer within 4 s")
        assert report.verdict("second/linear") is Verdict.PASS

    def test_the_device_is_lost(self, hang):
        report = hang(2.5)
        result = report.introduced["act/silu", 0]
        assert result.verdict is Verdict.CRASH
        assert "the browser lost the device: " in result.message
        assert report.verdict("second/linear") is Verdict.PASS
