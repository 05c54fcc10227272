"""The table of kernels when the compiler, the linker or the disk have trouble."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

import tapml_nb as tapml
from tapml_nb import Verdict
from tapml_nb.compile.trouble import CompilerTrouble
from tests.conftest import wait_until
from tests.models import two_layers


class Wide(nn.Module):
    """Many kernels that no other test has."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(first + k, first + k + 1) for k in range(12))

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TAPML_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def good(report):
    return set(report.counts) <= {Verdict.PASS, Verdict.SKIPPED}


def wrapped(folder, monkeypatch, tool, body):
    """A tool on PATH that has trouble, as ``body`` says, while a file ``trouble`` is there."""
    real = shutil.which(tool)
    script = folder / tool
    script.write_text(f'#!/bin/sh\n[ -e {folder}/trouble ] && {{ {body}; }}\nexec {real} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    (folder / "trouble").touch()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("echo /tmp/cc1.s: No space left on device >&2; exit 1", "No space left on device"),
        ("kill -9 $$", "cc was killed"),
    ],
    ids=["full", "killed"],
)
def test_a_c_compiler_in_trouble_is_no_kernels_fault(tmp_path, cache, monkeypatch, body, says):
    wrapped(tmp_path, monkeypatch, "cc", body)
    with tapml.debug(*two_layers(), target="c") as session:
        with pytest.raises(CompilerTrouble, match=says):
            session.run()
        assert not session.report.introduced
        assert not list(cache.glob("*/*/error.json"))
        (tmp_path / "trouble").unlink()
        assert good(session.run())


def test_a_linker_in_trouble_ends_the_run_and_not_what_was_judged(tmp_path, cache, monkeypatch):
    with tapml.debug(*two_layers()) as session:
        session.run("first")
        full = "echo ld: final link failed: No space left on device >&2; exit 1"
        wrapped(tmp_path, monkeypatch, "cc", full)
        with pytest.raises(CompilerTrouble, match="No space left on device"):
            session.run()
        assert session.report.verdict("first/linear") is Verdict.PASS
        assert session.report.verdict("second/linear") is Verdict.UNKNOWN
        (tmp_path / "trouble").unlink()
        assert good(session.run())


def test_an_object_that_the_linker_rejects_is_compiled_anew(cache, monkeypatch):
    with tapml.debug(*two_layers()) as session:
        table, compiler = session.engine.kernels, session.engine.compiler
        link, spoiled = compiler.link, list[Path]()

        def spoil(compiled, library):
            if not spoiled:  # after it was read, before it is linked
                spoiled.append(compiled[0].code)
                compiled[0].code.write_bytes(b"\x7fELF nonsense")
            return link(compiled, library)

        monkeypatch.setattr(compiler, "link", spoil)
        assert good(session.run())
        (path,) = spoiled
        assert path.read_bytes()[:4] == b"\x7fELF"
        assert path.stat().st_size > 1000
        assert len(table._loader.renewed) == 1


@pytest.mark.parametrize("how", ["removed", "a file"])
def test_a_cache_that_goes_away_in_mid_session(cache, how, recwarn):
    with tapml.debug(*two_layers()) as session:
        session.run("first")
        shutil.rmtree(cache)
        if how != "removed":
            cache.write_text("")  # nothing can be made in it, whoever asks
        assert good(session.run())
        told = [w for w in recwarn if "goes on without it" in str(w.message)]
        assert len(told) == (how != "removed")
        assert good(session.run())


class TestStopping:
    """The compile worker in whatever state: Ctrl-C and close() end it."""

    def compiling(self, session):
        session.run(wait=False)
        worker = session.engine.compiler._supervisor.worker
        process = psutil.Process(worker.pid)
        assert wait_until(
            lambda: session.engine.compiler._supervisor.active and process.children(), 30
        )
        return process

    def test_a_stopped_worker_is_ended_by_stop_and_the_next_run_is_right(self, cache):
        with tapml.debug(Wide(20).eval(), (torch.randn(2, 20),)) as session:
            process = self.compiling(session)
            os.kill(process.pid, signal.SIGSTOP)
            session.stop()
            assert not session.engine.jobs.busy
            assert session.report.info.stopped
            assert wait_until(lambda: not process.is_running())
            assert good(session.run())

    def test_close_returns_though_the_worker_is_stopped(self, cache, nothing_left):
        session = tapml.debug(Wide(40).eval(), (torch.randn(2, 40),))
        process = self.compiling(session)
        os.kill(process.pid, signal.SIGSTOP)
        begin = time.monotonic()
        session.close()
        assert time.monotonic() - begin < 20
        assert wait_until(lambda: not process.is_running())
        assert list(cache.glob("session-*")) == []


def test_a_killed_notebook_leaves_nothing_for_good(cache, tmp_path):
    import subprocess

    code = (
        "import os, sys, torch, tapml_nb as tapml\n"
        "from tests.execute.test_kernels import Wide\n"
        "session = tapml.debug(Wide(60).eval(), (torch.randn(2, 60),))\n"
        "session.on('RunProgress', lambda e: e.phase == 'compile' and print(flush=True))\n"
        "session.run()\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline()
    assert wait_until(lambda: list(cache.glob("session-*/unit-*")))  # what comes after the first
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert list(cache.glob("session-*"))
    with tapml.debug(*two_layers()):
        pass
    assert list(cache.glob("session-*")) == []
    assert list(cache.glob("tmp-*")) == []
