"""The trial of an operator: called on the source's own inputs, so often that chance shows.

Every kernel runs into freshly poisoned outputs, and twice where it is met first, so that one that
depends on chance, or does not write all it should, cannot pass by luck; what looks wrong is run
again.  An output that equals the source's bit for bit is never fetched.

What a kernel gave stays on the target until its operator is tried again: where a kernel gives the
same, bit for bit, all that was said of it holds, and nobody has to look once more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tapml_nb.array_api import Array, on_host
from tapml_nb.execute.caller import Argument, Caller, CallFailure, Operands, Outcome, twice
from tapml_nb.execute.implementation import Implementation
from tapml_nb.execute.kernels import KernelTable
from tapml_nb.execute.row import call_in_a_row
from tapml_nb.execute.source import SourceRun
from tapml_nb.graph import Op, OpId
from tapml_nb.targets.wire.calls import CallResult


@dataclass(frozen=True, eq=False)
class Run:
    """The outputs of one run; None for one that is the source's, bit for bit."""

    outputs: tuple[Array | None, ...]


@dataclass(frozen=True)
class Call:
    """A call that gave a result: how it went, its last run, and its first one if that differs."""

    result: CallResult
    last: Run
    first: Run | None = None


@dataclass(frozen=True)
class _Ahead:
    """A first call that was made before its turn, of this version of the implementation; with its
    outputs where they are new."""

    version: str
    outcome: Outcome
    call: Call | None


@dataclass(frozen=True)
class Trial:
    """How an operator did on a target, as plain data."""

    label: str
    """The kernel's key, or what stood in its place."""
    version: str = ""
    """The implementation's."""
    description: str = ""
    """A word on what ran that is no kernel; empty for a kernel."""
    computed: bool = True
    """Whether anything ran."""
    failure: CallFailure | None = None
    """Why there is no result."""
    sent: int = 0
    """Bytes sent for the first call."""
    ms: float = math.nan
    """Milliseconds of its fastest run; NaN if nothing ran."""
    overruns: tuple[str, ...] = ()
    """What a guarded kernel wrote beyond its buffers, in words."""
    overwritten: tuple[int, ...] = ()
    """Positions of inputs that the kernel wrote to."""
    calls: tuple[Call, ...] = ()
    """Those whose outputs are worth judging: one, or two where the first looked wrong."""
    same: tuple[bool, ...] = ()
    """Of a trial that may be held against the next one (its runs agreed, and it did nothing but
    write its outputs): for each output whether it is the source's."""
    as_before: bool = False
    """Whether it went as the trial before; then ``calls`` are not told again."""
    steady: bool = False
    """Whether the next trial can tell by itself that it went the same."""


_MOST_KEPT = 2 << 30
"""Bytes of outputs that stay on a target, at most."""


