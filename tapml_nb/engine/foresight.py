"""Operators that are called and judged together, before their turn, where the source computes on a
GPU: there it is asking that takes time, not what is asked."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from tapml_nb.engine.engine import Engine
from tapml_nb.execute.preparation import Call
from tapml_nb.judge.introduced import IntroducedRun

_FEW, _MANY = 8, 128
"""Operators that are judged together: at first, and at most."""

_SLOW = 0.25
"""Seconds that it should take at most: until then nobody sees a verdict."""

Feed = Callable[[bool], Sequence[Call]]


class Foresight:
    """Looks ahead for the one device that judges; where there are several, each takes what the
    others leave, and nobody knows what that is."""

    def __init__(self, engine: Engine) -> None:
        self._graph, self._target = engine.graph, engine.pool.first
        self._helps = len(engine.judges) == 1 and engine.source.is_far
        self._coming: deque[Call] = deque()
        self._shares: dict[Call, float] = {}
        """Seconds that those took who were called before their turn."""

        self._most = _FEW

    def seeing(self, feed: Feed) -> Feed:
        """What feeds the device, seen from here."""

        def seen(idle: bool) -> Sequence[Call]:
            calls = feed(idle)
            self._coming.extend(calls)
            return calls

        return seen if self._helps else feed

    def before(self, run: IntroducedRun, call: Call) -> float:
        """Before an operator is judged: have it, and those that come next, called and judged,
        unless it was.  Returns its share in the seconds that this took."""
        if not self._helps:
            return 0.0
        if call not in self._shares and self._target.takes_rows:
            self._look(run)
        self._coming.popleft()
        return self._shares.pop(call, 0.0)

    def _look(self, run: IntroducedRun) -> None:
        calls = list(islice(self._coming, self._most))
        begin = time.perf_counter()
        run.look_ahead([(self._graph[op], step) for op, step in calls])
        took = time.perf_counter() - begin
        self._shares = dict.fromkeys(calls, took / len(calls))
        if took > _SLOW:
            self._most = max(_FEW, self._most // 2)
        elif took < _SLOW / 2 and len(calls) == self._most:
            self._most = min(_MANY, self._most * 2)
