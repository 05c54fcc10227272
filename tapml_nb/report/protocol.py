"""What a page is told of a session, or of its report; ``extensions/widgets/src/protocol.ts`` is the
other end.

Text goes as JSON, numbers as little-endian binary buffers: a graph of 20,000 operators is then
one message of a few megabytes, and a thousand results a second are one of 44 kilobytes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tapml_nb.graph import Graph, OpId, masks_and_positions
from tapml_nb.judge.results import AccumulatedResult, OpResult
from tapml_nb.judge.verdict import FAULTS, SEVERITY, Verdict
from tapml_nb.report.findings import Findings
from tapml_nb.report.outcome import BROKEN, MISSING, VERDICT_COLOURS, VERDICT_SYMBOLS


def _record(*numbers: str) -> np.dtype:
    whose = [("op", "<u4"), ("step", "<u2"), ("verdict", "u1"), ("unused", "u1")]
    return np.dtype([*whose, *((name, "<f4") for name in numbers)])


INTRODUCED = _record(
    *("ratio", "floor", "max_abs", "max_rel", "max_ulp", "rmse", "snr_db"),
    *("target_ms", "source_ms"),
)
"""One result of an operator on the source's inputs."""

ACCUMULATED = _record("acc_ratio", "acc_max_abs", "acc_snr_db", "gain")
"""One result of an operator in a hybrid run."""

_MOST = 200
"""Causes, and operators of one, that a page is told of one by one."""

ASIDE = "masks and positions"
"""The scope in which a page has the operators of a scope that compute these: such a group is closed
at first."""

_FEW = 3
"""Fewer of them in a scope stand where they are."""

CODES: dict[Verdict, int] = {verdict: code for code, verdict in enumerate(Verdict)}


def verdicts() -> list[dict[str, Any]]:
    """Every verdict with what a page needs to show it; ``severity`` 0 is the worst."""
    return [
        {
            "name": str(verdict),
            "colour": VERDICT_COLOURS[verdict],
            "symbol": VERDICT_SYMBOLS[verdict],
            "severity": SEVERITY.index(verdict),
            "fault": verdict in FAULTS,
            "broken": verdict in BROKEN,
            "missing": verdict in MISSING,
        }
        for verdict in Verdict
    ]


def numbered(names: Iterable[str]) -> tuple[list[str], bytes]:
    """Different names in order of appearance, and which of them stands at each place."""
    known: dict[str, int] = {}
    places = [known.setdefault(name, len(known)) for name in names]
    return list(known), np.array(places, "<u4").tobytes()


def edges(graph: Graph) -> bytes:
    """Pairs of producer and consumer, by number, each once."""
    makers = {value: k for k, op in enumerate(graph.ops) for value in op.outputs}
    pairs = {
        (makers[value], k): None
        for k, op in enumerate(graph.ops)
        for value in op.inputs
        if value in makers
    }
    return np.array(list(pairs), "<u4").tobytes()


def graph(model: Graph) -> tuple[dict[str, Any], list[bytes]]:
    """The graph's part of a snapshot: JSON, and the buffers kind, scope, layer, host, edges."""
    kinds, kind = numbered(op.kind for op in model.ops)
    scopes, scope = numbered(_shown_scopes(model))
    layers, layer = numbered(op.layer for op in model.ops)
    host = np.array([op.host for op in model.ops], np.uint8).tobytes()
    texts = {
        "name": model.name,
        "ops": [op.id for op in model.ops],
        "kinds": kinds,
        "scopes": scopes,
        "layers": layers,
    }
    return texts, [kind, scope, layer, host, edges(model)]


def _shown_scopes(model: Graph) -> list[str]:
    """The scope in which a page shows each operator: its own, or a group within that."""
    aside = masks_and_positions(model)
    count = Counter(op.scope for op in model.ops if op.id in aside)
    return [
        ".".join(filter(None, (op.scope, ASIDE)))
        if op.id in aside and count[op.scope] >= _FEW
        else op.scope
        for op in model.ops
    ]


def introduced(results: Sequence[OpResult], number: Mapping[OpId, int]) -> bytes:
    """Records of :data:`INTRODUCED`."""
    rows = []
    for result in results:
        stats = result.statistics
        measured = (
            (stats.max_abs, stats.max_rel, stats.max_ulp, stats.rmse, stats.snr_db)
            if stats
            else (math.nan,) * 5
        )
        rows.append(
            (
                *(number[result.op], result.step, CODES[result.verdict], 0),
                *(result.ratio, result.floor, *measured, result.target_ms, result.source_ms),
            )
        )
    return _packed(rows, INTRODUCED)


