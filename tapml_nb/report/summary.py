"""Findings in a few lines of plain text: counts, causes, what is missing."""

from __future__ import annotations

from collections import Counter

from tapml_nb.judge.verdict import FAULTS, Verdict
from tapml_nb.report.findings import Findings
from tapml_nb.terminal import printable

_LISTED = 10
"""Causes in a summary."""


def summarize(findings: Findings) -> str:
    """The lines, each safe to print."""
    info = findings.info
    steps = f" x {findings.steps} steps" if findings.steps > 1 else ""
    lines = [
        (
            f"{findings.title}: {len(findings.graph)} operators{steps}, "
            f"{info.kernels} kernels, {info.seconds:.1f} s"
        ),
        f"  {findings.tally}",
        f"  {findings.outcome}",
    ]
    if info.workarounds:
        lines.append(f"  workarounds: {', '.join(info.workarounds)}")
    lines += [f"  {by} ({n} operators)" for by, n in Counter(findings.conversions.values()).items()]
    if info.stopped:
        lines.append("  stopped before the end; what was judged is kept")
    if info.outputs is not None:
        moved = sum(where == "target" for where in findings.placement.values())
        off = "" if info.outputs is Verdict.PASS else f" ({info.outputs})"
        state = f"{'NOT ' if off else ''}within the noise floor{off}"
        lines.append(f"  hybrid: {moved} operators on the target, outputs {state}")
        lines += [f"    {info.agreement}"] if info.agreement else []
        if info.unobserved:
            state = {
                True: "the same outputs, bit for bit",
                False: f"DIFFERENT: {info.unobserved.message}",
                None: f"could not be made: {info.unobserved.message}",
            }[info.unobserved.same]
            lines.append(f"  unobserved run: {state}")
    for rank, cause in enumerate(findings.causes[:_LISTED], 1):
        lines.append(f"  culprit {rank}: {cause}")
        evidence = findings.culprit_of[cause.worst].evidence
        lines += [f"    {s}" for s in (cause.diagnosis, evidence) if s]
    if len(findings.causes) > _LISTED:
        lines.append(f"  … and {len(findings.causes) - _LISTED} more causes: see .causes")
    for group in findings.gaps[:_LISTED]:
        first, *others = group
        count = f"; {len(group)} operators of this cause" if others else ""
        lines.append(f"  missing: {first.op} {first.verdict}: {first.message}{count}")
    if len(findings.gaps) > _LISTED:
        lines.append(f"  … and {len(findings.gaps) - _LISTED} more causes: see .missing")
    if findings.augmented:
        tries = findings.augmented
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
