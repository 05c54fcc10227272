"""The accumulated error: the hybrid run against the pure source run, value by value.

The floor here is end to end: how far the source's own run is, at this value, from a float64 run
of the whole model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from tapml_nb.array_api import moved_to, on_host
from tapml_nb.execute.hybrid import HybridRun, HybridStep
from tapml_nb.execute.source import SourceRun
from tapml_nb.graph import Op, ValueId
from tapml_nb.judge.leeway import may_be_undefined, undefined
from tapml_nb.judge.references import References
from tapml_nb.judge.results import AccumulatedResult, OutputResult
from tapml_nb.judge.tokens import logits
from tapml_nb.judge.verdict import LIMIT, Judgement, Verdict, judge_identical, judging, worse
from tapml_nb.measured import Asking, together
from tapml_nb.numerics import same_type


@dataclass(frozen=True)
class _Known:
    """What is known of a value as long as it has this version: the judgement, and the root mean
    square of its error over that of the source's value."""

    version: str
    judgement: Judgement
    relative: float


class AccumulatedRun:
    """Judges the values of a hybrid run; remembers those that have not changed."""

    def __init__(
        self, source: SourceRun, hybrid: HybridRun, references: References, limit: float = LIMIT
    ) -> None:
        self._source = source
        self._graph = source.program.graph
        self._hybrid = hybrid
        self._references = references
        self._limit = limit
        self._known: dict[tuple[int, ValueId], _Known] = {}

    def judge(self, computed: Sequence[HybridStep], step: int) -> list[AccumulatedResult]:
        """The accumulated errors of operators of the run, given in order."""
        self._know([value for one in computed for value in one.op.outputs], step)
        return [self._result(one, step) for one in computed]

    def judge_outputs(self, step: int) -> Verdict:
        """Whether the model's own outputs are within the end-to-end floor."""
        values = [v for v in self._graph.outputs if self._graph.values[v].role == "operator"]
        self._know(values, step)
        return reduce(worse, (self._known[step, v].judgement.verdict for v in values), Verdict.PASS)

    def worst_output(self, step: int) -> OutputResult | None:
        """The model's own output that is furthest off; None where no operator computes any.

        It was judged with :meth:`judge_outputs`.
        """
        language, several = logits(self._graph), len(self._graph.outputs) > 1
        found = []
        for number, value in enumerate(self._graph.outputs):
            if known := self._known.get((step, value)):
                name = "logits" if value == language else f"output {number}" if several else ""
                judgement = known.judgement
                found.append(OutputResult(name, step, judgement.ratio, judgement.verdict))
        return max(found, key=lambda output: output.badness, default=None)

    def _result(self, computed: HybridStep, step: int) -> AccumulatedResult:
        op = computed.op
        known = [self._known[step, value] for value in op.outputs]
        worst = max(
            (one.judgement for one in known),
            key=lambda j: (j.verdict is not Verdict.PASS, -1.0 if math.isnan(j.ratio) else j.ratio),
        )
        incoming = max(
            (one.relative for v in op.inputs if (one := self._known.get((step, v)))), default=0.0
        )
        relative = max(one.relative for one in known)
        failure = f"computed by the source: {computed.failure}" if computed.failure else ""
        return AccumulatedResult(
            op=op.id,
            step=step,
            placement=computed.placement,
            ratio=worst.ratio,
            max_abs=worst.statistics.max_abs,
            snr_db=worst.statistics.snr_db,
            relative=relative,
            gain=relative / incoming if incoming > 0 else math.nan,
            verdict=worst.verdict,
            message=failure or worst.message,
        )

    def _know(self, values: Sequence[ValueId], step: int) -> None:
        """Judge values, those that are not what they were when they were judged last."""
        changed = []
        for value in values:
            known = self._known.get((step, value))
            if known is None or known.version != self._hybrid.version(value, step):
                changed.append(value)
        judged = together([self._judging(value, step) for value in changed])
        self._known.update(zip(((step, value) for value in changed), judged, strict=True))

    def _judging(self, value: ValueId, step: int) -> Asking[_Known]:
        version = self._hybrid.version(value, step)
        reference = self._references.end_to_end(value, step)
        if self._hybrid.is_source(value, step):
            return _Known(version, judge_identical(reference), 0.0)
        target = self._hybrid.array_there(value, step)
        producer, differs = self._graph.values[value].producer, True
        if producer is not None and same_type(target, source := reference.source):
            op = self._graph[producer]
            if may_be_undefined(op, reference.dtype):
                differs = False  # for all that is known
                target = self._where_defined(op, on_host(target), on_host(source), step)
        there = moved_to(target, reference.source)
        judgement = yield from judging(there, reference, self._limit, differs=differs)
        return _Known(version, judgement, judgement.statistics.relative)

    def _where_defined(
        self, op: Op, target: np.ndarray, source: np.ndarray, step: int
    ) -> np.ndarray:
        inputs = [self._source.array(v, step) for v in self._graph.tensor_inputs(op)]
        mask = undefined(op, inputs, source)
        return target if mask is None else np.where(mask, source, target)
