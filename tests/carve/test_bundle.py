"""Carved bundles: the same verdicts elsewhere, without the model and without PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import tapml_nb as tapml
from tapml_nb import Bundle, Verdict
from tests import kernels
from tests.models import llama, two_layers


@pytest.fixture(scope="module")
def carved(tmp_path_factory):
    """A Llama with a broken PrimFunc in one place, judged and carved."""
    path = tmp_path_factory.mktemp("carved") / "llama.tapml"
    with tapml.debug(*llama(layers=1)) as session:
        report = session.run()
        bundle = session.carve(path)
        yield path, bundle, report


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    path = tmp_path_factory.mktemp("broken") / "broken.tapml"
    with tapml.debug(*two_layers()) as session:
        session.override("act", kernels.returns_nan)
        report = session.run()
        session.carve(path)
        yield path, report


def verdicts(report):
    return {op.id: str(report.verdict(op.id)) for op in report.graph.ops}


def test_replay_gives_the_same_verdicts(carved):
    _, bundle, report = carved
    replayed = bundle.replay("llvm")
    assert verdicts(replayed) == verdicts(report)
    assert report.diff(replayed).empty
    before, after = report.frame(), replayed.frame()
    np.testing.assert_allclose(after["ratio"], before["ratio"], rtol=1e-3)
    assert after["file"].tolist() == before["file"].tolist()


def test_a_second_process_needs_no_torch(carved):
    path, _, report = carved
    code = (
        "import sys, json\n"
        "from tapml_nb import Bundle\n"
        "report = Bundle.open(sys.argv[1]).replay('llvm')\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
        "print(json.dumps({op.id: str(report.verdict(op.id)) for op in report.graph.ops}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == verdicts(report)


def test_a_broken_primfunc_travels_with_its_test(broken):
    path, report = broken
    replayed = Bundle.open(path).replay()
    assert verdicts(replayed) == verdicts(report)
    assert replayed.verdict("act/silu") is Verdict.NONFINITE
    assert [c.op for c in replayed.culprits] == ["act/silu"]


def test_iterating_needs_nothing_but_numpy(carved):
    path, bundle, report = carved
    tests = list(Bundle.open(path))
    assert len(tests) == len(bundle) == len(report.graph)
    silu = next(t for t in tests if t.kind == "aten.silu")
    (x,) = silu.inputs
    exact = x.astype(float) / (1 + np.exp(-x.astype(float)))
    np.testing.assert_allclose(silu.exact[0], exact, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(silu.outputs[0], exact, rtol=1e-5, atol=1e-6)
    assert silu.verdict == "PASS"


def test_tensors_are_stored_once(carved):
    path, _, _ = carved
    import zipfile

    with zipfile.ZipFile(path) as archive:
        tensors = [n for n in archive.namelist() if n.startswith("tensors/")]
        names = set(tensors)
        manifest = json.loads(archive.read("manifest.json"))
    assert len(tensors) == len(names)
    uses = [e["tensor"] for t in manifest["tests"] for e in (*t["inputs"], *t["outputs"])]
    assert len(uses) > 1.3 * len(set(uses))


def test_frame(carved):
    frame = carved[1].frame()
    assert list(frame.columns) == [
        *("op", "kind", "scope", "step", "inputs", "outputs", "verdict", "file", "line"),
        "message",
    ]
    linear = frame.set_index("op").loc["lm_head/linear"]
    assert linear["outputs"] == "float32[1, 12, 300]"


def test_only_some_operators(tmp_path):
    with tapml.debug(*two_layers()) as session:
        bundle = session.carve(tmp_path / "act.tapml", "act")
    assert [t.op for t in bundle] == ["act/silu"]
    assert next(iter(bundle)).verdict is None
    assert bundle.replay().ok


def test_steps(tmp_path):
    model, (x,) = two_layers()
    with tapml.debug(model, [(x,), (3 * x,)]) as session:
        session.run()
        bundle = session.carve(tmp_path / "steps.tapml")
    assert len(bundle) == 6
    report = bundle.replay()
    assert report.ok
    assert report.steps == 2


def test_unsupported_stays_unsupported_with_its_reason(tmp_path):
    import torch
    from torch import nn

    class Histogram(nn.Module):
        def forward(self, x):
            return torch.histogram(x, 4)[0] + 1

    with tapml.debug(Histogram().eval(), (torch.rand(16),)) as session:
        session.run()
        bundle = session.carve(tmp_path / "i.tapml")
    report = bundle.replay()
    assert report.verdict("histogram") is Verdict.UNSUPPORTED
    assert "no rule for aten.histogram" in report.introduced["histogram", 0].message
    assert report.verdict("add") is Verdict.PASS


class TestPytestExport:
    def run(self, folder, *options):
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder), *options],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
        )

    def test_the_folder_runs_by_itself(self, carved, tmp_path):
        _, bundle, report = carved
        folder = bundle.to_pytest(tmp_path / "tests")
        done = self.run(folder, "--target", "llvm")
        passed = sum(v in ("PASS", "SKIPPED") for v in verdicts(report).values())
        assert f"1 failed, {passed} passed" in done.stdout
        assert "COMPILE_ERROR" in done.stdout

    def test_a_broken_kernel_fails_its_test_alone(self, broken, tmp_path):
        done = self.run(Bundle.open(broken[0]).to_pytest(tmp_path / "t"))
        assert done.returncode == 1
        assert "1 failed, 2 passed" in done.stdout
        assert "act/silu" in done.stdout

    def test_an_unwritable_folder(self, broken, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ValueError, match="cannot be written"):
            Bundle.open(broken[0]).to_pytest(tmp_path / "file" / "tests")


def test_an_unknown_target(broken):
    with pytest.raises(ValueError, match="unknown kind 'gpu'"):
        Bundle.open(broken[0]).replay("gpu")
