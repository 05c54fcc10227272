"""Compilation: once per structure, in isolation, cached, and out of the notebook's process."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import tvm
from tvm import relax

from tapml_nb.compile.cache import Compiled, Failure, KernelCache
from tapml_nb.compile.compiler import Compiler


def add_unit(n: int):
    """y = x + x, for n elements."""
    builder = relax.BlockBuilder()
    x = relax.Var("p0", relax.TensorType([n], "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(relax.op.add(x, x))
        builder.emit_func_output(out)
    return builder.get()


def cumsum_of_bool():
    """The kernel that TVM 0.27 cannot generate code for."""
    builder = relax.BlockBuilder()
    x = relax.Var("p0", relax.TensorType([8], "bool"))
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(relax.op.cumsum(x, 0, "bool"))
        builder.emit_func_output(out)
    return builder.get()


@pytest.fixture
def cache(tmp_path):
    return KernelCache(tmp_path / "cache")


@pytest.fixture
def compiler(cache):
    compiler = Compiler(tvm.target.Target("llvm"), cache, jobs=2)
    yield compiler
    compiler.close()


def compile_all(compiler, *modules):
    keyed = {compiler.key(module): module for module in modules}
    results = dict(compiler.compile(keyed))
    return [results[key] for key in keyed]


def test_equal_units_have_one_key(compiler):
    assert compiler.key(add_unit(4)) == compiler.key(add_unit(4))
    assert compiler.key(add_unit(4)) != compiler.key(add_unit(5))


def test_the_target_is_part_of_the_key(compiler, cache):
    other = Compiler(tvm.target.Target({"kind": "llvm", "mcpu": "haswell"}), cache)
    assert other.key(add_unit(4)) != compiler.key(add_unit(4))
    other.close()


def test_a_kernel_has_a_plan_and_an_object_file(compiler):
    (compiled,) = compile_all(compiler, add_unit(4))
    assert isinstance(compiled, Compiled)
    assert compiled.code.name == "kernel.o"
    assert [len(launch.args) for launch in compiled.kernel.launches] == [3]
    assert compiled.kernel.results == (1,)


def test_nothing_is_compiled_twice(compiler, cache):
    compile_all(compiler, add_unit(4), add_unit(5))
    assert compiler.compiled == 2
    compile_all(compiler, add_unit(4), add_unit(6))
    assert compiler.compiled == 3
    again = Compiler(tvm.target.Target("llvm"), cache)
    compile_all(again, add_unit(4), add_unit(5))
    assert again.compiled == 0
    again.close()


def test_a_failing_kernel_stands_alone_with_its_message(compiler):
    results = compile_all(compiler, add_unit(1), cumsum_of_bool(), *map(add_unit, range(2, 8)))
    assert [type(r) for r in results].count(Compiled) == 7
    failure = results[1]
    assert failure.reason == "error"
    assert "CodeGenLLVM" in failure.message


def test_a_failure_is_remembered(compiler):
    compile_all(compiler, cumsum_of_bool())
    assert isinstance(compiler.cache.get(compiler.key(cumsum_of_bool())), Failure)


def test_a_crash_of_the_compiler_costs_one_kernel(compiler, monkeypatch):
    """The worker's children run this test's own compile step: one unit of it kills the child."""
    monkeypatch.setenv("TAPML_TEST_CRASH", compiler.key(add_unit(3)))
    compiler.close()
    code = (
        "import os, tapml_nb.compile.tasks as tasks, tapml_nb.compile.worker as w\n"
        "real = tasks.compile_unit\n"
        "def compile_unit(key, folder, target):\n"
        "    if key == os.environ['TAPML_TEST_CRASH']: os.abort()\n"
        "    real(key, folder, target)\n"
        "tasks.compile_unit = compile_unit\n"
        "w.main()\n"
    )
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda command, **kw: popen([sys.executable, "-c", code], **kw)
    )
    compiler._supervisor.start()
    results = compile_all(compiler, *map(add_unit, range(1, 9)))
    assert [type(r) for r in results].count(Compiled) == 7
    assert results[2] == Failure("crash", "the compiler itself crashed (signal SIGABRT)")
    assert compiler.cache.get(compiler.key(add_unit(3))) is None


def test_a_killed_worker_is_replaced(compiler):
    compile_all(compiler, add_unit(1))
    os.kill(compiler._supervisor.worker.pid, signal.SIGKILL)
    (result,) = compile_all(compiler, add_unit(2))
    assert isinstance(result, Compiled)


def test_stopping_early_leaves_a_working_compiler(compiler):
    keyed = {compiler.key(m): m for m in map(add_unit, range(1, 30))}
    results = compiler.compile(keyed)
    next(results)
    results.close()
    assert isinstance(compile_all(compiler, add_unit(50))[0], Compiled)
    assert not list(compiler.cache.root.glob("tmp-*"))


def test_close_leaves_no_process(cache):
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    compiler = Compiler(tvm.target.Target("llvm"), cache)
    list(compiler.compile({compiler.key(add_unit(2)): add_unit(2)}))
    compiler.close()
    compiler.close()
    assert {p.pid for p in psutil.Process().children(recursive=True)} <= before


def test_the_worker_dies_with_its_parent(tmp_path):
    code = (
        "import sys, tvm\n"
        "from tapml_nb.compile.cache import KernelCache\n"
        "from tapml_nb.compile.compiler import Compiler\n"
        "from pathlib import Path\n"
        "c = Compiler(tvm.target.Target('llvm'), KernelCache(Path(sys.argv[1])))\n"
        "print(c._supervisor.worker.pid, flush=True)\n"
        "import time; time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 15
    while psutil.pid_exists(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(worker) or psutil.Process(worker).status() == "zombie"


def test_an_unwritable_cache_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="set TAPML_CACHE"):
        KernelCache(tmp_path / "file" / "cache")


def test_without_a_c_compiler(monkeypatch, cache):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ValueError, match=r"target: .*install gcc or clang"):
        Compiler(tvm.target.Target("llvm"), cache)
