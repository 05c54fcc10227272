"""The server itself: who may come in, what they may touch, and that nobody keeps others waiting."""

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import tvm
from tvm import rpc

from tapml_nb.targets.client.endpoint import LocalServer
from tapml_nb.targets.client.session import TargetSession
from tapml_nb.targets.server.handshakes import Handshake, Handshakes
from tapml_nb.targets.spec import Target
from tapml_nb.targets.wire.envelope import error_of, seal, unseal
from tapml_nb.targets.wire.errors import TargetError, TargetLost
from tapml_nb.targets.wire.handshake import CHANNEL, END, MAGIC, opening, pack_word
from tests.conftest import wait_until
from tests.targets import kernels
from tests.targets.conftest import X, fill


@pytest.fixture
def server(nothing_left):
    server = LocalServer()
    yield server
    server.close()


@pytest.fixture
def standalone(nothing_left):
    """``tapml serve`` in another process; its address and key."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tapml_nb.cli", "serve", "--host", "127.0.0.1"],
        stdout=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    yield process.stdout.readline().partition("rpc='")[2].partition("'")[0]
    process.terminate()
    assert process.wait(5) == 0
    process.stdout.close()


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), 5)


def asked(remote, name, *arguments):
    """What our server answers to TVM's own client."""
    answer = unseal(remote.get_function("tapml.do")(seal([1, name, arguments])))
    if "error" in answer:
        raise error_of(answer)  # (In no variable: that would keep the connection alive.)
    return answer["answer"]


# -- who may come in -------------------------------------------------------------------------------


def test_tvms_own_client_is_at_home(server, library):
    remote = rpc.connect("127.0.0.1", server.port, server.token)
    remote.upload(str(library))
    module = remote.load_module("kernels.so")
    x = tvm.runtime.tensor(X, remote.cpu())
    y = tvm.runtime.tensor(np.zeros_like(X), remote.cpu())
    module.get_function("add_one")(x, y)
    assert np.array_equal(y.numpy(), X + 1)
    assert bytes(remote.download("kernels.so")) == library.read_bytes()
    assert remote.get_function("tvm.contrib.sort.argsort")


def test_a_wrong_key_is_refused(server):
    for key in ("", "wrong", server.token[:-1], server.token + "x"):
        with pytest.raises(Exception, match="cannot find server that matches"):
            rpc.connect("127.0.0.1", server.port, key)
    rpc.connect("127.0.0.1", server.port, server.token)


def test_a_wrong_key_is_told_by_the_session(server):
    session = TargetSession(Target("llvm", rpc=f"127.0.0.1:{server.port}/wrong"))
    with pytest.raises(TargetLost, match="refuses the key") as caught:
        session.start()
    assert caught.value.reason == "connection"
    session.close()


def test_nobody_there(nothing_left):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    session = TargetSession(Target("llvm", rpc=f"127.0.0.1:{port}/key"))
    with pytest.raises(TargetLost, match=f"127.0.0.1:{port}"):
        session.start()
    session.close()


