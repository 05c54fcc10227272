"""Lines that break, stall and damage what they carry: never the verdict of a kernel."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import tvm

import tapml_nb as tapml
from tapml_nb import Target
from tapml_nb.judge.verdict import Verdict
from tapml_nb.targets.client import dial, supervisor
from tapml_nb.targets.client import session as session_module
from tapml_nb.targets.client.session import TargetSession
from tapml_nb.targets.wire.errors import TargetError, TargetLost
from tapml_nb.targets.wire.handshake import ASK, PROTOCOL, pack_word
from tests import kernels as model_kernels
from tests import models
from tests.conftest import wait_until
from tests.targets import kernels
from tests.targets.conftest import X, fill
from tests.targets.proxy import Proxy
from tests.targets.serving import Serving, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving() as running:
        yield running


@pytest.fixture
def proxy(server) -> Iterator[Proxy]:
    line = Proxy(server.port)
    yield line
    line.close()


@pytest.fixture
def session(proxy, server, library) -> Iterator[TargetSession]:
    with TargetSession(Target("llvm", rpc=server.at(proxy.port), timeout=10)) as made:
        made.load(library, list(kernels.PLANS.values()))
        fill(made)
        yield made


def works(session: TargetSession) -> bool:
    fill(session)
    session.call("add_one", ["x"], ["y"])
    return np.array_equal(session.fetch("y"), X + 1)


# -- cut -------------------------------------------------------------------------------------------


def test_cut_anywhere_in_a_run(server, kernel_cache):
    """Once on a fresh connection, and all is as it is on an honest line."""

    def run(cut_at: int | None) -> int:
        line = Proxy(server.port)

        def scissors(data, way):
            nonlocal cut_at
            if cut_at is not None and line.carried > cut_at:
                cut_at = None
                raise OSError("cut")

        line.on_bytes = scissors
        target = Target("llvm", rpc=server.at(line.port), timeout=10)
        with tapml.debug(*models.two_layers(), target=target) as session:
            assert session.run().counts == {Verdict.PASS: 3}
            assert cut_at is None or cut_at > line.carried
            carried = line.carried
        line.close()
        return carried

    whole = run(None)
    for place in range(1, 7):
        run(whole * place // 7)


def test_cut_in_mid_launch_is_not_the_kernels(proxy, session):
    """The kernel naps; the line is cut meanwhile."""
    timer = threading.Timer(0.2, proxy.cut)
    timer.start()
    with pytest.raises(TargetLost) as caught:
        session.call("slow", ["x"], ["y"], repeats=3)
    timer.join()
    assert caught.value.reason == "connection"
    assert "run again" in caught.value.detail
    assert works(session)


def test_a_crash_is_still_a_crash_through_the_line(session):
    for kernel, reason, seconds in (
        ("segfault", "crash", 10),
        ("leave", "crash", 10),
        ("endless", "timeout", 0.5),
    ):
        with pytest.raises(TargetLost) as caught:
            session.call(kernel, ["x"], ["y"], timeout=seconds)
        assert (caught.value.reason, caught.value.running) == (reason, kernel)
        fill(session)


def test_cut_for_good_keeps_what_was_judged(server, kernel_cache):
    line = Proxy(server.port)
    target = Target("llvm", rpc=server.at(line.port), timeout=10)
    with tapml.debug(*models.two_layers(), target=target) as session:
        session.on("OpJudged", lambda event: line.close())
        with pytest.raises(TargetLost) as caught:
            session.run()
        assert caught.value.reason == "connection"
        assert [r.verdict for r in session.report.introduced.values()] == [Verdict.PASS]


def test_a_descriptors_number_may_have_been_anothers(server, monkeypatch):
    """What is not known to be a connection's cannot be hung up: freeing it then waits for good."""
    old, connect = socket.create_connection(("127.0.0.1", server.port)), tvm.rpc.connect
    number = old.fileno()

    def connect_later(*arguments):
        old.close()
        return connect(*arguments)

    monkeypatch.setattr(tvm.rpc, "connect", connect_later)
    rpc, sockets, descriptors = dial.connect_rpc("127.0.0.1", server.port, server.key, "")
    assert descriptors == {number}
    assert len(sockets) == 1
    dial.hang_up(sockets[0])
    del rpc


# -- stalls ----------------------------------------------------------------------------------------


def test_a_stall_longer_than_the_deadline_is_not_the_kernels(proxy, session):
    proxy.stall()
    threading.Timer(3.5, proxy.heal).start()
    result = session.call("add_one", ["x"], ["y"], timeout=0.3)
    assert result.deterministic == (True,)
    assert session.restarts == 0


