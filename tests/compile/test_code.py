"""The code of one kernel: made on demand, by the worker, once; as far as compilation comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import tvm
from torch import nn
from tvm import relax

import tapml_nb as tapml
from tapml_nb.compile.cache import Compiled, KernelCache
from tapml_nb.compile.compiler import Compiler
from tapml_nb.compile.kernel import TEXT_LIMIT, shortened
from tests import kernels
from tests.compile.test_compiler import add_unit, compile_all, cumsum_of_bool
from tests.models import two_layers


@pytest.fixture
def cache(tmp_path):
    return KernelCache(tmp_path / "cache")


@pytest.fixture
def compiler(cache):
    compiler = Compiler(tvm.target.Target("llvm"), cache, jobs=2)
    yield compiler
    compiler.close()


def unit(operation, *shape):
    builder = relax.BlockBuilder()
    x = relax.Var("p0", relax.TensorType(shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(operation(x))
        builder.emit_func_output(out)
    return builder.get()


def code_of(compiler, module):
    return compiler.code(compiler.key(module), module)


def replace_worker(compiler, monkeypatch, body):
    """Restart the worker with statements of the test's own, in which ``w`` is its module."""
    compiler.close()
    code = f"import os, time, tapml_nb.compile.worker as w\n{body}\nw.main()\n"
    popen = subprocess.Popen
    with monkeypatch.context() as patch:
        patch.setattr(
            subprocess, "Popen", lambda command, **kw: popen([sys.executable, "-c", code], **kw)
        )
        compiler._supervisor.start()


class TestStages:
    def test_a_unit_shows_relax_a_loop_and_llvm_ir(self, compiler):
        code = code_of(compiler, unit(relax.op.nn.softmax, 4, 8))
        assert "R.nn.softmax" in code.relax
        assert "T.axis" in code.tir
        assert "in T.grid(" in code.tir or "in range(" in code.tir
        assert "R." not in code.tir
        assert "\ndefine " in code.source
        assert (code.language, code.message) == ("llvm", "")

    def test_the_source_is_of_the_functions_that_the_kernel_launches(self, compiler):
        (compiled,) = compile_all(compiler, add_unit(4))
        code = code_of(compiler, add_unit(4))
        (launch,) = compiled.kernel.launches
        assert f"def {launch.function}(" in code.tir
        assert f"{launch.function}(" in code.source

    def test_the_c_target_shows_c(self, cache):
        compiler = Compiler(tvm.target.Target("c"), cache)
        code = code_of(compiler, add_unit(4))
        compiler.close()
        assert "T_add" in code.tir
        assert "#include" in code.source
        assert "for (" in code.source
        assert "\ndefine " not in code.source
        assert (code.language, code.message) == ("c", "")

    def test_what_launches_nothing_says_so(self, compiler):
        code = code_of(compiler, unit(lambda x: relax.op.reshape(x, [2, 4]), 8))
        assert "R.reshape" in code.relax
        assert (code.tir, code.source) == ("", "")
        assert "launches nothing" in code.message

    def test_a_unit_without_generated_code_shows_its_tir_and_why(self, compiler):
        code = code_of(compiler, cumsum_of_bool())
        assert "R.cumsum" in code.relax
        assert "cumsum_generic" in code.tir
        assert code.source == ""
        assert "CodeGenLLVM" in code.message
        (failure,) = compile_all(compiler, cumsum_of_bool())
        assert code.message == failure.message

    def test_an_unsupported_unit_shows_what_the_pipeline_left(self, compiler):
        code = code_of(compiler, unit(relax.op.nonzero, 8))
        assert "R.nonzero" in code.relax
        assert "relax.run.nonzero" in code.tir
        assert code.source == ""
        assert "relax.run.nonzero of TVM's virtual machine" in code.message

    def test_source_that_the_c_compiler_rejects_has_its_message(self, cache):
        compiler = Compiler(tvm.target.Target("c"), cache)
        module = unit(relax.op.erf, 8)
        bad = tvm.IRModule({"override": kernels.honest.with_attr("tapml.outputs", 1)})
        bad["override"] = bad["override"].with_body(
            tvm.tirx.SeqStmt(
                [
                    bad["override"].body,
                    tvm.tirx.Evaluate(tvm.tirx.call_extern("int32", "not a name")),
                ]
            )
        )
        (failure,) = compile_all(compiler, bad)
        assert failure.reason == "error"
        code = code_of(compiler, bad)
        fine = code_of(compiler, module)
        compiler.close()
        assert "not a name" in code.source
        assert code.message == failure.message
        assert "ToolchainError" in code.message
        assert fine.message == ""

    def test_a_long_text_says_how_much_was_cut(self):
        assert shortened("x" * TEXT_LIMIT) == "x" * TEXT_LIMIT
        cut = shortened("x" * (2 * TEXT_LIMIT))
        assert len(cut) <= TEXT_LIMIT
        left_out = 2 * TEXT_LIMIT - len(cut.rstrip("\n").rpartition("\n")[0])
        assert f"{left_out:,} more characters" in cut

    def test_each_text_is_cut(self, compiler, monkeypatch):
        whole = code_of(compiler, add_unit(5)).source
        body = "import tapml_nb.compile.kernel as kernel\nkernel.TEXT_LIMIT = 1000\n"
        replace_worker(compiler, monkeypatch, body)
        code = code_of(compiler, unit(relax.op.nn.softmax, 4, 8))
        assert len(whole) > 2000
        assert len(code.source) <= 1000
        assert len(code.tir) <= 1000
        assert "more characters are not shown" in code.source
        assert "more characters are not shown" not in code.relax


