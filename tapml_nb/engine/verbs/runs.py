"""Runs: operators one by one (the introduced error, on real and on derived inputs), and the hybrid
run, the model with some operators on the target (the accumulated error)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from tapml_nb.array_api import np_dtype
from tapml_nb.engine.engine import Engine
from tapml_nb.engine.forecast import Forecast, Size
from tapml_nb.engine.foresight import Foresight
from tapml_nb.engine.turns import Turns
from tapml_nb.execute.events import (
    EventStream,
    OpAccumulated,
    OpJudged,
    OpStarted,
    OutputsCompared,
    RunFinished,
    RunProgress,
    RunStarted,
)
from tapml_nb.execute.hybrid import SOURCE, TARGET, HybridStep
from tapml_nb.execute.preparation import Call, Preparation
from tapml_nb.execute.weights import WeightsAhead
from tapml_nb.frontends.program import CoarseProgram
from tapml_nb.frontends.subprogram import Subprogram
from tapml_nb.graph import Op, OpId
from tapml_nb.judge.arithmetic import reduction_length
from tapml_nb.judge.introduced import IntroducedRun
from tapml_nb.judge.results import OpResult
from tapml_nb.judge.tokens import Agreement, agreement, logits
from tapml_nb.judge.verdict import Verdict

_TOGETHER = 512
"""Operators of a hybrid run that are judged together, at most."""

_SEEN_EVERY = 0.5
"""Seconds until what a hybrid run has computed is judged, at most."""

MOVABLE = (Verdict.PASS, Verdict.SKIPPED)
"""Verdicts with which an operator may be on the target."""


def judge(engine: Engine, ops: Sequence[OpId], *, augment: bool = False) -> None:
    """Judge operators in every step, and on derived inputs if ``augment`` says so."""
    calls = [(op, step) for step in engine.steps for op in ops]
    with engine.running("introduced", len(calls)):
        if not all(engine.graph[op].host for op in ops):
            engine.pool.ahead()
        if _can_stream(engine):
            engine.source.begin()
        else:
            engine.complete()
        with (
            engine.references.ahead(calls),
            engine.kernels.preparing(calls, engine.jobs.stopping) as preparation,
            WeightsAhead(engine.source, engine.pool.sessions, calls) as weights,
        ):
            _judge_calls(engine, calls, preparation, weights)
        engine.source.go_on(math.inf, engine.jobs.stopping)
        if augment:
            _augment(engine, calls)


def drill(engine: Engine, op: Op) -> Engine:
    """Judge the calls that an operator holds, each alone on what the source gave it; returns what
    they were judged by."""
    engine.complete()
    for step in engine.steps:
        engine.source.vouch_for(op, step)
    if op.id not in engine.opened:
        assert isinstance(engine.program, CoarseProgram), "or its operators have no members"
        given = [engine.source.values(step) for step in engine.steps]
        calls = Subprogram(engine.program.operators(), [m.op for m in op.members], given)
        events = EventStream()
        for shown in (RunStarted, RunProgress, RunFinished):  # results are of other operators
            events.on(shown, engine.events.emit)
        engine.opened[op.id] = Engine(
            calls, engine.settings, engine.compiler, engine.pool, engine.jobs, events
        )
    opened = engine.opened[op.id]
    judge(opened, [inner.id for inner in opened.graph.ops])
    return opened


def hybrid(engine: Engine, *, whole: bool = False) -> None:
    """Run the model with today's placement.

    Where all is on the target that can be (``whole``, or so it seems), the outputs are compared
    with those of an unobserved run.
    """
    source, ledger, events = engine.source, engine.ledger, engine.events
    placement = dict(ledger.placement)
    moved = [op for op, where in placement.items() if where == TARGET]
    total = len(engine.graph) * len(engine.steps)
    with engine.running("hybrid", total):
        engine.prepare(moved)
        outputs, agreements, worst = Verdict.PASS, [], []
        done, fresh = 0, placement != ledger.hybrid_placement
        ledger.hybrid_placement = {}
        for step in engine.steps:
            for some in _few(engine.hybrid.run(placement, step, engine.jobs.stopping)):
                engine.jobs.checkpoint()
                fresh |= any(computed.fresh for computed in some)
                results = engine.accumulated.judge(some, step)
                if any(result.verdict is not Verdict.PASS for result in results):
                    source.vouch_for_all()
                for result in results:
                    done += 1
                    ledger.accumulated[result.op, step] = result
                    events.emit(OpAccumulated(result.op, step, result))
                    events.emit(RunProgress("hybrid", done, total))
            verdict = engine.accumulated.judge_outputs(step)
            outputs = verdict if verdict is not Verdict.PASS else outputs
            agreements.append(agreement_of_logits(engine, step))
            worst.append(engine.accumulated.worst_output(step))
        ledger.hybrid_placement = placement
        ledger.outputs = outputs
        ledger.worst_output = max(filter(None, worst), key=lambda o: o.badness, default=None)
        ledger.agreement = min(
            filter(None, agreements), key=lambda a: (a.top1, -a.kl), default=None
        )
        if fresh:
            ledger.unobserved = None
        if fresh and moved and (whole or _is_whole(engine, placement)):
            unobserved = engine.unobserved.check(placement, engine.steps, engine.jobs.stopping)
            if unobserved.same is False:
                source.vouch_for_all()
            ledger.unobserved = unobserved
            events.emit(OutputsCompared(unobserved))


def _few(run: Iterator[HybridStep]) -> Iterator[list[HybridStep]]:
    """A run in pieces: what is judged together costs less, but people want to see it go on."""
    some: list[HybridStep] = []
    begin = time.monotonic()
    for computed in run:
        some.append(computed)
        if len(some) == _TOGETHER or time.monotonic() - begin > _SEEN_EVERY:
            yield some
            some, begin = [], time.monotonic()
    if some:
        yield some


def agreement_of_logits(engine: Engine, step: int) -> Agreement | None:
    """How far the last hybrid run's logits agree with the source's, if there are logits."""
    value = logits(engine.graph)
    if value is None:
        return None
    return agreement(engine.hybrid.array_there(value, step), engine.source.array_there(value, step))


def has_no_kernel(engine: Engine, op: OpId, step: int) -> bool:
    """Whether it is known that an operator has no kernel in a step."""
    implementation = engine.kernels.prepared(op, step)
    return implementation is not None and implementation.failure is not None


def _judge_calls(
    engine: Engine, calls: Sequence[Call], preparation: Preparation, weights: WeightsAhead
) -> None:
    """Judge calls as their kernels are there."""

    before, took = dict(engine.ledger.took), dict[Call, float]()
    forecast: Forecast | None = None
    turns = Turns(engine.source, engine.jobs.stopping)
    foresight = Foresight(engine)

    def one(run: IntroducedRun, call: Call) -> tuple[OpResult, float]:
        share = foresight.before(run, call)
        begin = time.perf_counter()
        result = run.judge(engine.graph[call[0]], call[1])
        result = replace(result, device=devices[run]) if result.kernel else result
        return result, share + time.perf_counter() - begin

    def left() -> float | None:
        if forecast is None:
            return None
        judging, compiling = forecast.left(), preparation.left()
        if judging is None or compiling is None:
            return None
        return max(judging / len(workers), compiling)

    def started(call: Call) -> None:
        engine.events.emit(OpStarted("introduced", *call, TARGET))

    def advance(idle: bool) -> list[Call]:
        ready = preparation.advance(idle)
        first = preparation.take_first()
        if first and len(engine.judges) == 1:  # else nobody knows which device judges it
            engine.judges[0].send_early(engine.graph[first[0]], first[1])
            ready += preparation.advance(idle)  # the kernel may be there by now
        weights.of(preparation.launching())
        return ready

    devices = dict(zip(engine.judges, engine.pool.devices, strict=True))
    for run in engine.judges:
        run.begin()
    workers = [partial(one, run) for run in engine.judges]
    feed = foresight.seeing(turns.taking(advance))
    judged = engine.pool.share(len(calls), feed, workers, engine.jobs.checkpoint, started)
    for done, ((op, step), (result, seconds)) in enumerate(judged, 1):
        if result.kernel:
            turns.kernel_is_there()
        engine.ledger.introduced[op, step] = result
        engine.ledger.took[op, step] = took[op, step] = seconds
        if forecast:
            forecast.done((op, step), seconds)
        elif engine.source.is_complete:
            forecast = Forecast({call: _size(engine, *call) for call in calls}, before)
            for call in took:
                forecast.done(call, took[call])
        engine.events.emit(OpJudged(op, step, result))
        engine.events.emit(RunProgress("introduced", done, len(calls), left()))


def _can_stream(engine: Engine) -> bool:
    """Whether operators may be judged while the source has not run all: where nobody else runs
    the source meanwhile, nor asks for other steps, by whose sizes a tensor's axes are known.  On a
    GPU it has run before it could be asked for a piece."""
    return len(engine.steps) == len(engine.judges) == 1 and not engine.source.is_far


def _size(engine: Engine, op: OpId, step: int) -> Size:
    """What is known of a call once the source has run."""
    operator, known = engine.graph[op], engine.graph.values
    inputs, outputs = (
        [
            (known[value].spec.dtype, engine.source.shape(value, step))
            for value in engine.graph.tensors(ends)
        ]
        for ends in (operator.inputs, operator.outputs)
    )
    shapes = [[shape for _, shape in tensors] for tensors in (inputs, outputs)]
    size = sum(math.prod(shape) * np_dtype(dtype).itemsize for dtype, shape in inputs + outputs)
    terms = sum(map(math.prod, shapes[1])) * reduction_length(operator.primitives, *shapes)
    return Size.of((operator.kind, tuple(inputs), tuple(outputs)), size, terms)


def _augment(engine: Engine, calls: Sequence[Call]) -> None:
    introduced = engine.ledger.introduced
    passing = [call for call in calls if introduced[call].verdict is Verdict.PASS]
    chosen = engine.derived.chosen(passing)
    engine.events.emit(RunProgress("augmented", 0, len(chosen)))
    tried = engine.derived.run(chosen, engine.jobs.stopping)
    for done, (call, results) in enumerate(zip(chosen, tried, strict=True), 1):
        engine.jobs.checkpoint()
        engine.ledger.augmented[call] = tuple(results)
        engine.events.emit(RunProgress("augmented", done, len(chosen)))


def _is_whole(engine: Engine, placement: Mapping[OpId, str]) -> bool:
    """Whether no operator is left on the source that could be on the target."""

    def stays(op: OpId, step: int) -> bool:
        result = engine.ledger.introduced.get((op, step))
        broken = result is not None and result.verdict not in MOVABLE
        return broken or has_no_kernel(engine, op, step)

    left = [op for op in engine.graph.ops if placement[op.id] == SOURCE and not op.host]
    return all(any(stays(op.id, step) for step in engine.steps) for op in left)
