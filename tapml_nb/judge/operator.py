"""The verdict on an operator: what a trial gave, held against what the source gave.

No device takes part in it: a :class:`~tapml_nb.execute.trial.Trial` and the references are data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from tapml_nb.array_api import Array, moved_to, on_host
from tapml_nb.execute.trial import Call, Run, Trial
from tapml_nb.graph import Op
from tapml_nb.judge.diagnosis import Known, diagnose
from tapml_nb.judge.factorizations import (
    Definition,
    definition,
    is_factorized,
    open_outputs,
)
from tapml_nb.judge.floor import Reference, lower_bound
from tapml_nb.judge.leeway import (
    chooses,
    may_be_undefined,
    same_choice,
    same_selection,
    undefined,
    unordered,
)
from tapml_nb.judge.results import OpResult
from tapml_nb.judge.verdict import LIMIT, Judgement, Verdict, judge_identical, judging
from tapml_nb.measured import Asking, at_once
from tapml_nb.numerics import bitwise_equal, is_float, same_type, unit_roundoff
from tapml_nb.targets.wire.calls import unwritten

_FAILURES = {
    "crash": Verdict.CRASH,
    "timeout": Verdict.TIMEOUT,
    "refused": Verdict.UNSUPPORTED,
    "uncompiled": Verdict.COMPILE_ERROR,
}
_TIES = "breaks ties among equal elements in another way"
_UNORDERED = "selects the same elements, in another order, which is left open"
_ANOTHER = "another answer than the source's, of several that are right (signs, bases or ties)"
_UNCHECKED = "not checked: several answers are right, and the source's own is too far off to tell"
_STALE = (
    "reads memory that nothing wrote: its result changes with what the memory held before the run"
)
TO_DIAGNOSE = (Verdict.FAIL, Verdict.NONFINITE, Verdict.NONDETERMINISTIC)
"""Verdicts that say that values are wrong."""


@dataclass(frozen=True)
class Along:
    """Axes of a tensor that mean something to people; None where there is none.

    Attributes:
        tokens: that of the step's tokens.
        heads: that of the attention's heads.
    """

    tokens: int | None = None
    heads: int | None = None

    @property
    def axes(self) -> list[int]:
        """Those that there are."""
        return [axis for axis in (self.tokens, self.heads) if axis is not None]

    def told(self, result: OpResult, ratios: Sequence[tuple[float, ...]]) -> OpResult:
        """A result with ratios along :attr:`axes`."""
        by_axis = dict(zip(self.axes, ratios, strict=True)) if ratios else {}
        of_tokens, of_heads = (
            () if axis is None else by_axis.get(axis, ()) for axis in (self.tokens, self.heads)
        )
        return replace(result, positions=of_tokens, heads=of_heads)


@dataclass(frozen=True)
class Expected:
    """What an operator is to give in a step, and what is known beside it.

    Attributes:
        op: the operator.
        references: the source's outputs, with their floors.
        axes: of each output the axes along which it is told how far off it is.
        inputs: gives its tensor inputs, in order.
        lookalikes: gives for an output, by number, tensors that it may be a stale copy of, each
            with what to call it.
        limit: how many floors an output may be off.
    """

    op: Op
    references: Sequence[Reference]
    axes: Sequence[Along]
    inputs: Callable[[], list[np.ndarray]]
    lookalikes: Callable[[int], Iterator[tuple[str, np.ndarray]]] = lambda _: iter(())
    limit: float = LIMIT


@dataclass(frozen=True)
class _Judged:
    """A judgement on an output, with what the target gave; None where that is the source's."""

    judgement: Judgement
    array: Array | None = None

    @property
    def sound(self) -> bool:
        return self.judgement.verdict in (Verdict.PASS, Verdict.SKIPPED)

    @property
    def badness(self) -> tuple[bool, float]:
        ratio = self.judgement.ratio
        return not self.sound, -1.0 if math.isnan(ratio) else ratio


