"""A report's graph, plot, heatmaps and table as the workbench shows them, in a page by itself.

The page holds what a session's page is told when it begins, and what it may ask of an operator; its
script (``static/report.js``, from ``extensions/widgets/src/report.ts``) is in it as well.
"""

from __future__ import annotations

import base64
import json
from functools import cache
from pathlib import Path
from typing import Any

from tapml_nb.judge.verdict import SEVERITY
from tapml_nb.report import protocol
from tapml_nb.report.facts import Facts, facts
from tapml_nb.report.findings import Findings

_STATIC = Path(__file__).parent / "static"

_MOST = 3000
"""Calls of operators that a page can tell more of: each takes a kilobyte."""


def style() -> str:
    """The style sheet of the views."""
    return _text("report.css")


def live(report: Findings) -> str:
    """The views as HTML: what they show, and their script."""
    structure = protocol.Structure.of(report.graph)
    told, buffers = protocol.snapshot(report, structure)
    causes = report.causes
    worst = structure.number[causes[0].worst] if causes else -1
    content = {
        "message": told | {"selection": {"op": worst, "step": 0, "origin": ""}},
        "buffers": [base64.b64encode(buffer).decode() for buffer in buffers],
        "facts": _facts(report, structure),
    }
    return (
        f'<div id="tapml-report"><script type="application/json">{_json(content)}</script></div>'
        f"<script>{_text('report.js')}</script>"
    )


def _facts(report: Findings, structure: protocol.Structure) -> dict[str, Facts]:
    """By number of the operator and step, the worst verdicts first."""
    calls = [(op, step) for op in report.graph.ops for step in range(report.steps)]
    if len(calls) > _MOST:
        results = report.introduced
        order = {verdict: k for k, verdict in enumerate(SEVERITY)}

        def badness(call: tuple[Any, int]) -> int:
            result = results.get((call[0].id, call[1]))
            return order[result.verdict] if result else len(order)

        calls = sorted(calls, key=badness)[:_MOST]
    return {f"{structure.number[op.id]}:{step}": facts(report, op, step) for op, step in calls}


def _json(content: Any) -> str:
    """JSON that ends no element of HTML."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@cache
def _text(name: str) -> str:
    return (_STATIC / name).read_text(encoding="utf-8")
