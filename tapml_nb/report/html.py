"""A report as HTML.  Names come from models and are never trusted: everything is escaped."""

from __future__ import annotations

import base64
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from tapml_nb.graph import OpId
from tapml_nb.judge.verdict import SEVERITY, Verdict
from tapml_nb.report.cells import cells
from tapml_nb.report.findings import Findings
from tapml_nb.report.heatmap import describe, heatmap
from tapml_nb.report.live import live, style
from tapml_nb.report.outcome import VERDICT_SYMBOLS
from tapml_nb.report.plot import divergence

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light dark; }
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem auto; padding: 0 1rem;
       max-width: 96rem; color: var(--jp-ui-font-color1, #1b1b1b);
       background: var(--jp-layout-color1, #fff); }
img { max-width: 100%; }
.tapml table { border-collapse: collapse; font-size: 12px; }
.tapml th, .tapml td { padding: 2px 8px; text-align: left; border-bottom: 1px solid #8884; }
.tapml table.dataframe td { white-space: nowrap; }
.tapml .scroll { overflow: auto; max-height: 32rem; }
.tapml pre { white-space: pre-wrap; }
@media (prefers-color-scheme: dark) { :root {
  --jp-ui-font-color1: #e6e6e6; --jp-ui-font-color2: #a8a8a8; --jp-layout-color1: #1b1b1b;
  --jp-layout-color2: #2a2a2a; --jp-border-color1: #555; --jp-brand-color1: #64b5f6; } }
"""

_SHOWN = (
    *("op", "kind", "step", "placement", "verdict", "ratio", "max_abs", "floor", "acc_ratio"),
    *("max_ulp", "snr_db", "gain", "target_ms", "file", "line", "message"),
)


def fragment(findings: Findings) -> str:
    """A few lines for a notebook's output: summary, causes, what is missing."""
    rows = [
        (
            *(_code(c.worst), escape(c.verdict), f"{c.ratio:.3g}", str(c.count), _code(c.first)),
            *(escape(c.diagnosis), escape(findings.culprit_of[c.worst].evidence)),
        )
        for c in findings.causes[:20]
    ]
    head = ("culprit", "verdict", "ratio", "of this cause", "the first", "diagnosis", "evidence")
    return (
        f'<div class="tapml"><pre>{escape(findings.summary())}</pre>'
        f'<div class="scroll">{_table(head, rows) if rows else ""}</div></div>'
    )


def table(findings: Findings) -> str:
    """The session without scripts: counts, causes, what is missing, layers."""
    size = f"{len(findings.graph)} operators: {findings.tally}"
    parts = [
        f"<p><strong>{escape(findings.title)}</strong>: {escape(size)}</p>",
        f"<p>{escape(findings.told)}</p>",
        _section(
            "Culprits",
            ("operator", "verdict", "ratio", "of this cause", "diagnosis", "evidence"),
            [
                (
                    c.worst,
                    _symbol(c.verdict),
                    _number(c.ratio),
                    str(c.count) + (f", the first {c.first}" if c.count > 1 else ""),
                    c.diagnosis,
                    findings.culprit_of[c.worst].evidence,
                )
                for c in findings.causes
            ],
            50,
        ),
        _section(
            "Missing: without a kernel on the target",
            ("operator", "verdict", "of this cause", "reason"),
            [
                (r.op, _symbol(r.verdict), str(len(group)), r.message)
                for group in findings.gaps
                for r in group[:1]
            ],
            10,
        ),
        _section(
            "Layers",
            ("layer", "operators", "on the target", "worst verdict", "worst ratio"),
            _layers(findings),
            60,
        ),
    ]
    return f'<div class="tapml">{"".join(parts)}</div>'


def _layers(findings: Findings) -> list[tuple[str, ...]]:
    layers = defaultdict[str, list[OpId]](list)
    for op in findings.graph.ops:
        layers[op.layer or "(model)"].append(op.id)
    rows = list[tuple[str, ...]]()
    for layer, ops in layers.items():
        ratios = [r for op in ops if not math.isnan(r := findings.worst_ratio(op))]
        moved = sum(findings.place(op) == "target" for op in ops)
        worst = _symbol(min({findings.verdict(op) for op in ops}, key=SEVERITY.index))
        ratio = _number(max(ratios, default=math.nan))
        rows.append((layer, str(len(ops)), str(moved), worst, ratio))
    return rows


def page(findings: Findings) -> str:
    """The whole report as one self-contained page: summary, figures, every operator."""
    frame = findings.frame()[list(_SHOWN)]
    rows = frame.to_html(
        index=False, escape=True, na_rep="", border=0, float_format="{:.4g}".format
    )
    kinds = cells(findings, "layer", "kind")
    images = "".join(
        f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{_png(figure)}">'
        for title, figure in (
            ("Divergence", divergence(findings)),
            ("Layers by kind", heatmap(kinds, describe(kinds))),
        )
    )
    title = escape(findings.title)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{title}</title><style>{style()}{_STYLE}</style></head>"
        f"<body><h1>{title}</h1><p>{escape(findings.tally)}</p>"
        f"<p>{escape(findings.told)}</p>{fragment(findings)}{live(findings)}"
        f"<noscript>{images}</noscript><details><summary>Every operator and number</summary>"
        f'<div class="tapml scroll">{rows}</div></details></body></html>'
    )


def _section(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], limit: int) -> str:
    """A table of the first ``limit`` rows, escaped; nothing where there are none."""
    if not rows:
        return ""
    more = f"<p>… and {len(rows) - limit} more</p>" if len(rows) > limit else ""
    return f"<h4>{escape(title)}</h4>{_table(head, [map(escape, r) for r in rows[:limit]])}{more}"


def _table(head: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """A table whose cells are HTML."""
    columns = "".join(f"<th>{column}</th>" for column in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>"


def _symbol(verdict: Verdict) -> str:
    return f"{VERDICT_SYMBOLS[verdict]} {verdict}"


def _number(ratio: float) -> str:
    if math.isnan(ratio):
        return ""
    return f"{ratio:.3g}" if math.isfinite(ratio) else "∞"


def _code(name: str) -> str:
    return f"<code>{escape(name)}</code>"


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()