class TestOnce:
    def test_the_second_call_comes_from_the_cache(self, compiler, cache):
        first = code_of(compiler, add_unit(4))
        assert compiler._supervisor.batches == 1
        assert code_of(compiler, add_unit(4)) == first
        assert compiler._supervisor.batches == 1
        other = Compiler(tvm.target.Target("llvm"), cache)
        assert code_of(other, add_unit(4)) == first
        assert other._supervisor.batches == 0
        other.close()
        assert not list(cache.root.glob("tmp-*"))

    def test_a_failure_is_kept_too(self, compiler):
        code_of(compiler, cumsum_of_bool())
        code_of(compiler, cumsum_of_bool())
        assert compiler._supervisor.batches == 1

    @pytest.mark.parametrize("code_first", [True, False])
    def test_code_and_kernel_do_not_stand_in_for_each_other(self, compiler, code_first):
        if code_first:
            code_of(compiler, add_unit(4))
            assert compiler.compiled == 0
        (compiled,) = compile_all(compiler, add_unit(4))
        assert isinstance(compiled, Compiled)
        assert compiled.code.exists()
        assert "\ndefine " in code_of(compiler, add_unit(4)).source
        assert compiler.compiled == 1

    def test_hits_are_counted(self, compiler):
        compile_all(compiler, add_unit(4), cumsum_of_bool())
        assert (compiler.compiled, compiler.cache_hits) == (2, 0)
        compile_all(compiler, add_unit(4), cumsum_of_bool(), add_unit(5))
        assert (compiler.compiled, compiler.cache_hits) == (3, 2)
        code_of(compiler, add_unit(4))
        assert (compiler.compiled, compiler.cache_hits) == (3, 2)


