"""A real aarch64 target: ``tapml serve`` under qemu-user, kernels cross-compiled here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

import tapml_nb as tapml
from tapml_nb import Target
from tapml_nb.judge.verdict import Verdict
from tapml_nb.targets.wire.errors import TargetError
from tests import kernels, models

AARCH64 = Path(sys.prefix) / "aarch64" / "python"
TRIPLE = {"kind": "llvm", "mtriple": "aarch64-linux-gnu"}


@pytest.fixture(scope="module")
def board(tmp_path_factory) -> Iterator[str]:
    """The address that a board prints."""
    assert AARCH64.exists(), "run 'make test' once: it installs an aarch64 userland"
    folder = tmp_path_factory.mktemp("board")
    root = str(Path(tapml.__file__).parent.parent)
    process = subprocess.Popen(
        [str(AARCH64), "-m", "tapml_nb.cli", "serve"],
        env=os.environ | {"PYTHONPATH": root, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        lines = [process.stdout.readline() for _ in range(2)]
        assert lines[0].startswith("serving on"), lines
        yield lines[1].partition("rpc='")[2].partition("'")[0]
    finally:
        process.terminate()
        process.wait(10)
    assert list(folder.iterdir()) == []


@pytest.fixture
def session(board, kernel_cache, nothing_left):
    target = Target("llvm", rpc=board, tvm_target=TRIPLE, timeout=3.0)
    with tapml.debug(*models.two_layers(), target=target) as session:
        yield session


def judged(session, kernel):
    session.override("act/silu", kernel)
    report = session.run()
    assert report.verdict("second/linear") is Verdict.PASS
    return report.introduced["act/silu", 0]


def test_a_llama_is_judged_and_moves_over(board, kernel_cache, nothing_left):
    with tapml.debug(*models.llama(), target=Target("llvm", rpc=board, tvm_target=TRIPLE)) as llama:
        report = llama.run()
        assert report.culprits == []
        assert [(r.op, r.verdict) for r in report.missing] == [
            ("model/cumsum", Verdict.COMPILE_ERROR)
        ]
        assert llama.engine.pool.first.platform["machine"] == "aarch64"
        differing = [r for r in report.introduced.values() if r.statistics and r.ratio > 0]
        assert differing  # it is another processor: some last bits are
        migration = llama.migrate()
        assert list(migration.quarantined) == ["model/cumsum"]
        assert llama.report.info.outputs is Verdict.PASS
        assert llama.report.info.unobserved.same


def test_the_c_library_is_the_boards(board, kernel_cache, nothing_left):
    """Kernels are linked without one; the process that loads them has it."""

    class Functions(torch.nn.Module):
        def forward(self, x):
            return torch.erf(x), torch.exp(x), torch.sin(x), torch.log1p(x.abs()), torch.atan(x)

    target = Target("llvm", rpc=board, tvm_target=TRIPLE)
    with tapml.debug(Functions().eval(), (torch.randn(40),), target=target) as session:
        assert session.run().ok


@pytest.mark.parametrize(
    ("kernel", "verdict", "words"),
    [
        (kernels.segfaults, Verdict.CRASH, "SIGSEGV"),
        (kernels.aborts, Verdict.CRASH, "SIGABRT"),
        (kernels.loops, Verdict.TIMEOUT, "no answer within 3 s"),
        (kernels.forgets_a_row, Verdict.FAIL, "never writes 16 of 48 elements"),
        (kernels.returns_nan, Verdict.NONFINITE, "[1, 5]"),
        (kernels.unlinkable, Verdict.COMPILE_ERROR, "tapml_there_is_no_such_function"),
        (kernels.honest, Verdict.PASS, ""),
    ],
    ids=lambda p: getattr(p, "__name__", "") or str(p)[:12],
)
def test_one_verdict(session, kernel, verdict, words):
    result = judged(session, kernel)
    assert result.verdict is verdict
    assert words in result.message


def test_a_session_killed_in_mid_run_comes_back(session):
    def kill(event):
        if event.op == "first/linear":
            for process in psutil.process_iter(["cmdline"]):
                if "qemu-aarch64-static" in " ".join(process.info["cmdline"] or []):
                    for child in process.children():
                        child.kill()

    session.on("OpJudged", kill)
    report = session.run()
    assert report.ok
    assert report.info.restarts == 1


def test_kernels_for_another_machine_are_not_sent(board, kernel_cache, nothing_left):
    with tapml.debug(*models.two_layers(), target=Target("llvm", rpc=board)) as session:
        with pytest.raises(TargetError, match=r"is aarch64, and kernels are compiled for x86_64"):
            session.run()
        assert session.engine.pool.first.bytes_sent == 0


def test_guard_pages(board, kernel_cache, nothing_left):
    target = Target("llvm", rpc=board, tvm_target=TRIPLE, timeout=3.0, guard=True)
    with tapml.debug(*models.two_layers(), target=target) as session:
        assert session.run().ok
        assert np.isfinite(session.tensor("act/silu", "target")).all()
