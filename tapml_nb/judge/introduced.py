"""The introduced error: one operator on the target, on the source's own inputs.

Every kernel runs into freshly poisoned outputs, and twice where a run meets it first, so that one
that depends on chance, or does not write all it should, cannot pass by luck; what fails is run
again.  An output that equals the source's bit for bit is judged where it is; any other is fetched
and judged here.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tapml_nb.compile.cache import Compiled, Failure
from tapml_nb.execute.device import Accident, Device, Outcome, Send, blamed, call_numpy
from tapml_nb.execute.kernels import KernelTable, resolve_result
from tapml_nb.execute.overrides import NumpyOverride
from tapml_nb.execute.source import SourceRun
from tapml_nb.graph import Op, TensorSpec, ValueId
from tapml_nb.judge.diagnosis import Known, diagnose
from tapml_nb.judge.positions import TokenAxes
from tapml_nb.judge.references import References
from tapml_nb.judge.results import OpResult
from tapml_nb.judge.ties import chooses, same_choice, same_selection, unordered
from tapml_nb.judge.undefined import undefined
from tapml_nb.judge.verdict import LIMIT, Judgement, Verdict, judge, judge_identical, worse
from tapml_nb.numerics import bitwise_equal, is_float, np_dtype
from tapml_nb.targets.wire.errors import GivenUp, TargetLost
from tapml_nb.targets.wire.poison import unwritten

_FAILURES = {
    "unsupported": Verdict.UNSUPPORTED,
    "error": Verdict.COMPILE_ERROR,
    "crash": Verdict.COMPILE_ERROR,
    "timeout": Verdict.COMPILE_ERROR,
}
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

_TIES = "breaks ties among equal elements in another way"
_UNORDERED = "selects the same elements, in another order, which is left open"
_ACCIDENTS = {
    "crash": Verdict.CRASH,
    "timeout": Verdict.TIMEOUT,
    "refused": Verdict.UNSUPPORTED,
}
_STALE = (
    "reads memory that nothing wrote: its result changes with what the memory held before the run"
)
_TO_DIAGNOSE = (Verdict.FAIL, Verdict.NONFINITE, Verdict.NONDETERMINISTIC)


@dataclass(frozen=True)
class _Judged:
    """A judgement on an output, with what the target gave; None where that is the source's."""

    judgement: Judgement
    array: np.ndarray | None = None


