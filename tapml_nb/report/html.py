"""A report as HTML.  Names come from models and are never trusted: everything is escaped."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING

from tapml_nb.report import figures, tables
from tapml_nb.report.findings import Findings
from tapml_nb.report.summary import summarize

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
       color: #1b1b1b; background: #fff; }
img { max-width: 100%; background: #fff; }
.tapml table { border-collapse: collapse; font-size: 12px; }
.tapml th, .tapml td { padding: 2px 8px; text-align: left; border-bottom: 1px solid #8884; }
.tapml table.dataframe td { white-space: nowrap; }
.tapml .scroll { overflow: auto; max-height: 32rem; }
.tapml pre { white-space: pre-wrap; }
@media (prefers-color-scheme: dark) { body { color: #e6e6e6; background: #1b1b1b; } }
"""


_SHOWN = (
    *("op", "kind", "step", "placement", "verdict", "ratio", "max_abs", "floor", "acc_ratio"),
    *("max_ulp", "snr_db", "gain", "target_ms", "file", "line", "message"),
)


def fragment(findings: Findings) -> str:
    """A few lines for a notebook's output: summary, causes, what is missing."""
    rows = "".join(
        f"<tr><td><code>{escape(c.worst)}</code></td><td>{escape(c.verdict)}</td>"
        f"<td>{c.ratio:.3g}</td><td>{c.count}</td><td><code>{escape(c.first)}</code></td>"
        f"<td>{escape(c.diagnosis)}</td>"
        f"<td>{escape(findings.culprit_of[c.worst].evidence)}</td></tr>"
        for c in findings.causes[:20]
    )
    culprits = (
        "<table><thead><tr><th>culprit</th><th>verdict</th><th>ratio</th>"
        "<th>of this cause</th><th>the first</th><th>diagnosis</th>"
        f"<th>evidence</th></tr></thead><tbody>{rows}</tbody></table>"
        if rows
        else ""
    )
    return (
        f'<div class="tapml"><pre>{escape(summarize(findings))}</pre>'
        f'<div class="scroll">{culprits}</div></div>'
    )


def page(findings: Findings) -> str:
    """The whole report as one self-contained page: summary, figures, every operator."""
    frame = tables.frame(findings)[list(_SHOWN)]
    table = frame.to_html(index=False, escape=True, na_rep="", border=0, float_format=_number)
    images = "".join(
        f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{_png(figure)}">'
        for title, figure in (
            ("Divergence", figures.divergence(findings)),
            ("Layers by kind", figures.heatmap(findings, "layer", "kind")),
        )
    )
    title = escape(findings.title)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{title}</title><style>{_STYLE}</style></head>"
        f'<body class="tapml"><h1>{title}</h1><p>{escape(findings.tally)}</p>'
        f"<p>{escape(findings.outcome)}</p>{fragment(findings)}"
        f'{images}<h2>Operators</h2><div class="scroll">{table}</div></body></html>'
    )


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()


def _number(value: float) -> str:
    return f"{value:.4g}"
