"""What kernels leave behind ends with their session, and keeps nobody waiting until then."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tapml_nb.targets.server.leftovers import children, end, end_marked, is_stopped
from tapml_nb.targets.spec import Target
from tapml_nb.targets.wire.errors import TargetLost
from tapml_nb.targets.wire.recorder import SERVER_MARK
from tests.conftest import wait_until
from tests.targets.conftest import X, fill, gone

SOON = 15
"""Seconds, on a machine that is busy with other things."""


@pytest.fixture
def standalone(nothing_left):
    """``tapml serve`` in another process, and its address and key."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tapml_nb.cli", "serve", "--host", "127.0.0.1"],
        stdout=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    address = process.stdout.readline().partition("rpc='")[2].partition("'")[0]
    yield psutil.Process(process.pid), address
    process.terminate()
    assert process.wait(SOON) == 0
    process.stdout.close()


@pytest.fixture(params=["local", "remote"])
def place(request, open_session):
    """A session with a short deadline, here or behind ``tapml serve``; and its listener."""
    if request.param == "remote":
        server, address = request.getfixturevalue("standalone")
        return open_session(Target("llvm", rpc=address, timeout=0.5)), server
    session = open_session(Target("llvm", timeout=0.5))
    return session, psutil.Process(session.platform["pid"]).parent()


def below(listener):
    return [process for process in listener.children(recursive=True) if not gone(process)]


def works(session):
    fill(session)
    session.call("add_one", ["x"], ["y"])
    return np.array_equal(session.fetch("y"), X + 1)


@pytest.mark.parametrize("kernel", ["add_one", "leave_children", "leave_daemon"])
def test_what_is_left_ends_with_the_session(place, kernel):
    session, listener = place
    session.call(kernel, ["x"], ["y"])
    processes = below(listener)
    assert len(processes) == {"add_one": 1, "leave_children": 41, "leave_daemon": 3}[kernel]
    session.close()
    assert wait_until(lambda: all(map(gone, processes)), SOON)


@pytest.mark.parametrize("kernel", ["segfault", "leave_and_die"])
def test_a_crash_is_told_at_once_whoever_holds_the_line(place, kernel):
    session, listener = place
    left = below(listener)
    begin = time.monotonic()
    with pytest.raises(TargetLost, match="SIGSEGV") as caught:
        session.call(kernel, ["x"], ["y"], timeout=60)
    assert caught.value.reason == "crash"
    assert time.monotonic() - begin < SOON
    assert works(session)
    assert wait_until(lambda: all(map(gone, left)), SOON)
    assert wait_until(lambda: len(below(listener)) == 1, SOON)


@pytest.mark.parametrize(
    ("place", "kernel"),
    [
        ("local", "leave_and_spin"),
        ("remote", "endless"),
        ("remote", "leave_and_spin"),
        ("remote", "spin_deaf"),
        ("remote", "stop_here"),
    ],
    indirect=["place"],
)
def test_whoever_has_had_their_time_ends(place, kernel):
    """By the alarm; by the notebook's watchdog; on another machine by the listener."""
    session, listener = place
    left = below(listener)
    with pytest.raises(TargetLost) as caught:
        session.call(kernel, ["x"], ["y"])
    assert caught.value.reason == "timeout"
    assert wait_until(lambda: all(map(gone, left)), SOON)
    assert works(session)
    assert wait_until(lambda: len(below(listener)) == 1, SOON)


def test_a_listener_ends_who_is_late_without_being_asked(standalone, open_session, monkeypatch):
    """The notebook may be gone, or the line to it."""
    monkeypatch.setattr("tapml_nb.targets.client.connection.ask_for_the_end", lambda *_: None)
    listener, address = standalone
    session = open_session(Target("llvm", rpc=address, timeout=0.5))
    left = below(listener)
    with pytest.raises(TargetLost):
        session.call("spin_deaf", ["x"], ["y"])
    assert wait_until(lambda: all(map(gone, left)), SOON)


def test_a_closed_session_ends_although_its_process_was_stopped(standalone, open_session):
    listener, address = standalone
    session = open_session(Target("llvm", rpc=address))
    left = below(listener)
    left[0].suspend()
    session.close()
    assert wait_until(lambda: all(map(gone, left)), SOON)


@pytest.mark.parametrize("kernel", ["end_listener", "stop_listener"])
def test_a_listener_that_a_kernel_takes_away_is_replaced(open_session, kernel):
    session = open_session(Target("llvm", timeout=60))
    listener = psutil.Process(session.platform["pid"]).parent()
    begin = time.monotonic()
    with pytest.raises(TargetLost) as caught:
        session.call(kernel, ["x"], ["y"])
    assert caught.value.reason == "killed"
    left = [p for p in psutil.process_iter() if _belongs_to(p, listener)]
    assert works(session)
    assert time.monotonic() - begin < 2 * SOON
    assert wait_until(lambda: all(map(gone, left)), SOON)


def _belongs_to(process, listener):
    try:
        return process.environ().get(SERVER_MARK) == listener.environ()[SERVER_MARK]
    except (psutil.Error, OSError):
        return False


def test_a_listener_that_was_stopped_is_replaced(session):
    listener = psutil.Process(session.platform["pid"]).parent()
    listener.suspend()
    with pytest.raises(TargetLost):
        session.call("segfault", ["x"], ["y"])
    begin = time.monotonic()
    assert works(session)
    assert time.monotonic() - begin < SOON
    assert gone(listener)


def test_a_server_without_its_folder_is_replaced(session, nothing_left):
    (folder,) = nothing_left.glob("tapml-target-*")
    shutil.rmtree(folder)
    with pytest.raises(TargetLost):
        session.call("segfault", ["x"], ["y"])
    assert works(session)


def test_closed_descriptors_are_the_kernels_doing(session):
    with pytest.raises(TargetLost) as caught:
        session.call("close_all", ["x"], ["y"])
    assert caught.value.reason == "crash"
    assert works(session)


# -- how they are found ----------------------------------------------------------------------------


@pytest.fixture
def sleeper():
    process = subprocess.Popen(
        ["sleep", "60"], env={SERVER_MARK: "/a/folder"}, start_new_session=True
    )
    yield process
    process.kill()
    process.wait()


def test_children_and_groups(sleeper):
    assert sleeper.pid in children()
    assert not is_stopped(sleeper.pid)
    sleeper.send_signal(signal.SIGSTOP)
    assert wait_until(lambda: is_stopped(sleeper.pid))
    end(sleeper.pid)
    assert sleeper.wait(SOON) == -signal.SIGKILL
    end(sleeper.pid)  # nobody is there


def test_the_marked_are_those_of_one_folder(sleeper, tmp_path):
    end_marked(tmp_path)
    assert sleeper.poll() is None
    end_marked(Path("/a/folder"))
    assert sleeper.wait(SOON) == -signal.SIGKILL
