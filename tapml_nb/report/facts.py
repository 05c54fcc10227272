"""What a page shows of one operator: its verdict and why, its line, its metrics."""

from typing import Any, TypedDict

from tapml_nb.graph import Graph, Op, ValueId
from tapml_nb.judge.results import OpResult
from tapml_nb.report.findings import Findings
from tapml_nb.report.protocol import plain


class ValueFacts(TypedDict):
    name: str
    role: str
    spec: str


class DiagnosisFacts(TypedDict):
    pattern: str
    words: str
    evidence: str
    cause: str


class Facts(TypedDict):
    """An operator in one step; ``metrics`` are for people, under their names."""

    message: str
    diagnosis: DiagnosisFacts | None
    kind: str
    module: str
    primitives: list[str]
    kernel: str
    override: str
    file: str
    line: int
    text: str
    judged: bool
    inputs: list[ValueFacts]
    outputs: list[ValueFacts]
    metrics: dict[str, float | str | None]


def facts(report: Findings, op: Op, step: int, override: str = "") -> Facts:
    """An operator in one step; ``override`` is what stands in its place, in words."""
    result = report.introduced.get((op.id, step))
    total = report.accumulated.get((op.id, step))
    metrics = _metrics(result) if result else {}
    if total:
        metrics |= {
            "acc. ratio": total.ratio,
            "acc. max abs": total.max_abs,
            "acc. SNR dB": total.snr_db,
            "gain": total.gain,
        }
    messages = [r.message for r in (result, total) if r and r.message]
    message = "; in the hybrid run: ".join(messages) if total else "".join(messages)
    found = result.diagnosis if result else None
    line = op.source
    return {
        "diagnosis": {
            "pattern": str(found.pattern),
            "words": found.words,
            "evidence": found.evidence,
            "cause": found.usual_cause,
        }
        if found
        else None,
        "message": "; ".join(filter(None, (message, report.conversions.get(op.id)))),
        "kind": op.kind,
        "module": op.module,
        "primitives": list(op.primitives),
        "kernel": result.kernel[:12] if result else "",
        "override": override,
        "file": line.file if line else "",
        "line": line.line if line else 0,
        "text": line.text if line else "",
        "judged": result is not None,
        "inputs": [_described(report.graph, v) for v in op.inputs],
        "outputs": [_described(report.graph, v) for v in op.outputs],
        "metrics": {name: plain(value) for name, value in metrics.items()},
    }


def _described(graph: Graph, value: ValueId) -> ValueFacts:
    found = graph.values[value]
    return {"name": found.name, "role": found.role, "spec": str(found.spec)}


def _metrics(result: OpResult) -> dict[str, Any]:
    metrics: dict[str, Any] = {"ratio": result.ratio, "noise floor": result.floor}
    if stats := result.statistics:
        metrics |= {
            "max abs": stats.max_abs,
            "max rel": stats.max_rel,
            "max ULP": stats.max_ulp,
            "RMSE": stats.rmse,
            "cosine": stats.cosine,
            "SNR dB": stats.snr_db,
            "differ": f"{stats.mismatched} of {stats.elements}",
        }
    metrics |= {
        "ms, source": result.source_ms,
        "ms, target": result.target_ms,
        "bytes sent": result.sent_bytes,
    }
    return metrics
