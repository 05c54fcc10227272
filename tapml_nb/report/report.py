"""The report: verdicts, culprits and metrics of a session at one moment.  Immutable."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapml_nb.execute.unobserved import Unobserved
from tapml_nb.graph import Graph, OpId, Selector, SelectorError, select
from tapml_nb.judge.agreement import Agreement
from tapml_nb.judge.results import AccumulatedResult, AugmentedResult, OpResult
from tapml_nb.judge.verdict import FAULTS, LIMIT, SEVERITY, Verdict, worse
from tapml_nb.report.causes import Cause, grouped
from tapml_nb.report.outcome import BROKEN, outcome
from tapml_nb.terminal import printable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COLUMNS = [
    "op",
    "scope",
    "kind",
    "step",
    "placement",
    "verdict",
    "ratio",
    "max_abs",
    "max_rel",
    "max_ulp",
    "rmse",
    "cosine",
    "snr_db",
    "nan",
    "inf",
    "mismatched",
    "acc_ratio",
    "acc_max_abs",
    "acc_snr_db",
    "gain",
    "floor",
    "source_ms",
    "target_ms",
    "sent_bytes",
    "file",
    "line",
    "message",
    "diagnosis",
]
"""Columns of :meth:`Report.frame`."""

_LISTED = 10
"""Causes in a summary."""

_GOOD = (Verdict.PASS, Verdict.SKIPPED, Verdict.UNSUPPORTED)


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
        step: the step in which it is worst.
        pattern: the :class:`~tapml_nb.judge.diagnosis.Pattern` that the error looks like; ""
            for none.
        steps: every step in which it is broken.
    """

    op: OpId
    verdict: Verdict
    ratio: float
    diagnosis: str
    evidence: str
    step: int
    pattern: str = ""
    steps: tuple[int, ...] = ()


@dataclass(frozen=True)
class RunInfo:
    """Facts about the runs behind a report.

    Attributes:
        target: what the operators ran on.
        kernels: different kernels among the operators seen.
        compiled: kernels compiled now, not found in the cache.
        seconds: wall time of the last run.
        sent_bytes: bytes sent to the target by the session so far.
        restarts: how often the target had to be brought back.
        stopped: whether the last run was stopped before its end.
        workarounds: the workarounds for faults of TVM's importer that are in force.
        tolerance: how many noise floors a target may be off.
        outputs: whether the hybrid run's outputs are within the end-to-end noise floor; None
            when there was no hybrid run.
        agreement: how far its logits agree with the source's, in the worst step; None where the
            model has none.
        unobserved: how its outputs compare with those of the unobserved run; None where there
            was none: one is made when all is on the target that can be.
    """

    target: str = ""
    kernels: int = 0
    compiled: int = 0
    seconds: float = 0.0
    sent_bytes: int = 0
    restarts: int = 0
    stopped: bool = False
    workarounds: tuple[str, ...] = ()
    tolerance: float = LIMIT
    outputs: Verdict | None = None
    agreement: Agreement | None = None
    unobserved: Unobserved | None = None


