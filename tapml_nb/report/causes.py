"""Culprits, and causes: operators that fail in the same way, as one.

One wrong rule of an importer breaks every linear layer of a model.  Results are of one cause where
the kind of the operators, the verdict, what the error looks like and the message agree, once what
differs from call to call (numbers, indices, values) is left out of the words.  Why there is no
kernel says a message alone: a code generator that cannot write booleans has that fault in every
kind of operator.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tapml_nb.graph import OpId, SourceLine
from tapml_nb.judge.diagnosis import Diagnosis, Pattern
from tapml_nb.judge.results import OpResult
from tapml_nb.judge.verdict import Verdict
from tapml_nb.report.outcome import MISSING


@dataclass(frozen=True)
class Culprit:
    """An operator whose kernel is broken.

    Attributes:
        op: the operator.
        verdict: how it is broken.
        ratio: distance from the exact result over the noise floor (infinite where there is no
            finite result, NaN for integers).
        diagnosis: what is wrong, in words: what the error looks like and what that usually
            means, if it looks like something known, and why the verdict.
        evidence: the user's line that calls it, what the diagnosis leans on, and the metrics.
        step: the step in which it is worst, from 0.
        pattern: the :class:`~tapml_nb.judge.diagnosis.Pattern` that the error looks like; ""
            for none.
        steps: every step in which it is broken.

    Example:
        >>> culprit = report.culprits[0]
        >>> culprit.op, culprit.step, culprit.ratio > report.info.tolerance
        ('pool/avg_pool2d', 0, True)
    """

    op: OpId
    verdict: Verdict
    ratio: float
    diagnosis: str
    evidence: str
    step: int
    pattern: str = ""
    steps: tuple[int, ...] = ()


def culprit(
    result: OpResult, line: SourceLine | None, steps: tuple[int, ...], when: str, conversion: str
) -> Culprit:
    """A culprit from the result in which it is worst and the user's line that calls it; ``when``
    are its steps in words, and ``conversion`` by what it was converted, both "" if as usual."""
    stats, found = result.statistics, result.diagnosis
    where = f"{line.place}: {line.text}" if line else ""
    metrics = (
        f"max abs {stats.max_abs:.3g}, {stats.mismatched} of {stats.elements} elements differ, "
        f"floor {result.floor:.3g}"
        if stats
        else ""
    )
    words = f"{found.words} ({found.usual_cause})" if found else ""
    return Culprit(
        result.op,
        result.verdict,
        result.ratio,
        "; ".join(filter(None, (words, result.message, conversion))),
        "; ".join(filter(None, (where, when, found.evidence if found else "", metrics))),
        result.step,
        str(found.pattern) if found else "",
        steps,
    )


@dataclass(frozen=True)
class Cause:
    """Culprits that are broken in the same way.

    Attributes:
        ops: they all, in graph order.
        kind: what kind of operator they are.
        verdict: how they are broken.
        diagnosis: what is wrong with the worst of them, in words, as in
            :attr:`Culprit.diagnosis <tapml_nb.report.Culprit.diagnosis>`.
        worst: the worst of them, the one to inspect and to make a repro of.
        ratio: its distance from the exact result over the noise floor.
        pattern: the :class:`~tapml_nb.judge.diagnosis.Pattern` that its error looks like; "" for
            none.

    Example:
        >>> Cause(("0/pow", "7/pow"), "aten.pow", Verdict.FAIL, "scaled", "7/pow", 900.0).others
        '; 2 operators of this cause, the first 0/pow'
    """

    ops: tuple[OpId, ...]
    kind: str
    verdict: Verdict
    diagnosis: str
    worst: OpId
    ratio: float
    pattern: str = ""

    @property
    def count(self) -> int:
        """How many operators it breaks."""
        return len(self.ops)

    @property
    def first(self) -> OpId:
        """The first of them in the graph."""
        return self.ops[0]

    def __str__(self) -> str:
        ratio = "" if math.isnan(self.ratio) else f", {self.ratio:.3g} floors"
        return f"{self.worst} {self.verdict}{ratio}{self.others}"

    @property
    def others(self) -> str:
        """That it has other operators than the worst, in words; "" where it has none."""
        if self.count == 1:
            return ""
        return f"; {self.count} operators of this cause, the first {self.first}"


def grouped(results: Iterable[OpResult], kind_of: Callable[[OpId], str]) -> list[list[OpResult]]:
    """Results by cause, in the order in which causes first appear."""
    groups: dict[tuple[str, ...], list[OpResult]] = {}
    for result in results:
        pattern = _pattern(result.diagnosis)
        kind = "" if result.verdict in MISSING and result.message else kind_of(result.op)
        key = (kind, str(result.verdict), *pattern, shape(result.message))
        groups.setdefault(key, []).append(result)
    return list(groups.values())


def by_reason(reasons: Sequence[tuple[OpId, str]], kind_of: Callable[[OpId], str]) -> list[str]:
    """A line for each different reason, with its first operator.  A reason begins with the verdict;
    those of broken kernels are of one kind of operator each.

    >>> by_reason([("0/pow", "wrong at [3]"), ("1/pow", "wrong at [5]")], lambda op: "aten.pow")
    ['0/pow: wrong at [3] (2 operators of this cause)']
    """
    groups: dict[tuple[str, str], list[tuple[OpId, str]]] = {}
    for op, reason in reasons:
        kind = "" if reason.startswith(tuple(MISSING)) else kind_of(op)
        groups.setdefault((kind, shape(reason)), []).append((op, reason))
    return [
        f"{op}: {reason[:200]}" + (f" ({len(group)} operators of this cause)" * (len(group) > 1))
        for group in groups.values()
        for op, reason in group[:1]
    ]


def _pattern(diagnosis: Diagnosis | None) -> tuple[str, str]:
    if diagnosis is None:
        return "", ""
    if diagnosis.pattern is Pattern.FACTOR:
        # Of a factor the number tells causes apart, unless it has a name: 1/√64 here is 1/√128
        # where heads are wider.
        named = re.search(r"\((.+)\)", diagnosis.words)
        return str(diagnosis.pattern), shape(named[1]) if named else _rounded(diagnosis.words)
    return str(diagnosis.pattern), shape(diagnosis.words)


def _rounded(words: str) -> str:
    return _NUMBER.sub(lambda number: f"{float(number[0]):.2g}", words)


_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")

_DTYPE = r"u?int\d|b?float\d|complex\d|[iuf](?:8|16|32|64)\b"

_LEFT_OUT = (
    (re.compile(r"\bk[0-9a-f]{16}\w*"), "kernel"),  # as kernels are named (compile/lowering.py)
    (re.compile(r"\s*┌─ .*", re.DOTALL), ""),  # the line of source code that a driver complains of
    (re.compile(r"\b0(?= (?:NaN|infinit))"), "no"),  # that there are none tells causes apart
    (re.compile(r"\b0x[0-9a-fA-F]+"), "#"),
    (re.compile(r"[-+]?\b(?:nan|inf|True|False)\b"), "#"),
    (re.compile(r"(?<![\w])[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"), "#"),
    # Compilers number names: T_add_3, lv12.  float16 is another thing than float32, i8 than i64.
    (
        re.compile(
            r"\b(?!u?int\d|b?float\d|complex\d|[iuf](?:8|16|32|64)\b)([A-Za-z_]\w*?)_?\d+\b"
        ),
        r"\1#",
    ),
    (re.compile(r"#(?:, ?#)+"), "#"),
    (re.compile(r"\[\]"), "[#]"),
)
"""What differs between two calls of one cause, and what stands in its place."""


def shape(message: str) -> str:
    """A message without its numbers, indices and values.

    >>> shape("never writes 12 of 384 elements, from [0, 3, 7] on")
    'never writes # of # elements, from [#] on'
    >>> shape("worst at [1]: target -inf, source 0.25")
    'worst at [#]: target #, source #'
    >>> shape("the target's result is float32[4, 8], the source's bfloat16[4, 8]")
    "the target's result is float32[#], the source's bfloat16[#]"
    >>> shape("the driver rejects k38849a595cf3d82c_ne_kernel: no `i8` ┌─ wgsl:5:72 │ 5 │ @bind")
    'the driver rejects kernel: no `i8`'
    """
    for what, instead in _LEFT_OUT:
        message = what.sub(instead, message)
    return message
