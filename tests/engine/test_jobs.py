"""A session's thread can be stopped whatever it is at, or says that it cannot."""

import os
import signal
import threading
import time

import numpy as np
import pytest

import tapml_nb as tapml
from tapml_nb.engine.jobs import JobThread, SessionBusy
from tapml_nb.execute.host_call import BrokenOff, Overdue, call_within, interrupt
from tapml_nb.execute.source import Stopped
from tapml_nb.judge.verdict import Verdict
from tests import models


def loops(*_):
    while True:
        time.sleep(0.001)


def sleeps(*_):
    time.sleep(4)


def silu(x):
    return x / (1 + np.exp(-x))


def silu_of_a_slow_machine(x):
    time.sleep(0.1)
    return silu(x)


@pytest.fixture
def thread(nothing_left):
    thread = JobThread(lambda: None)
    yield thread
    thread.close()


class TestAFunctionOfTheUsers:
    def test_returns(self):
        assert call_within(60, lambda: 3) == 3

    def test_raises(self):
        with pytest.raises(ZeroDivisionError):
            call_within(60, lambda: 1 // 0)

    def test_is_broken_off(self):
        seen = []

        def function():
            try:
                loops()
            except BrokenOff:
                seen.append(threading.current_thread())
                raise

        with pytest.raises(Overdue, match=r"^$"):
            call_within(0.1, function)
        assert not seen[0].is_alive()

    def test_is_left_alone_in_c_code(self):
        begin = time.monotonic()
        with pytest.raises(Overdue, match="in C code that nobody can end"):
            call_within(0.1, sleeps)
        assert time.monotonic() - begin < 3

    def test_is_interrupted(self):
        me = threading.get_ident()
        timer = threading.Timer(0.1, lambda: interrupt(me))
        timer.start()
        with pytest.raises(Stopped):
            call_within(60, loops)
        timer.join()


class TestStop:
    def test_python_code_is_broken_off(self, thread, monkeypatch):
        monkeypatch.setattr("tapml_nb.engine.jobs._PYTHON_SECONDS", 0.1)
        job = thread.start(loops)
        thread.stop()
        assert job.done.is_set()
        assert isinstance(job.error, Stopped)
        assert thread.do(lambda: 3) == 3

    def test_what_cannot_be_broken_off_is_given_up_and_said(self, thread, monkeypatch):
        monkeypatch.setattr("tapml_nb.engine.jobs._GIVE_UP_SECONDS", 0.6)
        thread.start(sleeps)
        begin = time.monotonic()
        with pytest.warns(RuntimeWarning, match=r"test_jobs\.py:\d+ \(sleeps\)"):
            thread.stop()
        assert time.monotonic() - begin < 3
        assert thread.hung
        for ask in (lambda: thread.start(int), lambda: thread.do(int)):
            with pytest.raises(SessionBusy, match=r"\(sleeps\), which nothing can break off"):
                ask()
        thread.stop()  # at once, and without another word
        thread.run.done.wait(30)
        assert thread.do(lambda: 3) == 3

    def test_closing_does_not_wait_for_ever(self, thread, monkeypatch):
        monkeypatch.setattr("tapml_nb.engine.jobs._GIVE_UP_SECONDS", 0.6)
        thread.start(sleeps)
        begin = time.monotonic()
        thread.close()
        with pytest.warns(RuntimeWarning):
            thread.stop()
        thread.join()
        assert time.monotonic() - begin < 3
        thread.run.done.wait(30)


class TestOverrides:
    @pytest.fixture
    def session(self, kernel_cache, nothing_left):
        model, inputs = models.two_layers()
        with tapml.debug(model, inputs, target=tapml.Target("llvm", timeout=1)) as session:
            yield session

    @pytest.mark.parametrize(
        ("function", "verdict", "words"),
        [
            (silu_of_a_slow_machine, Verdict.PASS, ""),
            (loops, Verdict.TIMEOUT, "did not return within 1 s"),
            (sleeps, Verdict.TIMEOUT, "in C code that nobody can end, and goes on"),
        ],
    )
    def test_has_the_targets_time(self, session, function, verdict, words):
        session.override("act/silu", function)
        report = session.run()
        assert report.verdict("act/silu") is verdict
        assert words in report.introduced["act/silu", 0].message
        assert report.verdict("second/linear") is Verdict.PASS
        session.override("act/silu", None)
        assert session.run().verdict("act/silu") is Verdict.PASS

    def test_the_first_ctrl_c_ends_it(self, kernel_cache, nothing_left):
        model, inputs = models.two_layers()
        with tapml.debug(model, inputs, target=tapml.Target("llvm", timeout=600)) as session:
            session.override("act/silu", loops)
            timer = threading.Timer(4, lambda: os.kill(os.getpid(), signal.SIGINT))
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                session.run()
            timer.join()
            assert not session.status.busy
            session.override("act/silu", None)
            assert session.run().verdict("act/silu") is Verdict.PASS

    def test_may_ask_the_session(self, session):
        def function(x):
            assert session.tensor("first/linear").shape == x.shape
            return silu(x)

        session.override("act/silu", function)
        assert session.run().verdict("act/silu") is Verdict.PASS


def test_two_that_ask_at_once_are_both_answered():
    thread = JobThread(lambda: None)
    answers: list[object] = []
    gate = threading.Barrier(4)

    def ask(number: int) -> None:
        for _ in range(200):
            gate.wait()
            try:
                answers.append(thread.do(lambda: number))
            except Exception as error:
                answers.append(error)

    askers = [threading.Thread(target=ask, args=(k,)) for k in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    thread.close()
    assert sorted(map(str, answers)) == sorted([str(k) for k in range(4)] * 200)
