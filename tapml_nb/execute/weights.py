"""The weights of coming operators, on their way to a target while earlier ones are judged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from tapml_nb.execute.caller import Argument
from tapml_nb.execute.preparation import Call
from tapml_nb.execute.source import SourceRun
from tapml_nb.targets.client.session import TargetSession
from tapml_nb.targets.wire.pages import LEAST


class WeightsAhead:
    """Has weights sent before they are needed, in the order of their use.  A context manager: what
    nobody needed by its end is not sent any more.

    Small ones go with their operator: to announce one costs as much as to send it.
    """

    def __init__(
        self, source: SourceRun, sessions: Sequence[TargetSession], calls: Sequence[Call]
    ) -> None:
        """``calls``: all that will be made on ``sessions``, in order.  Of several sessions each
        takes what the others leave, and nobody knows what that is: nothing is sent ahead."""
        self._source, self._graph = source, source.program.graph
        self._prefetch = sessions[0].prefetch
        self._helps = len(sessions) == 1 and not sessions[0].target.local
        self._place = {call: place for place, call in enumerate(calls)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._prefetch.end()

    def of(self, calls: Iterable[Call]) -> None:
        """Have the weights sent that calls read, which have kernels."""
        for op, step in calls if self._helps else ():
            for value in self._graph.tensor_inputs(self._graph[op]):
                if self._graph.values[value].role not in ("parameter", "constant"):
                    continue
                size = self._source.array_there(value, step).nbytes
                if size >= LEAST:
                    weight = Argument.of_source(self._source, value, step)
                    self._prefetch.add(self._place[op, step], weight.key(), size, weight.outgoing)
