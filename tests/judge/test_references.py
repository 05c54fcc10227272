"""References that take long hold nobody up who wants to stop, and are kept as long as they are
wanted."""

from __future__ import annotations

import threading
import time

import numpy as np
import pandas as pd
import pytest

import tapml_nb as tapml
from tests import kernels
from tests.conftest import wait_until
from tests.models import two_layers


@pytest.mark.parametrize("large", [0, 1 << 26], ids=["asked for", "computed ahead"])
def test_a_run_ends_while_a_float64_run_goes_on(large, kernel_cache, monkeypatch, nothing_left):
    monkeypatch.setattr("tapml_nb.judge.references._LARGE", large)
    with tapml.debug(*two_layers()) as session:
        begun, released = threading.Event(), threading.Event()
        program, run_exact = session.engine.program, session.engine.program.run_exact

        def waits(op, values):
            begun.set()
            assert released.wait(60)
            return run_exact(op, values)

        monkeypatch.setattr(program, "run_exact", waits)
        session.run(wait=False)
        assert begun.wait(60)
        session.stop()
        assert not session.engine.jobs.busy
        assert session.report.info.stopped
        assert not session.report.introduced
        going = [t for t in threading.enumerate() if t.name == "tapml-references"]
        assert going
        released.set()
        assert wait_until(lambda: not any(t.is_alive() for t in going))
        assert session.run().ok


def test_what_need_not_be_judged_again_is_not_kept(kernel_cache, monkeypatch, nothing_left):
    with tapml.debug(*two_layers()) as session:
        program, run_exact, run = session.engine.program, session.engine.program.run_exact, []

        def counted(op, values):
            run.append(op)
            return run_exact(op, values)

        first = session.run()
        references = session.engine.references
        references.settle()
        assert references.held == 0
        monkeypatch.setattr(program, "run_exact", counted)
        again = session.run()
        references.settle()
        assert not run
        figures = [
            report.frame().drop(columns=["source_ms", "target_ms", "sent_bytes"])
            for report in (first, again)
        ]
        pd.testing.assert_frame_equal(*figures)
        session.override("act/silu", kernels.forgets_a_row)  # what is new is judged as before
        report = session.run()
        assert [culprit.op for culprit in report.culprits] == ["act/silu"]
        assert set(run) == {"act/silu"}


def test_what_is_judged_in_each_run_keeps_its_references(kernel_cache, nothing_left):
    with tapml.debug(*two_layers()) as session:
        session.override("act/silu", lambda x: x / (1 + np.exp(-x)))
        session.run()
        session.engine.references.settle()
        assert session.engine.references.held > 0


def test_no_more_is_computed_ahead_than_has_room(kernel_cache, monkeypatch, nothing_left):
    monkeypatch.setattr("tapml_nb.judge.references._AHEAD", 0)
    with tapml.debug(*two_layers()) as session:
        engine = session.engine
        engine.do(lambda engine: engine.complete())
        ops = [op for op in engine.graph.ops if not op.host]
        with engine.references.ahead([(op.id, 0) for op in ops]):
            for op in ops:
                assert wait_until(lambda: engine.references.held > 0)
                held = engine.references.held
                time.sleep(0.2)
                assert engine.references.held == held, "one at a time"
                assert engine.references.local(op, 0)
                engine.references.judged(op, 0, again=False)
        engine.references.settle()
        assert engine.references.held == 0
