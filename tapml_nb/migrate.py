"""Moving a model over, and finding what breaks it on the way.

Both ask one question: is the model right with exactly these operators on the target?  A probe
answers it by one hybrid run.  Answers are kept, so a search that asks again, or is taken up after
it was interrupted, does not run the model again.

*Migration* looks for the widest set of operators with which the model stays right.  The set grows
by batches that double in size, so an all-good model needs a handful of probes.  A batch that breaks
the model is halved until the operator that does it stands alone; that one stays on the source and
the growth goes on.

*Localization* looks for operators that, alone or together, break the model's output.  Those that
are broken on their own inputs come first.  What they do not explain is searched by QuickXplain
(U. Junker, "QUICKXPLAIN: Preferred Explanations and Relaxations for Over-Constrained Problems",
AAAI 2004), which finds a minimal breaking set of k among n operators in about 2 k log2(n / k) + 2 k
runs, where delta debugging may need k².  It takes for granted that a model that is broken stays so
when more of it moves; where that fails, the smallest set that was seen to break the model is the
answer.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING

from tapml_nb.extras import may_need_extras
from tapml_nb.graph import Graph, Op, OpId
from tapml_nb.judge.results import OpResult
from tapml_nb.report.causes import by_reason
from tapml_nb.terminal import printable

if TYPE_CHECKING:
    import pandas as pd

_FIRST_SHARE = 1 / 8
"""Of the operators, how many the first batch has: the model is all moved after four batches."""

_LISTED = 10
"""Causes in a summary."""

BREAKS = "passes alone, but with it and what was moved before the model's output is wrong"

ORDERS: dict[str, Callable[[Op, OpResult], tuple[float | str, ...]]] = {
    "topological": lambda op, result: (),
    "kind": lambda op, result: (op.kind,),
    "scope": lambda op, result: (op.scope,),
    "cheapest": lambda op, result: (
        math.inf if math.isnan(result.source_ms) else result.source_ms,
    ),
    "riskiest_last": lambda op, result: (0.0 if math.isnan(result.ratio) else result.ratio,),
}
"""In which order operators move: by what, with the model's own order where that is equal."""


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
            answer = self._answers[question] = self._check(question)
            self.journal.append(Probe(question, answer, time.perf_counter() - begin))
            self.on_run(len(self.journal))
        return self._answers[question]


def in_order(order: str, ops: Iterable[Op], results: Mapping[OpId, OpResult]) -> list[OpId]:
    """Operators in the order in which they are to move.

    Raises:
        ValueError: if there is no such order.
    """
    if order not in ORDERS:
        raise ValueError(f"order: {order!r}; choose one of {', '.join(map(repr, ORDERS))}")
    return [op.id for op in sorted(ops, key=lambda op: ORDERS[order](op, results[op.id]))]


@dataclass(frozen=True)
class Step:
    """One check: how many operators were tried, whether the model stayed right, the total then."""

    tried: int
    ok: bool
    offloaded: int
    seconds: float
    quarantined: tuple[OpId, ...]


@dataclass(frozen=True)
class Migration:
    """Where a migration ended.

    Attributes:
        graph: the model.
        offloaded: the operators that are on the target now, in graph order.
        quarantined: operators that stay on the source, each with the reason.
        steps: every check made, in order.
        kernels: the kernel of each quarantined operator that has one.
        stopped: whether it was stopped before everything was tried.

    Example:
        >>> session.migrate().remaining[["op", "unlocks"]].values.tolist()
        [['pool/avg_pool2d', 1]]
    """

    graph: Graph
    offloaded: list[OpId]
    quarantined: dict[OpId, str]
    steps: list[Step]
    kernels: dict[OpId, str]
    stopped: bool = False

    @property
    @may_need_extras()
    def timeline(self) -> pd.DataFrame:
        """One row per check: ``tried, ok, offloaded, seconds, quarantined``; how many operators
        the batch had, and how many were on the target then."""
        import pandas as pd

        columns = ["tried", "ok", "offloaded", "seconds", "quarantined"]
        rows = [(*astuple(s)[:-1], ", ".join(s.quarantined)) for s in self.steps]
        return pd.DataFrame(rows, columns=columns)

    @property
    @may_need_extras()
    def remaining(self) -> pd.DataFrame:
        """What is left to fix, first what unlocks most: ``op, kernel, unlocks, reason``.

        ``unlocks`` counts the quarantined operators that share the kernel.
        """
        import pandas as pd

        names = {op: self.kernels.get(op, op) for op in self.quarantined}
        counts = Counter(names.values())
        first = {name: op for op, name in reversed(names.items())}
        rows = [
            (op, self.kernels.get(op, ""), counts[name], self.quarantined[op])
            for name, op in sorted(first.items(), key=lambda item: -counts[item[0]])
        ]
        return pd.DataFrame(rows, columns=["op", "kernel", "unlocks", "reason"])

    def summary(self) -> str:
        """The migration in a few lines of plain text."""
        movable = [op for op in self.graph.ops if not op.host]
        share = f"{len(self.offloaded)} of {len(movable)} operators on the target"
        ended = " (stopped)" if self.stopped else ""
        lines = [f"{share} after {len(self.steps)} checks{ended}"]
        reasons = by_reason(list(self.quarantined.items()), lambda op: self.graph[op].kind)
        lines += [f"  quarantined {reason}" for reason in reasons[:_LISTED]]
        if len(reasons) > _LISTED:
            lines.append(f"  … and {len(reasons) - _LISTED} more causes: see .quarantined")
        return "\n".join(map(printable, lines))

    def __repr__(self) -> str:
        return self.summary()