class IntroducedRun:
    """Judges operators one at a time."""

    def __init__(
        self,
        source: SourceRun,
        kernels: KernelTable,
        device: Device,
        references: References,
        limit: float = LIMIT,
    ) -> None:
        self._source = source
        self._graph = source.program.graph
        self._kernels = kernels
        self._device = device
        self._references = references
        self._limit = limit
        self._axes = TokenAxes(source)
        self._met: set[str] = set()
        self._by_spec: dict[int, Mapping[TensorSpec, Sequence[tuple[int, ValueId]]]] = {}

    def begin(self) -> None:
        """A new run begins: every kernel is to be run twice again where it is met first."""
        self._met.clear()

    def judge(self, op: Op, step: int) -> OpResult:
        """The operator's verdict in a step.

        Raises:
            Stopped, TargetLost, TargetError: as :meth:`~tapml_nb.execute.device.Device.call`.
            ModelChanged: if what it reads is not what the source has read.
        """
        result = self._judge(op, step)
        if result.verdict in _TO_DIAGNOSE:
            self._source.vouch_for(op, step)
        return result

    def _judge(self, op: Op, step: int) -> OpResult:
        base = OpResult(op.id, step, Verdict.UNKNOWN, source_ms=self._source.ms(op.id, step))
        if op.host:
            message = "runs on the host: it computes no tensor"
            return replace(base, verdict=Verdict.SKIPPED, message=message)
        if op.kind in _UNDEFINED and not self._kernels.overridden(op.id):
            message = "allocates memory and writes nothing: its values are undefined"
            return replace(base, verdict=Verdict.SKIPPED, message=message)
        implementation = self._kernels[op.id, step]
        if isinstance(implementation, Failure):
            verdict = _FAILURES[implementation.reason]
            return replace(base, verdict=verdict, message=implementation.message)
        if isinstance(implementation, NumpyOverride):
            return self._judge_numpy(implementation, op, base)
        base = replace(base, kernel=implementation.kernel.key)
        if not implementation.kernel.launches:
            return self._judge_view(implementation, op, base)
        try:
            return self._judge_kernel(implementation, op, base)
        except GivenUp:
            raise
        except TargetLost as lost:  # after the call: once more, in a process of its own
            first = lost
        try:
            return self._judge_kernel(implementation, op, base)
        except TargetLost as lost:
            if detail := blamed(implementation.kernel.key, first, lost):
                return _accident(base, Accident("crash", detail))
            raise

    def tensor_values(self, op: Op) -> list[ValueId]:
        """The operator's inputs that are tensors: its kernel's parameters."""
        return [v for v in op.inputs if not self._graph.values[v].host]

    def target_outputs(self, op: Op, step: int) -> list[np.ndarray]:
        """Run the operator once more and fetch everything it writes.

        Raises:
            RuntimeError: if there is nothing to run, or it gives no result.
        """
        implementation = self._kernels[op.id, step]
        if isinstance(implementation, Failure):
            raise RuntimeError(f"{op.id} has no kernel: {implementation.message}")
        if isinstance(implementation, NumpyOverride):
            inputs, seconds = self._inputs(op, step), self._device.session.target.timeout
            runs, outcome = call_numpy(implementation, inputs, self._specs(op), seconds)
        elif not implementation.kernel.launches:
            return self._resolved(implementation, op, step)
        else:
            keys = self._output_keys(op)
            outcome = self._call(implementation, op, step, keys)
            runs = [] if outcome.accident else [[self._device.fetch(k) for k in keys]]
            self._drop(keys)
        if outcome.accident:
            raise RuntimeError(f"{op.id} gave no result: {outcome.accident.message}")
        return runs[-1]

    # -- the three kinds of implementation -------------------------------------------------------

    def _judge_view(self, compiled: Compiled, op: Op, base: OpResult) -> OpResult:
        """Nothing is launched; what deployment would hand on is still compared."""
        judged = [
            self._judge_output(op, base.step, k, array)
            for k, array in enumerate(self._resolved(compiled, op, base.step))
        ]
        result = _conclude(base, judged)
        if result.verdict is not Verdict.PASS:
            return self._diagnosed(result, op, judged)
        kind = "a constant, folded by the compiler" if compiled.kernel.constants else "a view"
        return replace(
            result, verdict=Verdict.SKIPPED, message=f"{kind}: nothing runs (values compared)"
        )

    def _judge_numpy(self, override: NumpyOverride, op: Op, base: OpResult) -> OpResult:
        inputs, seconds = self._inputs(op, base.step), self._device.session.target.timeout
        runs, outcome = call_numpy(override, inputs, self._specs(op), seconds)
        base = replace(base, kernel=f"numpy:{override.name}")
        if outcome.accident:
            return _accident(base, outcome.accident)
        base = replace(base, target_ms=min(outcome.ms))
        by_run = [
            self._in_any_order(
                op,
                base.step,
                [self._judge_output(op, base.step, k, array) for k, array in enumerate(run)],
            )
            for run in runs
        ]
        result = self._weigh(base, op, by_run, _varying(outcome))
        note = f"override {override.name} (NumPy, in this process)"
        return replace(result, message=f"{note}: {result.message}" if result.message else note)

    def _judge_kernel(self, compiled: Compiled, op: Op, base: OpResult) -> OpResult:
        keys = self._output_keys(op)
        twice = compiled.kernel.key not in self._met or self._device.guarded
        self._met.add(compiled.kernel.key)
        outcome = self._call(compiled, op, base.step, keys, repeats=2 if twice else 1)
        base = replace(base, sent_bytes=outcome.sent)
        if outcome.accident:
            return _accident(base, outcome.accident)
        base = replace(base, target_ms=min(outcome.ms))
        if outcome.overruns:
            self._drop(keys)
            message = f"it {'; it '.join(outcome.overruns)}"
            return replace(base, verdict=Verdict.FAIL, ratio=math.inf, message=message)
        if outcome.spoiled:
            self._drop(keys)
            which = ", ".join(map(str, outcome.spoiled))
            message = f"it writes into its own input {which}, which it may only read"
            return replace(base, verdict=Verdict.FAIL, ratio=math.inf, message=message)
        by_run = self._judge_outputs(op, base.step, keys, outcome)
        varying = self._varying(op, base.step, keys, outcome)
        if not varying and _verdict(by_run[-1]) is not Verdict.PASS:
            # Wrong, or only wrong this time?  Two more runs must agree with what was fetched.
            first = [self._device.fetch(key) for key in keys]
            again = self._call(compiled, op, base.step, keys)
            if again.accident:
                return _accident(base, again.accident)
            second = [self._device.fetch(key) for key in keys]
            varying = self._varying(op, base.step, keys, again) | {
                k
                for k, pair in enumerate(zip(first, second, strict=True))
                if not self._same_where_defined(op, base.step, k, *pair)
            }
            if varying:
                by_run.append(self._judge_outputs(op, base.step, keys, again)[-1])
            outcome = again
        result = self._weigh(base, op, by_run, varying)
        if varying and not all(outcome.deterministic):
            result = self._explain_unwritten(result, op, keys, outcome)
        self._drop(keys)
        words = "; ".join(filter(None, (result.message, *outcome.notes)))
        return replace(result, message=words)

    # -- parts -------------------------------------------------------------------------------------

    def _call(
        self, compiled: Compiled, op: Op, step: int, outputs: Sequence[str], repeats: int = 2
    ) -> Outcome:
        inputs = self.tensor_values(op)
        keys = {value: self._source.key(value, step) for value in (*inputs, *op.outputs)}
        return self._device.call(
            compiled,
            {key: self._send(value, step) for value, key in keys.items()},
            [keys[value] for value in inputs],
            outputs,
            [keys[value] for value in op.outputs],
            repeats,
        )

    def _judge_outputs(
        self, op: Op, step: int, keys: Sequence[str], outcome: Outcome
    ) -> list[list[_Judged]]:
        """Judgements of every run that differs: one list, or two where chance is at work."""
        references = self._references.local(op, step)
        runs: list[list[_Judged]] = []
        for suffix in ("", "#1") if not all(outcome.deterministic) else ("",):
            judged: list[_Judged] = []
            for k, reference in enumerate(references):
                first_run = suffix == "#1" and not outcome.deterministic[k]
                if outcome.identical[k] and not first_run:
                    axis = self._axes.axis(op.outputs[k], step)
                    judged.append(_Judged(judge_identical(reference, axis)))
                else:
                    key = keys[k] + (suffix if first_run else "")
                    judged.append(self._judge_output(op, step, k, self._device.fetch(key)))
            runs.append(self._in_any_order(op, step, judged))
        return runs

    def _judge_output(self, op: Op, step: int, k: int, array: np.ndarray) -> _Judged:
        """Judge one output; indices that choose among equals may choose differently."""
        reference = self._references.local(op, step)[k]
        source = reference.source
        mask = self._undefined(op, step, k, array)
        if mask is not None:
            array = np.where(mask, source, array)
        judgement = judge(array, reference, self._limit, self._axes.axis(op.outputs[k], step))
        if mask is not None:
            judgement = _partly_undefined(judgement, mask)
        if (
            judgement.verdict is Verdict.FAIL
            and (array.shape, array.dtype) == (source.shape, source.dtype)
            and op.inputs
            and chooses(op, k, values := self._inputs(op, step)[0], source)
            and same_choice(op, values, array, source)
        ):
            judgement = replace(judgement, verdict=Verdict.PASS, ratio=math.nan, message=_TIES)
        return _Judged(judgement, array)

    def _undefined(self, op: Op, step: int, k: int, array: np.ndarray) -> np.ndarray | None:
        """Which elements of what the target gave the operator's specification leaves open."""
        source = self._source.array(op.outputs[k], step)
        if (array.shape, array.dtype) != (source.shape, source.dtype):
            return None
        return undefined(op, self._inputs(op, step), source)

    def _varying(self, op: Op, step: int, keys: Sequence[str], outcome: Outcome) -> set[int]:
        """Outputs that differ between two runs, in elements that mean something."""
        return {
            k
            for k in _varying(outcome)
            if not self._same_where_defined(
                op, step, k, self._device.fetch(f"{keys[k]}#1"), self._device.fetch(keys[k])
            )
        }

    def _same_where_defined(
        self, op: Op, step: int, k: int, first: np.ndarray, second: np.ndarray
    ) -> bool:
        if bitwise_equal(first, second):
            return True
        mask = self._undefined(op, step, k, first)
        return mask is not None and bool((mask | (first == second)).all())

    def _in_any_order(self, op: Op, step: int, judged: list[_Judged]) -> list[_Judged]:
        """Judgements on a run, passed where only the order differs, and that is left open."""
        failing = [j for j in judged if j.judgement.verdict is not Verdict.PASS]
        if not failing or not unordered(op):
            return judged
        sources = [reference.source for reference in self._references.local(op, step)]
        targets = [s if j.array is None else j.array for j, s in zip(judged, sources, strict=True)]
        same_types = all(
            (t.shape, t.dtype) == (s.shape, s.dtype) for t, s in zip(targets, sources, strict=True)
        )
        if not same_types or not same_selection(op, self._inputs(op, step)[0], targets, sources):
            return judged
        return [
            replace(
                j,
                judgement=replace(
                    j.judgement, verdict=Verdict.PASS, ratio=math.nan, message=_UNORDERED
                ),
            )
            for j in judged
        ]

    def _weigh(
        self, base: OpResult, op: Op, by_run: list[list[_Judged]], varying: Collection[int]
    ) -> OpResult:
        """One result of all runs; ``varying``: the outputs in which they differ."""
        results = [(_conclude(base, judged), judged) for judged in by_run]
        result, worst = max(results, key=lambda r: (r[0].verdict is not Verdict.PASS, r[0].ratio))
        result = self._diagnosed(result, op, worst)
        if not varying:
            return result
        message = "differs from run to run on the same inputs"
        if result.verdict is Verdict.PASS:
            dtypes = [self._graph.values[op.outputs[k]].spec.dtype for k in varying]
            rigid = next((name for name in dtypes if not is_float(np_dtype(name))), None)
            if rigid is None:
                return replace(result, message="varies from run to run, within the noise floor")
            message += f", and {rigid} has no noise"
        elif result.message:
            message += f"; {result.message}"
        return replace(result, verdict=Verdict.NONDETERMINISTIC, message=message)

    def _diagnosed(self, result: OpResult, op: Op, judged: Sequence[_Judged]) -> OpResult:
        """Say what the worst output looks like, if it is wrong."""
        if result.verdict not in _TO_DIAGNOSE:
            return result
        array = judged[result.output].array
        if array is None:
            return result
        reference = self._references.local(op, result.step)[result.output]
        others = self._others(op, result.step, result.output)
        inputs = self._inputs(op, result.step)
        known = Known(op.constants)
        return replace(result, diagnosis=diagnose(op.kind, array, reference, inputs, others, known))

    def _others(self, op: Op, step: int, k: int) -> Iterator[tuple[str, np.ndarray]]:
        """Tensors that an output may be a stale copy of: its own of the step before, then those
        of its shape and dtype in this step, the nearest in the graph first."""
        values = self._graph.values
        output = op.outputs[k]
        if 0 < step < self._source.program.steps:
            yield f"its own result of step {step - 1}", self._source.array(output, step - 1)
        alike = self._alike(step)[self._seen(output, step)]
        k = next(k for k, (_, value) in enumerate(alike) if value == output)
        at, _ = alike[k]
        before, after = reversed(alike[:k]), alike[k + 1 :]
        for _, value in heapq.merge(before, after, key=lambda place: abs(place[0] - at)):
            yield values[value].name, self._source.array(value, step)

    def _seen(self, value: ValueId, step: int) -> TensorSpec:
        """What a tensor is in a step."""
        return TensorSpec(self._source.shape(value, step), self._graph.values[value].spec.dtype)

    def _alike(self, step: int) -> Mapping[TensorSpec, Sequence[tuple[int, ValueId]]]:
        """The tensors of a step by shape and dtype, each with its place among all of them."""
        if step in self._by_spec:
            return self._by_spec[step]
        found: dict[TensorSpec, list[tuple[int, ValueId]]] = {}
        for place, name in enumerate(self._source.values(step)):
            value = self._graph.values.get(name)  # a step binds more than tensors
            if value and not value.host:
                found.setdefault(self._seen(name, step), []).append((place, name))
        if step < self._source.program.steps:  # not one that was made up
            self._by_spec[step] = found
        return found

    def _explain_unwritten(
        self, result: OpResult, op: Op, keys: Sequence[str], outcome: Outcome
    ) -> OpResult:
        """Not chance, but memory that the kernel never writes?"""
        for k, (key, same) in enumerate(zip(keys, outcome.deterministic, strict=True)):
            if same:
                continue
            first, second = self._device.fetch(f"{key}#1"), self._device.fetch(key)
            holes = unwritten(first, second)
            if not bitwise_equal(np.where(holes, 0, first), np.where(holes, 0, second)):
                if outcome.stale:
                    return replace(result, message=f"{_STALE}; {result.message}")
                return result
            index = [int(i) for i in np.argwhere(holes)[0]]
            count = f"{int(holes.sum())} of {holes.size} elements"
            message = f"never writes {count}, from {index} on"
            known = Known(op.constants, unwritten=holes)
            reference = self._references.local(op, result.step)[k]
            inputs = self._inputs(op, result.step)
            look = diagnose(op.kind, second, reference, inputs, known=known)
            return replace(result, verdict=Verdict.FAIL, message=message, diagnosis=look)
        return result

    def _resolved(self, compiled: Compiled, op: Op, step: int) -> list[np.ndarray]:
        params = self._inputs(op, step)
        return [resolve_result(compiled, n, params) for n in compiled.kernel.results]

    def _inputs(self, op: Op, step: int) -> list[np.ndarray]:
        return [self._source.array(v, step) for v in self.tensor_values(op)]

    def _specs(self, op: Op) -> list[TensorSpec]:
        return [self._graph.values[v].spec for v in op.outputs]

    def _send(self, value: ValueId, step: int) -> Send:
        return lambda: self._source.outgoing(value, step)

    def _output_keys(self, op: Op) -> list[str]:
        return [f"introduced/{op.id}/{k}" for k in range(len(op.outputs))]

    def _drop(self, keys: Sequence[str]) -> None:
        lost = self._device.session.drop([name for key in keys for name in (key, f"{key}#1")])
        if lost and lost.reason == "crash":  # freeing memory that a kernel has spoiled
            raise lost


