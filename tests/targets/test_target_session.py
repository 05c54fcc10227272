"""The supervised session against a real server: tensors, calls, accidents, cleanliness."""

from __future__ import annotations

import threading
import time

import ml_dtypes
import numpy as np
import psutil
import pytest
import tvm

from tapml_nb.compile.compiler import Compiler
from tapml_nb.numerics import digest
from tapml_nb.targets.errors import TargetError, TargetLost
from tapml_nb.targets.session import TargetSession
from tapml_nb.targets.spec import Target
from tests import kernels


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """All test kernels in one library, and their plans by name."""
    compiler = Compiler(tvm.target.Target("llvm"))
    names = ["honest", "segfaults", "aborts", "loops", "right_once", "forgets_a_row", "sleeps"]
    modules = {
        name: tvm.IRModule({name: getattr(kernels, name).with_attr("tapml.outputs", 1)})
        for name in names
    }
    keys = {name: compiler.key(module) for name, module in modules.items()}
    compiled = dict(compiler.compile({keys[n]: modules[n] for n in names}))
    path = tmp_path_factory.mktemp("library") / "kernels.so"
    compiler.link(list(compiled.values()), path)
    compiler.close()
    return path, [c.kernel for c in compiled.values()], keys


@pytest.fixture
def session(library):
    path, plans, _ = library
    with TargetSession(Target("llvm", timeout=1.0)) as session:
        session.load(path, plans)
        yield session


X = np.random.default_rng(0).standard_normal(kernels.SHAPE).astype(np.float32)


def call(session, library, name, reference=None):
    session.put("x", X)
    if reference is not None:
        session.put("reference", reference)
    return session.call(
        library[2][name], ["x"], ["y"], [None if reference is None else "reference"]
    )


DTYPES = [
    *("bool", "int8", "uint8", "int32", "int64", "float16", "float32", "float64"),
    *(ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 5), (), (0, 4), (1,)])
def test_tensors_of_every_dtype_come_back(session, dtype, shape):
    array = (np.random.default_rng(1).standard_normal(shape) * 3).astype(dtype)
    session.put("t", array)
    back = session.fetch("t")
    assert back.dtype == array.dtype
    assert back.shape == shape
    assert back.tobytes() == array.tobytes()


def test_a_tensor_is_sent_once(session):
    key = digest(X)
    assert session.put(key, X) == X.nbytes
    assert session.put(key, X) == 0
    assert session.resident(key)
    session.drop([key, "never there"])
    assert not session.resident(key)
    with pytest.raises(KeyError, match="no tensor"):
        session.fetch(key)


def test_64_megabytes(session):
    big = np.arange(16 << 20, dtype=np.float32).reshape(4096, -1)
    session.put("big", big)
    assert session.held() >= big.nbytes
    np.testing.assert_array_equal(session.fetch("big"), big)


def test_a_call(session, library):
    exact = X / (1 + np.exp(-X.astype(float)))
    result = call(session, library, "honest", exact.astype(np.float32))
    assert len(result.ms) == 2
    assert result.deterministic == [True]
    np.testing.assert_allclose(session.fetch("y"), exact, rtol=1e-5)
    session.put("same", session.fetch("y"))
    assert session.call(library[2]["honest"], ["x"], ["y"], ["same"]).identical == [True]


def test_statistics_are_computed_on_the_target(session, library):
    call(session, library, "honest", X)
    y = session.fetch("y")
    stats = session.statistics("y", "reference")
    assert stats["max_abs"] == pytest.approx(np.abs(y.astype(float) - X).max())
    assert stats["mismatched"] == X.size


def test_chance_and_unwritten_memory_show(session, library):
    assert call(session, library, "right_once").deterministic == [False]
    first, second = session.fetch("y#1"), session.fetch("y")
    np.testing.assert_allclose(second, 2 * first, rtol=1e-6)
    assert call(session, library, "forgets_a_row", X).deterministic == [False]


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("segfaults", "crash", "SIGSEGV"),
        ("aborts", "crash", "SIGABRT"),
        ("loops", "timeout", "within 1 s"),
    ],
)
def test_accidents(session, library, name, reason, words):
    begin = time.monotonic()
    with pytest.raises(TargetLost, match=words) as caught:
        call(session, library, name)
    lost = time.monotonic()
    assert caught.value.reason == reason
    assert lost - begin < 1.6
    assert not session.resident("x")
    assert call(session, library, "honest").deterministic == [True]
    assert time.monotonic() - lost < 1.0


def test_forty_crashes_in_a_row(session, library):
    for _ in range(40):
        with pytest.raises(TargetLost):
            call(session, library, "segfaults")
    assert call(session, library, "honest").deterministic == [True]
    assert session.restarts == 40


@pytest.mark.parametrize("who", ["session", "listener"])
def test_killed_from_outside(session, library, who):
    pid = session._pid if who == "session" else session._server._process.pid
    session.target = Target("llvm", timeout=30)
    threading.Timer(0.3, psutil.Process(pid).kill).start()
    with pytest.raises(TargetLost) as caught:
        call(session, library, "sleeps")
    assert caught.value.reason == "killed"
    assert call(session, library, "honest").deterministic == [True]


def test_interrupt_from_another_thread(session, library):
    session.target = Target("llvm", timeout=30)
    threading.Timer(0.3, session.interrupt).start()
    begin = time.monotonic()
    with pytest.raises(TargetLost) as caught:
        call(session, library, "sleeps")
    assert caught.value.reason == "interrupted"
    assert time.monotonic() - begin < 1.5
    assert call(session, library, "honest").deterministic == [True]


@pytest.mark.parametrize(
    "use",
    [
        lambda s: s.call("no such kernel", [], [], []),
        lambda s: s.statistics("nothing", "nowhere"),
    ],
)
def test_an_error_is_an_answer_and_not_a_loss(session, use):
    with pytest.raises(TargetError):
        use(session)
    assert session.state == "connected"
    assert session.restarts == 0


def test_a_library_that_is_none(session, tmp_path):
    (tmp_path / "bad.so").write_text("not a library")
    with pytest.raises(TargetError):
        session.load(tmp_path / "bad.so", [])


def test_close_leaves_nothing(nothing_left):
    threads = set(threading.enumerate())
    session = TargetSession(Target("llvm"))
    session.put("x", X)
    session.close()
    session.close()
    assert session.state == "closed"
    assert {t for t in threading.enumerate() if t.name.startswith("tapml")} <= threads
    with pytest.raises(RuntimeError, match="closed"):
        session.put("x", X)
