"""What a kernel gives again is neither fetched nor judged again, and what it does not is."""

from __future__ import annotations

import numpy as np
import pytest
from tvm.script import tirx as T

import tapml_nb as tapml
from tapml_nb.judge.verdict import Verdict
from tests import kernels, models


@T.prim_func(s_tir=True)
def a_little_large(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    for i, j in T.grid(3, 16):
        y[i, j] = T.float32(1.01) * x[i, j] / (T.float32(1) + T.exp(-x[i, j]))


@T.prim_func(s_tir=True)
def wrong_the_second_time(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    """SiLU in a process's first two calls, twice that in its third and fourth (glibc's rand())."""
    with T.sblock("turn"):
        turn = T.call_extern("int32", "rand")
        if turn == 1681692777 or turn == 1714636915:
            for i, j in T.grid(3, 16):
                y[i, j] = T.float32(2) * x[i, j] / (T.float32(1) + T.exp(-x[i, j]))
        else:
            for i, j in T.grid(3, 16):
                y[i, j] = x[i, j] / (T.float32(1) + T.exp(-x[i, j]))


@pytest.fixture
def session(kernel_cache, nothing_left):
    with tapml.debug(*models.two_layers()) as session:
        yield session


def judged(session):
    """The report of a run, and the bytes that were fetched for it."""
    target = session.engine.pool.first
    before = target.bytes_received
    report = session.run()
    return report, target.bytes_received - before


def figures(report):
    """What a report says of operators, but for times."""
    columns = report.frame().drop(columns=["source_ms", "target_ms", "sent_bytes"])
    return columns.to_dict("records")


@pytest.mark.parametrize("wrong", [False, True])
def test_what_is_as_before_is_not_fetched_again(session, wrong):
    if wrong:
        session.override("act/silu", a_little_large)
    first, fetched = judged(session)
    assert fetched > 0
    again, more = judged(session)
    assert more == 0
    np.testing.assert_equal(figures(again), figures(first))
    assert first.verdict("act/silu") is (Verdict.FAIL if wrong else Verdict.PASS)
    assert again.introduced["act/silu", 0].diagnosis == first.introduced["act/silu", 0].diagnosis


def test_another_kernel_is_judged_anew(session):
    first, _ = judged(session)
    session.override("act/silu", a_little_large)
    report, fetched = judged(session)
    assert report.verdict("act/silu") is Verdict.FAIL
    assert fetched > 0
    session.override("act/silu", None)
    np.testing.assert_equal(figures(judged(session)[0]), figures(first))


def test_a_kernel_that_becomes_wrong_is_seen(session):
    session.override("act/silu", wrong_the_second_time)
    assert judged(session)[0].verdict("act/silu") is Verdict.PASS
    assert session.run().verdict("act/silu") is Verdict.NONDETERMINISTIC


def test_a_target_that_was_lost_has_nothing_to_compare_with(session):
    first, fetched = judged(session)
    session.engine.pool.first.renew()
    again, more = judged(session)
    assert more == fetched
    np.testing.assert_equal(figures(again), figures(first))


@pytest.mark.parametrize("kernel", [kernels.right_once, kernels.spoils_its_input])
def test_what_is_not_steady_is_found_in_each_run(session, kernel):
    session.override("act/silu", kernel)
    for _ in range(2):
        assert [culprit.op for culprit in judged(session)[0].culprits] == ["act/silu"]


def test_a_numpy_function_is_called_in_each_run(session):
    calls: list[int] = []

    def silu(x):
        calls.append(len(calls))
        return x / (1 + np.exp(-x)) * (1.0 if len(calls) <= 2 else 1.5)

    session.override("act/silu", silu)
    assert judged(session)[0].verdict("act/silu") is Verdict.PASS
    assert judged(session)[0].verdict("act/silu") is Verdict.FAIL


def test_a_hybrid_run_fetches_nothing_that_is_known(session):
    def launched(engine):
        return list(engine.hybrid.run(engine.ledger.placement, 0, afresh=True))

    session.offload("*")
    session.hybrid()
    target = session.engine.pool.first
    versions = [session.engine.hybrid.version(op.outputs[0], 0) for op in session.graph.ops]
    assert "source" not in versions
    before = target.bytes_received
    assert [computed.fresh for computed in session.engine.do(launched)] == [True] * 3
    assert target.bytes_received == before
    now = [session.engine.hybrid.version(op.outputs[0], 0) for op in session.graph.ops]
    assert now == versions
