"""What verdicts come to: whose a culprit is, in one phrase what came of a session, in another what
is known of the model's outputs, how each looks.

All of it is the same wherever a session is summed up.  An operator is *broken* (a culprit: its
kernel exists, ran and is wrong), *missing* (it has no kernel on the target), *not judged*, or all
is well with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tapml_nb.judge.results import OutputResult
from tapml_nb.judge.verdict import Verdict

BROKEN = (
    Verdict.CRASH,
    Verdict.TIMEOUT,
    Verdict.NONFINITE,
    Verdict.FAIL,
    Verdict.NONDETERMINISTIC,
)
"""Verdicts of a culprit, the worst first."""

MISSING = (Verdict.COMPILE_ERROR, Verdict.UNSUPPORTED)
"""Verdicts of an operator that has no kernel on the target."""

VERDICT_COLOURS = {
    Verdict.PASS: "#009e73",
    Verdict.FAIL: "#d55e00",
    Verdict.NONFINITE: "#cc79a7",
    Verdict.NONDETERMINISTIC: "#e69f00",
    Verdict.COMPILE_ERROR: "#8a7a3c",
    Verdict.CRASH: "#3b3b3b",
    Verdict.TIMEOUT: "#5a4a78",
    Verdict.UNSUPPORTED: "#b3aa7c",
    Verdict.SKIPPED: "#c4c4c4",
    Verdict.UNKNOWN: "#ffffff",
}
"""Okabe and Ito's ("Color Universal Design", 2008), which people with any colour vision tell apart,
and greys."""

VERDICT_SYMBOLS = {
    Verdict.PASS: "✓",
    Verdict.FAIL: "✗",
    Verdict.NONFINITE: "∞",
    Verdict.NONDETERMINISTIC: "≈",
    Verdict.COMPILE_ERROR: "C",
    Verdict.CRASH: "‼",
    Verdict.TIMEOUT: "◷",
    Verdict.UNSUPPORTED: "∅",
    Verdict.SKIPPED: "-",
    Verdict.UNKNOWN: "?",
}
"""Every one is in DejaVu Sans, with which Matplotlib draws."""


def outcome(counts: Mapping[Verdict, int], causes: int | None = None) -> str:
    """How many operators are broken, missing and not judged, in words.

    Args:
        counts: how many operators have each verdict.
        causes: of how many causes the culprits are, where that is known.

    >>> outcome({Verdict.PASS: 219, Verdict.FAIL: 33, Verdict.COMPILE_ERROR: 1}, causes=2)
    '33 culprits of 2 causes, 1 missing'
    >>> outcome({Verdict.PASS: 250, Verdict.SKIPPED: 2, Verdict.UNKNOWN: 3}, causes=0)
    'no culprit among 252 judged operators, 3 not judged'
    >>> outcome({Verdict.UNKNOWN: 3})
    'nothing judged yet'
    """
    broken, missing = (sum(counts.get(v, 0) for v in kind) for kind in (BROKEN, MISSING))
    unknown = counts.get(Verdict.UNKNOWN, 0)
    judged = sum(counts.values()) - missing - unknown
    if not judged and not missing:
        return "nothing judged yet"
    if broken:
        first = _plural(broken, "culprit")
        first += f" of {_plural(causes, 'cause')}" if causes and broken > 1 else ""
    else:
        first = f"no culprit among {_plural(judged, 'judged operator')}"
    others = ((missing, "missing"), (unknown, "not judged"))
    return ", ".join([first, *(f"{count} {what}" for count, what in others if count)])


@dataclass(frozen=True)
class Outputs:
    """What is known of the model's outputs with operators on the target.

    Attributes:
        worst: the output that was furthest off in the last hybrid run; None where there was no
            such run, or operators were placed or overridden since.
        there: how many operators are on the target.
        movable: how many could be, but for want of a kernel.
        same: whether an unobserved run gave the same; None where there was none.
    """

    worst: OutputResult | None = None
    there: int = 0
    movable: int = 0
    same: bool | None = None

    @property
    def right(self) -> bool | None:
        """Whether they are right, as far as operators are on the target; None if not known."""
        if self.worst is None or not self.there:
            return None
        return self.worst.verdict is Verdict.PASS and self.same is not False

    def __str__(self) -> str:
        """All of it in one phrase, the same wherever a session is summed up.

        >>> str(Outputs(there=3, movable=3))
        'outputs not known: run hybrid()'
        >>> print(Outputs(OutputResult("logits", 0, 310.2, Verdict.FAIL), 3, 3))
        outputs differ: logits 310 floors off
        >>> print(Outputs(OutputResult("", 0, 0.5, Verdict.PASS), 2, 3))
        outputs right with 2 of 3 operators offloaded
        """
        worst = self.worst
        if not self.there:
            return "outputs not known: nothing is on the target"
        if worst is None:
            return "outputs not known: run hybrid()"
        if worst.verdict is not Verdict.PASS:
            ratio = float(f"{worst.ratio:.3g}")
            off = f"{ratio:g} floors off" if math.isfinite(ratio) else str(worst.verdict)
            return " ".join(filter(None, ("outputs differ:", worst.name, off)))
        part = f" with {self.there} of {_plural(self.movable, 'operator')} offloaded"
        right = "outputs right" + (part if self.there < self.movable else "")
        return right + (", but others in an unobserved run" if self.same is False else "")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
