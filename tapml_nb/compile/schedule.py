"""A task carried out for many units: batches in parallel, and one more attempt for what fails.

A worker's child that dies takes the unit in its hands with it.  What that says of the unit is
decided here: a crash of the compiler's own, twice, is the unit's; all else is trouble of the
machine, and never a kernel's.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tapml_nb.compile.cache import Compiled, Failure, read_entry
from tapml_nb.compile.store import KernelStore
from tapml_nb.compile.supervisor import Supervisor
from tapml_nb.compile.trouble import REMEDY, CompilerTrouble
from tapml_nb.compile.unit import OPEN, READING, stage_of, write_unit
from tapml_nb.compile.worker import TROUBLE

_BATCH = 4
"""Units per child of the worker: few, so that the cores finish together."""

_WORKING_SECONDS = 5.0
"""Processor time of a child that has worked until its deadline, on however busy a machine."""

_LOSSES = 2
"""How often the worker itself may be lost without a unit finished in between."""

_HOPELESS = 5
"""Units that had trouble twice after which no others are tried."""

_log = logging.getLogger(__name__)


class Job:
    """A unit on its way through the worker, and what happened to it."""

    def __init__(self, key: str, module: Any) -> None:
        self.key, self.module = key, module
        self.folder = Path("/nonexistent")
        self.crashed = False
        self.trouble = ""
        self.result: Compiled | Failure | None = None
        """What was compiled, where that was the task."""
        self.death: Failure | None = None
        """What the compiler died of in the end."""


class Schedule:
    """One task for some units, a few children at a time."""

    def __init__(
        self,
        supervisor: Supervisor,
        store: KernelStore,
        task: str,
        target: Any,
        modules: Mapping[str, Any],
    ) -> None:
        self._supervisor, self._store = supervisor, store
        self._task, self._target = task, target
        self._jobs = [Job(key, module) for key, module in modules.items()]
        self._waiting = list(self._jobs)
        self._running: dict[int, list[Job]] = {}
        self._again: list[Job] = []
        """What is tried once more, alone, when nothing else runs."""
        self._hopeless: list[Job] = []
        self._losses = 0

    def results(self, children: int) -> Generator[Job]:
        """Keep so many children busy; yields each unit as it is done, whose folder is there until
        the next one is asked for.

        Raises:
            CompilerTrouble: if units had trouble twice, or the worker is lost again and again.
            CompilerInterrupted: if it was.
        """
        try:
            while self._waiting or self._running or self._again:
                while self._waiting and len(self._running) < children:
                    batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
                    for job in batch:  # the first are compiled while the next are written
                        if not job.folder.exists():
                            self._fill(job)
                    self._submit(batch)
                if not self._running:
                    self._submit([self._again.pop(0)])
                if done := self._next():
                    yield done
                    self._store.remove(done.folder)
            if self._hopeless:
                raise _hopeless(self._hopeless)
        finally:
            if any(self._running.values()):  # stopped early, or broken off: end what is compiling
                self._supervisor.drop()
            for job in self._jobs:
                self._store.remove(job.folder)

    def _submit(self, batch: list[Job]) -> None:
        number = self._supervisor.new_batch()
        self._running[number] = batch  # noted first: what breaks in must find it
        folders = {job.key: job.folder for job in batch}
        self._supervisor.submit(number, self._task, self._target, folders)

    def _next(self) -> Job | None:
        """A unit that is done by the next event, if one is."""
        event = self._supervisor.event(self._task)
        if isinstance(event, str):
            self._lose_worker(event)
            return None
        return self._take_answer(event) if "key" in event else self._end_batch(event)

    def _lose_worker(self, why: str) -> None:
        self._losses += 1
        if self._losses > _LOSSES:
            raise CompilerTrouble(
                f"the compile worker was lost {self._losses} times in a row: {why}. {REMEDY}"
            )
        left = [job for batch in self._running.values() for job in batch]
        self._waiting = [self._fill(job) for job in left] + self._waiting
        self._running.clear()

    def _take_answer(self, event: Mapping[str, Any]) -> Job | None:
        batch, job = next(
            (batch, job)
            for batch in self._running.values()
            for job in batch
            if job.key == event["key"]
        )
        batch.remove(job)
        self._losses = 0
        trouble = event.get("trouble", "")
        if self._task == "compile" and not trouble:
            job.result = read_entry(job.folder, job.key)
            if job.result is None:  # somebody has swept there
                trouble = f"{job.folder} does not hold any more what was compiled"
        if not trouble:
            return job
        self._note_trouble(job, trouble, elsewhere=True)
        return None

    def _end_batch(self, event: Mapping[str, Any]) -> Job | None:
        left = self._running.pop(event["batch"], [])
        if not left:
            return None
        job, self._waiting = left[0], left[1:] + self._waiting
        death = _death(event, job.folder)
        if isinstance(death, str):
            self._note_trouble(job, death, elsewhere=False)
        elif job.crashed or (death.reason == "timeout" and event["seconds"] >= _WORKING_SECONDS):
            job.death = death
            return job
        else:
            job.crashed = True
            self._retry(job, death.message, elsewhere=False)
        return None

    def _note_trouble(self, job: Job, trouble: str, *, elsewhere: bool) -> None:
        """A unit could not be compiled for no fault of its own: once more, but not twice."""
        first, job.trouble = not job.trouble, trouble
        if first:
            self._retry(job, trouble, elsewhere=elsewhere)
            return
        self._hopeless.append(job)
        if len(self._hopeless) >= _HOPELESS:
            raise _hopeless(self._hopeless)

    def _retry(self, job: Job, why: str, *, elsewhere: bool) -> None:
        _log.info("unit %s is tried once more: %s", job.key, why)
        self._again.append(self._fill(job, elsewhere=elsewhere))

    def _fill(self, job: Job, *, elsewhere: bool = False) -> Job:
        """Put a unit into a new folder of its own."""
        self._store.remove(job.folder)
        fill = partial(write_unit, job.module)
        job.folder = self._store.new_folder("unit-", elsewhere, fill)
        return job


def _hopeless(jobs: Sequence[Job]) -> CompilerTrouble:
    what = "a kernel" if len(jobs) == 1 else f"{len(jobs)} kernels"
    return CompilerTrouble(f"{what} could not be compiled: {jobs[0].trouble}. {REMEDY}")


_OF_THE_COMPILER = {
    signal.Signals[f"SIG{name}"] for name in ("SEGV", "ABRT", "BUS", "ILL", "FPE", "TRAP", "SYS")
}
"""Signals that a program brings upon itself; all others come from outside."""


def _death(event: Mapping[str, Any], folder: Path) -> Failure | str:
    """What a child's end says of the unit in its hands; text, if it says nothing."""
    died, stage = event["signal"], stage_of(folder)
    if died == signal.SIGALRM:
        return Failure("timeout", "the compiler did not finish in time", stage == OPEN)
    how = f"signal {signal.Signals(died).name}" if died else f"exit status {event['code']}"
    if died and died not in _OF_THE_COMPILER:
        return f"the compiler was ended from outside ({how}), by a lack of memory perhaps"
    if not died and event["code"] in (0, TROUBLE):
        return "the compiler gave up"
    if stage == READING:
        return Failure("crash", f"TVM cannot read the unit: its reader crashed ({how})")
    return Failure("crash", f"the compiler itself crashed ({how})", stage == OPEN)
