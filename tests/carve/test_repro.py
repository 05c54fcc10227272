"""Repros: scripts that show a fault without us."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from tvm import relax
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

import tapml_nb as tapml
from tapml_nb import Bundle, Verdict
from tests import kernels
from tests.models import two_layers

_K, _AMPLITUDE = relax.const(977.0, "float32"), relax.const(0.02, "float32")


class Sine(nn.Module):
    def forward(self, x):
        return torch.sin(x)


class Faults(nn.Module):
    """Operators that TVM 0.27 gets wrong, and one that it gets right."""

    def forward(self, x, large, whole):
        half = x.bfloat16()
        return x.select(1, -1), half @ half.T, (whole > 0).cumsum(1), large[:, -1], x.exp()


@pytest.fixture(scope="module")
def session():
    x, whole = torch.randn(4, 5), torch.arange(12).reshape(3, 4)
    with tapml.debug(Faults().eval(), (x, torch.randn(40, 500), whole)) as session:
        session.run()
        yield session


def run_alone(path):
    """Run a script where neither tapml_nb nor PyTorch can be imported."""
    check = (
        "import runpy, sys\n"
        "sys.modules |= dict.fromkeys(('tapml_nb', 'torch'))  # importing them fails\n"
        "runpy.run_path(sys.argv[1], run_name='__main__')\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.run(
        [sys.executable, "-c", check, str(path)],
        cwd=path.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("op", "says"),
    [
        ("select", "4 of 4 elements are wrong"),
        ("matmul", "it is float32[4, 4], should be bfloat16[4, 4]"),
        ("cumsum", "it does not compile"),
        ("select_1", "of 40 elements are wrong"),
    ],
)
def test_a_fault_shows_without_us(session, tmp_path, op, says):
    path = session.repro(op, tmp_path / "repro.py")
    done = run_alone(path)
    assert says in done.stdout, done.stderr
    assert done.returncode == 1
    assert path.with_suffix(".npz").exists() is (op == "select_1")


def test_it_can_be_read(session, tmp_path):
    text = session.repro("select", tmp_path / "repro.py").read_text()
    assert "R.take(p0, R.const(-1" in text
    assert "aten.select.int with {'dim': 1, 'index': -1}" in text
    assert "tapml" not in text.replace("called at", "")


def test_a_mended_kernel_does_not_reproduce(session, tmp_path):
    path = session.repro("select", tmp_path / "repro.py")
    path.write_text(path.read_text().replace("R.const(-1", "R.const(4"))
    done = run_alone(path)
    assert (done.returncode, "no difference" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda x: relax.op.multiply(x, relax.const(1.002, "float32")), "it is scaled by 1.00"),
        (
            lambda x: relax.op.add(
                x, relax.op.multiply(relax.op.sin(relax.op.multiply(x, _K)), _AMPLITUDE)
            ),
            "times as noisy as rounding can explain",
        ),
    ],
    ids=["scaled", "noisy"],
)
def test_a_fault_of_the_whole_tensor_shows(monkeypatch, tmp_path, spoil, says):
    def rule(importer, node):
        emit = importer.block_builder.emit
        wide = emit(relax.op.astype(importer.env[node.args[0]], "float32"))
        return emit(relax.op.astype(emit(spoil(relax.op.sin(wide))), "bfloat16"))

    rules = ExportedProgramImporter.create_convert_map
    monkeypatch.setattr(
        ExportedProgramImporter,
        "create_convert_map",
        lambda self: rules(self) | {"sin.default": lambda node: rule(self, node)},
    )
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)).bfloat16()
    with tapml.debug(Sine().eval(), (x,)) as session:
        (op,) = [op.id for op in session.graph.ops if "aten.sin.default" in op.primitives]
        assert session.run().verdict(op) is Verdict.FAIL
        done = run_alone(session.repro(op, tmp_path / "repro.py"))
    assert done.returncode == 1, done.stdout + done.stderr
    assert says in done.stdout


def test_what_cannot_be_run_is_no_reproduction(session, tmp_path):
    path = session.repro("select_1", tmp_path / "repro.py")
    path.with_suffix(".npz").unlink()
    done = run_alone(path)
    assert done.returncode == 2, done.stdout
    assert "No such file" in done.stderr


def test_a_bundle_makes_one(session, tmp_path):
    bundle = session.carve(tmp_path / "faults.tapml", ["select"])
    path = Bundle.open(bundle.path).repro("select", tmp_path / "repro.py")
    assert run_alone(path).returncode == 1


def test_names_from_models_stay_in_their_comment(tmp_path):
    class Named(nn.Module):
        def forward(self, x):
            return x.select(1, -1)

    with tapml.debug(Named().eval(), (torch.randn(3, 4),), name="a\nimport evil\n") as session:
        session.run()
        text = session.repro("select", tmp_path / "repro.py").read_text()
    assert not any(line.startswith("import evil") for line in text.splitlines())


class TestRefusals:
    def test_what_passes(self, session, tmp_path):
        with pytest.raises(ValueError, match="op: exp is PASS; a repro is of an operator that"):
            session.repro("exp", tmp_path / "repro.py")

    def test_what_was_not_judged(self, tmp_path):
        with (
            tapml.debug(*two_layers()) as session,
            pytest.raises(ValueError, match=r"act/silu was not judged in step 0 yet"),
        ):
            session.repro("act/silu", tmp_path / "repro.py")

    def test_a_kernel_of_the_users(self, tmp_path):
        with tapml.debug(*two_layers()) as session:
            session.override("act/silu", kernels.returns_nan)
            assert session.run("act/silu").verdict("act/silu") is Verdict.NONFINITE
            with pytest.raises(ValueError, match="a kernel of yours is in the place"):
                session.repro("act/silu", tmp_path / "repro.py")

    def test_a_folder(self, session, tmp_path):
        with pytest.raises(ValueError, match=r"path: .* is a folder.*repro\.py"):
            session.repro("select", tmp_path)