class Trials:
    """Tries operators on one device."""

    def __init__(self, source: SourceRun, kernels: KernelTable, caller: Caller) -> None:
        self._source = source
        self._graph = source.program.graph
        self._kernels = kernels
        self._caller = caller
        self._met: set[str] = set()
        self._kept: dict[tuple[OpId, int], int] = {}
        self._bytes_kept = 0
        self._ahead: dict[tuple[OpId, int], _Ahead] = {}
        self._sent_early: dict[tuple[OpId, int], int] = {}
        """Bytes, by whose inputs they are."""

    def begin(self) -> None:
        """A new run begins: every kernel is to be run twice again where it is met first."""
        self._met.clear()
        self._ahead.clear()
        self._sent_early.clear()

    def send_early(self, op: Op, step: int) -> None:
        """Send what is large of an operator's inputs, before its kernel is there.

        Raises:
            Stopped, ModelChanged: as :meth:`Caller.send_early
                <tapml_nb.execute.caller.Caller.send_early>`.
        """
        inputs = self._operands(op, step).inputs
        self._sent_early[op.id, step] = self._caller.send_early(inputs)

    def look_ahead(self, calls: Sequence[tuple[Op, int, Trial | None]]) -> list[Run | None]:
        """Make the first calls of trials, each with the one before, in a row, as far as that goes
        well; the rest is made in its turn.

        Returns:
            For each what it gave, if that is new.

        Raises:
            Stopped, ModelChanged: as :func:`~tapml_nb.execute.row.call_in_a_row`.
        """
        met, wanted = set(self._met), []
        for op, step, before in calls:
            made_by = self._kernels[op.id, step]
            before = _comparable(before, made_by)
            repeats = self._repeats(made_by, met)
            met.add(made_by.label)
            if call := made_by.wanted(self._first_operands(op, step, before), repeats):
                wanted.append((op, step, before, made_by, call))
        outcomes = call_in_a_row(self._caller, [call for *_, call in wanted])
        for (op, step, before, made_by, _), outcome in zip(wanted, outcomes, strict=False):
            assert outcome.result, "or it is none of those that went well"
            self._met.add(made_by.label)
            again = before is not None and _is_again(outcome, outcome.result, before)
            new = None if again else _read(outcome, outcome.result)
            self._ahead[op.id, step] = _Ahead(made_by.version, outcome, new)
        known = [self._ahead.get((op.id, step)) for op, step, _ in calls]
        return [one.call.last if one and one.call else None for one in known]

    def run(
        self,
        op: Op,
        step: int,
        suspects: Callable[[Trial], bool],
        before: Trial | None = None,
    ) -> Trial:
        """Try an operator in a step; where ``suspects`` says that its trial, so far, looks wrong,
        two more runs are to agree with it.  ``before`` is its last trial, if that is known.

        Raises:
            Stopped, TargetLost, TargetError: as :meth:`~tapml_nb.execute.caller.Caller.call`.
            ModelChanged: if what is sent is not what the source has read.
        """
        made_by = self._kernels[op.id, step]
        none = Trial(
            made_by.label, made_by.version, made_by.description, made_by.computes, made_by.failure
        )
        if made_by.failure:
            return none
        return twice(
            made_by.label,
            lambda: self._try(made_by, op, step, none, suspects, before),
            lambda failure: replace(none, failure=failure),
        )

    def outputs(self, op: Op, step: int) -> list[np.ndarray]:
        """Run an operator once more and fetch everything it writes.

        Raises:
            RuntimeError: if there is nothing to run, or it gives no result.
        """
        made_by = self._kernels[op.id, step]
        if made_by.failure:
            raise RuntimeError(f"{op.id} has no kernel: {made_by.failure.message}")
        operands = self._operands(op, step)
        outcome = made_by.run(self._caller, operands)
        outputs = [on_host(output) for output in outcome.outputs()]
        self._drop(made_by, operands)
        if outcome.failure:
            raise RuntimeError(f"{op.id} gave no result: {outcome.failure.message}")
        return outputs

    def _try(
        self,
        made_by: Implementation,
        op: Op,
        step: int,
        trial: Trial,
        suspects: Callable[[Trial], bool],
        before: Trial | None,
    ) -> Trial:
        there = made_by.computes and made_by.on_target
        before = _comparable(before, made_by)
        if before and made_by.on_target and not there:  # a view of what is as it was
            return replace(trial, same=before.same, as_before=True, steady=True)
        compares = there and self._caller.session.compares
        operands = self._operands(op, step)
        ahead = self._ahead.pop((op.id, step), None)
        if ahead and ahead.version == made_by.version:
            outcome = ahead.outcome
        else:
            ahead, repeats = None, self._repeats(made_by, self._met)
            self._met.add(made_by.label)
            now = self._first_operands(op, step, before if compares else None)
            outcome = made_by.run(self._caller, now, repeats=repeats)
        sent = outcome.sent + self._sent_early.pop((op.id, step), 0)
        trial = replace(trial, failure=outcome.failure, sent=sent)
        if outcome.result is None:
            return trial
        trial = replace(
            trial,
            ms=min(outcome.result.ms, default=math.nan),
            overruns=tuple(outcome.result.overruns),
            overwritten=outcome.overwritten,
        )
        same = _same(outcome, outcome.result)
        if compares and before and _is_again(outcome, outcome.result, before):
            return replace(trial, same=same, as_before=True, steady=True)
        if not (trial.overruns or trial.overwritten):
            call = ahead.call if ahead and ahead.call else _read(outcome, outcome.result)
            trial = replace(trial, calls=(call,), same=same)
            if there and suspects(trial):
                again = _compared_with_itself(operands) if compares else operands
                outcome = made_by.run(self._caller, again)
                if outcome.result is None:
                    return replace(trial, failure=outcome.failure, same=())
                more = _read(outcome, outcome.result, call.last)
                agree = more.last is call.last and _same(outcome, outcome.result) == same
                trial = replace(trial, calls=(call, more), same=same if agree else ())
        kept = compares and bool(trial.same) and self._keep(op, step, trial.same)
        if kept:
            self._caller.session.spare(operands.outputs)
        else:
            self._drop(made_by, operands)
        is_view = made_by.on_target and not there
        return replace(trial, steady=kept or (is_view and bool(trial.same)))

    def _keep(self, op: Op, step: int, same: Sequence[bool]) -> bool:
        """Whether what an operator gives may stay on the target, where that is not what the source
        gave (``same``), which is there once."""
        if step >= self._source.program.steps:  # it was made up, and is tried once
            return False
        new = [v for v, is_same in zip(op.outputs, same, strict=True) if not is_same]
        size = sum(self._source.array_there(v, step).nbytes for v in new)
        before = self._kept.pop((op.id, step), 0)
        self._bytes_kept -= before
        if size > before and self._bytes_kept + size > _MOST_KEPT:
            return False
        self._kept[op.id, step] = size
        self._bytes_kept += size
        return True

    def _repeats(self, made_by: Implementation, met: Collection[str]) -> int:
        """How often to run a kernel, given those that were met."""
        return 1 if made_by.label in met and not self._caller.session.target.guard else 2

    def _first_operands(self, op: Op, step: int, before: Trial | None) -> Operands:
        """Of an operator's first call, which may be as ``before``."""
        operands = self._operands(op, step)
        return _compared_with_itself(operands) if before else operands

    def _operands(self, op: Op, step: int) -> Operands:
        inputs, references = (
            [Argument.of_source(self._source, value, step) for value in values]
            for values in (self._graph.tensor_inputs(op), op.outputs)
        )
        keys = [f"introduced/{op.id}/{step}/{k}" for k in range(len(op.outputs))]
        specs = [self._graph.values[v].spec for v in op.outputs]
        return Operands(inputs, keys, specs, references)

    def _drop(self, made_by: Implementation, operands: Operands) -> None:
        """Free what a call left on the target."""
        if made_by.computes and made_by.on_target:
            names = [name for key in operands.outputs for name in (key, f"{key}#1")]
            lost = self._caller.session.drop(names)
            if lost and lost.reason == "crash":  # freeing memory that a kernel has damaged
                raise lost


