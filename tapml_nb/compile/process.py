"""The compile worker's process as the notebook sees it: started, listened to, ended."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import time
from typing import Any

from tapml_nb.compile.watch import Stalled, Watch
from tapml_nb.interpreter import module_command, module_environment

_START_SECONDS = 300.0
"""Deadline of its start: it imports TVM, in a second or two on a quiet machine."""

_CHECK_SECONDS = 0.5
"""How often it is checked on while it says nothing."""

_SECONDS_TO_DIE = 5.0
"""How long to wait for it when it was killed; what the disk holds cannot die."""

_PIPE_BYTES = 1 << 20
"""Room for what it is told: whoever writes must not wait for one that is stopped."""


class WorkerEnded(Exception):
    """The worker's process is gone."""


class WorkerBroken(Exception):
    """The worker cannot be of use at all; the message is its own."""


class WorkerProcess:
    """A worker and all that it runs: one process group.

    Methods are called by one thread at a time, :meth:`kill` by any.

    Attributes:
        pid: its process.
        ready: whether it has imported TVM.
    """

    def __init__(self) -> None:
        """Start it; it imports TVM meanwhile."""
        self._process = subprocess.Popen(
            module_command("tapml_nb.compile.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=module_environment(),
            start_new_session=True,  # Ctrl-C in the terminal is for the notebook
        )
        self.pid = self._process.pid
        self.ready = False
        self._begin = time.monotonic()
        self._watch = Watch(self.pid)
        self._buffer = b""
        self._lines: list[bytes] = []
        assert self._process.stdin
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._process.stdin, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def submit(self, job: dict[str, Any]) -> None:
        """Send it a batch, as :mod:`~tapml_nb.compile.worker` reads it."""
        assert self._process.stdin
        with contextlib.suppress(OSError, ValueError):  # it is gone: event() says so
            self._process.stdin.write((json.dumps(job) + "\n").encode())
            self._process.stdin.flush()

    def event(self, seconds: float) -> dict[str, Any]:
        """The next thing that it says.

        Args:
            seconds: how long it may be silent, from now on or, if that is later, from its start.

        Raises:
            WorkerEnded: if it ended.
            WorkerBroken: if it says that it cannot work.
            Stalled: if it was silent for too long, or if it or what it runs was stopped.
        """
        deadline = time.monotonic() + seconds
        while True:
            event = json.loads(self._line(deadline))
            if "broken" in event:
                raise WorkerBroken(event["broken"])
            if "ready" not in event:
                assert isinstance(event, dict)
                return event
            self.ready = True
            deadline = time.monotonic() + seconds

    def kill(self) -> None:
        """End it and all that it runs, at once: nothing half written is ever taken for a kernel,
        and to ask politely takes a second while it imports TVM."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """End it and see to it that nothing is left."""
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                with contextlib.suppress(OSError, ValueError):
                    stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_SECONDS_TO_DIE)

    def _line(self, deadline: float) -> bytes:
        assert self._process.stdout
        stream = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(stream, select.POLLIN)
        while not self._lines:
            if not poll.poll(_CHECK_SECONDS * 1000):
                self._check(deadline)
                continue
            data = os.read(stream, 1 << 16)
            if not data:
                raise WorkerEnded
            *self._lines, self._buffer = (self._buffer + data).split(b"\n")
        return self._lines.pop(0)

    def _check(self, deadline: float) -> None:
        """Raise if there is no use in waiting."""
        # Without reaping it: what it has started is known by its number until then.
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            raise WorkerEnded
        if not self.ready:
            deadline = max(deadline, self._begin + _START_SECONDS)
        if time.monotonic() > deadline:
            raise Stalled("it does not answer")
        self._watch.check()
