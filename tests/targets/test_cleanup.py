"""Nothing outlives the notebook, whichever way it ends."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tapml_nb.targets.client.endpoint import LocalServer
from tapml_nb.targets.client.session import TargetSession
from tapml_nb.targets.spec import Target
from tests.conftest import wait_until
from tests.targets.conftest import gone

CLIENT = """
import os, sys, time
sys.modules["torch"] = None  # TVM imports in a third of the time
from tapml_nb.targets.client.endpoint import LocalServer
from tapml_nb.targets.client.session import TargetSession
from tapml_nb.targets.spec import Target
session = TargetSession(Target("llvm"))
session.start()
print(session.platform["pid"], flush=True)
sys.stdin.readline()  # whoever reads that wants to see the processes before they end
{ending}
"""


@pytest.fixture
def client(nothing_left, tmp_path):
    """Runs a client in another process; returns it with its session's process and listener."""
    started = []

    def start(ending):
        process = subprocess.Popen(
            [sys.executable, "-c", CLIENT.format(ending=ending)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"TMPDIR": str(nothing_left), "TVM_FFI_DISABLE_TORCH_C_DLPACK": "1"},
            text=True,
        )
        started.append(process)
        child = psutil.Process(int(process.stdout.readline()))
        others = [child, child.parent()]
        process.stdin.write("\n")
        process.stdin.flush()
        return process, others

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def assert_gone(processes, folder):
    assert wait_until(lambda: all(map(gone, processes)), 10)
    assert wait_until(lambda: not list(folder.glob("tapml*")), 10)


def test_a_client_that_is_killed(client, nothing_left):
    process, others = client("time.sleep(60)")
    process.kill()
    assert_gone(others, nothing_left)


def test_a_client_that_is_killed_while_a_fork_of_it_lives_on(client, nothing_left):
    """The fork holds the other end of the server's standard input."""
    process, others = client(
        "pid = os.fork()\nif pid == 0:\n    time.sleep(20); os._exit(0)\n"
        "print(pid, flush=True); time.sleep(60)"
    )
    fork = int(process.stdout.readline())
    try:
        process.kill()
        assert_gone(others, nothing_left)
    finally:
        os.kill(fork, signal.SIGKILL)


def test_a_client_that_closes_while_a_fork_of_it_lives_on(client, nothing_left):
    process, others = client(
        "pid = os.fork()\nif pid == 0:\n    time.sleep(20); os._exit(0)\n"
        "session.close(); print(pid, flush=True); time.sleep(60)"
    )
    fork = int(process.stdout.readline())
    try:
        assert_gone(others, nothing_left)
    finally:
        os.kill(fork, signal.SIGKILL)


@pytest.mark.parametrize("ending", ["", "sys.exit(3)", "1 / 0", "os._exit(0)", "os.abort()"])
def test_a_client_that_ends_without_closing(client, nothing_left, ending):
    process, others = client(ending)
    process.wait(10)
    assert_gone(others, nothing_left)


def test_a_fork_of_the_client_is_not_the_owner(nothing_left):
    server = LocalServer()
    pid = os.fork()
    if pid == 0:
        server.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert server.alive
    server.close()
    assert not server.alive


def test_a_client_whose_server_died_first(client, nothing_left):
    process, others = client("sys.stdin.read()")
    others[1].kill()
    assert wait_until(lambda: all(map(gone, others)), 2)
    assert list(nothing_left.glob("tapml*"))
    process.stdin.close()
    process.wait(10)
    assert_gone(others, nothing_left)


def test_closing(no_threads_or_descriptors_left, nothing_left):
    import tvm.rpc  # noqa: F401

    session = TargetSession(Target("llvm"))
    session.start()
    child = psutil.Process(session.platform["pid"])
    others = [child, child.parent()]
    (folder,) = nothing_left.glob("tapml*")
    assert folder.stat().st_mode & 0o777 == 0o700
    session.close()
    assert_gone(others, nothing_left)


@pytest.fixture
def standalone(nothing_left):
    """``tapml serve``: the process, and what it prints to paste."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tapml_nb.cli", "serve", "--host", "127.0.0.1"],
        stdout=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(nothing_left)},
        text=True,
    )
    process.stdout.readline()
    yield process, process.stdout.readline().partition("rpc='")[2].partition("'")[0]
    process.terminate()
    process.wait(5)
    process.stdout.close()


def test_standalone_ends_with_its_session_folders(standalone, nothing_left):
    process, address = standalone
    session = TargetSession(Target("llvm", rpc=address))
    session.start()
    child = psutil.Process(session.platform["pid"])
    assert list(nothing_left.glob("tapml-serve-*/session-*"))
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 0
    assert_gone([child], nothing_left)
    session.close()


def test_closing_does_not_wait_for_a_target_elsewhere(standalone):
    _, address = standalone
    session = TargetSession(Target("llvm", rpc=address))
    session.start()
    psutil.Process(session.platform["pid"]).suspend()  # as good as a machine that is gone
    begin = time.monotonic()
    session.close()
    assert time.monotonic() - begin < 5