class TestFailures:
    def test_a_crash_in_code_generation_leaves_the_tir(self, compiler, monkeypatch):
        replace_worker(compiler, monkeypatch, "import tvm\ntvm.tirx.build = lambda *_: os.abort()")
        code = code_of(compiler, add_unit(4))
        assert "R.add" in code.relax
        assert "T_add" in code.tir
        assert code.source == ""
        assert code.message == "the compiler itself crashed (signal SIGABRT)"
        replace_worker(compiler, monkeypatch, "")
        assert "\ndefine " in code_of(compiler, add_unit(4)).source

    def test_a_child_that_dies_at_once_costs_one_call(self, compiler, monkeypatch):
        monkeypatch.setenv("TAPML_TEST_CRASH", compiler.key(add_unit(3)))
        replace_worker(
            compiler,
            monkeypatch,
            "import tapml_nb.compile.tasks as tasks\n"
            "real = tasks.describe_unit\n"
            "def describe_unit(key, folder, target):\n"
            "    if key == os.environ['TAPML_TEST_CRASH']: os._exit(7)\n"
            "    real(key, folder, target)\n"
            "tasks.describe_unit = describe_unit\n",
        )
        code = code_of(compiler, add_unit(3))
        assert (code.relax, code.tir, code.source) == ("", "", "")
        assert code.message == "the compiler itself crashed (exit status 7)"
        assert code_of(compiler, add_unit(4)).message == ""
        assert isinstance(compile_all(compiler, add_unit(5))[0], Compiled)
        assert not list(compiler.cache.root.glob("tmp-*"))

    def test_a_hang_ends_at_the_deadline(self, compiler, monkeypatch):
        replace_worker(
            compiler,
            monkeypatch,
            "import tvm\nw.SECONDS_PER_UNIT = 1\ntvm.tirx.build = lambda *_: time.sleep(60)\n",
        )
        code = code_of(compiler, add_unit(4))
        assert "T_add" in code.tir
        assert code.message == "the compiler did not finish in time"

    def test_a_killed_worker_is_replaced(self, compiler):
        code_of(compiler, add_unit(1))
        os.kill(compiler._supervisor.worker.pid, signal.SIGKILL)
        assert "\ndefine " in code_of(compiler, add_unit(2)).source

    def test_a_closed_compiler_says_so(self, compiler):
        kept = code_of(compiler, add_unit(1))
        compiler.close()
        assert code_of(compiler, add_unit(1)) == kept
        assert code_of(compiler, add_unit(2)).message == "the compiler is closed"
        assert compiler._supervisor.worker is None


class TestOfAnOperator:
    """``KernelTable.code``, in a real session."""

    @pytest.fixture
    def session(self):
        with tapml.debug(*two_layers(), target="llvm") as session:
            session.run()
            yield session

    def test_its_unit(self, session):
        code = session.engine.kernels.code("act/silu", 0)
        assert "R.sigmoid" in code.relax
        assert "T.sblock" in code.tir
        assert "\ndefine " in code.source
        assert code.message == ""

    def test_a_primfunc_in_its_place(self, session):
        session.override("act", kernels.forgets_a_row)
        code = session.engine.kernels.code("act/silu", 0)
        assert code.relax == ""
        assert "T.grid(2, 16)" in code.tir
        assert "\ndefine " in code.source
        session.override("act", None)
        assert "R.sigmoid" in session.engine.kernels.code("act/silu", 0).relax

    def test_a_primfunc_that_cannot_be_loaded(self, session):
        session.override("act", kernels.unlinkable)
        session.run("act")
        code = session.engine.kernels.code("act/silu", 0)
        assert "\ndefine " in code.source
        assert "cannot be loaded on the target" in code.message
        assert "tapml_there_is_no_such_function" in code.message
        assert "\n" not in code.message

    def test_a_numpy_function_in_its_place(self, session):
        def my_silu(x):
            return x / (1 + np.exp(-x))

        session.override("act", my_silu)
        code = session.engine.kernels.code("act/silu", 0)
        assert "x / (1 + np.exp(-x))" in code.source
        assert replace(code, source="") == replace(code, relax="", tir="", source="", message="")
        assert code.language == "python"
        session.override("act", np.tanh)
        code = session.engine.kernels.code("act/silu", 0)
        assert (code.source, code.language) == ("", "python")
        assert code.message == "the source of tanh cannot be found"

    def test_host_operators_and_those_without_a_rule_say_so(self):
        class Model(nn.Module):
            def forward(self, x):
                return torch.histogram(x, 4)[0] * x.sum().item()

        with tapml.debug(Model().eval(), (torch.randn(4, 4),), target="llvm") as session:
            session.run()
            codes = {op.id: session.engine.kernels.code(op.id, 0) for op in session.graph.ops}
            hosts = [op.id for op in session.graph.ops if op.host]
        (unsupported,) = [op for op in codes if "histogram" in op]
        assert hosts
        assert all("runs on the host" in codes[op].message for op in hosts)
        for op in (unsupported, *hosts):
            assert (codes[op].relax, codes[op].tir, codes[op].source) == ("", "", "")
        assert codes[unsupported].message
        assert "\n" not in codes[unsupported].message
