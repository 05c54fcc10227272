"""What a session does on its thread: the runs, the tensors to look at, and what was found.

Results are kept as they come, so whatever ends a run early, nothing already known is lost.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from tapml_nb.compile.compiler import Compiler
from tapml_nb.engine.jobs import JobThread
from tapml_nb.engine.pool import Farm
from tapml_nb.execute.caller import Caller
from tapml_nb.execute.events import (
    EventStream,
    OpAccumulated,
    OpJudged,
    OpStarted,
    OutputsCompared,
    OverrideChanged,
    PlacementChanged,
    RunFinished,
    RunProgress,
    RunStarted,
)
from tapml_nb.execute.host_call import BrokenOff
from tapml_nb.execute.hybrid import SOURCE, TARGET, HybridRun
from tapml_nb.execute.kernels import KernelTable
from tapml_nb.execute.source import SourceRun, Stopped
from tapml_nb.execute.storage import Storage
from tapml_nb.execute.unobserved import UnobservedRun
from tapml_nb.frontends.program import CoarseProgram, Program
from tapml_nb.frontends.subprogram import Inside
from tapml_nb.graph import Graph, Op, OpId
from tapml_nb.judge.accumulated import AccumulatedRun
from tapml_nb.judge.agreement import KL_LIMIT, Agreement, agreement, logits
from tapml_nb.judge.augmented import AugmentedRun
from tapml_nb.judge.introduced import IntroducedRun
from tapml_nb.judge.references import References
from tapml_nb.judge.results import AccumulatedResult, AugmentedResult, OpResult
from tapml_nb.judge.verdict import SEVERITY, Verdict
from tapml_nb.migrate import Answer, Localization, Migration, Probes, localize, migrate
from tapml_nb.migrate.migration import Step, in_order
from tapml_nb.report import RunInfo
from tapml_nb.report.causes import grouped
from tapml_nb.targets.client.session import TargetSession

if TYPE_CHECKING:
    from tapml_nb.carve import Bundle
    from tapml_nb.compile.code import KernelCode

Criterion = Callable[[list[np.ndarray]], bool] | Literal["floor", "top1", "kl"]
"""What tells whether a model's outputs are right: a function of its output tensors, in order, or
a name: within the noise floor, the same token at every position, or nearly the same logits."""

Which = Literal["source", "target", "float64", "difference"]

_MOVABLE = (Verdict.PASS, Verdict.SKIPPED)
"""Verdicts with which an operator may be on the target."""


class Runs:
    """The work on one model and one target.  All methods but :meth:`known_failures` and
    :meth:`place` belong to the session's thread.

    Attributes:
        placement: ``"source"`` or ``"target"`` by operator.
        introduced: results by operator and step.
        augmented: results on inputs derived from the real ones, by operator and step.
        accumulated: results of the last hybrid runs by operator and step.
        info: what is known of the last run.
        kernels: which kernel computes which operator.
        tables: these, and those of the operators that were opened (:meth:`drill`).
        events: where it tells what happens.
    """

    def __init__(
        self,
        program: Program,
        target: TargetSession,
        compiler: Compiler,
        events: EventStream,
        thread: JobThread,
        info: RunInfo,
        others: Sequence[TargetSession] = (),
        storage: Storage | None = None,
    ) -> None:
        graph = program.graph
        self._program = program
        self._target = target
        self._others = others
        self._compiler = compiler
        self.placement: dict[OpId, str] = dict.fromkeys((op.id for op in graph.ops), SOURCE)
        self.introduced: dict[tuple[OpId, int], OpResult] = {}
        self.augmented: dict[tuple[OpId, int], tuple[AugmentedResult, ...]] = {}
        self.accumulated: dict[tuple[OpId, int], AccumulatedResult] = {}
        self.info = info
        self.steps = range(program.steps)
        self._graph: Graph = graph
        self.events = events
        self._thread = thread
        self._source = SourceRun(program, events, storage)
        self.kernels = KernelTable(self._source, compiler, [target, *others], events)
        self.tables = [self.kernels]
        self._opened: dict[OpId, Runs] = {}
        self._references = References(self._source)
        caller = Caller(target)
        judging = [
            IntroducedRun(self._source, self.kernels, one, self._references, info.tolerance)
            for one in (caller, *map(Caller, others))
        ]
        self._introduced_run = judging[0]
        self._farm = Farm(graph, judging, [target, *others])
        self._augmented_run = AugmentedRun(
            self._source, self.kernels, self._introduced_run, self._references
        )
        self._hybrid_run = HybridRun(self._source, self.kernels, caller, events)
        self._unobserved_run = UnobservedRun(self._source, self.kernels, caller, self._hybrid_run)
        self._accumulated_run = AccumulatedRun(
            self._source, self._hybrid_run, self._references, info.tolerance
        )
        self._hybrid_placement: dict[OpId, str] = {}
        self._probes: dict[tuple[Criterion, bool], Probes] = {}

    @property
    def graph(self) -> Graph:
        """The operators that this is about."""
        return self._graph

    # -- runs ------------------------------------------------------------------------------------

    def judge_all(self, ops: Sequence[OpId], *, augment: bool = False) -> None:
        """Judge operators in every step, and on derived inputs if ``augment`` says so."""
        calls = [(op, step) for step in self.steps for op in ops]
        with _Running(self, "introduced", len(calls)):
            self._source.complete(self._thread.stopping)
            self.kernels.prepare(calls, self._thread.stopping)
            with self._references.ahead(calls):
                self._judge_calls(calls)
            if augment:
                self._augment(calls)

    def _judge_calls(self, calls: Sequence[tuple[OpId, int]]) -> None:
        def started(call: tuple[OpId, int]) -> None:
            self.events.emit(OpStarted("introduced", *call, TARGET))

        judged = self._farm.judge(calls, self._thread.checkpoint, started)
        for done, ((op, step), result) in enumerate(judged, 1):
            self.introduced[op, step] = result
            self.events.emit(OpJudged(op, step, result))
            self.events.emit(RunProgress("introduced", done, len(calls)))

    def _augment(self, calls: Sequence[tuple[OpId, int]]) -> None:
        passing = [call for call in calls if self.introduced[call].verdict is Verdict.PASS]
        chosen = self._augmented_run.chosen(passing)
        self.events.emit(RunProgress("augmented", 0, len(chosen)))
        tried = self._augmented_run.run(chosen, self._thread.stopping)
        for done, (call, results) in enumerate(zip(chosen, tried, strict=True), 1):
            self._thread.checkpoint()
            self.augmented[call] = tuple(results)
            self.events.emit(RunProgress("augmented", done, len(chosen)))

    def run_hybrid(self, *, whole: bool = False) -> None:
        """Run the model with today's placement.

        Where all is on the target that can be (``whole``, or so it seems), the outputs are
        compared with those of an unobserved run.
        """
        placement = dict(self.placement)
        moved = [op for op, where in placement.items() if where == TARGET]
        steps = self.steps
        total = len(self._graph) * len(steps)
        with _Running(self, "hybrid", total):
            self._source.complete(self._thread.stopping)
            self.kernels.prepare([(op, s) for s in steps for op in moved], self._thread.stopping)
            outputs, agreements = Verdict.PASS, []
            done, fresh = 0, placement != self._hybrid_placement
            self._hybrid_placement = {}
            for step in steps:
                for computed in self._hybrid_run.run(placement, step, self._thread.stopping):
                    self._thread.checkpoint()
                    done += 1
                    fresh |= computed.fresh
                    result = self._accumulated_run.judge(computed, step)
                    if result.verdict is not Verdict.PASS:
                        self._source.vouch_for_all()
                    self.accumulated[result.op, step] = result
                    self.events.emit(OpAccumulated(result.op, step, result))
                    self.events.emit(RunProgress("hybrid", done, total))
                verdict = self._accumulated_run.judge_outputs(step)
                outputs = verdict if verdict is not Verdict.PASS else outputs
                agreements.append(self._agreement(step))
            said = min(filter(None, agreements), key=lambda a: (a.top1, -a.kl), default=None)
            self._hybrid_placement = placement
            unobserved = None if fresh else self.info.unobserved
            self.info = replace(self.info, outputs=outputs, agreement=said, unobserved=unobserved)
            if fresh and moved and (whole or self._is_whole(placement)):
                unobserved = self._unobserved_run.check(placement, steps, self._thread.stopping)
                if unobserved.same is False:
                    self._source.vouch_for_all()
                self.info = replace(self.info, unobserved=unobserved)
                self.events.emit(OutputsCompared(unobserved))

    def _is_whole(self, placement: Mapping[OpId, str]) -> bool:
        """Whether no operator is left on the source that could be on the target."""

        def stays(op: OpId, step: int) -> bool:
            result = self.introduced.get((op, step))
            if result:
                return result.verdict not in _MOVABLE
            return self._has_none(op, step)

        left = [op for op in self._graph.ops if placement[op.id] == SOURCE and not op.host]
        return all(any(stays(op.id, step) for step in self.steps) for op in left)

    def _has_none(self, op: OpId, step: int) -> bool:
        """Whether it is known that an operator has no kernel in a step."""
        implementation = self.kernels.prepared(op, step)
        return implementation is not None and implementation.failure is not None

    def migrate(self, order: str, ops: Sequence[OpId]) -> Migration:
        """See :meth:`Session.migrate <tapml_nb.session.Session.migrate>`."""
        self._source.complete(self._thread.stopping)
        judged = self._judged(ops)
        if judged is None:
            return Migration(self._graph, [], {}, [], {}, stopped=True)
        results, quarantined = judged
        tensors = [self._graph[op] for op in ops if not self._graph[op].host]
        passing = [op for op in tensors if results[op.id].verdict in _MOVABLE]
        moving = in_order(order, passing, results)
        moved: list[OpId] = []
        steps: list[Step] = []

        def on_step(step: Step, safe: Sequence[OpId]) -> None:
            moved[:] = safe
            steps.append(step)
            tried = sum(s.tried for s in steps if s.ok or s.tried == 1)
            self.events.emit(RunProgress("migrate", min(tried, len(moving)), len(moving)))

        probes = self._probes_for("floor")
        with _Running(self, "migration", len(moving)) as running:
            quarantined |= migrate(moving, probes, on_step).quarantined
        self.place([op for op in self.placement if self.placement[op] == TARGET], SOURCE)
        safe_set = frozenset(moved)
        offloaded = self.place([op.id for op in self._graph.ops if op.id in safe_set], TARGET)
        if not running.stopped:
            self.run_hybrid(whole=True)  # everything a report says is of this placement
        labels = self.kernels.labels()
        kernels = {op: labels[op] for op in quarantined if op in labels}
        return Migration(
            self._graph, offloaded, quarantined, steps, kernels, stopped=running.stopped
        )

    def localize(self, criterion: Criterion, ops: Sequence[OpId]) -> Localization:
        """See :meth:`Session.localize <tapml_nb.session.Session.localize>`."""
        self._source.complete(self._thread.stopping)
        judged = self._judged(ops)
        if judged is None:
            return Localization([], 0, [], stopped=True)
        results, _ = judged
        there = [op for op in ops if not (self._has_none(op, 0) or self._graph[op].host)]
        suspects = [op for op in there if results[op].verdict not in _MOVABLE]
        suspects.sort(key=lambda op: -results[op].ratio if results[op].ratio > 0 else 0.0)
        # What breaks only together often leaves something behind, so nothing is taken as known.
        probes = self._probes_for(criterion, afresh=True)
        before = len(probes.journal)
        bound = 4 * math.ceil(math.log2(len(there) + 1)) + 10  # where two break it together
        probes.on_run = lambda runs: self.events.emit(
            RunProgress("localize", runs - before, max(runs - before, bound))
        )
        culprits: list[frozenset[OpId]] = []
        with _Running(self, "localization", len(there)) as running:
            culprits = localize(there, suspects, probes)
        made = probes.journal[before:]
        broken = [results[op] for op in suspects if frozenset({op}) in culprits]
        groups = grouped(broken, lambda op: self._graph[op].kind)
        alike = [[result.op for result in group] for group in groups]
        return Localization(culprits, len(made), made, stopped=running.stopped, alike=alike)

    def _judged(self, ops: Sequence[OpId]) -> tuple[dict[OpId, OpResult], dict[OpId, str]] | None:
        """The worst result of every operator, judging what was not; and why some do not pass.

        None if that was stopped.
        """
        steps = self.steps
        missing = [op for op in ops if any((op, s) not in self.introduced for s in steps)]
        if missing:
            self.judge_all(missing)
            if self.info.stopped:
                return None
        worst: dict[OpId, OpResult] = {}
        for op in ops:
            found = [self.introduced[op, step] for step in steps]
            worst[op] = min(found, key=lambda r: SEVERITY.index(r.verdict))
        failing = {
            op: f"{result.verdict}: {result.message}"
            for op, result in worst.items()
            if result.verdict not in _MOVABLE and not self._graph[op].host
        }
        return worst, failing

    def _probes_for(self, criterion: Criterion, *, afresh: bool = False) -> Probes:
        """The probes of a criterion; kept until a kernel changes."""
        if (criterion, afresh) not in self._probes:
            self._probes[criterion, afresh] = Probes(
                lambda ops: self._probe(ops, criterion, afresh)
            )
        return self._probes[criterion, afresh]

    def _probe(self, ops: frozenset[OpId], criterion: Criterion, afresh: bool) -> Answer:
        """Run the model with these operators on the target, and look at its outputs."""
        placement = {op.id: TARGET if op.id in ops else SOURCE for op in self._graph.ops}
        accidents: dict[OpId, str] = {}
        right = True
        stopping = self._thread.stopping
        for step in self.steps:
            for computed in self._hybrid_run.run(placement, step, stopping, afresh=afresh):
                self._thread.checkpoint()
                if computed.failure:
                    accidents[computed.op.id] = computed.failure
            right &= self._right(criterion, step)
        if not right:
            self._source.vouch_for_all()
        return Answer(right, accidents)

    def _right(self, criterion: Criterion, step: int) -> bool:
        """Whether the outputs of the last hybrid run are."""
        if criterion == "floor":
            return self._accumulated_run.judge_outputs(step) is Verdict.PASS
        if callable(criterion):
            outputs = self._graph.tensors(self._graph.outputs)
            return bool(criterion([self._hybrid_run.array(v, step) for v in outputs]))
        said = self._agreement(step)
        assert said is not None, "who asks has made sure that there are logits"
        return said.top1 == 1.0 if criterion == "top1" else said.kl <= KL_LIMIT

    def _agreement(self, step: int) -> Agreement | None:
        """How far the last hybrid run's logits agree with the source's, if there are logits."""
        value = logits(self._graph)
        if value is None:
            return None
        return agreement(self._hybrid_run.array(value, step), self._source.array(value, step))

    # -- single operators ------------------------------------------------------------------------

    def override(self, op: OpId, kernel: Any) -> None:
        """Put a kernel in an operator's place; what was known of it is not known any more."""
        self.kernels.overrides.put(op, kernel)
        self._probes.clear()
        for step in self.steps:
            self.introduced.pop((op, step), None)
            self.augmented.pop((op, step), None)
        self.events.emit(OverrideChanged(op, self.kernels.overrides.words.get(op, "")))

    def prepare(self, ops: Sequence[OpId]) -> dict[OpId, str]:
        """Make kernels for operators; returns why some have none."""
        self._source.complete(self._thread.stopping)
        steps = self.steps
        self.kernels.prepare([(op, s) for s in steps for op in ops], self._thread.stopping)
        failures: dict[OpId, str] = {}
        for op in ops:
            for step in steps:
                if failure := self.kernels[op, step].failure:
                    failures[op] = failure.message
        return failures

    def known_failures(self, ops: Sequence[OpId]) -> dict[OpId, str] | None:
        """What :meth:`prepare` would answer, where that is known already.  From any thread."""
        failures: dict[OpId, str] = {}
        for op in ops:
            for step in self.steps:
                implementation = self.kernels.prepared(op, step)
                if implementation is None:
                    return None
                if implementation.failure:
                    failures[op] = implementation.failure.message
        return failures

    def place(self, ops: Sequence[OpId], where: str) -> list[OpId]:
        """Place operators; returns those that are there now.  From any thread."""
        changed = [op for op in ops if self.placement[op] != where]
        self.placement.update(dict.fromkeys(changed, where))
        if changed:
            self.events.emit(PlacementChanged(tuple(changed), where))
        return [op for op in ops if self.placement[op] == where]

    def tensor(self, op: Op, which: Which, step: int, output: int) -> np.ndarray:
        """A tensor of an operator; ``which`` as for a session's ``tensor``."""
        self._source.complete(self._thread.stopping)
        source = self._source.array(op.outputs[output], step)
        if which == "source":
            return source.copy()
        if which == "float64":
            return self._references.local(op, step)[output].exact()
        self.kernels.prepare([(op.id, step)], self._thread.stopping)
        target = self._introduced_run.target_outputs(op, step)[output]
        if which == "target":
            return target
        return target.astype(np.float64) - source.astype(np.float64)

    def inputs(self, op: Op, step: int) -> list[np.ndarray]:
        """The tensors that an operator reads."""
        self._source.complete(self._thread.stopping)
        values = self._graph.tensor_inputs(op)
        return [self._source.array(v, step).copy() for v in values]

    def drill(self, op: Op) -> Runs:
        """Judge the calls that an operator holds, each alone on what the source gave it."""
        self._source.complete(self._thread.stopping)
        for step in self.steps:
            self._source.vouch_for(op, step)
        if op.id not in self._opened:
            assert isinstance(self._program, CoarseProgram), "or its operators have no members"
            given = [self._source.values(step) for step in self.steps]
            inside = Inside(self._program.operators(), [m.op for m in op.members], given)
            info = RunInfo(target=self.info.target, tolerance=self.info.tolerance)
            events = EventStream()
            for shown in (RunStarted, RunProgress, RunFinished):  # results are of other operators
                events.on(shown, self.events.emit)
            self._opened[op.id] = opened = Runs(
                inside,
                self._target,
                self._compiler,
                events,
                self._thread,
                info,
                self._others,
            )
            self.tables += opened.tables
        opened = self._opened[op.id]
        opened.judge_all([inner.id for inner in opened.graph.ops])
        return opened

    def code(self, op: Op, step: int) -> KernelCode:
        """An operator on its way to a kernel."""
        self._source.complete(self._thread.stopping)
        return self.kernels.code(op.id, step)

    def carve(self, path: Path, ops: Sequence[OpId]) -> Bundle:
        """Write carved tests."""
        from tapml_nb.carve import writer

        self._source.complete(self._thread.stopping)
        steps = self.steps
        self.kernels.prepare([(op, s) for s in steps for op in ops], self._thread.stopping)
        return writer.write(
            path, self._source, self.kernels, self._references, self.introduced, ops
        )

    def repro(self, path: Path, op: Op, step: int) -> Path:
        """Write an operator that fails as a script that needs nothing of ours."""
        from tapml_nb.carve import repro

        result = self.introduced[op.id, step]
        inputs = self.inputs(op, step)
        self._source.vouch_for(op, step)
        references = self._references.local(op, step)
        unit = self.kernels.unit_key(op.id, step)
        return repro.write(
            path,
            repro.Case(
                self._graph,
                op,
                result,
                self.kernels.unit_texts(op.id, step),
                self.kernels.target,
                inputs,
                unit[1] if isinstance(unit, tuple) else (),
                references,
                self.info.tolerance,
                self.kernels.conversions.get(op.id, ""),
            ),
        )


class _Running:
    """Brackets a run with its events, its time, and the memory of whether it was stopped."""

    def __init__(self, runs: Runs, name: str, total: int) -> None:
        self._runs, self._name, self._total = runs, name, total
        self.stopped = False

    def __enter__(self) -> Self:
        self._begin = time.perf_counter()
        self._runs.events.emit(RunStarted(self._name, self._total))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self.stopped = stopped = isinstance(error, Stopped | BrokenOff)
        seconds = time.perf_counter() - self._begin
        self._runs.info = replace(self._runs.info, seconds=seconds, stopped=stopped)
        self._runs.events.emit(RunFinished(self._name, stopped or error is not None))
        return stopped