class OperatorJudge:
    """Judges one operator in one step; what it has judged once it does not judge again."""

    def __init__(self, expected: Callable[[], Expected]) -> None:
        """``expected`` is asked once there is something to judge: a float64 run may go on for it
        while the target is at work."""
        self._expect = expected
        self._known: dict[Run, list[_Judged]] = {}

    @cached_property
    def _expected(self) -> Expected:
        return self._expect()

    def suspects(self, trial: Trial) -> bool:
        """Whether a trial's last call gave something wrong in the same way in all its runs: it may
        be wrong only this time."""
        if self._varying(trial):
            return False
        return not all(one.sound for one in self._judged(_runs(trial.calls[-1])[-1]))

    def result(self, base: OpResult, trial: Trial) -> OpResult:
        """The verdict on a trial; ``base`` tells operator, step and the source's time."""
        base = replace(base, kernel=trial.label, sent_bytes=trial.sent, target_ms=trial.ms)
        if failure := trial.failure:
            return replace(base, verdict=_FAILURES[failure.kind], message=failure.message)
        if trial.overruns:
            message = f"it {'; it '.join(trial.overruns)}"
            return replace(base, verdict=Verdict.FAIL, ratio=math.inf, message=message)
        if trial.overwritten:
            which = ", ".join(map(str, trial.overwritten))
            message = f"it writes into its own input {which}, which it may only read"
            return replace(base, verdict=Verdict.FAIL, ratio=math.inf, message=message)
        call = trial.calls[-1]
        varying = self._varying(trial)
        runs = _runs(trial.calls[0])
        if varying and call is not trial.calls[0]:
            runs.append(_runs(call)[-1])
        result = self._weigh(base, [self._judged(run) for run in runs], varying)
        if not trial.computed:
            if result.verdict is not Verdict.PASS:
                return result
            message = f"{trial.description}: nothing runs (values compared)"
            return replace(result, verdict=Verdict.SKIPPED, message=message)
        if varying and call.first:
            result = self._explain_unwritten(result, call, call.first)
        message = "; ".join(filter(None, (result.message, *call.result.notes)))
        return replace(result, message=": ".join(filter(None, (trial.description, message))))

    def judging(self, run: Run) -> Asking[None]:
        """Judge a run's outputs; what is said of it from now on is known."""
        judged = []
        for k, array in enumerate(run.outputs):
            judged.append((yield from self._judge_output(k, array)))
        self._known[run] = self._by_definition(self._in_any_order(judged))

    def _judged(self, run: Run) -> list[_Judged]:
        """Judgements on a run's outputs, passed where only the order differs, and that is left
        open."""
        if run not in self._known:
            at_once(self.judging(run))
        return self._known[run]

    def _judge_output(self, k: int, array: Array | None) -> Asking[_Judged]:
        """Judge one output; indices that choose among equals may choose differently."""
        op, reference = self._expected.op, self._expected.references[k]
        axes, source = self._expected.axes[k].axes, reference.source
        if array is None:
            return _Judged(judge_identical(reference, axes))
        mask = self._undefined(k, array)
        if mask is not None:
            array = np.where(mask, on_host(source), on_host(array))
        there, limit = moved_to(array, source), self._expected.limit
        judgement = yield from judging(there, reference, limit, axes)
        if mask is not None:
            judgement = _partly_undefined(judgement, mask)
        if (
            judgement.verdict is Verdict.FAIL
            and same_type(array, source)
            and op.inputs
            and chooses(op, k, values := self._expected.inputs()[0], ours := on_host(source))
            and same_choice(op, values, on_host(array), ours)
        ):
            judgement = _passed(judgement, _TIES)
        return _Judged(judgement, array)

    def _undefined(self, k: int, array: Array) -> np.ndarray | None:
        """Which elements of what the target gave the operator's specification leaves open."""
        op, reference = self._expected.op, self._expected.references[k]
        if not same_type(array, reference.source) or not may_be_undefined(op, reference.dtype):
            return None
        return undefined(op, self._expected.inputs(), on_host(reference.source))

    def _by_definition(self, judged: list[_Judged]) -> list[_Judged]:
        """Of linear algebra, hold the equations that define the answer against the source's; where
        there are several answers, they alone decide."""
        op, references = self._expected.op, self._expected.references
        if not is_factorized(op) or all(one.array is None for one in judged):
            return judged
        sources = [on_host(reference.source) for reference in references]
        targets = [
            s if j.array is None else on_host(j.array) for j, s in zip(judged, sources, strict=True)
        ]
        if not all(map(same_type, targets, sources)):
            return judged
        inputs = self._expected.inputs()
        theirs = definition(op, inputs, targets, sources)
        ours = definition(op, inputs, sources, sources)
        dtype = next((s.dtype for s in sources if is_float(s.dtype)), None)
        if theirs is None or ours is None or dtype is None:
            return _unchecked(judged, open_outputs(op, sources))
        checks, free = _holds(theirs, ours, dtype, self._expected.limit), theirs.free
        if checks is None:
            return _unchecked(judged, open_outputs(op, sources))
        ratio, message = checks
        if message:
            places = sorted(free) or range(len(judged))
            failed = next((k for k in places if judged[k].array is not None), None)
            if failed is None or any(j.judgement.verdict is Verdict.NONFINITE for j in judged):
                return judged
            judgement = replace(
                judged[failed].judgement, verdict=Verdict.FAIL, ratio=ratio, message=message
            )
            # Where elements are free, how they differ from the source's is no pattern.
            rest = [
                _Judged(_defined(one.judgement, math.nan)) if k in free else one
                for k, one in enumerate(judged)
            ]
            rest[failed] = _Judged(judgement, None if failed in free else judged[failed].array)
            return rest
        return [
            replace(one, judgement=_defined(one.judgement, ratio)) if k in free else one
            for k, one in enumerate(judged)
        ]

    def _in_any_order(self, judged: list[_Judged]) -> list[_Judged]:
        op = self._expected.op
        if all(one.sound for one in judged) or not unordered(op):
            return judged
        sources = [on_host(reference.source) for reference in self._expected.references]
        targets = [
            s if j.array is None else on_host(j.array) for j, s in zip(judged, sources, strict=True)
        ]
        if not all(map(same_type, targets, sources)):
            return judged
        if not same_selection(op, self._expected.inputs()[0], targets, sources):
            return judged
        return [replace(j, judgement=_passed(j.judgement, _UNORDERED)) for j in judged]

    def _varying(self, trial: Trial) -> set[int]:
        """Outputs that differ between runs, in elements that mean something."""
        pairs = [(call.first, call.last) for call in trial.calls if call.first]
        pairs += [(one.last, two.last) for one, two in pairwise(trial.calls)]
        return {
            k
            for first, second in pairs
            for k, outputs in enumerate(zip(first.outputs, second.outputs, strict=True))
            if not self._same_where_defined(k, *outputs)
        }

    def _same_where_defined(self, k: int, first: Array | None, second: Array | None) -> bool:
        if first is second:
            return True
        source = self._expected.references[k].source
        one, other = (
            source if array is None else moved_to(array, source) for array in (first, second)
        )
        if bitwise_equal(one, other):
            return True
        mask = self._undefined(k, one)
        return mask is not None and bool((mask | (on_host(one) == on_host(other))).all())

    def _weigh(
        self, base: OpResult, by_run: Sequence[list[_Judged]], varying: Collection[int]
    ) -> OpResult:
        """One result of all runs; ``varying``: the outputs in which they differ."""
        axes = self._expected.axes
        results = [(_conclude(base, judged, axes), judged) for judged in by_run]
        result, worst = max(results, key=lambda r: (r[0].verdict is not Verdict.PASS, r[0].ratio))
        result = self._diagnosed(result, worst)
        if not varying:
            return result
        message = "differs from run to run on the same inputs"
        if result.verdict is Verdict.PASS:
            dtypes = [self._expected.references[k].dtype for k in varying]
            rigid = next((dtype.name for dtype in dtypes if not is_float(dtype)), None)
            if rigid is None:
                return replace(result, message="varies from run to run, within the noise floor")
            message += f", and {rigid} has no noise"
        elif result.message:
            message += f"; {result.message}"
        return replace(result, verdict=Verdict.NONDETERMINISTIC, message=message)

    def _diagnosed(self, result: OpResult, judged: Sequence[_Judged]) -> OpResult:
        """Say what the worst output looks like, if it is wrong."""
        k, op = result.output, self._expected.op
        if result.verdict not in TO_DIAGNOSE or (array := judged[k].array) is None:
            return result
        inputs, others = self._expected.inputs(), self._expected.lookalikes(k)
        reference, known = self._expected.references[k].on_host(), Known(op.constants)
        target = on_host(array)
        return replace(
            result, diagnosis=diagnose(op.kind, target, reference, inputs, others, known)
        )

    def _explain_unwritten(self, result: OpResult, call: Call, first_run: Run) -> OpResult:
        """Not chance, but memory that the kernel never writes?"""
        op = self._expected.op
        for k, same in enumerate(call.result.deterministic):
            if same:
                continue
            reference = self._expected.references[k].on_host()
            first, second = (
                reference.source if (array := run.outputs[k]) is None else on_host(array)
                for run in (first_run, call.last)
            )
            holes = unwritten(first, second)
            if not bitwise_equal(np.where(holes, 0, first), np.where(holes, 0, second)):
                if call.result.stale:
                    return replace(result, message=f"{_STALE}; {result.message}")
                return result
            index = [int(i) for i in np.argwhere(holes)[0]]
            count = f"{int(holes.sum())} of {holes.size} elements"
            message = f"never writes {count}, from {index} on"
            known = Known(op.constants, unwritten=holes)
            diagnosis = diagnose(op.kind, second, reference, self._expected.inputs(), known=known)
            return replace(result, verdict=Verdict.FAIL, message=message, diagnosis=diagnosis)
        return result


