"""One compile worker for a session, replaced when it is lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tapml_nb.compile.process import WorkerBroken, WorkerEnded, WorkerProcess
from tapml_nb.compile.trouble import CompilerInterrupted, CompilerTrouble, in_words
from tapml_nb.compile.watch import Stalled
from tapml_nb.compile.worker import seconds_for

_SLACK = 60.0
"""Seconds beyond a unit's deadline, which the child keeps, after which it is not asked any more."""

_log = logging.getLogger(__name__)


class Supervisor:
    """Has a worker for whoever is in :meth:`working`; :meth:`interrupt` and :meth:`close` are for
    any thread."""

    def __init__(self) -> None:
        self.worker: WorkerProcess | None = None
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

    @contextmanager
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
            CompilerTrouble: if no worker can be started.
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
        why.

        Raises:
            CompilerInterrupted: if it was.
            CompilerTrouble: if no worker can be of use.
        """
        lost = "it was closed"
        if worker := self.worker:
            try:
                return worker.event(seconds_for(task) + _SLACK)
            except WorkerBroken as broken:
                self.drop()
                raise CompilerTrouble(f"the compile worker cannot work: {broken}") from None
            except WorkerEnded:
                lost = "it was killed"
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
            worker = WorkerProcess()
        except OSError as error:
            why = in_words(error)
            raise CompilerTrouble(f"the compile worker cannot be started: {why}") from None
        _log.info("a compile worker is started: process %d", worker.pid)
        with self._guard:
            if self.closed:
                worker.close()
                raise CompilerInterrupted
            self.worker = worker
