"""What the rows and columns of a heatmap may be."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tapml_nb.graph import Graph, Op
from tapml_nb.judge.results import OpResult
from tapml_nb.report.findings import Findings

METRICS = ("ratio", "max_abs", "max_rel", "max_ulp", "rmse", "snr_db", "acc_ratio", "gain")
"""The columns of a heatmap by metric."""

AXES = ("layer", "kind", "scope", "op", "step", "position", "head", "dtype", "device")
"""What rows and columns may be, beside ``"scope:N"`` and, of columns, ``"metric"``."""

UNORDERED = ("kind", "scope", "dtype", "device")
"""Axes without an order of their own."""

RANGED = ("step", "position", "head")
"""Axes along which neighbours belong together."""

Name = str | int
Place = Callable[[int, Op, int, OpResult | None], "int | slice | None"]


@dataclass(frozen=True)
class Axis:
    """What rows or columns are.

    Attributes:
        names: of all entries.
        place: which an operator (number, itself, step, result) belongs to; a slice of several where
            the axis runs along a tensor; None where to none.
        along: gives a result's ratios in these several; None on other axes.
        missing: why there are no entries, in words.
    """

    names: Sequence[Name]
    place: Place
    along: Callable[[OpResult], Sequence[float]] | None = None
    missing: str = ""
    what: str = ""


def kind_of(axis: str) -> str:
    return axis.partition(":")[0]


def axis_of(findings: Findings, name: str, argument: str) -> Axis:
    graph = findings.graph
    if name == "metric" and argument == "cols":
        return Axis(METRICS, lambda *_: slice(0, len(METRICS)))
    if name == "step":
        return Axis(range(findings.steps), lambda _, __, step, ___: step)
    if name == "position":
        return _by_position(findings)
    if name == "head":
        return _by_head(findings)
    if name == "device":
        results = findings.introduced.values()
        devices = sorted({result.device for result in results if result.device})
        number = {device: k for k, device in enumerate(devices)}
        return Axis(
            devices, lambda _, __, ___, result: number.get(result.device) if result else None
        )
    of_op = _static(graph, name)
    if of_op is None:
        more = ", 'metric'" if argument == "cols" else ""
        choices = ", ".join(map(repr, AXES))
        raise ValueError(
            f"{argument}: {name!r}; choose among {choices}{more} and 'scope:1', 'scope:2', …"
        )
    keys = [of_op(op) for op in graph.ops]
    places = {key: k for k, key in enumerate(dict.fromkeys(keys))}
    by_op = [places[key] for key in keys]
    return Axis(list(places), lambda k, *_: by_op[k])


def _static(graph: Graph, name: str) -> Callable[[Op], str] | None:
    """What an operator is called on an axis that no result decides."""
    values = graph.values
    if name == "layer":
        return lambda op: op.layer or "(model)"
    if name == "kind":
        return lambda op: op.kind
    if name == "op":
        return lambda op: op.id
    if name == "scope":
        return lambda op: op.scope or "(model)"
    if depth := re.fullmatch(r"scope:([1-9]\d?)", name):
        n = int(depth[1])
        return lambda op: ".".join(op.scope.split(".")[:n]) or "(model)"
    if name == "dtype":
        return lambda op: values[op.outputs[0]].spec.dtype if op.outputs else "(none)"
    return None


def _by_position(findings: Findings) -> Axis:
    lengths = [0] * findings.steps
    for result in findings.introduced.values():
        lengths[result.step] = max(lengths[result.step], len(result.positions))
    several = findings.steps > 1
    names: list[Name] = [
        f"{step}:{p}" if several else p for step, n in enumerate(lengths) for p in range(n)
    ]
    starts = np.cumsum([0, *lengths]).tolist()
    missing = (
        "'position': no operator was judged by position; that takes token ids "
        "[batch, positions] among the model's inputs, and run()"
    )

    def place(_: int, __: Op, step: int, result: OpResult | None) -> slice | None:
        if result is None or not result.positions:
            return None
        return slice(starts[step], starts[step] + len(result.positions))

    return Axis(names, place, lambda r: r.positions, missing, "an axis of tokens")


def _by_head(findings: Findings) -> Axis:
    most = max((len(result.heads) for result in findings.introduced.values()), default=0)
    missing = (
        "'head': no operator was judged by head; that takes a model that calls "
        "scaled_dot_product_attention, whose queries tell the axis of heads, and run()"
    )

    def place(_: int, __: Op, ___: int, result: OpResult | None) -> slice | None:
        return slice(0, len(result.heads)) if result and result.heads else None

    return Axis(range(most), place, lambda r: r.heads, missing, "an axis of heads")


def unseen(findings: Findings, axis: Axis) -> list[str]:
    """How many operators an axis along tensors has, and which culprits it has not."""
    if not axis.along:
        return []
    known = {op for (op, _), result in findings.introduced.items() if axis.along(result)}
    judged = {op for op, _ in findings.introduced}
    broken = sum(culprit.op not in known for culprit in findings.culprits)
    notes = [f"of {len(judged)} judged operators {len(known)} have {axis.what}"]
    return notes + ([f"{broken} culprits have none and are not here"] if broken else [])


def plural(axis: str, count: int = 2) -> str:
    """What the entries of an axis are called."""
    name = {"op": "operator", "position": "token"}.get(kind_of(axis), kind_of(axis))
    return name if count == 1 else f"{name}s"
