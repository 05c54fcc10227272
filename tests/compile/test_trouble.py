"""Trouble of the compiler's, the machine's, and of the code: only the last is a kernel's."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading

import psutil
import pytest
import tvm

from tapml_nb.compile import process
from tapml_nb.compile.cache import Compiled, KernelCache
from tapml_nb.compile.compiler import Compiler
from tapml_nb.compile.trouble import CompilerInterrupted, CompilerTrouble
from tests.compile.test_code import replace_worker
from tests.compile.test_compiler import add_unit, compile_all
from tests.conftest import wait_until

_TRAPS = """
import pathlib
import tapml_nb.compile.tasks as tasks
real = tasks.compile_unit
def raised(kind, value):
    if kind == "oserror": raise OSError(int(value), os.strerror(int(value)), "/some/file")
    if kind == "memory": raise MemoryError
    if kind == "import": import no_such_module
    if kind == "says": raise RuntimeError(value.replace("_", " "))
def compile_unit(key, folder, target):
    trap = pathlib.Path(os.environ["TAPML_TEST_TRAPS"]) / key
    words = trap.read_text().split() if trap.exists() else []
    kind, _, value = words[0].partition("=") if words else ("", "", "")
    if words: trap.write_text(" ".join(words[1:]))
    if kind == "signal": os.kill(os.getpid(), int(value))
    if kind == "exit": os._exit(int(value))
    if kind == "sleep": time.sleep(float(value))
    if kind == "full": (folder / ".kernel.o").symlink_to("/dev/full")
    honest = tasks.lower
    tasks.lower = lambda *given: raised(kind, value) or honest(*given)
    try: real(key, folder, target)
    finally: tasks.lower = honest
