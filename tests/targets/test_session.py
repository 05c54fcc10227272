"""A session as long as nothing goes wrong: tensors there and back, calls, comparisons."""

import gc
import itertools
import threading
import weakref

import numpy as np
import pytest

from tapml_nb.array_api import np_dtype
from tapml_nb.numerics import bitwise_equal, digest, statistics
from tapml_nb.targets.client.session import TargetSession
from tapml_nb.targets.spec import Target
from tapml_nb.targets.wire.errors import TargetError, TargetStarted
from tests.targets import kernels
from tests.targets.conftest import CONSTANT, X

# -- tensors ---------------------------------------------------------------------------------------

INTEGERS = ["bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))]
FLOATS = ["float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "float8_e5m2"]


def test_every_dtype_and_shape_travels_unchanged(session):
    rng = np.random.default_rng(0)
    for dtype, shape in itertools.product(INTEGERS + FLOATS, [(3, 5), (), (0, 4), (7,)]):
        sent = np.asarray(rng.integers(0, 2, shape)).astype(np_dtype(dtype))
        key = f"{dtype}{shape}"
        assert session.put(key, sent) == sent.nbytes
        assert bitwise_equal(session.fetch(key), sent), key


def test_bits_of_odd_values_survive(session):
    sent = np.array([0x7FC01234, 0xFF800001, 0x80000000, 0x00000001], np.uint32).view(np.float32)
    session.put("t", sent)
    assert bitwise_equal(session.fetch("t"), sent)


def test_a_tensor_is_sent_once(session):
    array = np.arange(100, dtype=np.int64)
    key = digest(array)
    assert not session.resident(key)
    before = session.bytes_sent
    assert session.put(key, array) == array.nbytes
    assert session.put(key, array) == 0
    assert session.resident(key)
    assert session.bytes_sent - before == array.nbytes
    session.fetch(key)
    assert session.bytes_received == array.nbytes


def test_large_and_strided_tensors(session):
    large = np.random.default_rng(0).integers(0, 255, 64 << 20, np.uint8)
    session.put("large", large)
    assert bitwise_equal(session.fetch("large"), large)
    strided = large[: 1 << 20].reshape(1024, 1024).T[::2]
    session.put("strided", strided)
    assert np.array_equal(session.fetch("strided"), strided)


def test_dropping_frees(session):
    before = session.held()
    session.put("t", np.zeros(1000, np.float32))
    assert session.held() == before + 4000
    session.drop(["t", "never there"])
    assert session.held() == before
    assert not session.resident("t")
    with pytest.raises(KeyError, match="no tensor 't' is resident"):
        session.fetch("t")
    session.put("t", np.zeros(1))


def test_a_dtype_the_target_lacks_is_an_error_and_no_end(session):
    with pytest.raises(TargetError, match="complex64"):
        session.put("t", np.zeros(3, np.complex64))
    assert not session.resident("t")
    assert session.call("add_one", ["x"], ["y"]).deterministic == (True,)
    assert session.restarts == 0


# -- calls -----------------------------------------------------------------------------------------


def test_a_call(session):
    session.put("right", X + 1)
    result = session.call("add_one", ["x"], ["y"], [["right"]])
    assert (result.deterministic, result.equals) == ((True,), (0,))
    assert len(result.ms) == 2
    assert all(0 < ms < 1000 for ms in result.ms)
    assert not session.resident("y")  # it is there, under another key
    assert session.call("add_one", ["x"], ["y"], [["x"]]).equals == (-1,)
    assert np.array_equal(session.fetch("y"), X + 1)
    assert session.call("add_one", ["x"], ["y"], [["x", "y", "right"]]).equals == (1,)
    assert np.array_equal(session.fetch("y"), X + 1)
    assert session.call("add_one", ["x"], ["y"], [[]], repeats=1).equals == (-1,)
    assert session.call("add_one", ["x"], ["y"]).equals == (-1,)
    assert session.calls == 5


def test_views_constants_and_several_outputs(session):
    session.put("matrix", X.reshape(2, 4))
    session.call("views", ["matrix"], ["turned", "sum"])
    assert np.array_equal(session.fetch("sum"), X + CONSTANT)
    assert np.array_equal(session.fetch("turned"), (X + CONSTANT).reshape(2, 4).T)


def test_bfloat16_in_and_bool_out(session):
    x = (X - 3).astype(np_dtype("bfloat16"))
    session.put("b", x)
    session.put("signs", X < 3)
    result = session.call("double_and_sign", ["b"], ["twice", "sign"], [[], ["signs"]])
    assert result.deterministic == (True, True)
    assert result.equals == (-1, 0)
    assert bitwise_equal(session.fetch("twice"), x + x)
    session.call("double_and_sign", ["b"], ["twice", "sign"])
    assert session.fetch("sign").dtype == np.bool_


def test_nothing_to_compute(session):
    session.put("none", np.zeros((0, 4), np.float32))
    result = session.call("empty", ["none"], ["out"], [["none"]])
    assert (result.deterministic, result.equals) == ((True,), (0,))
    session.call("empty", ["none"], ["out"])
    assert session.fetch("out").shape == (0, 4)


def test_a_kernel_without_launches_passes_its_input_on(session):
    before = session.held()
    result = session.call("nothing", ["x"], ["view", "same"], [[], ["constant"]])
    assert result.equals == (-1, 0)
    assert np.array_equal(session.fetch("view"), X.reshape(2, 4))
    assert session.held() == before


def test_right_first_and_wrong_second(session):
    result = session.call("erratic", ["x"], ["y"], [["x"]])
    assert (result.deterministic, result.equals) == ((False,), (-1,))
    assert np.array_equal(session.fetch("y#1"), X)
    assert np.array_equal(np.flatnonzero(session.fetch("y") - X), [3])
    session.call("add_one", ["x"], ["y"])
    assert not session.resident("y#1")


def test_what_is_not_written_never_looks_right(session):
    session.put("poison", np.full(kernels.N, 0xFF, np.uint8).repeat(4).view(np.float32))
    for reference in ("x", "poison"):
        result = session.call("lazy", ["x"], ["y"], [[reference]])
        assert (result.deterministic, result.equals) == ((False,), (-1,))
    assert np.array_equal(session.fetch("y")[:-1], X[:-1])


def test_statistics_are_those_of_the_notebook(session):
    other = X * np.float32(1.001)
    session.put("other", other)
    assert session.statistics("other", "x") == vars(statistics(other, X))


# -- errors that are answers -----------------------------------------------------------------------


def test_errors_keep_the_session(session):
    with pytest.raises(TargetError, match="kernel nope is not loaded"):
        session.call("nope", ["x"], ["y"])
    with pytest.raises(TargetError, match="no tensor 'gone' is resident"):
        session.call("add_one", ["gone"], ["y"])
    with pytest.raises(TargetError, match="inputs: the kernel has 1, and 2 were given"):
        session.call("add_one", ["x", "x"], ["y"])
    with pytest.raises(TargetError, match="outputs: the kernel has 1, and 2 were given"):
        session.call("add_one", ["x"], ["y", "z"])
    with pytest.raises(ValueError, match="repeats: 0"):
        session.call("add_one", ["x"], ["y"], repeats=0)
    session.put("short", X[:5])
    with pytest.raises(TargetError, match="shape"):
        session.call("add_one", ["short"], ["y"])
    session.put("wide", X.astype(np.float64))
    with pytest.raises(TargetError, match="float32"):
        session.call("add_one", ["wide"], ["y"])
    with pytest.raises(TargetError, match="no tensor"):
        session.statistics("gone", "x")
    assert session.call("add_one", ["x"], ["y"]).deterministic == (True,)
    assert (session.state, session.restarts) == ("connected", 0)


def test_missing_functions_are_named_at_load(session, library, tmp_path):
    copy = tmp_path / "copy.so"
    copy.write_bytes(library.read_bytes())
    plans = [kernels.unary("add_one"), kernels.unary("gone_1"), kernels.unary("gone_2")]
    with pytest.raises(TargetError, match="no function gone_1, gone_2"):
        session.load(copy, plans)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.so"):
        session.load(tmp_path / "nowhere.so", plans)
    assert session.restarts == 0


# -- life ------------------------------------------------------------------------------------------


def test_states_and_events(nothing_left, library, events):
    session = TargetSession(Target("llvm"), on_event=events.append)
    assert (session.state, session.address, events) == ("idle", "", [])
    with session:
        assert session.state == "connected"
        (event,) = events
        assert isinstance(event, TargetStarted)
        assert (event.address, event.pid) == (session.address, session.platform["pid"])
        assert session.platform["versions"]["apache-tvm"]
        session.start()
        assert len(events) == 1
    assert str(session.state) == "closed"
    session.close()
    with pytest.raises(RuntimeError, match="closed"):
        session.put("x", X)


def test_it_can_be_closed_unused():
    TargetSession(Target("llvm")).close()


def test_two_sessions_do_not_share_tensors(open_session):
    first, second = open_session(), open_session()
    first.put("mine", X)
    assert not second.resident("mine")
    with pytest.raises(KeyError):
        second.fetch("mine")


def test_a_forgotten_session_ends_its_server(nothing_left):
    threads = set(threading.enumerate())
    session = TargetSession(Target("llvm"))
    session.start()
    gone = weakref.ref(session)
    del session
    gc.collect()
    assert gone() is None
    assert set(threading.enumerate()) <= threads  # those of earlier tests may end meanwhile