def test_a_server_that_says_nothing_is_given_up(nothing_left, monkeypatch):
    monkeypatch.setattr("tapml_nb.targets.client.dial._ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        session = TargetSession(Target("llvm", rpc=f"127.0.0.1:{port}/key"))
        begin = time.monotonic()
        with pytest.raises(TargetLost, match="does not answer"):
            session.start()
        assert time.monotonic() - begin < 5
        session.close()


def test_silent_and_senseless_connections_keep_nobody_waiting(server):
    sense = [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("<ii", MAGIC, -5),
        struct.pack("<ii", MAGIC, 1 << 30),
        struct.pack("<ii", MAGIC, 100) + b"too short",
        struct.pack("<ii", MAGIC, 4) + b"\xff\xfe\xfd\xfc",
        pack_word(CHANNEL) + struct.pack("<i", 2) + b"[]",
        pack_word(CHANNEL) + struct.pack("<i", 36) + b'{"session": "../..", "token": "xxx"}',
    ]
    pests = []
    for words in sense * 2:
        pests.append(connect(server))
        pests[-1].sendall(words)
    begin = time.monotonic()
    remote = rpc.connect("127.0.0.1", server.port, server.token)
    assert json.loads(remote.get_function("tapml.hello")())["pid"]
    assert time.monotonic() - begin < 4  # the first of them alone is waited for 5 s
    for pest in pests:
        pest.close()


def test_who_says_nothing_costs_no_process(standalone):
    """Two hundred of them, with new ones for those that are hung up on."""
    host, _, rest = standalone.partition(":")
    port, _, key = rest.partition("/")
    silent = [socket.create_connection((host, int(port)), 5) for _ in range(200)]
    try:
        remote = rpc.connect(host, int(port), key)
        pid = json.loads(remote.get_function("tapml.hello")())["pid"]
        assert [child.pid for child in psutil.Process(pid).parent().children()] == [pid]
    finally:
        for connection in silent:
            connection.close()


def test_a_flood_from_one_place_pushes_out_nobody_of_another():
    handshakes, ends = Handshakes(limit=4), []
    for peer in ("flood", "guest", "flood", "flood"):
        assert handshakes.in_the_way() is None
        here, there = socket.socketpair()
        ends += [here, there]
        handshakes[here.fileno()] = Handshake(here, peer)
    assert handshakes.in_the_way() is next(iter(handshakes.values()))
    del handshakes[next(iter(handshakes))]
    assert handshakes.in_the_way() is None
    assert handshakes.oldest().peer == "flood"
    for end in ends:
        end.close()


def test_a_session_ends_when_who_knows_its_token_asks(server):
    remote = rpc.connect("127.0.0.1", server.port, server.token)
    credentials = asked(remote, "channel")
    process = psutil.Process(json.loads(remote.get_function("tapml.hello")())["pid"])
    process.suspend()  # it can hear nothing
    for token, answer in (("wrong", b""), (credentials["token"], pack_word(END))):
        assert process.is_running()
        with connect(server) as line:
            line.sendall(opening(END, {**credentials, "token": token}))
            assert line.recv(4) == answer
    assert server.exit_of(process.pid, 15).signal == signal.SIGKILL


def test_a_silent_connection_is_hung_up_on(server):
    with connect(server) as silent:
        silent.settimeout(8)
        assert silent.recv(1) == b""


def test_a_tensor_connection_needs_the_sessions_token(server):
    remote = rpc.connect("127.0.0.1", server.port, server.token)
    credentials = asked(remote, "channel")

    def introduce(token):
        connection = connect(server)
        connection.sendall(opening(CHANNEL, {**credentials, "token": token}))
        return connection

    with introduce("wrong") as stranger:
        assert stranger.recv(1) == b""
    with introduce(credentials["token"]) as friend:
        assert friend.recv(4) == struct.pack("<I", len(b'{"ok": true}'))


def test_it_listens_on_this_machine_only(server):
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", server.port), 1)


def test_without_a_token_it_does_not_start(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TAPML_TOKEN"}
    done = subprocess.run(
        [sys.executable, "-m", "tapml_nb.targets.server.listener", "--workroot", str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "set TAPML_TOKEN" in done.stderr


# -- what they may touch ---------------------------------------------------------------------------


def test_paths_stay_in_the_sessions_folder(server, tmp_path, library):
    remote = rpc.connect("127.0.0.1", server.port, server.token)
    target = tmp_path / "target"
    target.write_text("secret")
    for name in (str(target), f"../../../../../../..{target}", "a/../../x"):
        for attempt in (
            lambda name=name: remote.upload(bytearray(b"x"), name),
            lambda name=name: remote.download(name),
            lambda name=name: remote.remove(name),
            lambda name=name: remote.load_module(name),
        ):
            with pytest.raises(Exception, match="leaves the session's folder"):
                attempt()
    assert target.read_text() == "secret"


def test_a_standalone_server_takes_no_paths_of_its_own_machine(standalone, library):
    host, _, rest = standalone.partition(":")
    port, _, key = rest.partition("/")
    remote = rpc.connect(host, int(port), key)
    with pytest.raises(Exception, match="leaves the session's folder"):
        asked(remote, "load", str(library), [])


def test_children_know_neither_token_nor_torch(server):
    remote = rpc.connect("127.0.0.1", server.port, server.token)
    pid = json.loads(remote.get_function("tapml.hello")())["pid"]
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert "libtvm_runtime.so" in maps
    assert "libtvm_compiler" not in maps
    assert "libtorch" not in maps
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    assert next(line for line in limits if "core file" in line).split()[4:6] == ["0", "0"]
    assert server.token not in Path(f"/proc/{pid}/cmdline").read_text()


# -- a server on another machine -------------------------------------------------------------------


def test_a_session_on_a_standalone_server(standalone, library):
    target = Target("llvm", rpc=standalone, timeout=1)
    with TargetSession(target) as session:
        session.load(library, list(kernels.PLANS.values()))
        assert session.bytes_sent == library.stat().st_size
        fill(session)
        assert session.call("add_one", ["x"], ["y"]).deterministic == (True,)
        assert np.array_equal(session.fetch("y"), X + 1)
        for kernel, reason, detail in (
            ("segfault", "crash", "SIGSEGV"),
            ("leave", "crash", "exit status 3: so long"),
            ("endless", "timeout", "no answer within 1 s"),
        ):
            begin = time.monotonic()
            with pytest.raises(TargetLost, match=detail) as caught:
                session.call(kernel, ["x"], ["y"])
            assert caught.value.reason == reason
            assert time.monotonic() - begin < 8
            fill(session)
            assert session.call("add_one", ["x"], ["y"]).deterministic == (True,)
        assert session.restarts == 3


def forward(listener, port):
    """What an SSH tunnel does with one port."""

    def pump(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", port))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def test_one_forwarded_port_is_enough(standalone):
    port, _, key = standalone.partition(":")[2].partition("/")
    with socket.create_server(("127.0.0.1", 0)) as tunnel:
        forward(tunnel, int(port))
        near = tunnel.getsockname()[1]
        with TargetSession(Target("llvm", rpc=f"127.0.0.1:{near}/{key}")) as session:
            fill(session)
            assert np.array_equal(session.fetch("x"), X)


FULL = """
import os
from tapml_nb.targets.server.listener import serve_standalone
fork, calls = os.fork, []
def full_at_first():
    calls.append(1)
    if len(calls) == 1:
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return fork()
os.fork = full_at_first
serve_standalone("127.0.0.1", 0)
"""


@pytest.fixture
def serve(nothing_left):
    """Starts a program that serves; returns it with its port and key."""
    started = []

    def start(*command):
        process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
        started.append(process)
        process.stdout.readline()
        address = process.stdout.readline().partition("rpc='")[2].partition("'")[0]
        port, _, key = address.partition(":")[2].partition("/")
        return process, int(port), key

    yield start
    for process in started:
        process.terminate()
        process.wait(15)
        process.stdout.close()


def test_a_machine_without_room_for_a_process_ends_no_server(serve):
    _, port, key = serve("-c", FULL)
    with socket.create_connection(("127.0.0.1", port), 15) as line:
        text = f"client:{key}".encode()
        line.sendall(struct.pack("<ii", MAGIC, len(text)) + text)
        assert line.recv(1) == b""
    remote = rpc.connect("127.0.0.1", port, key)
    assert json.loads(remote.get_function("tapml.hello")())["pid"]


def test_ctrl_c_is_obeyed_while_connections_come(serve):
    ended = threading.Event()

    def flood(port):
        words = struct.pack("<ii", MAGIC, 4) + b"nope"
        with contextlib.suppress(OSError):
            while not ended.is_set():
                with socket.create_connection(("127.0.0.1", port), 1) as line:
                    line.sendall(words)

    for _ in range(3):
        process, port, _ = serve("-m", "tapml_nb.cli", "serve")
        threads = [threading.Thread(target=flood, args=(port,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
        for thread in threads:
            thread.join()


# -- order in its house ----------------------------------------------------------------------------


def test_a_sessions_folder_goes_with_it(server, library):
    (root,) = [p for p in Path(tempfile.gettempdir()).iterdir() if p.name.startswith("tapml")]
    remote = rpc.connect("127.0.0.1", server.port, server.token)
    pid = json.loads(remote.get_function("tapml.hello")())["pid"]
    remote.upload(str(library))
    assert list(root.glob("session-*/kernels.so"))
    os.kill(pid, signal.SIGKILL)
    assert server.exit_of(pid, 2).signal == signal.SIGKILL
    assert [p.name for p in root.iterdir()] == ["server.log"]


def test_a_server_that_cannot_start_says_why(nothing_left, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "nonsense")
    with pytest.raises(TargetLost, match="PYTHONHASHSEED"):
        LocalServer().port  # noqa: B018


def test_an_uploaded_name_is_never_reused(standalone, library):
    with TargetSession(Target("llvm", rpc=standalone)) as session:
        session.load(library, [])
        connection = session.connection
        with pytest.raises(TargetError, match="FileExistsError"):
            connection.service.upload(f"0-{library.name}", b"other")
        assert wait_until(lambda: session.held() == 0)
