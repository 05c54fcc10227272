"""Targets that die, hang or are killed: each with its reason, and each comes back by itself."""

import os
import platform
import shutil
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest

from tapml_nb.targets.client.session import TargetSession
from tapml_nb.targets.spec import Target
from tapml_nb.targets.wire.errors import KernelRaised, TargetGone, TargetLost, TargetStarted
from tests.conftest import wait_until
from tests.targets import kernels
from tests.targets.conftest import X, fill, gone
from tests.targets.serving import serving

SOON = 8.0
"""Seconds: far more than a busy machine needs, and less than a session's own deadline, 10 s."""


def works(session):
    """The session computes, after a restart if need be."""
    fill(session)
    session.call("add_one", ["x"], ["y"])
    return np.array_equal(session.fetch("y"), X + 1)


def during(seconds, action):
    """Do something a little later, while the test's own thread is in a call."""
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


def listener_of(session):
    return psutil.Process(session.platform["pid"]).parent()


# -- the kernel's own doing ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "detail"),
    [
        ("segfault", "SIGSEGV"),
        ("abort", "SIGABRT"),
        ("leave", "exit status 3: so long"),
    ],
)
def test_a_crash_names_its_signal_and_last_words(session, events, kernel, detail):
    with pytest.raises(TargetLost, match=detail) as caught:
        session.call(kernel, ["x"], ["y"])
    assert caught.value.reason == "crash"
    assert session.state == "lost"
    assert not session.resident("x")
    assert not session.resident("y")
    assert events[-1] == TargetGone("crash", caught.value.detail)
    assert works(session)
    assert session.restarts == 1
    assert isinstance(events[-1], TargetStarted)


def test_an_endless_loop_ends_at_its_deadline(open_session):
    session = open_session(Target("llvm", timeout=1))
    begin = time.monotonic()
    with pytest.raises(TargetLost, match="no answer within 1 s") as caught:
        session.call("endless", ["x"], ["y"])
    assert 0.95 < time.monotonic() - begin < SOON
    assert caught.value.reason == "timeout"
    assert works(session)


def test_a_deadline_of_one_call(session):
    begin = time.monotonic()
    with pytest.raises(TargetLost, match=r"no answer within 0\.2 s"):
        session.call("endless", ["x"], ["y"], timeout=0.2)
    assert time.monotonic() - begin < SOON
    fill(session)
    assert len(session.call("slow", ["x"], ["y"], repeats=1).ms) == 1


