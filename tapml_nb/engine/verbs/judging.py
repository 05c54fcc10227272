"""Judging operators one by one: the introduced error, on real and on derived inputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tapml_nb.engine.engine import Engine
from tapml_nb.execute.events import (
    EventStream,
    OpJudged,
    OpStarted,
    RunFinished,
    RunProgress,
    RunStarted,
)
from tapml_nb.execute.hybrid import TARGET
from tapml_nb.frontends.program import CoarseProgram
from tapml_nb.frontends.subprogram import Subprogram
from tapml_nb.graph import Op, OpId
from tapml_nb.judge.introduced import IntroducedRun
from tapml_nb.judge.results import OpResult
from tapml_nb.judge.verdict import Verdict

_Call = tuple[OpId, int]


def judge(engine: Engine, ops: Sequence[OpId], *, augment: bool = False) -> None:
    """Judge operators in every step, and on derived inputs if ``augment`` says so."""
    calls = [(op, step) for step in engine.steps for op in ops]
    with engine.running("introduced", len(calls)):
        engine.prepare(ops)
        with engine.references.ahead(calls):
            _judge_calls(engine, calls)
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


def _judge_calls(engine: Engine, calls: Sequence[_Call]) -> None:
    def one(run: IntroducedRun, call: _Call) -> OpResult:
        return run.judge(engine.graph[call[0]], call[1])

    def started(call: _Call) -> None:
        engine.events.emit(OpStarted("introduced", *call, TARGET))

    for run in engine.judges:
        run.begin()
    workers = [partial(one, run) for run in engine.judges]
    judged = engine.pool.share(calls, workers, engine.jobs.checkpoint, started)
    for done, ((op, step), result) in enumerate(judged, 1):
        engine.ledger.introduced[op, step] = result
        engine.events.emit(OpJudged(op, step, result))
        engine.events.emit(RunProgress("introduced", done, len(calls)))


def _augment(engine: Engine, calls: Sequence[_Call]) -> None:
    introduced = engine.ledger.introduced
    passing = [call for call in calls if introduced[call].verdict is Verdict.PASS]
    chosen = engine.derived.chosen(passing)
    engine.events.emit(RunProgress("augmented", 0, len(chosen)))
    tried = engine.derived.run(chosen, engine.jobs.stopping)
    for done, (call, results) in enumerate(zip(chosen, tried, strict=True), 1):
        engine.jobs.checkpoint()
        engine.ledger.augmented[call] = tuple(results)
        engine.events.emit(RunProgress("augmented", done, len(chosen)))
