"""Why operators of the zoo do not pass on llvm: every cause once, with what it explains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.zoo.measure import Finding


@dataclass(frozen=True)
class Explanation:
    """A cause of findings.

    Attributes:
        title: the cause in a few words.
        text: what happens, and where.
        kinds: ATen ops that it explains.
        verdicts: with which verdicts.
        says: what the finding's message or pattern contains.
    """

    title: str
    text: str
    kinds: Sequence[str]
    verdicts: Sequence[str]
    says: str = ""

    def explains(self, finding: Finding) -> bool:
        """Whether a finding is of this cause."""
        return (
            finding.kind in self.kinds
            and finding.verdict in self.verdicts
            and self.says in f"{finding.message} {finding.pattern}"
        )


EXPLANATIONS: tuple[Explanation, ...] = ()