def accumulated(results: Sequence[AccumulatedResult], number: Mapping[OpId, int]) -> bytes:
    """Records of :data:`ACCUMULATED`."""
    rows = [
        (
            *(number[result.op], result.step, CODES[result.verdict], 0),
            *(result.ratio, result.max_abs, result.snr_db, result.gain),
        )
        for result in results
    ]
    return _packed(rows, ACCUMULATED)


def findings(report: Findings, number: Mapping[OpId, int]) -> dict[str, Any]:
    """What is broken and what is missing: in a phrase, and by cause with the first, the worst and
    the number of the operators."""

    def group(verdict: Verdict, worst: OpId, ratio: float, ops: Sequence[OpId]) -> dict[str, Any]:
        return {
            "verdict": CODES[verdict],
            "worst": number[worst],
            "ratio": plain(ratio),
            "count": len(ops),
            "ops": [number[op] for op in ops[:_MOST]],
        }

    return {
        "outcome": report.outcome,
        "causes": [group(c.verdict, c.worst, c.ratio, c.ops) for c in report.causes[:_MOST]],
        "missing": [
            group(gap[0].verdict, gap[0].op, math.nan, [result.op for result in gap])
            for gap in report.gaps[:_MOST]
        ],
    }


def overlay(report: Findings, number: Mapping[OpId, int]) -> dict[str, Any]:
    """Another report to be drawn into a session's plot: what it is of, and float32
    ``[5, operators]``: introduced and accumulated error, in floors and then absolute, each
    operator's worst over its steps; and 1 where it is a culprit, 2 where it is missing.

    Raises:
        ValueError: if it has no operator that has a number.
    """
    common = [op.id for op in report.graph.ops if op.id in number]
    if not common:
        raise ValueError(f"against: {report.title!r} has no operator of this session's model")
    values = np.full((5, len(number)), np.nan, "<f4")
    for op in common:
        verdict = report.verdict(op)
        values[:, number[op]] = (
            report.worst_ratio(op),
            report.worst_ratio(op, accumulated=True),
            report.largest(op),
            report.largest(op, accumulated=True),
            1 if verdict in BROKEN else 2 if verdict in MISSING else 0,
        )
    return {"name": report.title, "values": values.tobytes()}


@dataclass(frozen=True)
class Structure:
    """What a page is told of a graph, which never changes.

    Attributes:
        number: of each operator, in graph order.
        texts: names, as JSON.
        buffers: kind, scope, layer, host, edges.
    """

    number: Mapping[OpId, int]
    texts: dict[str, Any]
    buffers: list[bytes]

    @classmethod
    def of(cls, model: Graph) -> Structure:
        """That of a graph."""
        return cls({op.id: k for k, op in enumerate(model.ops)}, *graph(model))


def snapshot(report: Findings, structure: Structure) -> tuple[dict[str, Any], list[bytes]]:
    """All that a report knows, for a page that begins; JSON, and its buffers."""
    told = {
        "kind": "snapshot",
        **structure.texts,
        "target": report.info.target,
        "limit": report.info.tolerance,
        "steps": report.steps,
        "verdicts": verdicts(),
        "findings": findings(report, structure.number),
    }
    buffers = [
        *structure.buffers,
        placement(report.graph, {op.id: report.place(op.id) for op in report.graph.ops}),
        introduced(list(report.introduced.values()), structure.number),
        accumulated(list(report.accumulated.values()), structure.number),
    ]
    return told, buffers


def placement(model: Graph, where: Mapping[OpId, str]) -> bytes:
    """One byte per operator: 1 on the target."""
    return np.array([where[op.id] == "target" for op in model.ops], np.uint8).tobytes()


def plain(value: float | int | str | None) -> float | int | str | None:
    """A number as JSON can carry it: NaN is null, infinities are text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("∞" if value > 0 else "-∞")
    return value


def _packed(rows: Sequence[tuple[float, ...]], dtype: np.dtype) -> bytes:
    with np.errstate(over="ignore"):  # beyond float32 is infinite enough for a picture
        return np.array(rows, dtype).tobytes()
