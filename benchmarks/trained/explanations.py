"""Why operators of trained models have no verdict or do not pass on llvm: every cause once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.trained.measure import Finding


@dataclass(frozen=True)
class Explanation:
    """A cause of findings.

    Attributes:
        title: the cause in a few words.
        text: what happens, and where.
        kinds: operators that it explains.
        verdict: with which verdict.
        says: what the finding's message contains.
    """

    title: str
    text: str
    kinds: Sequence[str]
    verdict: str
    says: str

    def explains(self, finding: Finding) -> bool:
        """Whether a finding is of this cause."""
        return (
            finding.kind in self.kinds
            and finding.verdict == self.verdict
            and self.says in finding.message
        )


EXPLANATIONS: tuple[Explanation, ...] = (
    Explanation(
        title="A branch that a value decides",
        text="Which branch runs depends on the shapes of what other operators compute: the source "
        "runs it, and nothing inside it is judged. What the sampling rate decides on stands in the "
        "place of its `If`.",
        kinds=("onnx.If",),
        verdict="UNSUPPORTED",
        says="known only at run time",
    ),
)
