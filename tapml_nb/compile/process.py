"""Processes that work for the compiler, each with all that it has started: watched, and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from typing import Any

import psutil

CHECK_SECONDS = 0.5
"""How often one that says nothing is checked on."""

_PATIENCE = 3.0
"""Seconds for which a process may be stopped: some limit others' processor time that way."""

_SECONDS_TO_DIE = 5.0
"""How long to wait for one that was killed; what the disk holds cannot die."""


class Stalled(Exception):
    """A process does not go on by itself; the message says why."""


class Watch:
    """Whether a process that takes its time works, or somebody has stopped it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stopped: dict[int, tuple[float, float]] = {}
        """Of those that are stopped: since when, and how much time they had used by then."""

    def check(self) -> None:
        """See what they are at now; it takes several calls to tell that one does not go on.

        Raises:
            Stalled: if one has been stopped all the time (SIGSTOP).
        """
        now, before, self._stopped = time.monotonic(), self._stopped, {}
        for process in self._processes():
            try:
                if process.status() != psutil.STATUS_STOPPED:
                    continue
                used = sum(process.cpu_times()[:2])
            except psutil.Error:
                continue
            since, then = before.get(process.pid, (now, used))
            if used > then:
                since, then = now, used
            self._stopped[process.pid] = since, then
            if now - since >= _PATIENCE:
                raise Stalled(f"process {process.pid} ({_name(process)}) was stopped (SIGSTOP)")

    def _processes(self) -> list[psutil.Process]:
        try:
            first = psutil.Process(self._pid)
            return [first, *first.children(recursive=True)]
        except psutil.Error:
            return []


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return "gone"


def end(process: subprocess.Popen[Any]) -> None:
    """End a process that leads a group, if it has not ended, and its group, at once."""
    if process.returncode is None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)


def clear_up(process: subprocess.Popen[Any]) -> None:
    """End it, and see to it that nothing of it is left."""
    end(process)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            with contextlib.suppress(OSError, ValueError):
                stream.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_SECONDS_TO_DIE)
