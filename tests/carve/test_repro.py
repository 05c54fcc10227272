"""Repros: scripts that show a fault without us."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import tvm
from torch import nn
from tvm import relax
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

import tapml_nb as tapml
from tapml_nb import Bundle, Verdict
from tapml_nb.carve import repro
from tapml_nb.compile.unit import UnitTexts, is_one_module, script_of
from tapml_nb.graph import SourceLine
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


NASTY = [
    "a\nimport evil\n",
    "a\rimport evil\r",
    "coding: raw_unicode_escape " + "x" * 64 + " \\u000aimport evil#",
    "-*- coding: utf-7 -*- " + "x" * 64 + " +AAo-import evil#",
    "\x0cimport evil",
    "\u2028import evil",
    "\x85import evil",
    '"""\nimport evil\n"""',
    "'; import evil; '",
    "\\",
    "ends with \\",
    '"',
    "'",
    "\\N{x}",
    "\\x",
    "\\ud800",
    "nul \0 byte",
    "\ud800 alone",
    "${x} {x} {{}} %s",
    "\x1b[31m\u202e",
    "名前" * 60,
    "#" * 300,
    "",
    " ",
]


def shape(path):
    """A file's statements without its literals: the same, whatever names are in them."""
    import ast

    data = path.read_bytes()
    assert data.isascii()
    assert data.startswith(b"# -*- coding: utf-8 -*-\n")
    assert not any((byte < 32 and byte != 10) or byte == 127 for byte in data)
    compile(data, str(path), "exec")
    tree = ast.parse(data)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            node.value = None
    return ast.dump(tree)


class Named(nn.Module):
    def forward(self, x):
        return x.select(1, -1)


def test_names_never_become_code(tmp_path):
    """Of models, operators and lines, and messages: all but comments and literals is the same."""
    with tapml.debug(Named().eval(), (torch.randn(3, 4),), name="honest") as session:
        session.run()
        (op,) = session.graph.ops
        honest = shape(session.repro("select", tmp_path / "honest.py"))
        bundle = session.carve(tmp_path / "b.tapml")
        tests = shape(bundle.to_pytest(tmp_path / "honest") / "test_carved.py")
        case = case_of(session, op)
    for number, name in enumerate(NASTY):
        line = SourceLine(name, 1, name)
        spoiled = replace(
            case,
            graph=replace(case.graph, name=name),
            op=replace(op, id=name, source=line, primitives=(name,), constants={name: name}),
            result=replace(case.result, message=name),
            conversion=name,
        )
        assert shape(repro.write(tmp_path / f"{number}.py", spoiled)) == honest, name
        bundle.name = name
        assert shape(bundle.to_pytest(tmp_path / f"{number}") / "test_carved.py") == tests, name


def case_of(session, op):
    """What a session makes a repro of."""
    cases = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repro, "write", lambda path, case: cases.append(case) or path)
        session.repro(op.id, "unused.py")
    return cases[0]


def test_a_repro_with_a_nasty_name_still_shows_the_fault(tmp_path):
    name = NASTY[2]
    with tapml.debug(Named().eval(), (torch.randn(3, 4),), name=name) as session:
        session.run()
        done = run_alone(session.repro("select", tmp_path / "repro.py"))
    assert done.returncode == 1, done.stderr


@pytest.mark.parametrize(
    "name",
    [
        "f(x):\n        return x\n    import evil\n    @R.function\n    def g",
        "f\nimport evil\n#",
        "# from os import system\nf",
        "名",
        "a b",
    ],
)
def test_a_functions_name_never_becomes_code(name):
    """TVM prints it as it is; so the module is written as JSON."""
    import ast

    function = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 8), "float32"))
    with function.function(name, [x]):
        function.emit_func_output(function.emit(relax.op.tanh(x)))
    module = function.get()
    imports, text = repro._module(UnitTexts(tvm.ir.save_json(module), script_of(module)))
    assert imports == ""
    (statement,) = ast.parse(text).body
    assert isinstance(statement, ast.Assign)
    assert text.isascii()


@pytest.mark.parametrize(
    "inside",
    [
        "    import evil",
        "    print(1)",
        "    x = 1",
        "    def f(x=open('x')):\n        pass",
        "    @open('x').write\n    def f():\n        pass",
        "    def f():\n        T.__builtins__",
        "    def f():\n        pass\nimport evil",
    ],
)
def test_what_is_more_than_a_module_is_not_printed(inside):
    honest = "    @R.function\n    def f(x: R.Tensor((2,))):\n        return R.tanh(x)\n"
    assert is_one_module(f"@I.ir_module\nclass Module:\n{honest}")
    assert not is_one_module(f"@I.ir_module\nclass Module:\n{honest}{inside}\n")


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
