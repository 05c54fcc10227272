"""Probes: is the model right with exactly these operators on the target?

One probe is one hybrid run.  Answers are kept, so a search that asks again, or is taken up after
it was interrupted, does not run the model again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from tapml_nb.graph import OpId


@dataclass(frozen=True)
class Answer:
    """What one hybrid run said.

    Attributes:
        ok: whether the model's outputs are right.
        failures: operators that gave no result on the target (the source computed them, so
            ``ok`` is about the others), with what happened.
    """

    ok: bool
    failures: Mapping[OpId, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Probe:
    """A question with its answer, and the seconds it took."""

    ops: frozenset[OpId]
    answer: Answer
    seconds: float


class Probes:
    """Asks each question once.

    Attributes:
        journal: every hybrid run made, in order.
        on_run: called after each with how many there were.
    """

    def __init__(self, check: Callable[[frozenset[OpId]], Answer]) -> None:
        """``check`` runs the model with these operators on the target, all others on the source."""
        self._check = check
        self._answers: dict[frozenset[OpId], Answer] = {frozenset(): Answer(True)}
        self.journal: list[Probe] = []
        self.on_run: Callable[[int], None] = lambda count: None

    def __call__(self, ops: Iterable[OpId]) -> Answer:
        """Whether the model is right with these operators on the target."""
        question = frozenset(ops)
        if question not in self._answers:
            begin = time.perf_counter()
            answer = self._check(question)
            self._answers[question] = answer
            self.journal.append(Probe(question, answer, time.perf_counter() - begin))
            self.on_run(len(self.journal))
        return self._answers[question]
