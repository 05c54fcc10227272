"""The accumulated error: the hybrid run against the pure source run, value by value.

The floor here is end to end: how far the source's own run is, at this value, from a float64 run
of the whole model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import numpy as np

from tapml_nb.array_api import Array, flat, moved_to, namespace, on_host, wide
from tapml_nb.execute.hybrid import HybridRun, HybridStep
from tapml_nb.execute.source import SourceRun
from tapml_nb.graph import Op, ValueId
from tapml_nb.judge.leeway import may_be_undefined, undefined
from tapml_nb.judge.references import References
from tapml_nb.judge.results import AccumulatedResult
from tapml_nb.judge.verdict import LIMIT, Judgement, Verdict, judge, judge_identical, worse
from tapml_nb.measured import measured
from tapml_nb.numerics import same_type


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
        self._relative: dict[tuple[int, ValueId], float] = {}
        self._known: dict[tuple[int, ValueId], tuple[str, Judgement]] = {}
        self._magnitudes: dict[tuple[int, ValueId], float] = {}

    def judge(self, computed: HybridStep, step: int) -> AccumulatedResult:
        """The accumulated error of one operator of the run."""
        op = computed.op
        judgements = [self._judge_value(value, step) for value in op.outputs]
        worst = max(
            judgements,
            key=lambda j: (j.verdict is not Verdict.PASS, -1.0 if math.isnan(j.ratio) else j.ratio),
        )
        relatives = [
            self._relate(value, judgement, step)
            for value, judgement in zip(op.outputs, judgements, strict=True)
        ]
        incoming = max((self._relative.get((step, v), 0.0) for v in op.inputs), default=0.0)
        relative = max(relatives)
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

    def judge_outputs(self, step: int) -> Verdict:
        """Whether the model's own outputs are within the end-to-end floor."""
        values = [v for v in self._graph.outputs if self._graph.values[v].role == "operator"]
        verdicts = [self._judge_value(value, step).verdict for value in values]
        return reduce(worse, verdicts, Verdict.PASS)

    def _judge_value(self, value: ValueId, step: int) -> Judgement:
        version = self._hybrid.version(value, step)
        known, judgement = self._known.get((step, value), ("", None))
        if judgement is None or known != version:
            judgement = self._judge_anew(value, step)
            self._known[step, value] = version, judgement
        return judgement

    def _judge_anew(self, value: ValueId, step: int) -> Judgement:
        reference = self._references.end_to_end(value, step)
        if self._hybrid.is_source(value, step):
            return judge_identical(reference)
        target = self._hybrid.array_there(value, step)
        producer = self._graph.values[value].producer
        if producer is not None and same_type(target, source := reference.source):
            op = self._graph[producer]
            if may_be_undefined(op, reference.dtype):
                target = self._where_defined(op, on_host(target), on_host(source), step)
        return judge(moved_to(target, reference.source), reference, self._limit)

    def _where_defined(
        self, op: Op, target: np.ndarray, source: np.ndarray, step: int
    ) -> np.ndarray:
        inputs = [self._source.array(v, step) for v in self._graph.tensor_inputs(op)]
        mask = undefined(op, inputs, source)
        return target if mask is None else np.where(mask, source, target)

    def _relate(self, value: ValueId, judgement: Judgement, step: int) -> float:
        """Root mean square error over the root mean square of the source's value."""
        relative = error = judgement.statistics.rmse
        if error != 0:
            if (step, value) not in self._magnitudes:
                (found,), _ = measured(_magnitude, [self._source.array_there(value, step)])
                self._magnitudes[step, value] = float(found)
            magnitude = self._magnitudes[step, value]
            relative = error / magnitude if magnitude > 0 else math.inf
        self._relative[step, value] = relative
        return relative


def _magnitude(array: Array, _: Sequence[float]) -> tuple[list[Array], list[Array]]:
    """Root mean square of what is finite in an array; 0 where nothing is."""
    xp, x = namespace(array), flat(wide(array))
    finite = xp.isfinite(x)
    x = xp.where(finite, x, 0.0)
    count = xp.astype(xp.sum(xp.astype(finite, xp.int64)), xp.float64)
    return [xp.sqrt(x @ x / xp.clip(count, 1.0, None))], []
