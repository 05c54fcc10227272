"""The hybrid run: the model with some operators on the target, and how far off its values are."""

from __future__ import annotations

from collections.abc import Mapping

from tapml_nb.engine.engine import Engine
from tapml_nb.execute.events import OpAccumulated, OutputsCompared, RunProgress
from tapml_nb.execute.hybrid import SOURCE, TARGET
from tapml_nb.graph import OpId
from tapml_nb.judge.tokens import Agreement, agreement, logits
from tapml_nb.judge.verdict import Verdict

MOVABLE = (Verdict.PASS, Verdict.SKIPPED)
"""Verdicts with which an operator may be on the target."""


def run(engine: Engine, *, whole: bool = False) -> None:
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
        outputs, agreements = Verdict.PASS, []
        done, fresh = 0, placement != ledger.hybrid_placement
        ledger.hybrid_placement = {}
        for step in engine.steps:
            for computed in engine.hybrid.run(placement, step, engine.jobs.stopping):
                engine.jobs.checkpoint()
                done += 1
                fresh |= computed.fresh
                result = engine.accumulated.judge(computed, step)
                if result.verdict is not Verdict.PASS:
                    source.vouch_for_all()
                ledger.accumulated[result.op, step] = result
                events.emit(OpAccumulated(result.op, step, result))
                events.emit(RunProgress("hybrid", done, total))
            verdict = engine.accumulated.judge_outputs(step)
            outputs = verdict if verdict is not Verdict.PASS else outputs
            agreements.append(agreement_of_logits(engine, step))
        ledger.hybrid_placement = placement
        ledger.outputs = outputs
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


def agreement_of_logits(engine: Engine, step: int) -> Agreement | None:
    """How far the last hybrid run's logits agree with the source's, if there are logits."""
    value = logits(engine.graph)
    if value is None:
        return None
    return agreement(engine.hybrid.array(value, step), engine.source.array(value, step))


def has_no_kernel(engine: Engine, op: OpId, step: int) -> bool:
    """Whether it is known that an operator has no kernel in a step."""
    implementation = engine.kernels.prepared(op, step)
    return implementation is not None and implementation.failure is not None


def _is_whole(engine: Engine, placement: Mapping[OpId, str]) -> bool:
    """Whether no operator is left on the source that could be on the target."""

    def stays(op: OpId, step: int) -> bool:
        result = engine.ledger.introduced.get((op, step))
        if result:
            return result.verdict not in MOVABLE
        return has_no_kernel(engine, op, step)

    left = [op for op in engine.graph.ops if placement[op.id] == SOURCE and not op.host]
    return all(any(stays(op.id, step) for step in engine.steps) for op in left)
