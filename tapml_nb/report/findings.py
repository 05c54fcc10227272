"""What is known of a model on a target at one moment, frozen, and what follows from it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tapml_nb.execute.unobserved import Unobserved
from tapml_nb.extras import may_need_extras
from tapml_nb.graph import Graph, Op, OpId
from tapml_nb.judge.results import AccumulatedResult, AugmentedResult, OpResult
from tapml_nb.judge.tokens import Agreement
from tapml_nb.judge.verdict import FAULTS, LIMIT, SEVERITY, Verdict
from tapml_nb.report.causes import Cause, Culprit, culprit, grouped
from tapml_nb.report.outcome import BROKEN, MISSING, Outputs, outcome
from tapml_nb.terminal import printable

if TYPE_CHECKING:
    import pandas as pd

STATISTICS = (
    *("max_abs", "max_rel", "max_ulp", "rmse", "cosine", "snr_db"),
    *("nan", "inf", "mismatched"),
)
"""Columns that are the statistics of the target's result against the source's."""

COLUMNS = [
    *("op", "scope", "kind", "step", "placement", "verdict", "ratio", *STATISTICS),
    *("acc_ratio", "acc_max_abs", "acc_snr_db", "gain", "floor", "source_ms", "target_ms"),
    *("sent_bytes", "file", "line", "message", "diagnosis"),
]
"""Columns of :meth:`Report.frame <tapml_nb.report.Report.frame>`."""

_WHOLE = ("step", "nan", "inf", "mismatched", "sent_bytes", "line")

_LISTED = 10
"""Causes in a summary."""

_GOOD = (Verdict.PASS, Verdict.SKIPPED, Verdict.UNSUPPORTED)


@dataclass(frozen=True)
class RunInfo:
    """Facts about the runs behind a report.

    Attributes:
        target: what the operators ran on.
        kernels: different kernels among the operators seen.
        compiled: kernels compiled now, not found in the cache.
        seconds: wall time of the last run.
        sent_bytes: bytes sent to the target by the session so far.
        peak_bytes: the most memory that was taken at a time on the target, or on one of several:
            what its device held, with blocks that nobody used, where memory comes in such; else
            what tensors, and kernels beside them, can have taken.
        restarts: how often the target had to be brought back.
        stopped: whether the last run was stopped before its end.
        workarounds: the workarounds for faults of TVM's importer that are in force.
        tolerance: how many noise floors a target may be off.
        outputs: whether the hybrid run's outputs are within the end-to-end noise floor; None
            when there was no hybrid run.
        agreement: how far its logits agree with the source's, in the worst step; None where the
            model has none.
        known: what is known of the outputs as operators are placed now; None where a model has
            none, or no session is behind the report.
        unobserved: how its outputs compare with those of the unobserved run; None where there
            was none: one is made when all is on the target that can be.
    """

    target: str = ""
    kernels: int = 0
    compiled: int = 0
    seconds: float = 0.0
    sent_bytes: int = 0
    peak_bytes: int = 0
    restarts: int = 0
    stopped: bool = False
    workarounds: tuple[str, ...] = ()
    tolerance: float = LIMIT
    outputs: Verdict | None = None
    agreement: Agreement | None = None
    known: Outputs | None = None
    unobserved: Unobserved | None = None


@dataclass(frozen=True)
class Findings:
    """The data of a :class:`~tapml_nb.report.Report`, which figures and pages are made of.

    Attributes:
        graph: the model.
        steps: how many steps of inputs there are.
        introduced: results by operator and step; absent where nothing was judged yet.
        accumulated: results of the last hybrid run, by operator and step.
        placement: where each operator computed: ``"source"`` or ``"target"``.
        info: facts about the runs.
        augmented: results on inputs derived from the real ones (``run(augment=True)``), apart
            from all others: they change neither verdicts nor :attr:`culprits` nor :attr:`ok`.
        conversions: by what operators were converted to Relax, in words, where not by TVM's
            importer alone: by a rule of tapml_nb's, or with a workaround; and why those that meet
            several shapes have not one kernel for all of them, where the model leaves sizes open.
    """

    graph: Graph
    steps: int = 1
    introduced: Mapping[tuple[OpId, int], OpResult] = field(default_factory=dict)
    accumulated: Mapping[tuple[OpId, int], AccumulatedResult] = field(default_factory=dict)
    placement: Mapping[OpId, str] = field(default_factory=dict)
    info: RunInfo = field(default_factory=RunInfo)
    augmented: Sequence[AugmentedResult] = ()
    conversions: Mapping[OpId, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether everything that can be judged was judged and passes.

        ``UNSUPPORTED`` operators stay on the source and do not count; operators not judged yet,
        and those whose kernel does not compile, do.  After a hybrid run the model's outputs must
        be within the noise floor, too, and those of an unobserved run, if one could be made, the
        same.
        """
        verdicts = all(self.verdict(op.id) in _GOOD for op in self.graph.ops)
        unobserved = self.info.unobserved
        outputs = self.info.outputs in (None, Verdict.PASS)
        return verdicts and outputs and (unobserved is None or unobserved.same is not False)

    def __bool__(self) -> bool:
        return self.ok

    def verdict(self, op: OpId, step: int | None = None) -> Verdict:
        """The operator's verdict in a step, or its worst over all steps.

        Example:
            >>> report.verdict("act/gelu")
            <Verdict.PASS: 'PASS'>
        """
        if step is None:
            return self._worst.get(op, Verdict.UNKNOWN)
        result = self.introduced.get((op, step))
        return result.verdict if result else Verdict.UNKNOWN

    @cached_property
    def _worst(self) -> dict[OpId, Verdict]:
        """Each operator's worst verdict, of those that have any; all at once, for whoever asks of
        one asks of all."""
        rank = {verdict: k for k, verdict in enumerate(SEVERITY)}
        worst: dict[OpId, Verdict] = {}
        for (op, _), result in self.introduced.items():
            known = worst.get(op)
            if known is None or rank[result.verdict] < rank[known]:
                worst[op] = result.verdict
        if self.steps > 1:  # a step that was not judged is UNKNOWN
            times = Counter(op for op, _ in self.introduced)
            for op, verdict in worst.items():
                if times[op] < self.steps and rank[Verdict.UNKNOWN] < rank[verdict]:
                    worst[op] = Verdict.UNKNOWN
        return worst

    def worst_ratio(self, op: OpId, *, accumulated: bool = False) -> float:
        """The operator's error where it is worst, in noise floors; NaN if there is none."""
        results = self.accumulated if accumulated else self.introduced
        found = (results.get((op, step)) for step in range(self.steps))
        ratios = [result.ratio for result in found if result and not math.isnan(result.ratio)]
        return max(ratios, default=math.nan)

    def largest(self, op: OpId, *, accumulated: bool = False) -> float:
        """The operator's largest absolute error in any step; NaN if none is known."""
        steps = range(self.steps)
        if accumulated:
            totals = (self.accumulated.get((op, step)) for step in steps)
            found = [total.max_abs for total in totals if total]
        else:
            results = (self.introduced.get((op, step)) for step in steps)
            found = [r.statistics.max_abs for r in results if r and r.statistics]
        return max((error for error in found if not math.isnan(error)), default=math.nan)

    def place(self, op: OpId) -> str:
        """Where an operator computed; on the source, if nothing else is known."""
        return self.placement.get(op, "source")

    @property
    def title(self) -> str:
        """The model, and the target if there is one, in words."""
        return f"{self.graph.name} on {self.info.target}" if self.info.target else self.graph.name

    @cached_property
    def counts(self) -> Mapping[Verdict, int]:
        """How many operators have each verdict (the worst over their steps)."""
        return Counter(self.verdict(op.id) for op in self.graph.ops)

    @property
    def tally(self) -> str:
        """The :attr:`counts` in words: ``240 PASS, 12 FAIL``."""
        return ", ".join(f"{self.counts[v]} {v}" for v in Verdict if self.counts.get(v))

    @property
    def outcome(self) -> str:
        """What is broken, what is missing and what was not judged, in one phrase.

        It begins the summary, and ends every run.
        """
        return outcome(self.counts, len(self.causes))

    @property
    def told(self) -> str:
        """The :attr:`outcome`, and what is known of the model's outputs, if there are any.

        Example:
            >>> report.told
            '1 culprit; outputs not known: nothing is on the target'
        """
        return f"{self.outcome}; {self.info.known}" if self.info.known else self.outcome

    @cached_property
    def culprits(self) -> list[Culprit]:
        """The operators whose kernels are broken, worst first.

        An operator that TVM cannot compile or convert is missing, not broken: it is in
        :attr:`missing`.

        Example:
            >>> [(c.op, str(c.verdict)) for c in report.culprits]
            [('pool/avg_pool2d', 'FAIL')]
        """
        found = []
        for result in self._broken:
            each = (self.introduced.get((result.op, step)) for step in range(self.steps))
            steps = tuple(r.step for r in each if r and r.verdict in BROKEN)
            conversion = self.conversions.get(result.op, "")
            when = "" if len(steps) == self.steps else f"broken in steps {_ranges(steps)}"
            found.append(culprit(result, self.graph[result.op].source, steps, when, conversion))
        return found

    @cached_property
    def culprit_of(self) -> Mapping[OpId, Culprit]:
        """The :attr:`culprits` by operator."""
        return {culprit.op: culprit for culprit in self.culprits}

    @cached_property
    def causes(self) -> list[Cause]:
        """What is broken, by cause: culprits of one kind whose verdict, diagnosis and message
        agree, but for numbers, indices and values; the cause with the worst of them first.

        Each is worth one inspection and one repro.

        Example:
            >>> for cause in report.causes:
            ...     print(cause.count, cause.kind, session.repro(cause.worst, folder / "bug.py"))
            1 aten.avg_pool2d ...bug.py
        """
        return [
            Cause(
                ops=tuple(sorted((result.op for result in group), key=self._order.__getitem__)),
                kind=self._kind_of(worst.op),
                verdict=worst.verdict,
                diagnosis=worst.diagnosis,
                worst=worst.op,
                ratio=worst.ratio,
                pattern=worst.pattern,
            )
            for group in grouped(self._broken, self._kind_of)
            for worst in [self.culprit_of[group[0].op]]
        ]

    @cached_property
    def _broken(self) -> list[OpResult]:
        """Of every broken operator the step in which it is worst, the worst operator first."""
        worst: dict[OpId, OpResult] = {}
        for result in self.introduced.values():
            if result.verdict in BROKEN:
                known = worst.get(result.op, result)
                worst[result.op] = min(known, result, key=_badness)
        return sorted(worst.values(), key=lambda r: (*_badness(r), self._order[r.op]))

    @cached_property
    def _order(self) -> Mapping[OpId, int]:
        return {op.id: i for i, op in enumerate(self.graph.ops)}

    def _kind_of(self, op: OpId) -> str:
        return self.graph[op].kind

    @cached_property
    def missing(self) -> list[OpResult]:
        """The operators that have no kernel on the target, with the reason, in graph order."""
        first: dict[OpId, OpResult] = {}
        for result in self.introduced.values():
            if result.verdict in MISSING:
                first.setdefault(result.op, result)
        return [first[op.id] for op in self.graph.ops if op.id in first]

    @property
    def gaps(self) -> list[list[OpResult]]:
        """:attr:`missing` by cause: operators without a kernel for the same reason, in graph
        order."""
        return grouped(self.missing, self._kind_of)

    @may_need_extras()
    def frame(self) -> pd.DataFrame:
        """One row per operator and step, in graph order; columns as in
        :data:`~tapml_nb.report.findings.COLUMNS`.

        Errors are the target's against the source's result; ``ratio`` and ``floor`` are against
        the float64 run (see :class:`~tapml_nb.judge.verdict.Judgement`).  Columns beginning with
        ``acc_``, and ``gain``, are of the last hybrid run.  What was not judged is NaN, with the
        verdict ``UNKNOWN``.  Times are milliseconds.  ``diagnosis`` is the error's
        :class:`~tapml_nb.judge.diagnosis.Pattern`, empty where there is none.

        Example:
            >>> report.frame().query("ratio > 8")["op"].tolist()
            ['pool/avg_pool2d']
        """
        import pandas as pd  # not at the top: it takes 0.6 s

        rows = [self._row(op, step) for op in self.graph.ops for step in range(self.steps)]
        return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(_WHOLE, "Int64"))

    def _row(self, op: Op, step: int) -> tuple[Any, ...]:
        """The row of one operator in one step, in the order of :data:`COLUMNS`."""
        result = self.introduced.get((op.id, step))
        total = self.accumulated.get((op.id, step))
        stats = result.statistics if result else None
        message = result.message if result else "not judged yet"
        message = message or (total.message if total else "")
        return (
            *(op.id, op.scope, op.kind, step, self.place(op.id)),
            str(result.verdict if result else Verdict.UNKNOWN),
            result.ratio if result else math.nan,
            *(getattr(stats, name) if stats else None for name in STATISTICS),
            *((total.ratio, total.max_abs, total.snr_db, total.gain) if total else [math.nan] * 4),
            *((result.floor, result.source_ms, result.target_ms) if result else [math.nan] * 3),
            result.sent_bytes if result else None,
            *((op.source.file, op.source.line) if op.source else [None] * 2),
            "; ".join(filter(None, (message, self.conversions.get(op.id)))),
            str(result.diagnosis.pattern) if result and result.diagnosis else "",
        )

    @may_need_extras()
    def augmented_frame(self) -> pd.DataFrame:
        """One row per try on derived inputs: ``op, kind, step, variant, shapes, verdict, ratio,
        message``; those that fail first.
        """
        import pandas as pd

        columns = ["op", "kind", "step", "variant", "shapes", "verdict", "ratio", "message"]
        rows = [
            (
                *(r.op, self.graph[r.op].kind, r.step, tried.variant),
                ", ".join(str(list(shape)) for shape in tried.shapes),
                *(str(r.verdict), r.ratio, r.message),
            )
            for tried in sorted(self.augmented, key=lambda t: SEVERITY.index(t.result.verdict))
            for r in [tried.result]
        ]
        return pd.DataFrame(rows, columns=columns)

    @may_need_extras()
    def diff(self, other: Findings) -> pd.DataFrame:
        """The verdicts that differ in ``other``: columns ``op, step, before, after``.

        Operators that only one of the two knows count as ``UNKNOWN`` in the other.

        Example:
            >>> report.diff(session.run("act"))["op"].tolist()
            []
        """
        import pandas as pd

        rows = [
            (op, step, str(before), str(after))
            for op in dict.fromkeys(o.id for o in (*self.graph.ops, *other.graph.ops))
            for step in range(max(self.steps, other.steps))
            if (before := self.verdict(op, step)) is not (after := other.verdict(op, step))
        ]
        return pd.DataFrame(rows, columns=["op", "step", "before", "after"])

    def summary(self) -> str:
        """The report in a few lines of plain text: counts, causes, what is missing."""
        info = self.info
        steps = f" x {self.steps} steps" if self.steps > 1 else ""
        lines = [
            (
                f"{self.title}: {len(self.graph)} operators{steps}, "
                f"{info.kernels} kernels, {info.seconds:.1f} s"
            ),
            f"  {self.tally}",
            f"  {self.told}",
        ]
        if info.workarounds:
            lines.append(f"  workarounds: {', '.join(info.workarounds)}")
        lines += [f"  {by} ({n} operators)" for by, n in Counter(self.conversions.values()).items()]
        if info.stopped:
            lines.append("  stopped before the end; what was judged is kept")
        if info.outputs is not None:
            off = "" if info.outputs is Verdict.PASS else f" ({info.outputs})"
            state = f"{'NOT ' if off else ''}within the noise floor{off}"
            lines.append(f"  last hybrid run: outputs {state}")
            lines += [f"    {info.agreement}"] if info.agreement else []
            if info.unobserved:
                state = {
                    True: "the same outputs, bit for bit",
                    False: f"DIFFERENT: {info.unobserved.message}",
                    None: f"could not be made: {info.unobserved.message}",
                }[info.unobserved.same]
                lines.append(f"  unobserved run: {state}")
        for rank, cause in enumerate(self.causes[:_LISTED], 1):
            lines.append(f"  culprit {rank}: {cause}")
            evidence = self.culprit_of[cause.worst].evidence
            lines += [f"    {s}" for s in (cause.diagnosis, evidence) if s]
        if len(self.causes) > _LISTED:
            lines.append(f"  … and {len(self.causes) - _LISTED} more causes: see .causes")
        for group in self.gaps[:_LISTED]:
            first, *others = group
            count = f"; {len(group)} operators of this cause" if others else ""
            lines.append(f"  missing: {first.op} {first.verdict}: {first.message}{count}")
        if len(self.gaps) > _LISTED:
            lines.append(f"  … and {len(self.gaps) - _LISTED} more causes: see .missing")
        if self.augmented:
            tries = self.augmented
            failing = [t for t in tries if t.result.verdict in FAULTS]
            kernels = len({(t.result.op, t.result.step) for t in tries})
            lines.append(
                f"  derived inputs: {len(tries)} tries of {kernels} kernels, {len(failing)} fail"
            )
            lines += [
                f"    {t.result.op}, {t.variant}: {t.result.verdict}: {t.result.message[:200]}"
                for t in failing[:5]
            ]
            lines += ["    … see augmented_frame()"] if len(failing) > 5 else []
        return "\n".join(map(printable, lines))


def _badness(result: OpResult) -> tuple[int, float]:
    """Sorts the worst first: by verdict, then by ratio."""
    ratio = math.inf if math.isnan(result.ratio) else result.ratio
    return BROKEN.index(result.verdict), -ratio


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers in words.

    >>> _ranges([0, 3, 4, 5])
    '0, 3-5'
    """
    there = frozenset(numbers)
    starts = [n for n in numbers if n - 1 not in there]
    ends = [n for n in numbers if n + 1 not in there]
    pairs = zip(starts, ends, strict=True)
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in pairs)
