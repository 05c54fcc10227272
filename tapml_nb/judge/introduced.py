"""The introduced error: one operator on the target, on the source's own inputs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from tapml_nb.execute.caller import Caller
from tapml_nb.execute.kernels import KernelTable
from tapml_nb.execute.planner import HOST_OPERATOR
from tapml_nb.execute.source import SourceRun
from tapml_nb.execute.trial import Trials
from tapml_nb.graph import Op
from tapml_nb.judge.lookalikes import Lookalikes
from tapml_nb.judge.operator import TO_DIAGNOSE, Expected, OperatorJudge
from tapml_nb.judge.positions import TokenAxes
from tapml_nb.judge.references import References
from tapml_nb.judge.results import OpResult
from tapml_nb.judge.verdict import LIMIT, Verdict

_UNDEFINED = frozenset(
    f"aten.{name}"
    for name in (
        "empty",
        "empty_like",
        "empty_permuted",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
    )
)
"""Kinds whose result is whatever was in memory."""


class IntroducedRun:
    """Judges operators one at a time, on one device."""

    def __init__(
        self,
        source: SourceRun,
        kernels: KernelTable,
        caller: Caller,
        references: References,
        limit: float = LIMIT,
    ) -> None:
        self._source = source
        self._graph = source.program.graph
        self._kernels = kernels
        self._trials = Trials(source, kernels, caller)
        self._references = references
        self._limit = limit
        self._axes = TokenAxes(source)
        self._lookalikes = Lookalikes(source)

    def begin(self) -> None:
        """A new run begins: every kernel is to be run twice again where it is met first."""
        self._trials.begin()

    def judge(self, op: Op, step: int) -> OpResult:
        """The operator's verdict in a step.

        Raises:
            Stopped, TargetLost, TargetError: as :meth:`~tapml_nb.execute.caller.Caller.call`.
            ModelChanged: if what it reads is not what the source has read.
        """
        base = OpResult(op.id, step, Verdict.SKIPPED, source_ms=self._source.ms(op.id, step))
        if op.host:
            return replace(base, message=HOST_OPERATOR)
        if op.kind in _UNDEFINED and op.id not in self._kernels.overrides:
            message = "allocates memory and writes nothing: its values are undefined"
            return replace(base, message=message)
        judge = OperatorJudge(partial(self._expected, op, step))
        result = judge.result(base, self._trials.run(op, step, judge.suspects))
        if result.verdict in TO_DIAGNOSE:
            self._source.vouch_for(op, step)
        return result

    def target_outputs(self, op: Op, step: int) -> list[np.ndarray]:
        """Run the operator once more and fetch everything it writes.

        Raises:
            RuntimeError: if there is nothing to run, or it gives no result.
        """
        return self._trials.outputs(op, step)

    def _expected(self, op: Op, step: int) -> Expected:
        inputs = self._graph.tensor_inputs(op)
        return Expected(
            op,
            self._references.local(op, step),
            [self._axes.axis(value, step) for value in op.outputs],
            lambda: [self._source.array(value, step) for value in inputs],
            partial(self._lookalikes.of, op, step),
            self._limit,
        )