class Growth:
    """The safe set while it grows; what it is when somebody stops the search is still right."""

    def __init__(self, probes: Probes, on_step: Callable[[Step, Sequence[OpId]], None]) -> None:
        self._probes = probes
        self._on_step = on_step
        self.safe: list[OpId] = []
        self.quarantined: dict[OpId, str] = {}
        self.steps: list[Step] = []

    def add(self, batch: Sequence[OpId]) -> None:
        """Add what can be added of a batch."""
        answer = self._probes([*self.safe, *batch])
        seconds = self._probes.journal[-1].seconds if self._probes.journal else 0.0
        tried = frozenset(batch)
        broken = {op: why for op, why in answer.failures.items() if op in tried}
        rest = [op for op in batch if op not in broken]
        if not answer.ok and len(rest) == 1:
            broken[rest[0]] = BREAKS
        self.quarantined |= broken
        if answer.ok:
            self.safe += rest
        step = Step(len(batch), answer.ok, len(self.safe), seconds, tuple(broken))
        self.steps.append(step)
        self._on_step(step, self.safe)
        if not answer.ok and len(rest) > 1:
            half = len(rest) // 2
            self.add(rest[:half])
            self.add(rest[half:])


def migrate(
    order: Sequence[OpId],
    probes: Probes,
    on_step: Callable[[Step, Sequence[OpId]], None] = lambda step, safe: None,
) -> Growth:
    """Move operators as far as the model stays right; gives the growth at its end.

    Args:
        order: operators with a kernel that passes on its own, in the order to move them.
        probes: answers whether the model is right with a set on the target.
        on_step: told of every check and of the safe set after it.
    """
    growth = Growth(probes, on_step)
    begin, size = 0, max(1, math.ceil(len(order) * _FIRST_SHARE))
    while begin < len(order):
        growth.add(order[begin : begin + size])
        begin += size
        size = begin  # as many again as were tried so far
    return growth


@dataclass(frozen=True)
class Localization:
    """What breaks the model.

    Attributes:
        culprits: sets of operators that break the model's output, those of one operator first;
            taken away together, the model is right.
        runs: hybrid runs made for it.
        probes: these runs, in order.
        stopped: whether the search was stopped before its end.
        alike: of the operators that break it alone, those that are broken on their own inputs
            in the same way, together.

    Example:
        >>> session.localize(ops="*").culprits
        [frozenset({'pool/avg_pool2d'})]
    """

    culprits: list[frozenset[OpId]]
    runs: int
    probes: list[Probe]
    stopped: bool = False
    alike: Sequence[Sequence[OpId]] = ()

    @property
    @may_need_extras()
    def journal(self) -> pd.DataFrame:
        """One row per hybrid run: ``operators`` (how many were on the target), ``ok, seconds``."""
        import pandas as pd

        rows = [(len(p.ops), p.answer.ok, p.seconds) for p in self.probes]
        return pd.DataFrame(rows, columns=["operators", "ok", "seconds"])

    def summary(self) -> str:
        """The culprits in plain text, those of one cause on one line."""
        ended = " (stopped)" if self.stopped else ""
        if not self.culprits:
            return f"nothing breaks the model's output; {self.runs} hybrid runs{ended}"
        count = f"{len(self.culprits)} culprit{'s' if len(self.culprits) > 1 else ''}"
        lines = [f"{count} in {self.runs} hybrid runs{ended}"]
        size = {ops[0]: len(ops) for ops in self.alike}
        told = {op for ops in self.alike for op in ops[1:]}
        for found in self.culprits:
            if found <= told:
                continue
            together = "together: " if len(found) > 1 else ""
            alike = max(size.get(op, 1) for op in found)
            more = f" ({alike} operators of this cause)" if alike > 1 else ""
            lines.append(f"  {together}{', '.join(sorted(found))}{more}")
        return "\n".join(map(printable, lines))

    def __repr__(self) -> str:
        return self.summary()


def localize(
    ops: Sequence[OpId], suspects: Sequence[OpId], probes: Probes
) -> list[frozenset[OpId]]:
    """Find disjoint sets of operators, each of which breaks the model; without all of them it is
    right.

    Args:
        ops: the operators that are on the target, in graph order.
        suspects: those among them that are broken on their own inputs.
        probes: answers whether the model is right with a set on the target.
    """
    answer = probes(ops)
    culprits = [frozenset({op}) for op in ops if op in answer.failures]
    left = [op for op in ops if op not in answer.failures]
    if answer.ok:
        return culprits
    for op in suspects:
        if op in left and not probes({op}).ok:
            culprits.append(frozenset({op}))
            left.remove(op)
    while left and not probes(left).ok:
        found = _minimal(left, probes)
        culprits.append(found)
        left = [op for op in left if op not in found]
    return sorted(culprits, key=len)


def _minimal(ops: Sequence[OpId], probes: Probes) -> frozenset[OpId]:
    """A minimal set among ``ops``, which together break the model, that breaks it."""
    smallest = frozenset(ops)

    def breaks(those: Sequence[OpId]) -> bool:
        nonlocal smallest
        broken = not probes(those).ok
        if broken and len(those) < len(smallest):
            smallest = frozenset(those)
        return broken

    def search(base: list[OpId], grown: bool, rest: Sequence[OpId]) -> list[OpId]:
        if grown and breaks(base):
            return []
        if len(rest) == 1:
            return list(rest)
        first, second = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        right = search([*base, *first], True, second)
        left = search([*base, *right], bool(right), first)
        return left + right

    found = search([], False, ops)
    return frozenset(found) if found and breaks(found) else smallest
