"""What is known: the results so far, where operators compute, and how the last run went."""

from __future__ import annotations

from collections.abc import Sequence

from tapml_nb.execute.hybrid import SOURCE, TARGET
from tapml_nb.execute.unobserved import Unobserved
from tapml_nb.graph import Graph, OpId
from tapml_nb.judge.results import AccumulatedResult, AugmentedResult, OpResult, OutputResult
from tapml_nb.judge.tokens import Agreement
from tapml_nb.judge.verdict import SEVERITY, Verdict


class Ledger:
    """The results on one graph.  Written by the session's thread; any thread may read it, and may
    :meth:`place`.

    Attributes:
        placement: ``"source"`` or ``"target"`` by operator.
        introduced: results by operator and step.
        augmented: results on inputs derived from the real ones, by operator and step.
        took: seconds that judging an operator in a step took last.
        accumulated: results of the last hybrid runs by operator and step.
        hybrid_placement: the placement of the last hybrid run that came to its end; empty before.
        outputs: that run's verdict on the model's outputs; None where there was none.
        worst_output: the one of them that is furthest off.
        agreement: how far its logits agree with the source's, in the worst step.
        unobserved: how its outputs compare with those of an unobserved run.
        seconds: the time that the last run took.
        stopped: whether that was stopped before its end.
    """

    def __init__(self, graph: Graph, steps: Sequence[int]) -> None:
        self._steps = steps
        self.placement: dict[OpId, str] = dict.fromkeys((op.id for op in graph.ops), SOURCE)
        self.introduced: dict[tuple[OpId, int], OpResult] = {}
        self.augmented: dict[tuple[OpId, int], tuple[AugmentedResult, ...]] = {}
        self.took: dict[tuple[OpId, int], float] = {}
        self.accumulated: dict[tuple[OpId, int], AccumulatedResult] = {}
        self.hybrid_placement: dict[OpId, str] = {}
        self.outputs: Verdict | None = None
        self.worst_output: OutputResult | None = None
        self.agreement: Agreement | None = None
        self.unobserved: Unobserved | None = None
        self.seconds = 0.0
        self.stopped = False

    def on(self, where: str) -> list[OpId]:
        """The operators that are placed there."""
        return [op for op, placed in self.placement.items() if placed == where]

    def place(self, ops: Sequence[OpId], where: str) -> list[OpId]:
        """Place operators; returns those that were elsewhere."""
        changed = [op for op in ops if self.placement[op] != where]
        self.placement.update(dict.fromkeys(changed, where))
        return changed

    def forget(self, op: OpId) -> None:
        """What was known of an operator by itself is not known any more, nor of outputs, if it
        was on the target."""
        if self.hybrid_placement.get(op) == TARGET:
            self.hybrid_placement = {}
        for step in self._steps:
            self.introduced.pop((op, step), None)
            self.augmented.pop((op, step), None)
            self.took.pop((op, step), None)

    def unjudged(self, ops: Sequence[OpId]) -> list[OpId]:
        """Those that were not judged in every step yet."""
        return [op for op in ops if any((op, step) not in self.introduced for step in self._steps)]

    def worst(self, op: OpId) -> OpResult:
        """The worst result of an operator that was judged in every step."""
        found = [self.introduced[op, step] for step in self._steps]
        return min(found, key=lambda result: SEVERITY.index(result.verdict))