def test_a_stall_for_good_is_told_in_our_words(proxy, session, monkeypatch):
    monkeypatch.setattr(session_module, "CONTROL_SECONDS", 0.5)
    monkeypatch.setattr(dial, "_REACH_SECONDS", 0.5)
    monkeypatch.setattr(dial, "_ANSWER_SECONDS", 0.5)
    proxy.stall()
    with pytest.raises(TargetLost) as caught:
        session.call("add_one", ["x"], ["y"], timeout=0.2)
    assert caught.value.running == ""
    assert "no answer" in str(caught.value)
    assert "kShutdown" not in str(caught.value)
    with pytest.raises(TargetLost, match="does not answer") as caught:
        session.start()
    assert caught.value.reason == "connection"
    proxy.heal()
    monkeypatch.undo()
    assert works(session)


# -- damage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_damaged_tensor_is_noticed(proxy, session, way):
    tensor = np.random.default_rng(0).integers(0, 255, 1 << 20, np.uint8)
    session.put("honest", tensor)
    assert np.array_equal(session.fetch("honest"), tensor)

    def damage(data, direction):
        if direction == way and len(data) > 4096:
            data[2000] ^= 4
            proxy.heal()

    proxy.on_bytes = damage
    if way == "down":
        session.put("damaged", tensor)
    moves = {
        "up": lambda: session.put("damaged", tensor),
        "down": lambda: session.fetch("damaged"),
    }
    with pytest.raises(TargetLost) as caught:
        moves[way]()
    assert caught.value.reason == "connection"
    assert works(session)
    session.put("damaged", tensor)
    assert np.array_equal(session.fetch("damaged"), tensor)


@pytest.mark.parametrize("place", [2, 20, 120, 140, 300, -2, -20, -60])
def test_damage_anywhere_in_a_handshake(server, proxy, library, monkeypatch, place):
    """A server that does not make sense at once, or any at all, is asked once more.

    Places are bytes on the way up, or down if negative: not those of the answers that TVM's own
    client reads, for it believes them.  Lengths are at 140 and -60: somebody waits for the rest.
    """
    monkeypatch.setattr(supervisor, "_HANDSHAKE_SECONDS", 8.0)
    monkeypatch.setattr(dial, "_CONNECT_SECONDS", 4.0)
    carried = 0

    def damage(data, way):
        nonlocal carried
        if (way == "up") == (place > 0):
            if (at := abs(place) - carried) < len(data):
                data[at] ^= 0x10
                proxy.heal()
            carried += len(data)

    proxy.on_bytes = damage
    with TargetSession(Target("llvm", rpc=server.at(proxy.port))) as session:
        session.load(library, list(kernels.PLANS.values()))
        assert works(session)
    assert carried > abs(place), "nothing was damaged"


# -- other versions --------------------------------------------------------------------------------


def judged(address: str) -> set[Verdict]:
    """The verdicts that a run had found when it ended with an error."""
    with tapml.debug(*models.two_layers(), target=Target("llvm", rpc=address)) as session:
        with pytest.raises((TargetError, TargetLost)):
            session.run()
        return {result.verdict for result in session.report.introduced.values()}


def test_another_protocol_is_refused_with_both_numbers(kernel_cache):
    with serving(f"server.PROTOCOL = service.PROTOCOL = {PROTOCOL + 6}") as other:
        session = TargetSession(Target("llvm", rpc=other.at(other.port)))
        with pytest.raises(TargetError) as caught:
            session.start()
        said = str(caught.value)
        assert f"protocol {PROTOCOL + 6}" in said
        assert f"protocol {PROTOCOL}:" in said
        assert "install the same version" in said
        session.close()
        assert judged(other.at(other.port)) == set()


def test_a_server_from_before_there_were_numbers():
    """It hangs up on what it does not know."""
    with socket.create_server(("127.0.0.1", 0)) as old:

        def answer():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = old.accept()
                    connection.recv(4)
                    connection.close()

        threading.Thread(target=answer, daemon=True).start()
        session = TargetSession(Target("llvm", rpc=f"127.0.0.1:{old.getsockname()[1]}/key"))
        with pytest.raises(TargetLost, match="of this version of tapml_nb"):
            session.start()
        session.close()
        old.shutdown(socket.SHUT_RDWR)


_LACKS_A_PARAMETER = """
import dataclasses
known = dataclasses.fields(service.CallRequest)
fields = [(one.name, one.type, one) for one in known if one.name not in ("numbers", "guard")]
service.CallRequest = dataclasses.make_dataclass(
    "CallRequest", fields, namespace={"from_json": classmethod(lambda cls, data: cls(**data))}
)
"""
_LACKS_A_FIELD = """
real = service.SessionService._one_call
def call(self, data):
    answer = real(self, data)
    del answer["equals"]
    return answer
service.SessionService._one_call = call
"""
_HAS_A_FIELD_MORE = _LACKS_A_FIELD.replace('del answer["equals"]', 'answer["more"] = 1')


_OUT_OF_STEP = """
real, answers = service.seal, []
def seal(content):
    answers.append(content)
    return real(content | {"number": content["number"] - (len(answers) == 5)})
service.seal = seal
"""