def _runs(call: Call) -> list[Run]:
    """The runs of a call that differ: one, or two where chance is at work."""
    return [call.last, call.first] if call.first else [call.last]


def _passed(judgement: Judgement, message: str) -> Judgement:
    """A judgement on values that differ as they may: by how much says nothing."""
    return replace(judgement, verdict=Verdict.PASS, ratio=math.nan, message=message)


def _holds(
    theirs: Definition, ours: Definition, dtype: np.dtype, limit: float
) -> tuple[float, str] | None:
    """By how many floors the target is off the equation that it is farthest off, and what to say
    of that, if anything; None where the source is off itself, so that they tell nothing."""
    u, worst = unit_roundoff(dtype), (0.0, "")
    least = lower_bound(dtype, theirs.length) * u
    sources = {equation.says: equation.residual for equation in ours.equations}
    for equation in theirs.equations:
        source = sources.get(equation.says, 0.0)
        if source > limit * least:
            return None
        ratio = equation.residual / max(least, source)
        if ratio >= worst[0]:
            says = f"{equation.says} is off by {equation.residual:.3g}, {ratio:.3g} floors"
            worst = ratio, says if ratio > limit else ""
    return worst


def _defined(judgement: Judgement, ratio: float) -> Judgement:
    """A judgement on an output of which the equations alone decide, and hold."""
    if judgement.verdict is Verdict.PASS:
        return replace(judgement, ratio=ratio)
    return replace(judgement, verdict=Verdict.PASS, ratio=ratio, message=_ANOTHER)