def _comparable(before: Trial | None, made_by: Implementation) -> Trial | None:
    """A trial before, if one may be held against it that is made by this."""
    return before if before and before.same and before.version == made_by.version else None


def _compared_with_itself(operands: Operands) -> Operands:
    """The same, each output to be compared with what is there under its key."""
    return replace(operands, others=[(key,) for key in operands.outputs])


def _is_again(outcome: Outcome, result: CallResult, before: Trial) -> bool:
    """Whether all is as in the trial before."""
    return before.same == _same(outcome, result) and all(outcome.equal)


def _same(outcome: Outcome, result: CallResult) -> tuple[bool, ...]:
    """For each output whether it is the source's; empty where more than that is to be said."""
    if outcome.overwritten or result.overruns or result.notes or not all(result.deterministic):
        return ()
    return tuple(place == 0 for place in result.equals)


def _read(outcome: Outcome, result: CallResult, before: Run | None = None) -> Call:
    """A call with its outputs, of which only those are fetched that are not the source's, nor
    those of a run ``before``."""
    if before and all(result.deterministic):
        pairs = zip(before.outputs, result.equals, strict=True)
        if all(place == 0 if one is None else place > 0 for one, place in pairs):
            return Call(result, before)
    last = tuple(
        None if place == 0 else outcome.read(k, False) for k, place in enumerate(result.equals)
    )
    if all(result.deterministic):
        return Call(result, Run(last))
    first = tuple(
        last[k] if same else outcome.read(k, True) for k, same in enumerate(result.deterministic)
    )
    return Call(result, Run(last), Run(first))
