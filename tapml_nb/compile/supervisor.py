"""The compile worker as the notebook sees it: one for a session, replaced when it is lost."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import select
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tapml_nb.compile.process import CHECK_SECONDS, Stalled, Watch, clear_up, end
from tapml_nb.compile.trouble import CompilerInterrupted, CompilerTrouble, in_words
from tapml_nb.compile.worker import seconds_for
from tapml_nb.interpreter import module_command, module_environment

_START_SECONDS = 300.0
"""Deadline of its start: it imports TVM, in a second or two on a quiet machine."""

_SLACK = 60.0
"""Seconds beyond a unit's deadline, which the child keeps, after which it is not asked any more."""

_PIPE_BYTES = 1 << 20
"""Room for what it is told: whoever writes must not wait for one that is stopped."""

_log = logging.getLogger(__name__)


class _Worker:
    """A worker and all that it runs: one process group.

    Methods are called by one thread at a time, :meth:`kill` by any.
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
        self._ready = False  # whether it has imported TVM
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
        """The next thing that it says; it may be silent so long, from now on or from its start.

        Raises:
            Stalled: if it ended, was silent for too long, or it or what it runs was stopped.
            CompilerTrouble: if it says that it cannot work at all.
        """
        deadline = time.monotonic() + seconds
        while True:
            event: dict[str, Any] = json.loads(self._line(deadline))
            if "broken" in event:
                raise CompilerTrouble(f"the compile worker cannot work: {event['broken']}")
            if "ready" not in event:
                return event
            self._ready = True
            deadline = time.monotonic() + seconds

    def kill(self) -> None:
        """End it and all that it runs, at once: nothing half written is ever taken for a kernel,
        and to ask politely takes a second while it imports TVM."""
        end(self._process)

    def close(self) -> None:
        """The same, so that nothing is left."""
        clear_up(self._process)

    def _line(self, deadline: float) -> bytes:
        assert self._process.stdout
        stream = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(stream, select.POLLIN)
        while not self._lines:
            if not poll.poll(CHECK_SECONDS * 1000):
                self._check(deadline)
                continue
            data = os.read(stream, 1 << 16)
            if not data:
                raise Stalled("it was killed")
            *self._lines, self._buffer = (self._buffer + data).split(b"\n")
        return self._lines.pop(0)

    def _check(self, deadline: float) -> None:
        """Raise if there is no use in waiting."""
        # Without reaping it: what it has started is known by its number until then.
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            raise Stalled("it was killed")
        if not self._ready:
            deadline = max(deadline, self._begin + _START_SECONDS)
        if time.monotonic() > deadline:
            raise Stalled("it does not answer")
        self._watch.check()


class Supervisor:
    """Has a worker for whoever is in :meth:`working`; :meth:`interrupt` and :meth:`close` are for
    any thread."""

    def __init__(self) -> None:
        self.worker: _Worker | None = None
        """None where the last one is lost, until the next batch."""
        self.batches = 0
        self.active = self.closed = self._interrupted = False
        self._lock = threading.Lock()
        self._guard = threading.Lock()
        self.start()

    def start(self) -> None:
        """Start a worker, also after :meth:`close`."""
        self.closed = False
        self._start()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """While the block runs, it has the worker for itself and can be interrupted."""
        with self._lock:
            if self.closed:
                raise RuntimeError("the compiler is closed")
            with self._guard:
                self.active, self._interrupted = True, False
            try:
                yield
            finally:
                with self._guard:
                    self.active = False

    def new_batch(self) -> int:
        """The number of a batch, by which events name it."""
        self.batches += 1
        return self.batches

    def submit(self, batch: int, task: str, target: Any, folders: Mapping[str, Path]) -> None:
        """Have a child of the worker's carry out a task for units by key, in their folders.

        Raises:
            CompilerInterrupted: if it was.
            CompilerTrouble: if no worker can be started, or be of use.
        """
        self._check()
        if self.worker is None:
            self._start()
        assert self.worker
        scratch = {key: str(folder) for key, folder in folders.items()}
        self.worker.submit(
            {"batch": batch, "task": task, "target": str(target), "scratch": scratch}
        )

    def event(self, task: str) -> dict[str, Any] | str:
        """What the worker answers next (see :mod:`~tapml_nb.compile.worker`); or, if it is gone,
        why.  Raises as :meth:`submit`."""
        lost = "it was closed"
        if worker := self.worker:
            try:
                return worker.event(seconds_for(task) + _SLACK)
            except CompilerTrouble:
                self.drop()
                raise
            except Stalled as stalled:
                lost = str(stalled)
        self.drop()
        self._check()
        _log.info("the compile worker is lost: %s", lost)
        return lost

    def drop(self) -> None:
        """End the worker and what it runs; the next batch gets another."""
        with self._guard:
            worker, self.worker = self.worker, None
            if worker:
                worker.close()

    def interrupt(self) -> None:
        """End the worker, if somebody works with it."""
        with self._guard:
            if self.active:
                self._interrupted = True
                if self.worker:
                    self.worker.kill()

    def close(self) -> None:
        """End the worker and everything it runs.  Idempotent."""
        self.closed = True
        self.interrupt()
        if not self.active:  # or the thread that is at it clears up
            self.drop()

    def _check(self) -> None:
        if self._interrupted or self.closed:
            raise CompilerInterrupted

    def _start(self) -> None:
        try:
            worker = _Worker()
        except OSError as error:
            why = in_words(error)
            raise CompilerTrouble(f"the compile worker cannot be started: {why}") from None
        _log.info("a compile worker is started: process %d", worker.pid)
        with self._guard:
            if self.closed:
                worker.close()
                raise CompilerInterrupted
            self.worker = worker
