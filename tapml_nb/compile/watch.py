"""Whether a process that takes its time works, or somebody has stopped it."""

from __future__ import annotations

import time

import psutil

_PATIENCE = 3.0
"""Seconds for which a process may be stopped: some limit others' processor time that way."""


class Stalled(Exception):
    """A process does not go on by itself; the message says why."""


class Watch:
    """Of a process and all that it has started."""

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
