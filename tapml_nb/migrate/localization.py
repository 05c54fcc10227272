"""Localization: which operators, alone or together, break the model's output.

Operators that are broken on their own inputs come first.  What they do not explain is searched by
QuickXplain (U. Junker, "QUICKXPLAIN: Preferred Explanations and Relaxations for Over-Constrained
Problems", AAAI 2004), which finds a minimal breaking set of k among n operators in about
2 k log2(n / k) + 2 k runs, where delta debugging may need k².  It takes for granted that a model
that is broken stays so when more of it moves; where that fails, the smallest set that was seen to
break the model is the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tapml_nb.graph import OpId
from tapml_nb.migrate.probes import Probe, Probes
from tapml_nb.terminal import printable

if TYPE_CHECKING:
    import pandas as pd


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
    """Find disjoint sets of operators, each of which breaks the model.

    Args:
        ops: the operators that are on the target, in graph order.
        suspects: those among them that are broken on their own inputs.
        probes: answers whether the model is right with a set on the target.

    Returns:
        The sets; without all of them the model is right.
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
