"""TVM's own servers, tracker and proxy: everything works, and no wait is for ever."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
from tvm import rpc

import tapml_nb as tapml
from tapml_nb import Target
from tapml_nb.judge.verdict import Verdict
from tapml_nb.targets.client.session import TargetSession
from tapml_nb.targets.wire.errors import TargetError, TargetLost
from tests import kernels, models
from tests.conftest import wait_until


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.contextmanager
def tvm_process(module: str, *arguments: str, port: int) -> Iterator[None]:
    """One of TVM's own programs, at the loopback interface, for as long as the block runs."""
    place = ["--host", "127.0.0.1", "--port", str(port), "--port-end", str(port + 1)]
    process = subprocess.Popen(
        [sys.executable, "-m", f"tvm.exec.{module}", *place, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def stock_server() -> Iterator[str]:
    port = free_port()

    def listens() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    with tvm_process("rpc_server", port=port):
        assert wait_until(listens, 60)
        time.sleep(0.5)  # that connection was a client to it; it takes the next one then
        yield f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def shared() -> Iterator[str]:
    with stock_server() as address:
        yield address


@pytest.fixture
def server(shared, nothing_left) -> str:
    """For those who leave it as it was."""
    return shared


@pytest.fixture
def victim(nothing_left) -> Iterator[str]:
    """For one to break."""
    with stock_server() as address:
        yield address


@pytest.fixture(scope="module")
def tracker() -> Iterator[str]:
    """A tracker that knows one server, by the key ``board``."""
    port, own = free_port(), free_port()
    tracked = ["--tracker", f"127.0.0.1:{port}", "--key", "board"]

    def known() -> bool:
        with contextlib.suppress(Exception):  # it is not there yet
            return "board" in rpc.connect_tracker("127.0.0.1", port).text_summary()
        return False

    with (
        tvm_process("rpc_tracker", port=port),
        tvm_process("rpc_server", *tracked, port=own),
    ):
        assert wait_until(known, 60)
        yield f"tracker://127.0.0.1:{port}"


@pytest.fixture
def proxy(nothing_left) -> Iterator[str]:
    """A proxy with one server behind it, by the key ``board``."""
    port = free_port()

    def known() -> bool:
        with contextlib.suppress(Exception):  # it is not there yet, or knows no such key
            return bool(rpc.connect("127.0.0.1", port, "board"))
        return False

    with (
        tvm_process("rpc_proxy", "--web-port", str(free_port()), port=port),
        tvm_process("rpc_server", "--through-proxy", "--key", "board", port=port),
    ):
        assert wait_until(known, 60)
        yield f"proxy://127.0.0.1:{port}/board"


def test_a_model_is_judged_and_moves_over(server, kernel_cache):
    with tapml.debug(*models.two_layers(), target=Target("llvm", rpc=server)) as session:
        report = session.run()
        assert report.counts == {Verdict.PASS: 3}
        assert session.engine.pool.first.platform["stock"]
        assert session.run().info.sent_bytes == report.info.sent_bytes
        assert len(session.migrate().offloaded) == 3
        assert session.report.info.outputs is Verdict.PASS
        assert session.report.info.unobserved.same
        session.override("act/silu", kernels.forgets_a_row)
        result = session.run().introduced["act/silu", 0]
        assert result.message == "never writes 16 of 48 elements, from [2, 0] on"
        session.override("act/silu", kernels.spoils_its_input)
        result = session.run().introduced["act/silu", 0]
        assert "writes into its own input 0" in result.message
        session.override("act/silu", None)
        assert session.run().ok


def test_tensors_travel_unchanged(server):
    with TargetSession(Target("llvm", rpc=server)) as session:
        for dtype in ("float32", "float16", "int64", "bool", "int8"):
            for shape in ((), (0, 3), (3, 5)):
                sent = (np.random.default_rng(0).normal(size=shape) * 9).astype(dtype)
                session.put(f"{dtype}{shape}", sent)
                fetched = session.fetch(f"{dtype}{shape}")
                assert fetched.dtype == sent.dtype
                assert np.array_equal(fetched, sent)
        assert session.held() > 0
        with pytest.raises(KeyError):
            session.fetch("nothing")
        session.drop(["float32(3, 5)"])
        assert not session.resident("float32(3, 5)")


@pytest.mark.parametrize(
    ("kernel", "verdict", "words"),
    [
        (kernels.segfaults, Verdict.CRASH, "the connection broke"),
        (kernels.loops, Verdict.TIMEOUT, "no answer within 2 s"),
    ],
    ids=["crash", "hang"],
)
def test_an_accident_has_its_verdict(victim, kernel_cache, kernel, verdict, words):
    """TVM's server does not come back from it, so the run ends there, and keeps what it has."""
    target = Target("llvm", rpc=victim, timeout=2.0)
    with tapml.debug(*models.two_layers(), target=target) as session:
        session.override("act/silu", kernel)
        begin = time.monotonic()
        with contextlib.suppress(TargetLost):
            session.run()
        assert time.monotonic() - begin < 25
        report = session.report
        assert report.verdict("first/linear") is Verdict.PASS
        result = report.introduced["act/silu", 0]
        assert result.verdict is verdict
        assert words in result.message
        assert report.verdict("second/linear") in (Verdict.PASS, Verdict.UNKNOWN)


def test_behind_a_tracker(tracker, kernel_cache, nothing_left):
    with tapml.debug(
        *models.two_layers(), target=Target("llvm", rpc=f"{tracker}/board")
    ) as session:
        assert session.run().ok


def test_a_key_that_no_tracker_knows(tracker, nothing_left):
    session = TargetSession(Target("llvm", rpc=f"{tracker}/phone"))
    begin = time.monotonic()
    with pytest.raises(TargetLost, match="no server with the key 'phone' is free at 127"):
        session.start()
    assert time.monotonic() - begin < 15
    session.close()


def test_behind_a_proxy(proxy, kernel_cache):
    with tapml.debug(*models.two_layers(), target=Target("llvm", rpc=proxy)) as session:
        assert session.run().ok


def test_what_it_cannot_launch(server):
    with pytest.raises(TargetError, match="a plain TVM server cannot launch opencl"):
        TargetSession(Target("opencl", rpc=server)).start()


def test_it_cannot_guard_memory(server):
    with pytest.raises(TargetError, match="cannot guard memory"):
        TargetSession(Target("llvm", rpc=server, guard=True)).start()