tasks.compile_unit = compile_unit
"""


class Trapped:
    """A compiler whose worker fails at units that a test names."""

    def __init__(self, compiler, folder, monkeypatch):
        self.compiler, self._folder, self._patch = compiler, folder, monkeypatch
        self._next = 10
        self._armed = None

    def arm(self):
        worker = self.compiler._supervisor.worker
        if worker is None or worker is not self._armed:
            with self._patch.context() as patch:
                replace_worker(self.compiler, patch, _TRAPS)
            self._armed = self.compiler._supervisor.worker

    def unit(self, *failures):
        """A new unit, and what shall happen each time that it is compiled."""
        self._next += 1
        module = add_unit(self._next)
        (self._folder / self.compiler.key(module)).write_text(" ".join(failures))
        return module


@pytest.fixture(scope="module")
def _trapped(tmp_path_factory):
    traps = tmp_path_factory.mktemp("traps")
    cache = KernelCache(tmp_path_factory.mktemp("cache") / "kernels")
    patch = pytest.MonkeyPatch()
    patch.setenv("TAPML_TEST_TRAPS", str(traps))
    compiler = Compiler(tvm.target.Target("llvm"), cache, jobs=2)
    yield Trapped(compiler, traps, patch)
    compiler.close()
    patch.undo()


@pytest.fixture
def trapped(_trapped):
    _trapped.arm()
    return _trapped


OUTSIDE = [
    f"signal={int(signal.SIGKILL)}",
    f"signal={int(signal.SIGTERM)}",
    "exit=0",
    "exit=70",
    "oserror=28",
    "oserror=5",
    "memory",
    "import",
    "says=No_space_left_on_device",
    "full",
]
"""Failures that say nothing of the code."""

INSIDE = [f"signal={int(s)}" for s in (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE)] + ["exit=7"]
"""Failures that a compiler brings upon itself."""


def test_a_failure_is_tried_once_more(trapped):
    units = [trapped.unit(*failure) for failure in ([], *([a] for a in OUTSIDE + INSIDE), [])]
    results = compile_all(trapped.compiler, *units)
    assert [type(r) for r in results] == [Compiled] * len(units)


def test_the_log_says_what_is_tried_once_more_and_why(trapped, caplog):
    caplog.set_level(logging.INFO, "tapml_nb.compile")
    unit = trapped.unit(f"signal={int(signal.SIGKILL)}")
    compile_all(trapped.compiler, unit)
    messages = [record.getMessage() for record in caplog.records]
    why = "the compiler was ended from outside (signal SIGKILL), by a lack of memory perhaps"
    assert messages == [f"unit {trapped.compiler.key(unit)} is tried once more: {why}"]


def test_the_log_says_that_the_worker_was_lost(trapped, caplog):
    caplog.set_level(logging.INFO, "tapml_nb.compile")
    trapped.compiler._supervisor.worker.kill()
    compile_all(trapped.compiler, trapped.unit())
    lost, started = (record.getMessage() for record in caplog.records)
    assert lost == "the compile worker is lost: it was killed"
    assert started == (
        f"a compile worker is started: process {trapped.compiler._supervisor.worker.pid}"
    )


@pytest.mark.parametrize("failure", OUTSIDE)
def test_what_comes_from_outside_is_no_verdict_and_not_kept(trapped, failure):
    compiler = trapped.compiler
    bad, good, slow = trapped.unit(failure, failure), trapped.unit(), trapped.unit(failure)
    with pytest.raises(CompilerTrouble, match="no kernel's fault") as caught:
        compile_all(compiler, bad, good, slow)
    where = {"oserror=28": "No space left on device: /some/file", "full": "/kernel.o"}
    assert where.get(failure, "") in str(caught.value)
    for other in (good, slow):
        assert isinstance(compiler.cache.get(compiler.key(other)), Compiled)
    assert compiler.cache.get(compiler.key(bad)) is None
    assert isinstance(compile_all(compiler, bad)[0], Compiled)


def test_a_compiler_that_crashes_twice_is_evidence_and_not_kept(trapped):
    compiler = trapped.compiler
    good, bad = trapped.unit(), [trapped.unit(failure, failure) for failure in INSIDE]
    compiled, *failures = compile_all(compiler, good, *bad)
    assert isinstance(compiled, Compiled)
    assert {failure.reason for failure in failures} == {"crash"}
    assert all(isinstance(r, Compiled) for r in compile_all(compiler, *bad))


def test_what_the_compiler_says_of_the_code_is_kept(trapped):
    compiler = trapped.compiler
    bad = trapped.unit("says=no_such_intrinsic")
    (failure,) = compile_all(compiler, bad)
    assert failure.reason == "error"
    assert "no such intrinsic" in failure.message
    assert compiler.cache.get(compiler.key(bad)) == failure


@pytest.mark.parametrize("whom", ["worker", "child"])
def test_one_that_is_stopped_is_replaced(trapped, monkeypatch, whom):
    monkeypatch.setattr(process, "_PATIENCE", 1.0)
    compiler = trapped.compiler
    if whom == "worker":
        compile_all(compiler, trapped.unit())
        os.kill(compiler._supervisor.worker.pid, signal.SIGSTOP)
        stopped = trapped.unit()
    else:
        stopped = trapped.unit(f"signal={int(signal.SIGSTOP)}")
    before = compiler._supervisor.worker.pid
    assert all(isinstance(r, Compiled) for r in compile_all(compiler, stopped, trapped.unit()))
    assert compiler._supervisor.worker.pid != before
    assert wait_until(lambda: not psutil.pid_exists(before))


class _Compiling:
    """Modules compiled by a thread of their own."""

    def __init__(self, compiler, *modules):
        self.error = None
        self._work = lambda: compile_all(compiler, *modules)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        try:
            self._work()
        except BaseException as error:
            self.error = error

    def ended(self):
        self._thread.join(20)
        return not self._thread.is_alive()


@pytest.mark.parametrize("state", ["slow", "stopped"])
def test_an_interrupt_ends_what_goes_on(trapped, state):
    compiler, slow = trapped.compiler, trapped.unit("sleep=100")
    compiling = _Compiling(compiler, slow, trapped.unit())
    worker = psutil.Process(compiler._supervisor.worker.pid)
    assert wait_until(lambda: compiler._supervisor.active and worker.children(), 20)
    if state == "stopped":
        worker.suspend()
    compiler.interrupt()
    assert compiling.ended()
    assert isinstance(compiling.error, CompilerInterrupted)
    assert wait_until(lambda: not worker.is_running())
    assert isinstance(compile_all(compiler, slow)[0], Compiled)


def test_an_interrupt_of_nothing_is_none(trapped):
    trapped.compiler.interrupt()
    assert isinstance(compile_all(trapped.compiler, trapped.unit())[0], Compiled)


def test_a_closed_compiler_ends_what_goes_on(trapped):
    compiler = trapped.compiler
    compiling = _Compiling(compiler, trapped.unit("sleep=100"))
    worker = psutil.Process(compiler._supervisor.worker.pid)
    assert wait_until(lambda: compiler._supervisor.active and worker.children(), 20)
    compiler.close()
    assert compiling.ended()
    assert isinstance(compiling.error, CompilerInterrupted)
    assert wait_until(lambda: not worker.is_running())


def test_a_worker_that_cannot_start_says_why(trapped, monkeypatch):
    replace_worker(trapped.compiler, monkeypatch, "import sys\nsys.modules['tvm'] = None\n")
    with pytest.raises(CompilerTrouble, match=r"the compile worker cannot work: .*tvm"):
        compile_all(trapped.compiler, trapped.unit())


def test_a_worker_that_dies_each_time_ends_the_run(trapped, monkeypatch):
    module = trapped.unit()
    code = (
        "import os, tapml_nb.compile.worker as w\n"
        "w._start = lambda *_: os.kill(os.getpid(), 9)\n"
        "w.main()\n"
    )
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda command, **kw: popen([sys.executable, "-c", code], **kw)
    )
    trapped.compiler.close()
    trapped.compiler._supervisor.start()
    with pytest.raises(CompilerTrouble, match="lost 3 times in a row: it was killed"):
        compile_all(trapped.compiler, module)
