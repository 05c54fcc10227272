"""One trained model through a session: what :mod:`benchmarks.trained` notes of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import tapml_nb as tapml
from benchmarks.trained.inputs import inputs_of
from tapml_nb.graph import OpId
from tapml_nb.judge.results import OpResult
from tapml_nb.judge.verdict import FAULTS, Verdict
from tapml_nb.report import Report


@dataclass(frozen=True)
class Finding:
    """Operators of one kind that are not judged, or are found faulty, for one reason.

    Attributes:
        kind: what they are.
        verdict: their verdict.
        message: why, in the words of the first of them.
        diagnosis: what the error of the first of them looks like; empty for nothing known.
        count: how many there are.
        op: the first of them.
    """

    kind: str
    verdict: str
    message: str
    diagnosis: str
    count: int
    op: str


@dataclass(frozen=True)
class Record:
    """What is known of one file.

    Attributes:
        name: its path below the folder of packages.
        key: of the file and the versions that this was measured with.
        error: why the tool got no further; empty where it got to the end.
        host: operators that run on the host.
        operators: all others.
        ours: how many of them are converted by rules of tapml_nb's.
        verdicts: how many have which verdict.
        findings: those that are not judged, and those found faulty.
        seconds: from the file to its report.
    """

    name: str
    key: str
    error: str = ""
    host: int = 0
    operators: int = 0
    ours: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    seconds: float = 0.0

    @property
    def judged(self) -> int:
        """How many operators have a verdict that a run stands behind."""
        return self.operators - sum(self.verdicts.get(str(verdict), 0) for verdict in NOT_JUDGED)

    def line(self) -> str:
        """The record as a line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, line: str) -> Record:
        """A record from its line."""
        values = json.loads(line)
        return cls(**{**values, "findings": tuple(Finding(**f) for f in values["findings"])})


NOT_JUDGED = (Verdict.UNSUPPORTED, Verdict.COMPILE_ERROR, Verdict.UNKNOWN)
"""Verdicts that no run and no comparison of values stands behind."""


def measure(path: Path, name: str, key: str) -> Iterator[Record]:
    """Judge every operator of a file."""
    begin = time.perf_counter()
    with tapml.debug(path, inputs_of(path), target="llvm") as session:
        yield record(session.run(), name, key, time.perf_counter() - begin)


def record(report: Report, name: str, key: str, seconds: float) -> Record:
    """What a report says."""
    ops = [op for op in report.graph.ops if not op.host]
    verdicts = [report.verdict(op.id) for op in ops]
    return Record(
        name,
        key,
        host=len(report.graph.ops) - len(ops),
        operators=len(ops),
        ours=sum("rules of tapml_nb" in words for words in report.conversions.values()),
        verdicts={str(v): verdicts.count(v) for v in Verdict if v in verdicts},
        findings=findings(report),
        seconds=seconds,
    )


def findings(report: Report) -> tuple[Finding, ...]:
    """What is not judged, and what is found faulty, by kind and reason."""
    groups: dict[tuple[str, str, str], list[OpResult]] = {}
    for op in report.graph.ops:
        if op.host:
            continue
        result = _worst(report, op.id)
        pattern = str(result.diagnosis.pattern) if result.diagnosis else ""
        if result.verdict in NOT_JUDGED:
            groups.setdefault((op.kind, str(result.verdict), result.message), []).append(result)
        elif result.verdict in FAULTS:
            groups.setdefault((op.kind, str(result.verdict), pattern), []).append(result)
    return tuple(
        Finding(
            kind,
            verdict,
            found[0].message,
            found[0].diagnosis.words if found[0].diagnosis else "",
            len(found),
            found[0].op,
        )
        for (kind, verdict, _), found in groups.items()
    )


def _worst(report: Report, op: OpId) -> OpResult:
    """An operator's result in the step where its verdict is worst."""
    verdict = report.verdict(op)
    results = (report.introduced.get((op, step)) for step in range(report.steps))
    return next((r for r in results if r and r.verdict is verdict), OpResult(op, 0, verdict))
