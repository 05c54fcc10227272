"""Processes that kernels leave behind: found whatever they did to get away, and ended.

A session's process leads a process group, and most of what a kernel starts is in it.  A daemon
leaves the group and its parent, and becomes the listener's own child then, for the listener has
asked to be given orphans.  Where the listener is gone as well, they are known by the environment
they were born with, in which the server's folder stands.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

from tapml_nb.targets.wire.recorder import SERVER_MARK

_PR_SET_CHILD_SUBREAPER = 36
_PROC = Path("/proc")
_SECONDS = 2.0


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> set[int]:
    """This process's children, ended ones among them."""
    me = os.getpid()
    try:
        return {int(pid) for pid in (_PROC / f"{me}/task/{me}/children").read_text().split()}
    except OSError:  # a kernel that does not list them
        return {pid for pid in _processes() if stat(pid)[1:2] == [str(me)]}


def end(pid: int) -> None:
    """End a process, and the group that it leads; fine if there is none."""
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def end_all_children() -> None:
    """End this process's children, theirs, and so on."""
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        for pid in children():
            end(pid)
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            time.sleep(0.005)


def end_marked(folder: Path) -> None:
    """End what a server started that cannot do it itself any more."""
    mark = f"{SERVER_MARK}={folder}".encode()
    deadline = time.monotonic() + _SECONDS
    while (found := [pid for pid in _processes() if _is_marked(pid, mark)]) and (
        time.monotonic() < deadline
    ):
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped (``SIGSTOP``) and does nothing until it goes on."""
    return stat(pid)[:1] in (["T"], ["t"])


def _processes() -> list[int]:
    return [int(name) for name in os.listdir(_PROC) if name.isdigit()]


def stat(pid: int) -> list[str]:
    """State, parent, … of a process; nothing if it is gone (``man proc_pid_stat``)."""
    try:
        return (_PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _is_marked(pid: int, mark: bytes) -> bool:
    try:
        born_with = (_PROC / f"{pid}/environ").read_bytes()
    except OSError:  # another user's, or gone
        return False
    return mark in born_with.split(b"\0") and stat(pid)[:1] != ["Z"]