def test_a_stopped_target_ends_at_its_deadline_too(session):
    """Its own alarm cannot ring: the watchdog is there for that."""
    os.kill(session.platform["pid"], signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(TargetLost) as caught:
        session.call("add_one", ["x"], ["y"], timeout=0.3)
    assert caught.value.reason == "timeout"
    assert time.monotonic() - begin < SOON
    assert works(session)


def test_forty_crashes_in_a_row(session):
    """More than the 32 sessions that a client process can hold; tracebacks kept, as people do."""
    kept = []
    for _ in range(40):
        with pytest.raises(TargetLost) as caught:
            session.call("abort", ["x"], ["y"])
        kept.append(caught.value)
        assert works(session)
    assert session.restarts == 40
    assert {lost.reason for lost in kept} == {"crash"}


def test_a_library_that_kills_at_load_takes_nothing_with_it(session, tmp_path):
    (tmp_path / "fatal.c").write_text(
        "#include <stdlib.h>\n__attribute__((constructor)) static void f(void) { abort(); }\n"
    )
    from tapml_nb.compile.toolchain import compile_c, link_shared

    compile_c(tmp_path / "fatal.c", tmp_path / "fatal.o")
    link_shared([tmp_path / "fatal.o"], tmp_path / "fatal.so", platform.machine())
    with pytest.raises(TargetLost, match="SIGABRT"):
        session.load(tmp_path / "fatal.so", [])
    assert works(session)


def test_a_library_that_is_gone_after_a_restart_comes_back_when_needed(session, library, tmp_path):
    """A sweeper of temporary folders is no reason to blame a kernel."""
    copy = tmp_path / "libraries" / "copy.so"
    copy.parent.mkdir()
    copy.write_bytes(library.read_bytes())
    plan = kernels.unary("slow")
    session.load(copy, [replace(plan, key="copied")])
    with pytest.raises(TargetLost):
        session.call("abort", ["x"], ["y"])
    shutil.rmtree(copy.parent)
    assert works(session)
    session.call("copied", ["x"], ["y"])
    assert np.array_equal(session.fetch("y"), X)
    assert session.restarts == 1


def test_a_loss_names_the_kernel_whose_launch_was_open(session):
    for kernel, seconds in (("segfault", 10), ("leave", 10), ("endless", 0.3)):
        with pytest.raises(TargetLost) as caught:
            session.call(kernel, ["x"], ["y"], timeout=seconds)
        assert caught.value.running == kernel
        assert works(session)


def test_descriptors_that_a_kernel_closes_are_its_own_doing(session):
    with pytest.raises(TargetLost, match="closed descriptors") as caught:
        session.call("close_all", ["x"], ["y"])
    assert (caught.value.reason, caught.value.running) == ("crash", "close_all")
    assert works(session)


def test_a_copy_of_the_process_answers_nothing(session):
    with pytest.raises(KernelRaised, match="forked"):
        session.call("forks", ["x"], ["y"], repeats=1)
    for _ in range(3):
        assert works(session)
    assert session.restarts == 0


def test_a_child_that_does_not_come_back_is_no_copy(session):
    assert session.call("leaves_a_child", ["x"], ["y"]).deterministic == (True,)
    assert works(session)
    assert session.restarts == 0
    time.sleep(0.7)  # then they have ended


# -- other people's doing --------------------------------------------------------------------------


def test_killed_in_mid_call(session):
    pid = session.platform["pid"]
    timer = during(0.2, lambda: os.kill(pid, signal.SIGKILL))
    with pytest.raises(TargetLost, match="SIGKILL") as caught:
        session.call("endless", ["x"], ["y"])
    timer.join()
    assert caught.value.reason == "killed"
    assert works(session)


def test_killed_between_calls(session):
    os.kill(session.platform["pid"], signal.SIGKILL)
    with pytest.raises(TargetLost, match="SIGKILL") as caught:
        session.call("add_one", ["x"], ["y"])
    assert caught.value.reason == "killed"
    assert works(session)


def test_killed_before_a_drop_is_nothing_to_report(session, events):
    os.kill(session.platform["pid"], signal.SIGKILL)
    session.drop(["x"])
    assert session.state == "lost"
    assert works(session)


def test_the_listener_killed_in_mid_call(session):
    listener = listener_of(session)
    timer = during(0.2, listener.kill)
    with pytest.raises(TargetLost, match="the target server was killed") as caught:
        session.call("endless", ["x"], ["y"])
    timer.join()
    assert caught.value.reason == "killed"
    assert works(session)
    assert listener_of(session).pid != listener.pid


def test_the_listener_killed_between_calls(session):
    child = psutil.Process(session.platform["pid"])
    listener_of(session).kill()
    assert wait_until(lambda: gone(child))
    with pytest.raises(TargetLost) as caught:
        session.call("add_one", ["x"], ["y"])
    assert caught.value.reason == "killed"
    assert works(session)


def test_stopped_before_the_call_is_no_kernels_doing(session):
    os.kill(session.platform["pid"], signal.SIGSTOP)
    with pytest.raises(TargetLost) as caught:
        session.call("add_one", ["x"], ["y"], timeout=0.3)
    assert caught.value.running == ""
    assert works(session)


def test_stopped_in_mid_launch_counts_as_a_hang(session):
    pid = session.platform["pid"]
    timer = during(0.1, lambda: os.kill(pid, signal.SIGSTOP))
    with pytest.raises(TargetLost) as caught:
        session.call("slow", ["x"], ["y"], timeout=0.3)
    timer.join()
    assert (caught.value.reason, caught.value.running) == ("timeout", "slow")
    assert works(session)


def test_a_stopped_listener_is_replaced(session, monkeypatch):
    monkeypatch.setattr("tapml_nb.targets.client.endpoint._REPORT_SECONDS", 0.5)
    listener = listener_of(session)
    listener.suspend()
    with pytest.raises(TargetLost):
        session.call("abort", ["x"], ["y"])
    assert works(session)
    assert listener_of(session).pid != listener.pid
    with pytest.raises(TargetLost, match="SIGABRT"):
        session.call("abort", ["x"], ["y"])


def test_a_server_whose_folder_is_gone_is_replaced(session):
    shutil.rmtree(session.endpoint.server._workroot)
    os.kill(session.platform["pid"], signal.SIGKILL)
    with pytest.raises(TargetLost) as caught:
        session.call("add_one", ["x"], ["y"])
    assert caught.value.running == ""
    assert works(session)


def test_a_tensor_that_is_not_there_any_more_renews_the_session(session):
    session.connection.service.drop(["x"])
    with pytest.raises(TargetLost) as caught:
        session.call("add_one", ["x"], ["y"])
    assert caught.value.reason == "connection"
    assert works(session)


def test_killed_in_mid_transfer(session):
    pid = session.platform["pid"]
    os.kill(pid, signal.SIGSTOP)
    timer = during(0.2, lambda: os.kill(pid, signal.SIGKILL))
    with pytest.raises(TargetLost) as caught:
        session.put("large", np.zeros(64 << 20, np.uint8))
    timer.join()
    assert caught.value.reason == "killed"
    assert not session.resident("large")
    assert works(session)


# -- our own doing ---------------------------------------------------------------------------------


def test_interrupting_a_call(session):
    timer = during(0.2, session.interrupt)
    begin = time.monotonic()
    with pytest.raises(TargetLost) as caught:
        session.call("endless", ["x"], ["y"])
    timer.join()
    assert time.monotonic() - begin < SOON
    assert caught.value.reason == "interrupted"
    assert works(session)


def test_interrupting_nothing_changes_nothing(session, open_session):
    session.interrupt()
    assert session.call("add_one", ["x"], ["y"]).deterministic == (True,)
    assert session.restarts == 0


def test_closing_during_a_call(session):
    pid = session.platform["pid"]
    timer = during(0.2, session.close)
    with pytest.raises(TargetLost) as caught:
        session.call("endless", ["x"], ["y"])
    timer.join()
    assert caught.value.reason == "interrupted"
    assert session.state == "closed"
    assert wait_until(lambda: not psutil.pid_exists(pid))


def test_ctrl_c_during_a_call_leaves_no_stale_answer(session):
    timer = during(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        session.call("slow", ["x"], ["y"], repeats=5)
    timer.join()
    assert session.state == "lost"
    assert works(session)


_SLOW_TO_TELL = """
import ctypes, faulthandler
libc, enable = ctypes.CDLL(None), faulthandler.enable

def slow(*arguments, **options):  # the handler that is there first, TVM's, does not come back
    libc.signal(11, libc.pause)
    enable(*arguments, **options)

faulthandler.enable = slow
"""


def test_a_crash_is_a_crash_though_its_stack_trace_takes_longer_than_its_time(library):
    with serving(_SLOW_TO_TELL) as server:
        target = Target("llvm", rpc=server.at(server.port), timeout=0.5)
        with TargetSession(target) as session:
            session.load(library, list(kernels.PLANS.values()))
            for kernel, reason in (("segfault", "crash"), ("endless", "timeout")):
                fill(session)
                with pytest.raises(TargetLost) as caught:
                    session.call(kernel, ["x"], ["y"])
                assert (caught.value.reason, caught.value.running) == (reason, kernel)