def _unchecked(judged: list[_Judged], free: Collection[int]) -> list[_Judged]:
    """Judgements without those on outputs that only equations can judge, where there are none."""
    return [
        replace(one, judgement=replace(one.judgement, verdict=Verdict.SKIPPED, message=_UNCHECKED))
        if k in free and one.array is not None
        else one
        for k, one in enumerate(judged)
    ]


def _partly_undefined(judgement: Judgement, mask: np.ndarray) -> Judgement:
    """A judgement on the rest of an output, with a word on what was not judged."""
    if mask.all():
        message = "every element is undefined by the operator's own specification"
        return replace(judgement, verdict=Verdict.SKIPPED, message=message)
    note = (
        f"{np.count_nonzero(mask)} of {mask.size} elements are undefined by the operator's own "
        f"specification, and were not judged"
    )
    return replace(judgement, message="; ".join(filter(None, (judgement.message, note))))


def _conclude(base: OpResult, judged: Sequence[_Judged], axes: Sequence[Along]) -> OpResult:
    """One result of an operator's outputs: the worst decides."""
    if not judged:
        return replace(base, verdict=Verdict.SKIPPED, message="it has no tensor output")
    worst = max(range(len(judged)), key=lambda k: judged[k].badness)
    judgement = judged[worst].judgement
    # Where all are right, another may have passed for a reason, which is told.
    told = next((k for k in (worst, *range(len(judged))) if judged[k].judgement.message), worst)
    message = judged[told].judgement.message
    prefix = f"output {told}: " if len(judged) > 1 and message else ""
    result = replace(
        base,
        verdict=judgement.verdict,
        ratio=judgement.ratio,
        floor=judgement.floor,
        statistics=judgement.statistics,
        output=worst,
        message=prefix + message,
    )
    return axes[worst].told(result, judgement.along)
