"""What came of a session in one phrase, which is the same wherever a session is summed up.

An operator is *broken* (a culprit: its kernel exists, ran and is wrong), *missing* (it has no
kernel on the target), *not judged*, or all is well with it.
"""

from __future__ import annotations

from collections.abc import Mapping

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
    return ", ".join(
        [first]
        + ([f"{missing} missing"] if missing else [])
        + ([f"{unknown} not judged"] if unknown else [])
    )


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
