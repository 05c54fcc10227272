"""References that take long hold nobody up who wants to stop."""

from __future__ import annotations

import threading

import pytest

import tapml_nb as tapml
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