@dataclass(frozen=True)
class Report:
    """Everything that is known of a model on a target at one moment.

    Attributes:
        graph: the model.
        steps: how many steps of inputs there are.
        introduced: results by operator and step; absent where nothing was judged yet.
        accumulated: results of the last hybrid run.
        placement: where each operator computed.
        info: facts about the runs.
        augmented: results on inputs derived from the real ones (``run(augment=True)``), apart
            from all others: they change neither verdicts nor :attr:`culprits` nor :attr:`ok`.
        conversions: by what operators were converted to Relax, in words, where not by TVM's
            importer alone: by a rule of tapml_nb's, or with a workaround; and why those that meet
            several shapes have not one kernel for all of them, where the model leaves sizes open.
        opener: judges the calls that an operator holds (:meth:`drill`); None where no session is
            behind the report.
    """

    graph: Graph
    steps: int = 1
    introduced: Mapping[tuple[OpId, int], OpResult] = field(default_factory=dict)
    accumulated: Mapping[tuple[OpId, int], AccumulatedResult] = field(default_factory=dict)
    placement: Mapping[OpId, str] = field(default_factory=dict)
    info: RunInfo = field(default_factory=RunInfo)
    augmented: Sequence[AugmentedResult] = ()
    conversions: Mapping[OpId, str] = field(default_factory=dict)
    opener: Callable[[Selector], Report] | None = field(default=None, repr=False, compare=False)

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
        """The operator's verdict in a step, or its worst over all steps."""
        verdict: Verdict | None = None
        for s in range(self.steps) if step is None else [step]:
            result = self.introduced.get((op, s))
            found = result.verdict if result else Verdict.UNKNOWN
            verdict = found if verdict is None else worse(verdict, found)
        return verdict or Verdict.UNKNOWN

    @cached_property
    def counts(self) -> Mapping[Verdict, int]:
        """How many operators have each verdict (the worst over their steps)."""
        return Counter(self.verdict(op.id) for op in self.graph.ops)

    @property
    def outcome(self) -> str:
        """What is broken, what is missing and what was not judged, in one phrase.

        It begins the summary, and ends every run: ``33 culprits of 2 causes, 1 missing``.
        """
        return outcome(self.counts, len(self.causes))

    @cached_property
    def culprits(self) -> list[Culprit]:
        """The operators whose kernels are broken, worst first.

        An operator that TVM cannot compile or convert is missing, not broken: it is in
        :attr:`missing`.
        """
        return [self._culprit(result) for result in self._broken]

    @cached_property
    def causes(self) -> list[Cause]:
        """What is broken, by cause: culprits of one kind whose verdict, diagnosis and message
        agree, but for numbers, indices and values; the cause with the worst of them first.

        Each is worth one look and one repro::

            for cause in report.causes:
                print(cause.count, cause.kind, cause.verdict, cause.diagnosis)
                session.repro(cause.worst, f"{cause.kind}.py")
        """
        culprits = {culprit.op: culprit for culprit in self.culprits}
        order = {op.id: i for i, op in enumerate(self.graph.ops)}
        return [
            Cause(
                ops=tuple(sorted((result.op for result in group), key=order.__getitem__)),
                kind=self.graph[worst.op].kind,
                verdict=worst.verdict,
                diagnosis=worst.diagnosis,
                worst=worst.op,
                ratio=worst.ratio,
                pattern=worst.pattern,
            )
            for group in grouped(self._broken, self._kind_of)
            for worst in [culprits[group[0].op]]
        ]

    @cached_property
    def _broken(self) -> list[OpResult]:
        """Of every broken operator the step in which it is worst, the worst operator first."""
        order = {op.id: i for i, op in enumerate(self.graph.ops)}
        worst: dict[OpId, OpResult] = {}
        for result in self.introduced.values():
            if result.verdict in BROKEN:
                known = worst.get(result.op, result)
                worst[result.op] = min(known, result, key=_badness)
        return sorted(worst.values(), key=lambda r: (*_badness(r), order[r.op]))

    def _kind_of(self, op: OpId) -> str:
        return self.graph[op].kind

    @cached_property
    def missing(self) -> list[OpResult]:
        """The operators that have no kernel on the target, with the reason, in graph order."""
        wanted = (Verdict.COMPILE_ERROR, Verdict.UNSUPPORTED)
        first: dict[OpId, OpResult] = {}
        for result in self.introduced.values():
            if result.verdict in wanted:
                first.setdefault(result.op, result)
        return [first[op.id] for op in self.graph.ops if op.id in first]

    @property
    def gaps(self) -> list[list[OpResult]]:
        """:attr:`missing` by cause: operators of one kind without a kernel for the same reason,
        in graph order."""
        return grouped(self.missing, self._kind_of)

    def frame(self) -> pd.DataFrame:
        """One row per operator and step, in graph order; columns as in :data:`COLUMNS`.

        Errors are the target's against the source's result; ``ratio`` and ``floor`` are against
        the float64 run (see :class:`~tapml_nb.judge.verdict.Judgement`).  Columns beginning with
        ``acc_``, and ``gain``, are of the last hybrid run.  What was not judged is NaN, with the
        verdict ``UNKNOWN``.  Times are milliseconds.  ``diagnosis`` is the error's
        :class:`~tapml_nb.judge.diagnosis.Pattern`, empty where there is none.
        """
        import pandas as pd

        rows = [self._row(op, step) for op in self.graph.ops for step in range(self.steps)]
        frame = pd.DataFrame(rows, columns=COLUMNS)
        whole = ["step", "nan", "inf", "mismatched", "sent_bytes", "line"]
        return frame.astype(dict.fromkeys(whole, "Int64"))

    def augmented_frame(self) -> pd.DataFrame:
        """One row per try on derived inputs: ``op, kind, step, variant, shapes, verdict, ratio,
        message``; those that fail first."""
        import pandas as pd

        columns = ["op", "kind", "step", "variant", "shapes", "verdict", "ratio", "message"]
        rows = [
            (
                r.op,
                self.graph[r.op].kind,
                r.step,
                tried.variant,
                ", ".join(str(list(shape)) for shape in tried.shapes),
                str(r.verdict),
                r.ratio,
                r.message,
            )
            for tried in sorted(self.augmented, key=lambda t: SEVERITY.index(t.result.verdict))
            for r in [tried.result]
        ]
        return pd.DataFrame(rows, columns=columns)

    def summary(self) -> str:
        """The report in a few lines of plain text."""
        return summarize(self)

    def diff(self, other: Report) -> pd.DataFrame:
        """The verdicts that differ in ``other``: columns ``op, step, before, after``.

        Operators that only one of the two knows count as ``UNKNOWN`` in the other.
        """
        import pandas as pd

        calls = [
            (op, step)
            for op in dict.fromkeys([o.id for o in (*self.graph.ops, *other.graph.ops)])
            for step in range(max(self.steps, other.steps))
        ]
        rows = [
            {"op": op, "step": step, "before": str(before), "after": str(after)}
            for op, step in calls
            if (before := self.verdict(op, step)) is not (after := other.verdict(op, step))
        ]
        return pd.DataFrame(rows, columns=["op", "step", "before", "after"])

    def drill(self, op: Selector) -> Report:
        """Open an operator of granularity ``"fused"`` or ``"module"`` into its ATen calls.

        Every call that the operator holds, or holds a part of, is judged alone by the session
        behind this report: on the same target and the source's own values, as at granularity
        ``"operator"``.  What :meth:`~tapml_nb.Session.override` put in the operator's place is
        of the whole operator, and not looked into.

        Args:
            op: the operator, or a selector that names exactly one.

        Returns:
            A report on these calls alone.

        Raises:
            SelectorError: if ``op`` does not name exactly one operator.
            ValueError: if it is one ATen call already.
            RuntimeError: if the session is closed, gone or busy, or there is none.
        """
        (chosen, *others) = select(self.graph, op)
        if others:
            raise SelectorError(f"op: {op!r} names {len(others) + 1} operators; name one")
        if not self.graph[chosen].members:
            raise ValueError(f"op: {chosen} is one ATen call; there is nothing inside")
        if self.opener is None:
            raise RuntimeError("no session is behind this report; make one with tapml_nb.debug")
        return self.opener(chosen)

    def heatmap(self, rows: str = "layer", cols: str = "metric") -> Figure:
        """A heatmap of the worst ratio per cell; see :func:`tapml_nb.report.figures.heatmap`."""
        from tapml_nb.report.figures import heatmap

        return heatmap(self, rows, cols)

    def plot(self) -> Figure:
        """Introduced and accumulated error over model order, in noise floors, log scale."""
        from tapml_nb.report.figures import divergence

        return divergence(self)

    def to_html(self, path: str | Path) -> Path:
        """Write the report as one HTML file that needs nothing else.

        Raises:
            ValueError: if the file cannot be written.
        """
        from tapml_nb.report.html import page

        path = Path(path)
        try:
            path.write_text(page(self), encoding="utf-8")
        except OSError as error:
            raise ValueError(f"path: {path} cannot be written ({error.strerror})") from None
        return path

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        from tapml_nb.report.html import fragment

        return {"text/plain": self.summary(), "text/html": fragment(self)}

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {verdict}" for verdict, n in self.counts.items())
        return printable(f"<Report of {self.graph.name}: {counts}; {self.outcome}>")

    # -- parts -----------------------------------------------------------------------------------

    def _culprit(self, result: OpResult) -> Culprit:
        op = self.graph[result.op]
        found = (self.introduced.get((op.id, step)) for step in range(self.steps))
        steps = tuple(r.step for r in found if r and r.verdict in BROKEN)
        line = op.source
        where = f"{Path(line.file).name}:{line.line}: {line.text}" if line else ""
        stats = result.statistics
        metrics = (
            f"max abs {stats.max_abs:.3g}, {stats.mismatched} of {stats.elements} elements differ, "
            f"floor {result.floor:.3g}"
            if stats
            else ""
        )
        when = "" if len(steps) == self.steps else f"broken in steps {_ranges(steps)}"
        look = result.diagnosis
        words = f"{look.words} ({look.usual_cause})" if look else ""
        return Culprit(
            result.op,
            result.verdict,
            result.ratio,
            "; ".join(filter(None, (words, result.message, self.conversions.get(result.op)))),
            "; ".join(filter(None, (where, when, look.evidence if look else "", metrics))),
            result.step,
            str(look.pattern) if look else "",
            steps,
        )

    def _row(self, op: Any, step: int) -> dict[str, Any]:
        result = self.introduced.get((op.id, step))
        total = self.accumulated.get((op.id, step))
        stats = result.statistics if result else None
        message = result.message if result else "not judged yet"
        message = message or (total.message if total else "")
        return {
            "op": op.id,
            "scope": op.scope,
            "kind": op.kind,
            "step": step,
            "placement": self.placement.get(op.id, "source"),
            "verdict": str(result.verdict if result else Verdict.UNKNOWN),
            "ratio": result.ratio if result else math.nan,
            **{
                name: getattr(stats, name) if stats else None
                for name in (
                    *("max_abs", "max_rel", "max_ulp", "rmse", "cosine", "snr_db"),
                    *("nan", "inf", "mismatched"),
                )
            },
            "acc_ratio": total.ratio if total else math.nan,
            "acc_max_abs": total.max_abs if total else math.nan,
            "acc_snr_db": total.snr_db if total else math.nan,
            "gain": total.gain if total else math.nan,
            "floor": result.floor if result else math.nan,
            "source_ms": result.source_ms if result else math.nan,
            "target_ms": result.target_ms if result else math.nan,
            "sent_bytes": result.sent_bytes if result else None,
            "file": op.source.file if op.source else None,
            "line": op.source.line if op.source else None,
            "message": "; ".join(filter(None, (message, self.conversions.get(op.id)))),
            "diagnosis": str(result.diagnosis.pattern) if result and result.diagnosis else "",
        }