def _varying(outcome: Outcome) -> set[int]:
    """Outputs whose runs differ."""
    return {k for k, same in enumerate(outcome.deterministic) if not same}


def _partly_undefined(judgement: Judgement, mask: np.ndarray) -> Judgement:
    """A judgement on the rest of an output, with a word on what was not judged."""
    if mask.all():
        message = "every element is undefined by the operator's own specification"
        return replace(judgement, verdict=Verdict.SKIPPED, message=message)
    note = (
        f"{np.count_nonzero(mask)} of {mask.size} elements are undefined by the operator's own "
        f"specification, and were not judged"
    )
    message = f"{judgement.message}; {note}" if judgement.message else note
    return replace(judgement, message=message)


def _verdict(judged: Sequence[_Judged]) -> Verdict:
    verdict = Verdict.PASS
    for one in judged:
        verdict = worse(verdict, one.judgement.verdict)
    return verdict


def _conclude(base: OpResult, judged: Sequence[_Judged]) -> OpResult:
    """One result of an operator's outputs: the worst decides."""
    if not judged:
        return replace(base, verdict=Verdict.SKIPPED, message="it has no tensor output")
    judgements = [one.judgement for one in judged]

    def badness(k: int) -> tuple[bool, float]:
        ratio = judgements[k].ratio
        sound = judgements[k].verdict in (Verdict.PASS, Verdict.SKIPPED)
        return not sound, -1.0 if math.isnan(ratio) else ratio

    worst = max(range(len(judgements)), key=badness)
    judgement = judgements[worst]
    prefix = f"output {worst}: " if len(judgements) > 1 and judgement.message else ""
    return replace(
        base,
        verdict=judgement.verdict,
        ratio=judgement.ratio,
        floor=judgement.floor,
        statistics=judgement.statistics,
        output=worst,
        message=prefix + judgement.message,
        positions=judgement.positions,
    )


def _accident(base: OpResult, accident: Accident) -> OpResult:
    return replace(base, verdict=_ACCIDENTS[accident.kind], message=accident.message)
