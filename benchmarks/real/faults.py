"""Faults that are small beside the model, each in one product of one layer.

The kernels are written here and honest but for the fault; they accumulate in float32 and get the
schedule of last resort on a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from benchmarks.real.records import Planted
from tapml_nb.graph import Op
from tapml_nb.session import Session

Product = Callable[..., Any]
"""From a row and a column to an element of the right product, in float32."""


@dataclass(frozen=True)
class Shape:
    """Of a product ``[1, rows, columns]``, where ``head`` columns make up what attends together."""

    rows: int
    columns: int
    head: int


@dataclass(frozen=True)
class Fault:
    """One way in which a product can be wrong.

    Attributes:
        name: what people call it.
        module: the linear layer it is planted in.
        layer: in which layer, as a share of all.
        element: gives a wrong element from the right product, its shape, a row and a column.
        dropped: how many terms at the end of each sum are left out.
    """

    name: str
    module: str
    layer: float
    element: Callable[[Product, Shape, Any, Any], Any] = lambda right, shape, i, j: right(i, j)
    dropped: int = 0


def _one_element(right: Product, shape: Shape, i: Any, j: Any) -> Any:
    there = tirx.all(i == shape.rows // 2, j == shape.columns // 3)
    return right(i, j) + tirx.Select(there, tirx.const(1.0), tirx.const(0.0))


def _one_head(right: Product, shape: Shape, i: Any, j: Any) -> Any:
    second = tirx.all(j >= shape.head, j < 2 * shape.head)
    return right(i, tirx.Select(second, j - shape.head, j))


def _last_row(right: Product, shape: Shape, i: Any, j: Any) -> Any:
    return right(tirx.Select(i == shape.rows - 1, i - 1, i), j)


FAULTS = (
    Fault("one element is larger by 1", "mlp.gate_proj", 0.5, _one_element),
    Fault("a factor of 1.001", "self_attn.o_proj", 0.25, lambda r, s, i, j: r(i, j) * 1.001),
    Fault("one head is another's", "self_attn.v_proj", 0.75, _one_head),
    Fault("the last 16 terms are left out", "mlp.down_proj", 0.9, dropped=16),
    Fault("the last position of one layer is the one before", "mlp.up_proj", 0.6, _last_row),
)


def planted(session: Session) -> Iterator[Planted]:
    """Plant each fault, have the whole model judged, and take it back; yields what became of it."""
    known = {culprit.op for culprit in session.report.culprits}
    for fault in FAULTS:
        op = _site(session, fault)
        session.override(op.id, kernel(session, op, fault))
        begin = time.perf_counter()
        report = session.run()
        seconds = time.perf_counter() - begin
        accused = [culprit.op for culprit in report.culprits if culprit.op not in known]
        yield Planted(
            fault.name,
            op.id,
            str(report.verdict(op.id)),
            accused[:1] == [op.id],
            tuple(other for other in accused if other != op.id),
            round(seconds, 3),
            report.introduced[op.id, 0].message,
        )
        session.override(op.id, None)


def _site(session: Session, fault: Fault) -> Op:
    """The product that a fault is planted in."""
    sites = [op for op in session.graph.ops if op.scope.endswith(fault.module)]
    return sites[int(len(sites) * fault.layer)]


def kernel(session: Session, op: Op, fault: Fault) -> Any:
    """A PrimFunc for a linear layer without a bias that is wrong in this way."""
    graph = session.graph
    given, weight, result = (graph.values[v].spec for v in (*op.inputs, *op.outputs))
    _, rows, terms = given.shape
    columns = weight.shape[0]
    reader = next(other for other in graph.ops if op.outputs[0] in other.inputs)
    shape = Shape(rows, columns, head=graph.values[reader.outputs[0]].spec.shape[-1])
    x = te.placeholder(given.shape, given.dtype, "x")
    w = te.placeholder(weight.shape, weight.dtype, "w")
    k = te.reduce_axis((0, terms - fault.dropped), "k")
    right = te.compute(
        (rows, columns),
        lambda i, j: te.sum(x[0, i, k].astype("float32") * w[j, k].astype("float32"), axis=k),
        "right",
    )
    wrong = te.compute(
        result.shape,
        lambda _, i, j: fault.element(right, shape, i, j).astype(result.dtype),
        "wrong",
    )
    return te.create_prim_func([x, w, wrong])