def _badness(result: OpResult) -> tuple[int, float]:
    """Sorts the worst first: by verdict, then by ratio."""
    ratio = math.inf if math.isnan(result.ratio) else result.ratio
    return BROKEN.index(result.verdict), -ratio


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers in words.

    >>> _ranges([0, 3, 4, 5])
    '0, 3-5'
    """
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    pairs = zip(starts, ends, strict=True)
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in pairs)


def summarize(report: Report) -> str:
    """The report in a few lines of plain text: counts, causes, what is missing."""
    info, counts = report.info, report.counts
    verdicts = ", ".join(f"{counts[v]} {v}" for v in Verdict if counts.get(v))
    steps = f" x {report.steps} steps" if report.steps > 1 else ""
    lines = [
        (
            f"{report.graph.name} on {info.target}: {len(report.graph)} operators{steps}, "
            f"{info.kernels} kernels, {info.seconds:.1f} s"
        ),
        f"  {verdicts}",
        f"  {report.outcome}",
    ]
    if info.workarounds:
        lines.append(f"  workarounds: {', '.join(info.workarounds)}")
    lines += [f"  {by} ({n} operators)" for by, n in Counter(report.conversions.values()).items()]
    if info.stopped:
        lines.append("  stopped before the end; what was judged is kept")
    if info.outputs is not None:
        moved = sum(where == "target" for where in report.placement.values())
        within = info.outputs is Verdict.PASS
        state = (
            "within the noise floor" if within else f"NOT within the noise floor ({info.outputs})"
        )
        lines.append(f"  hybrid: {moved} operators on the target, outputs {state}")
        lines += [f"    {info.agreement}"] if info.agreement else []
        if info.unobserved:
            state = {
                True: "the same outputs, bit for bit",
                False: f"DIFFERENT: {info.unobserved.message}",
                None: f"could not be made: {info.unobserved.message}",
            }[info.unobserved.same]
            lines.append(f"  unobserved run: {state}")
    culprits = {culprit.op: culprit for culprit in report.culprits}
    for rank, cause in enumerate(report.causes[:_LISTED], 1):
        lines.append(f"  culprit {rank}: {cause}")
        lines += [f"    {s}" for s in (cause.diagnosis, culprits[cause.worst].evidence) if s]
    if len(report.causes) > _LISTED:
        lines.append(f"  … and {len(report.causes) - _LISTED} more causes: see .causes")
    for group in report.gaps[:_LISTED]:
        first, count = group[0], len(group)
        others = f"; {count} operators of this cause" if count > 1 else ""
        lines.append(f"  missing: {first.op} {first.verdict}: {first.message}{others}")
    if len(report.gaps) > _LISTED:
        lines.append(f"  … and {len(report.gaps) - _LISTED} more causes: see .missing")
    if report.augmented:
        failing = [t for t in report.augmented if t.result.verdict in FAULTS]
        kernels = len({(t.result.op, t.result.step) for t in report.augmented})
        lines.append(
            f"  derived inputs: {len(report.augmented)} tries of {kernels} kernels, "
            f"{len(failing)} fail"
        )
        lines += [
            f"    {t.result.op}, {t.variant}: {t.result.verdict}: {t.result.message[:200]}"
            for t in failing[:5]
        ]
        lines += ["    … see augmented_frame()"] if len(failing) > 5 else []
    return "\n".join(map(printable, lines))
