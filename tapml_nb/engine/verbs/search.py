"""Searches over hybrid runs: the widest placement that is safe, and what breaks the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from tapml_nb.engine.engine import Engine
from tapml_nb.engine.verbs import runs
from tapml_nb.engine.verbs.placement import place
from tapml_nb.execute.events import RunProgress
from tapml_nb.execute.hybrid import SOURCE, TARGET
from tapml_nb.graph import OpId
from tapml_nb.judge.results import OpResult
from tapml_nb.judge.tokens import KL_LIMIT, logits
from tapml_nb.judge.verdict import Verdict
from tapml_nb.migrate import Answer, Localization, Migration, Probes, Step, in_order
from tapml_nb.migrate import localize as find_culprits
from tapml_nb.migrate import migrate as grow
from tapml_nb.report.causes import grouped

Criterion = Callable[[list[np.ndarray]], bool] | Literal["floor", "top1", "kl"]
"""What tells whether a model's outputs are right: a function of its output tensors, in order, or
a name: within the noise floor, the same token at every position, or nearly the same logits."""


def check_criterion(engine: Engine, criterion: Criterion) -> None:
    """Make sure that a criterion can be asked for.  From any thread.

    Raises:
        ValueError: if there is no such criterion, or the model has no logits.
    """
    if callable(criterion) or criterion == "floor":
        return
    if criterion not in ("top1", "kl"):
        raise ValueError(
            f"criterion: {criterion!r}; give a function of the model's outputs, 'floor', "
            f"'top1' or 'kl'"
        )
    if logits(engine.graph) is None:
        raise ValueError(
            f"criterion: {criterion!r} needs logits, and no output of {engine.graph.name} is "
            f"[batch, positions, vocabulary] beside token ids [batch, positions]"
        )


def migrate(engine: Engine, order: str, ops: Sequence[OpId]) -> Migration:
    """See :meth:`Session.migrate <tapml_nb.session.Session.migrate>`."""
    graph = engine.graph
    results = _judged(engine, ops)
    if results is None:
        return Migration(graph, [], {}, [], {}, stopped=True)
    tensors = [graph[op] for op in ops if not graph[op].host]
    passing = [op for op in tensors if results[op.id].verdict in runs.MOVABLE]
    quarantined = {
        op.id: f"{results[op.id].verdict}: {results[op.id].message}"
        for op in tensors
        if op not in passing
    }
    moving = in_order(order, passing, results)
    moved: list[OpId] = []
    steps: list[Step] = []

    def on_step(step: Step, safe: Sequence[OpId]) -> None:
        moved[:] = safe
        steps.append(step)
        tried = sum(s.tried for s in steps if s.ok or s.tried == 1)
        engine.events.emit(RunProgress("migrate", min(tried, len(moving)), len(moving)))

    with engine.running("migration", len(moving)):
        quarantined |= grow(moving, _probes_for(engine, "floor"), on_step).quarantined
    stopped = engine.ledger.stopped
    place(engine, engine.ledger.on(TARGET), SOURCE)
    safe_set = frozenset(moved)
    offloaded = place(engine, [op.id for op in graph.ops if op.id in safe_set], TARGET)
    if not stopped:
        runs.hybrid(engine, whole=True)  # everything a report says is of this placement
    labels = engine.kernels.labels()
    kernels = {op: labels[op] for op in quarantined if op in labels}
    return Migration(graph, offloaded, quarantined, steps, kernels, stopped=stopped)


def localize(engine: Engine, criterion: Criterion, ops: Sequence[OpId]) -> Localization:
    """See :meth:`Session.localize <tapml_nb.session.Session.localize>`."""
    graph = engine.graph
    results = _judged(engine, ops)
    if results is None:
        return Localization([], 0, [], stopped=True)
    there = [op for op in ops if not (runs.has_no_kernel(engine, op, 0) or graph[op].host)]
    suspects = [op for op in there if results[op].verdict not in runs.MOVABLE]
    suspects.sort(key=lambda op: -results[op].ratio if results[op].ratio > 0 else 0.0)
    # What breaks only together often leaves something behind, so nothing is taken as known.
    probes = _probes_for(engine, criterion, afresh=True)
    before = len(probes.journal)
    bound = 4 * math.ceil(math.log2(len(there) + 1)) + 10  # where two break it together
    probes.on_run = lambda so_far: engine.events.emit(
        RunProgress("localize", so_far - before, max(so_far - before, bound))
    )
    culprits: list[frozenset[OpId]] = []
    with engine.running("localization", len(there)):
        culprits = find_culprits(there, suspects, probes)
    made = probes.journal[before:]
    broken = [results[op] for op in suspects if frozenset({op}) in culprits]
    groups = grouped(broken, lambda op: graph[op].kind)
    alike = [[result.op for result in group] for group in groups]
    return Localization(culprits, len(made), made, stopped=engine.ledger.stopped, alike=alike)


def _judged(engine: Engine, ops: Sequence[OpId]) -> dict[OpId, OpResult] | None:
    """The worst result of every operator, judging what was not; None if that was stopped."""
    engine.complete()
    missing = engine.ledger.unjudged(ops)
    if missing:
        runs.judge(engine, missing)
        if engine.ledger.stopped:
            return None
    return {op: engine.ledger.worst(op) for op in ops}


def _probes_for(engine: Engine, criterion: Criterion, *, afresh: bool = False) -> Probes:
    """The probes of a criterion; kept until a kernel changes."""
    if (criterion, afresh) not in engine.probes:
        engine.probes[criterion, afresh] = Probes(
            lambda ops: _probe(engine, ops, criterion, afresh)
        )
    return engine.probes[criterion, afresh]


def _probe(engine: Engine, ops: frozenset[OpId], criterion: Criterion, afresh: bool) -> Answer:
    """Run the model with these operators on the target, and look at its outputs."""
    placement = {op.id: TARGET if op.id in ops else SOURCE for op in engine.graph.ops}
    failures: dict[OpId, str] = {}
    right = True
    for step in engine.steps:
        for computed in engine.hybrid.run(placement, step, engine.jobs.stopping, afresh=afresh):
            engine.jobs.checkpoint()
            if computed.failure:
                failures[computed.op.id] = computed.failure
        right &= _right(engine, criterion, step)
    if not right:
        engine.source.vouch_for_all()
    return Answer(right, failures)


def _right(engine: Engine, criterion: Criterion, step: int) -> bool:
    """Whether the outputs of the last hybrid run are."""
    if criterion == "floor":
        return engine.accumulated.judge_outputs(step) is Verdict.PASS
    if callable(criterion):
        outputs = engine.graph.tensors(engine.graph.outputs)
        return bool(criterion([engine.hybrid.array(v, step) for v in outputs]))
    agreement = runs.agreement_of_logits(engine, step)
    assert agreement is not None, "who asks has made sure that there are logits"
    return agreement.top1 == 1.0 if criterion == "top1" else agreement.kl <= KL_LIMIT