def test_answers_out_of_step_are_taken_for_no_answer(kernel_cache):
    """Every process answers its fifth request with an old number."""
    with serving(_OUT_OF_STEP) as other:
        target = Target("llvm", rpc=other.at(other.port))
        with tapml.debug(*models.two_layers(), target=target) as session:
            assert session.run().counts == {Verdict.PASS: 3}
            assert session.engine.pool.first.restarts > 0


@pytest.mark.parametrize("changes", [_LACKS_A_PARAMETER, _LACKS_A_FIELD])
def test_a_server_that_means_something_else_blames_no_kernel(kernel_cache, changes):
    with serving(changes) as other:
        assert judged(other.at(other.port)) == set()


def test_a_field_more_is_passed_over(kernel_cache):
    with serving(_HAS_A_FIELD_MORE) as other:
        target = Target("llvm", rpc=other.at(other.port))
        with tapml.debug(*models.two_layers(), target=target) as session:
            assert session.run().counts == {Verdict.PASS: 3}


# -- a machine in trouble --------------------------------------------------------------------------

_FULL_DISK = """
import errno
real = channel.Path.open
def full(self, mode="r", *arguments, **named):
    if mode == "xb":
        raise OSError(errno.ENOSPC, "No space left on device", str(self))
    return real(self, mode, *arguments, **named)
channel.Path.open = full
"""
_FULL_DEVICE = """
real = devices.TvmDevice.new
def new(self, shape, dtype):
    if tuple(shape) == (3, 16):
        raise RuntimeError("out of memory")
    return real(self, shape, dtype)
devices.TvmDevice.new = new
"""


@pytest.mark.parametrize(
    ("changes", "words"),
    [(_FULL_DISK, "No space left on device"), (_FULL_DEVICE, "the target's device is full")],
    ids=["disk", "device"],
)
def test_a_full_machine_blames_no_kernel(kernel_cache, changes, words):
    with serving(changes) as other:
        target = Target("llvm", rpc=other.at(other.port))
        with tapml.debug(*models.two_layers(), target=target) as session:
            with pytest.raises((TargetError, TargetLost), match=words):
                session.run()
            assert session.report.introduced == {}


def test_memory_that_a_kernel_spoils_ends_its_process_afterwards(server, kernel_cache):
    """Freeing its output kills the process, and does so again in a fresh one."""
    target = Target("llvm", rpc=server.at(server.port))
    with tapml.debug(*models.two_layers(), target=target) as session:
        session.override("act/silu", model_kernels.spoils_the_heap)
        report = session.run()
        result = report.introduced["act/silu", 0]
        assert result.verdict is Verdict.CRASH
        assert result.message.startswith("after the call: SIG")
        assert report.verdict("first/linear") is Verdict.PASS
        assert report.verdict("second/linear") is Verdict.PASS
        session.override("act/silu", model_kernels.honest)
        assert session.run().ok


# -- what failed connects leave --------------------------------------------------------------------


def no_more_descriptors_than(number: int) -> bool:
    return len(os.listdir("/proc/self/fd")) <= number


def test_failed_connects_leave_nothing(server, nothing_left):
    import tvm.rpc  # noqa: F401  (its import opens descriptors for good)

    def rude(listener):
        with contextlib.suppress(OSError):
            while True:
                listener.accept()[0].close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        threading.Thread(target=rude, args=(listener,), daemon=True).start()
        with socket.create_server(("127.0.0.1", 0)) as closed:
            nobody = closed.getsockname()[1]
        addresses = [
            f"127.0.0.1:{port}/key",
            f"127.0.0.1:{nobody}/key",
            f"127.0.0.1:{nobody}",
            f"127.0.0.1:{server.port}/wrong",
            f"127.0.0.1:{server.port}",
        ]

        def attempt(address):
            session = TargetSession(Target("llvm", rpc=address))
            with pytest.raises(TargetLost):
                session.start()
            session.close()

        for address in addresses:
            attempt(address)  # what is made once
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(4):
                attempt(address)
            assert wait_until(partial(no_more_descriptors_than, before)), address
        listener.shutdown(socket.SHUT_RDWR)


def test_one_session_more_than_tvm_takes_is_told(server, nothing_left):
    target = Target("llvm", rpc=server.at(server.port))
    sessions = [TargetSession(target) for _ in range(33)]

    def start_all():
        for session in sessions:
            session.start()

    try:
        with pytest.raises(TargetError, match=r"32 target sessions .* close one"):
            start_all()
        sessions[0].close()
        sessions[-1].start()
        assert sessions[-1].held() == 0
    finally:
        for session in sessions:
            session.close()


def test_whoever_asks_has_to_know_the_key(server):
    def ask(key):
        text = json.dumps({"key": key, "pid": 0}).encode()
        with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
            connection.sendall(pack_word(ASK) + pack_word(len(text)) + text)
            return connection.recv(4)

    assert ask(server.key) == pack_word(ASK)
    assert ask("wrong") != pack_word(ASK)
