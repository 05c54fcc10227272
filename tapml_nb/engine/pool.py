"""The device pool: the supervised sessions of one target, and work shared among their devices.

The caller's thread works on the first device, as if it were the only one, and hears what threads of
the others have found; so everything that is told is told from that one thread.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from tapml_nb.execute.caller import Caller
from tapml_nb.execute.events import EventStream
from tapml_nb.execute.host_call import interrupt
from tapml_nb.targets.client.session import TargetSession
from tapml_nb.targets.spec import Target
from tapml_nb.targets.wire.errors import TargetError, TargetLost

C = TypeVar("C")
R = TypeVar("R")

_PATIENCE = 0.02

_log = logging.getLogger(__name__)


class TargetPool:
    """The sessions of one target, each with its device; the first is the session thread's own.

    Attributes:
        sessions: one for each device, equal to each other.
        callers: what calls kernels on them, in the same order.
        devices: their devices in words, in the same order.
    """

    def __init__(self, target: Target, machine: str, events: EventStream) -> None:
        """``machine`` is what code is made for, where that is a processor; else empty."""
        self.sessions = [
            TargetSession(member, machine=machine, on_event=events.emit)
            for member in target.members
        ]
        self.callers = [Caller(session) for session in self.sessions]
        self.devices = target.device_names

    @property
    def first(self) -> TargetSession:
        """The one that everything but judging runs on."""
        return self.sessions[0]

    @property
    def bytes_sent(self) -> int:
        """Bytes sent to all."""
        return sum(session.bytes_sent for session in self.sessions)

    @property
    def peak_bytes(self) -> int:
        """The most that tensors, and kernels beside them, can have taken at a time in one of
        them."""
        return max(session.peak_bytes for session in self.sessions)

    @property
    def restarts(self) -> int:
        """How often one had to be brought back."""
        return sum(session.restarts for session in self.sessions)

    def ahead(self) -> None:
        """Have the targets begin to come up, beside what is done meanwhile."""
        for session in self.sessions:
            session.ahead()

    def interrupt(self) -> None:
        """Break off the calls that go on.  From any thread."""
        for session in self.sessions:
            session.interrupt()

    def close(self) -> None:
        """End them all."""
        for session in self.sessions:
            session.close()

    def share(
        self,
        total: int,
        feed: Callable[[bool], Sequence[C]],
        workers: Sequence[Callable[[C], R]],
        checkpoint: Callable[[], None],
        started: Callable[[C], None],
    ) -> Iterator[tuple[C, R]]:
        """Share calls among the devices; yields each with its result as it comes.

        Args:
            total: how many calls there will be.
            feed: gives those that can be made by now, and is told whether there are no others: then
                it may wait a little.  Called between two of them; may raise to end it.
            workers: what does one call, for each device.
            checkpoint: called between two of them; may raise to end it.
            started: told of a call before its result.

        Raises:
            TargetError, TargetLost: if the last device is gone, with why.
        """
        left: deque[C] = deque()
        found: queue.SimpleQueue[tuple[C, R] | Exception] = queue.SimpleQueue()
        missing, working = total, len(workers)
        here = True
        with self._others(workers[1:], left, found):
            while missing:
                checkpoint()
                left.extend(feed(not left))
                if here and (call := _next(left)) is not None:
                    started(call)
                    try:
                        yield call, workers[0](call)
                        missing -= 1
                    except (TargetError, TargetLost):
                        working -= 1
                        left.appendleft(call)
                        if not working:
                            raise
                        here = False
                if len(workers) == 1:
                    continue
                try:
                    done = found.get(timeout=0 if here and left else _PATIENCE)
                except queue.Empty:
                    continue
                if isinstance(done, Exception):
                    working -= 1
                    if not working:
                        raise done
                    _log.info("a device is out of the pool: %s", done)
                    continue
                started(done[0])
                yield done
                missing -= 1

    @contextmanager
    def _others(
        self,
        workers: Sequence[Callable[[C], R]],
        left: deque[C],
        found: queue.SimpleQueue[tuple[C, R] | Exception],
    ) -> Iterator[None]:
        """While the block runs, the other devices work, too."""
        ended = threading.Event()

        def work(worker: Callable[[C], R]) -> None:
            while not ended.is_set():
                call = _next(left)
                if call is None:  # but another device may give one back
                    ended.wait(_PATIENCE)
                    continue
                try:
                    found.put((call, worker(call)))
                except Exception as error:  # this device is out of the game
                    left.appendleft(call)
                    found.put(error)
                    return

        threads = [
            threading.Thread(target=work, args=(worker,), name="tapml-worker", daemon=True)
            for worker in workers
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            while any(thread.is_alive() for thread in threads):
                for session in self.sessions[1:]:
                    session.interrupt()
                for thread in threads:
                    interrupt(thread.ident)
                    thread.join(_PATIENCE)


def _next(left: deque[C]) -> C | None:
    try:
        return left.popleft()
    except IndexError:
        return None
