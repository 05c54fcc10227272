"""One thread that does a session's work, one command after the other.

A *run* is a command that takes its time and goes on alone.  Anything else that is asked for
meanwhile is done between two operators of the run, so that a tensor to look at need not wait for
its end.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from tapml_nb.execute.host_call import BrokenOff, break_off, caller, interrupt
from tapml_nb.execute.source import Stopped
from tapml_nb.owner import Owner, finalize

R = TypeVar("R")

_PATIENCE = 0.25
"""Seconds that a run has to end by itself once it was stopped; then its call is broken off."""

_PYTHON_SECONDS = 0.5
"""Seconds after which whatever Python code the thread is at is broken off, too."""

_GIVE_UP_SECONDS = 8.0
"""Seconds after which nobody waits any longer for a run that was stopped."""


class SessionBusy(RuntimeError):
    """Something that needs the session for itself was asked for while a run goes on."""


class Job(Generic[R]):
    """A command on its way through the thread: its result, or what ended it.

    Attributes:
        done: set when it has ended.
        result: what it returned; missing if it did not.
        error: what it raised, if anything.
    """

    result: R

    def __init__(self, work: Callable[[], R]) -> None:
        self._work = work
        self.done = threading.Event()
        self.error: BaseException | None = None

    def do(self) -> None:
        """Do it."""
        try:
            self.result = self._work()
        except BrokenOff:
            self.error = Stopped()
        except BaseException as error:
            self.error = error
        finally:
            self._finish()

    def _finish(self) -> None:
        while not self.done.is_set():
            try:
                self.done.set()
            except BrokenOff:  # which came when all was over
                continue


class JobThread:
    """The thread.  A session's work is done here and nowhere else; what may be called from where,
    the headings below say.

    Attributes:
        run: the run that goes on, or went on last.
        awaited: whether the main thread waits for it (a notebook's cell, mostly).
        closed: whether it has ended.
    """

    def __init__(self, break_off: Callable[[], None]) -> None:
        """``break_off`` ends whatever call the thread hangs in; any thread may call it."""
        self.run: Job[Any] | None = None
        self.awaited = False
        self._break_off = break_off
        self._queue: queue.SimpleQueue[Job[Any] | None] = queue.SimpleQueue()
        self._asking = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=_serve, args=(self._queue,), name="tapml-session", daemon=True
        )
        self._thread.start()
        self._owner = Owner()
        self._given_up: Job[Any] | None = None
        self._end = finalize(self, self._queue.put, None)

    # -- from any thread -------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether a run goes on."""
        return self.run is not None and not self.run.done.is_set()

    @property
    def hung(self) -> bool:
        """Whether a run goes on that was stopped and could not be broken off."""
        return self.busy and self._given_up is self.run

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return not self._end.alive

    def require_idle(self) -> None:
        """Make sure that a run could start.

        Raises:
            RuntimeError: if the session is closed.
            SessionBusy: if a run goes on.
        """
        self.require_open()
        if not self.busy:
            return
        if self.hung:
            raise SessionBusy(
                f"the run that was stopped has not ended: it is at {self._place()}, which nothing "
                f"can break off; the session is of no use until that returns: make a new one"
            )
        raise SessionBusy("a run is going on; call session.wait() or session.stop() first")

    def require_open(self) -> None:
        """Make sure that work can be done.

        Raises:
            RuntimeError: if the session is closed.
        """
        if self._owner.elsewhere:
            raise RuntimeError(
                f"the session belongs to process {self._owner.pid}, and this is a fork of it; make "
                f"a new one with tapml_nb.debug"
            )
        if self.closed:
            raise RuntimeError("the session is closed; make a new one with tapml_nb.debug")

    def start(self, work: Callable[[], R]) -> Job[R]:
        """Start a run.

        Raises:
            RuntimeError, SessionBusy: as :meth:`require_idle`.
        """
        self.require_idle()
        self._stopping.clear()
        self.run = job = Job(work)
        self._queue.put(job)
        return job

    def do(self, work: Callable[[], R]) -> R:
        """Have something done, at once or between two operators of a run; return its result.

        Raises:
            RuntimeError: if the session is closed, or stopped meanwhile.
            Exception: whatever the work raises.
        """
        self.require_open()
        if caller() == self._thread.ident:
            return work()  # a callback asks, or an override
        with self._asking:  # or two that ask at once both find it idle, and one is refused
            if self.hung:
                self.require_idle()
            if self.busy:
                job = Job(work)
                self._queue.put(job)
            else:
                job = self.start(work)
        self._wait(job, lambda: None)
        if isinstance(job.error, Stopped):
            raise RuntimeError("stopped before it was done")
        if job.error is not None:
            raise job.error
        return job.result

    def result_of(self, job: Job[R], tick: Callable[[], None]) -> R:
        """Wait for a run's end, calling ``tick`` now and then; its result, or what ended it.

        Raises:
            KeyboardInterrupt: on Ctrl-C, after the run was stopped.
            Exception: whatever the run raised.
        """
        # Only there can an interrupt of the kernel reach who waits.
        self.awaited = in_main_thread()
        try:
            self._wait(job, tick)
        finally:
            self.awaited = False
        if job.error is not None:
            raise job.error
        return job.result

    def stop(self) -> None:
        """Stop the run; returns when it has ended (or at once when asked by a callback).

        One that cannot be broken off, for it is in C code that does not return, is given up with a
        warning.
        """
        job = self.run
        if self._owner.elsewhere or job is None or job.done.is_set():
            return
        self._stopping.set()
        if caller() == self._thread.ident:
            return  # the run ends after this operator
        begin = time.monotonic()
        while not self.hung and not job.done.wait(_PATIENCE):
            interrupt(self._thread.ident)
            self._break_off()
            waited = time.monotonic() - begin
            if waited >= _PYTHON_SECONDS:
                break_off(self._thread.ident)
            if waited > _GIVE_UP_SECONDS:
                self._give_up(job)

    def close(self) -> None:
        """Let the thread end after what it is at.  Idempotent."""
        self._end()

    def join(self) -> None:
        """Wait for its end, not for ever."""
        if not self.hung:
            self._thread.join(5)

    def _give_up(self, job: Job[Any]) -> None:
        """Wait no longer for the thread."""
        self._given_up = job
        warnings.warn(
            f"the run was told to stop and does not: it is at {self._place()}, which nothing can "
            f"break off",
            RuntimeWarning,
            stacklevel=4,
        )

    def _place(self) -> str:
        """Where the thread is, in Python code."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        if frame is None:
            return "its end"
        return f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_name})"

    def _wait(self, job: Job[Any], tick: Callable[[], None]) -> None:
        try:
            # A loop of short waits: an interrupted Thread.join lies on Python 3.11.
            while not job.done.wait(0.05):
                tick()
        except KeyboardInterrupt:
            if job is self.run:
                self.stop()
            raise

    # -- from the work itself --------------------------------------------------------------------

    def stopping(self) -> bool:
        """Whether the run is to end."""
        return self._stopping.is_set()

    def checkpoint(self) -> None:
        """Between two operators of a run: do what was asked for meanwhile.

        Raises:
            Stopped: if the run is to end.
        """
        while not self._stopping.is_set():
            try:
                aside = self._queue.get_nowait()
            except queue.Empty:
                return
            if aside is None:  # the end of the session, for its thread to see
                self._queue.put(None)
                break
            aside.do()
        raise Stopped


def in_main_thread() -> bool:
    """Whether the caller is the main thread."""
    return threading.current_thread() is threading.main_thread()


def _serve(jobs: queue.SimpleQueue[Job[Any] | None]) -> None:
    """The thread.  It holds no reference to the session, so that one can be freed."""
    while True:
        try:
            job = jobs.get()
            if job is None:
                return
            job.do()
            del job
        except BrokenOff:  # which came when all was over
            continue
