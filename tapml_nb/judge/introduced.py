"""The introduced error: one operator on the target, on the source's own inputs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from heapq import merge

import numpy as np

from tapml_nb.execute.caller import Caller
from tapml_nb.execute.kernels import KernelTable
from tapml_nb.execute.planner import HOST_OPERATOR
from tapml_nb.execute.source import SourceRun
from tapml_nb.execute.trial import Trial, Trials
from tapml_nb.graph import Op, OpId, TensorSpec, ValueId
from tapml_nb.judge.heads import head_axes
from tapml_nb.judge.operator import TO_DIAGNOSE, Along, Expected, OperatorJudge
from tapml_nb.judge.references import References
from tapml_nb.judge.results import OpResult
from tapml_nb.judge.tokens import TokenAxes
from tapml_nb.judge.verdict import LIMIT, Verdict
from tapml_nb.measured import together

_UNDEFINED = re.compile(r"aten\.(new_)?empty(_like|_permuted|_strided)?")
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
        self._kernels = kernels
        self._trials = Trials(source, kernels, caller)
        self._references = references
        self._limit = limit
        self._tokens, self._heads = TokenAxes(source), head_axes(source.program.graph)
        self._known: dict[tuple[OpId, int], tuple[Trial, OpResult]] = {}
        self._lookalikes = _Lookalikes(source)
        self._ahead: dict[tuple[OpId, int], OperatorJudge] = {}

    def begin(self) -> None:
        """A new run begins: every kernel is to be run twice again where it is met first."""
        self._trials.begin()
        self._ahead.clear()

    def send_early(self, op: Op, step: int) -> None:
        """What an operator reads is on its way while its kernel is compiled.

        Raises:
            Stopped, ModelChanged: as :meth:`judge`.
        """
        self._trials.send_early(op, step)

    def look_ahead(self, calls: Sequence[tuple[Op, int]]) -> None:
        """Call and judge operators together, before their turn, as far as that goes well: on a GPU
        that costs less.

        Raises:
            Stopped, ModelChanged: as :meth:`judge`.
        """
        some = [(op, step) for op, step in calls if not (op.host or self._is_undefined(op))]
        known = [self._known.get((op.id, step), (None, None))[0] for op, step in some]
        trials = [(*call, before) for call, before in zip(some, known, strict=True)]
        runs = zip(some, self._trials.look_ahead(trials), strict=True)
        new = [(call, run) for call, run in runs if run is not None]
        self._references.find([call for call, _ in new])
        asked = []
        for (op, step), run in new:
            judge = OperatorJudge(partial(self._expected, op, step))
            self._ahead[op.id, step] = judge
            asked.append(judge.judging(run))
        together(asked)

    def judge(self, op: Op, step: int) -> OpResult:
        """The operator's verdict in a step.

        Raises:
            Stopped, TargetLost, TargetError: as :meth:`~tapml_nb.execute.caller.Caller.call`.
            ModelChanged: if what it reads is not what the source has read.
        """
        base = OpResult(op.id, step, Verdict.SKIPPED, source_ms=self._source.ms(op.id, step))
        if op.host:
            verdict = Verdict.UNSUPPORTED if op.beyond else Verdict.SKIPPED
            return replace(base, verdict=verdict, message=op.beyond or HOST_OPERATOR)
        if self._is_undefined(op):
            message = "allocates memory and writes nothing: its values are undefined"
            self._references.judged(op, step, again=False)
            return replace(base, message=message)
        ahead = self._ahead.pop((op.id, step), None)
        judge = ahead or OperatorJudge(partial(self._expected, op, step))
        before, known = self._known.pop((op.id, step), (None, base))
        trial = self._trials.run(op, step, judge.suspects, before)
        if trial.as_before:
            result = replace(known, target_ms=trial.ms, sent_bytes=trial.sent)
        else:
            result = judge.result(base, trial)
        if trial.same and step < self._source.program.steps:
            self._known[op.id, step] = replace(trial, calls=()), result
        if result.verdict in TO_DIAGNOSE:
            self._source.vouch_for(op, step)
        self._references.judged(op, step, again=not trial.steady)
        return result

    def target_outputs(self, op: Op, step: int) -> list[np.ndarray]:
        """Run the operator once more and fetch everything it writes.

        Raises:
            RuntimeError: if there is nothing to run, or it gives no result.
        """
        return self._trials.outputs(op, step)

    def _is_undefined(self, op: Op) -> bool:
        return bool(_UNDEFINED.fullmatch(op.kind)) and op.id not in self._kernels.overrides

    def _expected(self, op: Op, step: int) -> Expected:
        inputs = self._source.program.graph.tensor_inputs(op)
        return Expected(
            op,
            self._references.local(op, step),
            [Along(self._tokens.axis(v, step), self._heads.get(v)) for v in op.outputs],
            lambda: [self._source.array(value, step) for value in inputs],
            partial(self._lookalikes.of, op, step),
            self._limit,
        )


class _Alike:
    """Tensors of one shape and dtype, each with its place among all of a step."""

    def __init__(self) -> None:
        self._there: list[tuple[int, ValueId]] = []
        self._index: dict[ValueId, int] = {}

    def add(self, value: ValueId, place: int) -> None:
        """One more, behind all others."""
        self._index[value] = len(self._there)
        self._there.append((place, value))

    def nearest(self, value: ValueId) -> Iterator[ValueId]:
        """The others, the nearest first; found bit by bit, for mostly a few are asked for."""
        index = self._index[value]
        at, _ = self._there[index]
        before = (self._there[k] for k in range(index - 1, -1, -1))
        behind = (self._there[k] for k in range(index + 1, len(self._there)))
        for _, other in merge(before, behind, key=lambda there: abs(there[0] - at)):
            yield other


class _Lookalikes:
    """Tensors of a model that a wrong output may be a stale copy of, by shape and dtype."""

    def __init__(self, source: SourceRun) -> None:
        self._source = source
        self._graph = source.program.graph
        self._by_spec: dict[int, Mapping[TensorSpec, _Alike]] = {}

    def of(self, op: Op, step: int, k: int) -> Iterator[tuple[str, np.ndarray]]:
        """For an operator's ``k``-th output: its own of the step before, then those of its shape
        and dtype in this step, the nearest in the graph first; each with its name."""
        output = op.outputs[k]
        if 0 < step < self._source.program.steps:
            yield f"its own result of step {step - 1}", self._source.array(output, step - 1)
        for value in self._alike(step)[self._seen(output, step)].nearest(output):
            yield self._graph.values[value].name, self._source.array(value, step)

    def _seen(self, value: ValueId, step: int) -> TensorSpec:
        """What a tensor is in a step."""
        return TensorSpec(self._source.shape(value, step), self._graph.values[value].spec.dtype)

    def _alike(self, step: int) -> Mapping[TensorSpec, _Alike]:
        """The tensors of a step by shape and dtype."""
        if step in self._by_spec:
            return self._by_spec[step]
        self._source.go_on(math.inf)  # what comes later may be alike, too
        found: dict[TensorSpec, _Alike] = {}
        for place, name in enumerate(self._source.values(step)):
            value = self._graph.values.get(name)  # a step binds more than tensors
            if value and not value.host:
                found.setdefault(self._seen(name, step), _Alike()).add(name, place)
        if step < self._source.program.steps:  # not one that was made up
            self._by_spec[step] = found
        return found
