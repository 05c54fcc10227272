"""Judging on several equal devices at once.

The caller's thread works on the first device, as if it were the only one, and hears what threads of
the others have found; so everything that is told is told from that one thread.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tapml_nb.execute.host_call import interrupt
from tapml_nb.graph import Graph, OpId
from tapml_nb.judge.introduced import IntroducedRun
from tapml_nb.judge.results import OpResult
from tapml_nb.targets.client.session import TargetSession
from tapml_nb.targets.wire.errors import TargetError, TargetLost

Call = tuple[OpId, int]

_PATIENCE = 0.02


class Farm:
    """Equal devices, each with the run that judges on it; the first is the caller's."""

    def __init__(
        self, graph: Graph, runs: Sequence[IntroducedRun], sessions: Sequence[TargetSession]
    ) -> None:
        self._graph = graph
        self._runs = runs
        self._sessions = sessions

    def judge(
        self,
        calls: Sequence[Call],
        checkpoint: Callable[[], None],
        started: Callable[[Call], None],
    ) -> Iterator[tuple[Call, OpResult]]:
        """Judge calls; yields each with its result as it comes.

        Args:
            calls: operators and steps.
            checkpoint: called between two of them; may raise to end it.
            started: told of a call before its result.

        Raises:
            TargetError, TargetLost: if the last device is gone, with why.
        """
        for run in self._runs:
            run.begin()
        left = deque(calls)
        found: queue.SimpleQueue[tuple[Call, OpResult] | Exception] = queue.SimpleQueue()
        missing, working = len(calls), len(self._runs)
        here = True
        with self._others(left, found):
            while missing:
                checkpoint()
                if here and (call := _next(left)):
                    started(call)
                    try:
                        yield call, self._judge(self._runs[0], call)
                        missing -= 1
                    except (TargetError, TargetLost):
                        working -= 1
                        left.appendleft(call)
                        if not working:
                            raise
                        here = False
                if len(self._runs) == 1:
                    continue
                try:
                    news = found.get(timeout=0 if here and left else _PATIENCE)
                except queue.Empty:
                    continue
                if isinstance(news, Exception):
                    working -= 1
                    if not working:
                        raise news
                    continue
                started(news[0])
                yield news
                missing -= 1

    def _judge(self, run: IntroducedRun, call: Call) -> OpResult:
        op, step = call
        return run.judge(self._graph[op], step)

    @contextmanager
    def _others(
        self,
        left: deque[Call],
        found: queue.SimpleQueue[tuple[Call, OpResult] | Exception],
    ) -> Iterator[None]:
        """While the block runs, the other devices work, too."""
        ended = threading.Event()

        def work(run: IntroducedRun) -> None:
            while not ended.is_set():
                call = _next(left)
                if call is None:  # but another device may give one back
                    ended.wait(_PATIENCE)
                    continue
                try:
                    found.put((call, self._judge(run, call)))
                except Exception as error:  # this device is out of the game
                    left.appendleft(call)
                    found.put(error)
                    return

        threads = [
            threading.Thread(target=work, args=(run,), name="tapml-worker", daemon=True)
            for run in self._runs[1:]
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            while any(thread.is_alive() for thread in threads):
                for session in self._sessions[1:]:
                    session.interrupt()
                for thread in threads:
                    interrupt(thread.ident)
                    thread.join(_PATIENCE)


def _next(left: deque[Call]) -> Call | None:
    try:
        return left.popleft()
    except IndexError:
        return None
