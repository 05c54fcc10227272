"""Findings as tables of pandas, which is imported when the first one is made (it takes 0.6 s)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tapml_nb.graph import Op
from tapml_nb.judge.verdict import SEVERITY, Verdict
from tapml_nb.report.findings import Findings

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


def frame(findings: Findings) -> pd.DataFrame:
    """One row per operator and step."""
    import pandas as pd

    rows = [_row(findings, op, step) for op in findings.graph.ops for step in range(findings.steps)]
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(_WHOLE, "Int64"))


def _row(findings: Findings, op: Op, step: int) -> tuple[Any, ...]:
    """The row of one operator in one step, in the order of :data:`COLUMNS`."""
    result = findings.introduced.get((op.id, step))
    total = findings.accumulated.get((op.id, step))
    stats = result.statistics if result else None
    message = result.message if result else "not judged yet"
    message = message or (total.message if total else "")
    return (
        *(op.id, op.scope, op.kind, step, findings.place(op.id)),
        str(result.verdict if result else Verdict.UNKNOWN),
        result.ratio if result else math.nan,
        *(getattr(stats, name) if stats else None for name in STATISTICS),
        *((total.ratio, total.max_abs, total.snr_db, total.gain) if total else [math.nan] * 4),
        *((result.floor, result.source_ms, result.target_ms) if result else [math.nan] * 3),
        result.sent_bytes if result else None,
        *((op.source.file, op.source.line) if op.source else [None] * 2),
        "; ".join(filter(None, (message, findings.conversions.get(op.id)))),
        str(result.diagnosis.pattern) if result and result.diagnosis else "",
    )


def augmented_frame(findings: Findings) -> pd.DataFrame:
    """One row per try on derived inputs; those that fail first."""
    import pandas as pd

    columns = ["op", "kind", "step", "variant", "shapes", "verdict", "ratio", "message"]
    rows = [
        (
            *(r.op, findings.graph[r.op].kind, r.step, tried.variant),
            ", ".join(str(list(shape)) for shape in tried.shapes),
            *(str(r.verdict), r.ratio, r.message),
        )
        for tried in sorted(findings.augmented, key=lambda t: SEVERITY.index(t.result.verdict))
        for r in [tried.result]
    ]
    return pd.DataFrame(rows, columns=columns)


def differences(one: Findings, other: Findings) -> pd.DataFrame:
    """The operators and steps whose verdicts differ."""
    import pandas as pd

    rows = [
        (op, step, str(before), str(after))
        for op in dict.fromkeys(o.id for o in (*one.graph.ops, *other.graph.ops))
        for step in range(max(one.steps, other.steps))
        if (before := one.verdict(op, step)) is not (after := other.verdict(op, step))
    ]
    return pd.DataFrame(rows, columns=["op", "step", "before", "after"])
