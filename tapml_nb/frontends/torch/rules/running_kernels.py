"""Kernels of running extremes and sums along an axis: a row in order, rows beside each other.

Each function makes a PrimFunc for one shape: the axes before the one that is gone along, that one,
and those behind it.  Inputs come first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from tapml_nb.frontends.torch.rules.call import is_floating

Shape = tuple[int, int, int]


def extremes(shape: Shape, dtype: str, compare: Callable[[Any, Any], Any]) -> Any:
    """The extreme so far, and its place.  A new element takes its place if ``compare`` says so of
    it and the extreme, or if it is NaN: nothing else compares with that."""
    before, length, behind = shape
    is_nan = tirx.isnan if is_floating(dtype) else lambda _: tirx.const(False, "bool")

    @T.prim_func(s_tir=True, private=True)
    def run(
        x: T.Buffer(shape, dtype),
        values: T.Buffer(shape, dtype),
        places: T.Buffer(shape, "int64"),
    ):
        for b, e in T.grid(before, behind):
            with T.sblock("row"):
                v, w = T.axis.remap("SS", [b, e])
                T.reads(x[v, 0:length, w])
                T.writes(values[v, 0:length, w], places[v, 0:length, w])
                best = T.sblock_alloc_buffer((1,), dtype, scope="local")
                place = T.sblock_alloc_buffer((1,), "int64", scope="local")
                best[0] = x[v, 0, w]
                place[0] = T.int64(0)
                for k in range(length):
                    if compare(x[v, k, w], best[0]) or is_nan(x[v, k, w]):
                        best[0] = x[v, k, w]
                        place[0] = T.cast(k, "int64")
                    values[v, k, w] = best[0]
                    places[v, k, w] = place[0]

    return run


def log_sums(shape: Shape, dtype: str) -> Any:
    """Logarithms of running sums of exponentials.

    Beside the sums they stand once more: with one result, TVM's schedules for GPUs take this
    for a product with a vector."""
    before, length, behind = shape

    @T.prim_func(s_tir=True, private=True)
    def run(
        x: T.Buffer(shape, dtype),
        sums: T.Buffer(shape, dtype),
        again: T.Buffer(shape, dtype),
    ):
        for b, e in T.grid(before, behind):
            with T.sblock("row"):
                v, w = T.axis.remap("SS", [b, e])
                T.reads(x[v, 0:length, w])
                T.writes(sums[v, 0:length, w], again[v, 0:length, w])
                total = T.sblock_alloc_buffer((1,), dtype, scope="local")
                total[0] = x[v, 0, w]
                for k in range(length):
                    if k > 0:
                        new: T.let = x[v, k, w]
                        if T.isnan(new) or T.isnan(total[0]):
                            total[0] = new + total[0]
                        elif new != total[0] or T.isfinite(new):
                            high: T.let = T.if_then_else(new > total[0], new, total[0])
                            low: T.let = T.if_then_else(new > total[0], total[0], new)
                            total[0] = high + T.log1p(T.exp(low - high))
                    sums[v, k, w] = total[0]
                    again[v, k, w] = total[0]

    return run
