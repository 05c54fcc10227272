"""Migration: the widest set of operators on the target with which the model stays right.

The set grows by batches that double in size, each checked by one hybrid run, so an all-good model
needs a handful of them.  A batch that breaks the model is halved until the operator that does it
stands alone; that one stays on the source and the growth goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tapml_nb.graph import Graph, Op, OpId
from tapml_nb.judge.results import OpResult
from tapml_nb.migrate.probes import Probes
from tapml_nb.report.causes import by_reason
from tapml_nb.terminal import printable

if TYPE_CHECKING:
    import pandas as pd

_FIRST_SHARE = 1 / 8
"""Of the operators, how many the first batch has: the model is all moved after four batches."""

_LISTED = 10
"""Causes in a summary."""

BREAKS = "passes alone, but with it and what was moved before the model's output is wrong"


def _by_ratio(op: Op, result: OpResult) -> tuple[float, ...]:
    return (0.0 if math.isnan(result.ratio) else result.ratio,)


ORDERS: dict[str, Callable[[Op, OpResult], tuple[float | str, ...]]] = {
    "topological": lambda op, result: (),
    "kind": lambda op, result: (op.kind,),
    "scope": lambda op, result: (op.scope,),
    "cheapest": lambda op, result: (
        math.inf if math.isnan(result.source_ms) else result.source_ms,
    ),
    "riskiest_last": _by_ratio,
}
"""In which order operators move: by what, with the model's own order where that is equal."""


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
    def timeline(self) -> pd.DataFrame:
        """One row per check: ``tried, ok, offloaded, seconds, quarantined``; how many operators
        the batch had, and how many were on the target then."""
        import pandas as pd

        columns = ["tried", "ok", "offloaded", "seconds", "quarantined"]
        rows = [
            (s.tried, s.ok, s.offloaded, s.seconds, ", ".join(s.quarantined)) for s in self.steps
        ]
        return pd.DataFrame(rows, columns=columns)

    @property
    def remaining(self) -> pd.DataFrame:
        """What is left to fix, first what unlocks most: ``op, kernel, unlocks, reason``.

        ``unlocks`` counts the quarantined operators that share the kernel.
        """
        import pandas as pd

        names = {op: self.kernels.get(op, op) for op in self.quarantined}
        counts: dict[str, int] = {}
        for name in names.values():
            counts[name] = counts.get(name, 0) + 1
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
    """Move operators in this order as far as the model stays right.

    Args:
        order: operators with a kernel that passes on its own, in the order to move them.
        probes: answers whether the model is right with a set on the target.
        on_step: told of every check and of the safe set after it.

    Returns:
        The growth at its end.
    """
    growth = Growth(probes, on_step)
    begin, size = 0, max(1, math.ceil(len(order) * _FIRST_SHARE))
    while begin < len(order):
        growth.add(order[begin : begin + size])
        begin += size
        size = begin  # as many again as were tried so far
    return growth
