"""What has as many elements as values decide.

A kernel has fixed sizes, so one of these is for as many elements as the source has found, of which
it knows nothing else.  It finds them itself, and counts: where that is another number, as a wrong
comparison makes it, nothing of the result is right, and says so: indices are -1, numbers NaN or the
least that there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from tapml_nb.frontends.onnx.rules.call import (
    Call,
    Expr,
    Rule,
    cast,
    constant,
    dtype_of,
    numbers,
    shape_of,
)

_MOST = 4096
"""Slices that are compared each with each."""


def nonzero(call: Call, x: Expr) -> Expr:
    """Where elements are not 0, in the order of memory: a row of indices for each axis."""
    shape = shape_of(x) or [1]
    there = x if dtype_of(x) == "bool" else relax.op.not_equal(x, constant(0, x))
    places, right = _places(call, there, _count(call, 1))

    def spread(flat: te.Tensor, good: te.Tensor) -> te.Tensor:
        def element(axis: Any, k: Any) -> Any:
            found: Any = tirx.const(-1, "int32")
            for number in range(len(shape)):
                behind = math.prod(shape[number + 1 :])
                index = tirx.floormod(tirx.floordiv(flat(k), max(1, behind)), max(1, shape[number]))
                found = tirx.Select(axis == number, index, found)
            return tirx.Select(good(), tirx.Cast("int64", found), tirx.const(-1, "int64"))

        return te.compute([len(shape_of(x)), *flat.shape], element, "nonzero")

    return call.compute(spread, places, right, name="nonzero")


def compress(call: Call, x: Expr, condition: Expr) -> Expr:
    """The slices of an axis, or elements, for which a condition holds; it may end before them."""
    axis = call.attributes.get("axis")
    if axis is None:
        x, axis = call.emit(relax.op.reshape(x, [-1])), 0
    axis %= len(shape_of(x))
    places, right = _places(call, condition, _count(call, axis))
    return _marked(call, _taken(call, x, places, axis), right)


def unique(call: Call, x: Expr) -> tuple[Expr, ...]:
    """The different elements, or slices of an axis, in ascending order or in that in which they
    come; where each is first; which one everyone is; and how many there are of each.

    Raises:
        ValueError: if there are so many that not all of them can be compared with each other.
    """
    shape, axis = shape_of(x), call.attributes.get("axis")
    if axis is None:
        x, axis, shape = call.emit(relax.op.reshape(x, [-1])), 0, [math.prod(shape)]
    axis %= len(shape)
    size = shape[axis]
    if size > _MOST:
        raise ValueError(f"{size} elements to be compared with each other, of at most {_MOST}")
    if 0 in shape:
        raise ValueError("nothing to be compared")
    order = [axis, *(k for k in range(len(shape)) if k != axis)]
    turned = call.emit(relax.op.permute_dims(x, order))
    rows = call.emit(relax.op.reshape(turned, [size, math.prod(shape) // size]))
    if dtype_of(x) in ("float16", "bfloat16"):
        rows = call.emit(relax.op.astype(rows, "float32"))
    smaller, same = _compared(call, rows)
    ascending = bool(call.attributes.get("sorted", 1))
    count = _count(call, axis)

    def first(alike: te.Tensor) -> te.Tensor:
        j = te.reduce_axis((0, size), "j")
        return te.compute(
            [size], lambda i: te.min(tirx.Select(alike(i, j) > 0, j, size - 1), axis=j), "first"
        )

    def rank(firsts: te.Tensor, before: te.Tensor) -> te.Tensor:
        """How many different ones stand before each."""
        j = te.reduce_axis((0, size), "j")

        def element(i: Any) -> Any:
            ahead = before(i, j) > 0 if ascending else j < firsts(i)
            counts = tirx.all(firsts(j) == j, ahead)
            return te.sum(
                tirx.Select(counts, tirx.const(1, "int32"), tirx.const(0, "int32")), axis=j
            )

        return te.compute([size], element, "rank")

    def found(ranks: te.Tensor) -> te.Tensor:
        i = te.reduce_axis((0, size), "i")
        return te.compute(
            [count],
            lambda u: te.min(tirx.Select(ranks(i) == u, tirx.Cast("int32", i), size - 1), axis=i),
            "found",
        )

    def tally(ranks: te.Tensor) -> te.Tensor:
        i = te.reduce_axis((0, size), "i")
        one, zero = tirx.const(1, "int64"), tirx.const(0, "int64")
        return te.compute([count], lambda u: te.sum(tirx.Select(ranks(i) == u, one, zero), axis=i))

    firsts = call.compute(first, same, name="unique_first")
    ranks = call.compute(rank, firsts, smaller, name="unique_rank")
    places = call.compute(found, ranks, name="unique_found")
    last = call.emit(relax.op.max(ranks))
    right = call.emit(relax.op.equal(last, relax.const(count - 1, "int32")))
    made = [
        _taken(call, x, places, axis),
        call.emit(relax.op.astype(places, "int64")),
        call.emit(relax.op.astype(ranks, "int64")),
        call.compute(tally, ranks, name="unique_tally"),
    ]
    return tuple(_marked(call, result, right) for result in made)


def _compared(call: Call, rows: Expr) -> tuple[Expr, Expr]:
    """Of every two rows whether the second is the smaller one, by the first element in which they
    differ, and whether they are the same; NaN is NaN, and larger than all else."""
    size, width = shape_of(rows)
    floating = "float" in dtype_of(rows)

    def differ(a: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, width), "k")

        def element(i: Any, j: Any) -> Any:
            one, other = a(i, k), a(j, k)
            alike = one == other
            if floating:
                alike = tirx.any(alike, tirx.all(tirx.isnan(one), tirx.isnan(other)))
            return te.min(tirx.Select(alike, width, tirx.Cast("int32", k)), axis=k)

        return te.compute([size, size], element, "differ")

    def less(a: te.Tensor, place: te.Tensor) -> te.Tensor:
        def element(i: Any, j: Any) -> Any:
            at = tirx.min(place(i, j), width - 1)
            one, other = a(i, at), a(j, at)
            ahead: Any = other < one
            if floating:
                ahead = tirx.any(ahead, tirx.all(tirx.isnan(one), tirx.Not(tirx.isnan(other))))
            return tirx.Cast("int8", tirx.all(place(i, j) < width, ahead))

        return te.compute([size, size], element, "less")

    def equal(place: te.Tensor) -> te.Tensor:
        return te.compute(
            [size, size], lambda i, j: tirx.Cast("int8", place(i, j) == width), "same"
        )

    where = call.compute(differ, rows, name="unique_differ")
    smaller = call.compute(less, rows, where, name="unique_less")
    return smaller, call.compute(equal, where, name="unique_same")


def non_max_suppression(
    call: Call,
    boxes: Expr,
    scores: Expr,
    most: Expr | None = None,
    overlap: Expr | None = None,
    threshold: Expr | None = None,
) -> Expr:
    """Batch, class and number of every box that is kept: in the order of its score, unless it
    covers too much in common with one before it."""
    (batches, classes, count), wanted = shape_of(scores), _count(call, 0)
    limit = 0 if most is None else int(numbers(most).reshape(-1)[0])
    limit = min(max(limit, 0), count)
    share = 0.0 if overlap is None else float(numbers(overlap).reshape(-1)[0])
    least = None if threshold is None else float(numbers(threshold).reshape(-1)[0])
    centred = bool(call.attributes.get("center_point_box"))
    dtype = dtype_of(scores)

    def corners(box: Any, b: Any, i: Any) -> list[Any]:
        """The smaller and larger ends of a box along both axes."""
        one, two, three, four = (box[b, i, k] for k in range(4))
        if centred:
            half = tirx.const(2, dtype)
            return [two - four / half, two + four / half, one - three / half, one + three / half]
        return [
            tirx.min(one, three),
            tirx.max(one, three),
            tirx.min(two, four),
            tirx.max(two, four),
        ]

    def suppress(box: te.Tensor, score: te.Tensor) -> list[te.Tensor]:
        def body(ins: Any, outs: Any) -> Any:
            with IRBuilder() as ib:
                box, score = T.buffer_proxy(ins[0]), T.buffer_proxy(ins[1])
                kept, state, best, found = (T.buffer_proxy(out) for out in outs)
                with T.seq_scope():
                    found[0] = T.int32(0)
                    with T.serial(0, wanted) as k:
                        for part in range(3):
                            kept[k, part] = T.int64(-1)
                    with T.serial(0, batches * classes) as group:
                        b, c = group // classes, group % classes
                        with T.serial(0, count) as i:
                            state[i] = T.int32(1)
                            if least is not None:
                                state[i] = tirx.Cast(
                                    "int32", score[b, c, i] > tirx.const(least, dtype)
                                )
                        with T.serial(0, limit) as _:
                            best[0] = T.int32(-1)
                            with T.serial(0, count) as i:
                                with T.If(state[i] > 0):
                                    with T.Then():
                                        with T.If(best[0] < 0):
                                            with T.Then():
                                                best[0] = tirx.Cast("int32", i)
                                            with T.Else():
                                                with T.If(score[b, c, i] > score[b, c, best[0]]):
                                                    with T.Then():
                                                        best[0] = tirx.Cast("int32", i)
                            with T.If(best[0] >= 0):
                                with T.Then():
                                    with T.If(found[0] < wanted):
                                        with T.Then():
                                            kept[found[0], 0] = tirx.Cast("int64", b)
                                            kept[found[0], 1] = tirx.Cast("int64", c)
                                            kept[found[0], 2] = tirx.Cast("int64", best[0])
                                    found[0] = found[0] + 1
                                    state[best[0]] = T.int32(0)
                                    with T.serial(0, count) as i:
                                        with T.If(
                                            _covers(
                                                corners(box, b, best[0]),
                                                corners(box, b, i),
                                                tirx.const(share, dtype),
                                            )
                                        ):
                                            with T.Then():
                                                state[i] = T.int32(0)
                    with T.If(found[0] != wanted):
                        with T.Then():
                            with T.serial(0, wanted) as k:
                                for part in range(3):
                                    kept[k, part] = T.int64(-1)
                return ib.get()

        made: list[te.Tensor] = te.extern(
            [(wanted, 3), (count,), (1,), (1,)],
            [box, score],
            body,
            dtype=["int64", "int32", "int32", "int32"],
            name="non_max_suppression",
        )
        return made

    made = call.compute(suppress, boxes, scores, name="non_max_suppression")
    return call.emit(relax.TupleGetItem(made, 0))


def _covers(one: Sequence[Any], other: Sequence[Any], share: Any) -> Any:
    """Whether what two boxes have in common is more than a share of what they cover together."""
    inner = [
        tirx.min(one[2 * axis + 1], other[2 * axis + 1]) - tirx.max(one[2 * axis], other[2 * axis])
        for axis in (0, 1)
    ]
    areas = [(box[1] - box[0]) * (box[3] - box[2]) for box in (one, other)]
    common = inner[0] * inner[1]
    together = areas[0] + areas[1] - common
    good = [*(length > 0 for length in inner), *(area > 0 for area in areas), together > 0]
    return tirx.all(*good, common / together > share)


def _count(call: Call, axis: int) -> int:
    """How many the source has found."""
    spec = call.gives[0]
    if spec is None:  # of several outputs the first is left out
        raise ValueError("how many there are is not known")
    return spec.shape[axis]


def _places(call: Call, condition: Expr, count: int) -> tuple[Expr, Expr]:
    """Where a condition holds, flat, and whether it does in ``count`` places."""
    condition = call.emit(condition)
    size = math.prod(shape_of(condition))
    if not size or not count:  # there is nothing to be found, or nowhere to put it
        return call.emit(relax.op.zeros([count], "int32")), relax.const(not count, "bool")
    flat = call.emit(relax.op.reshape(cast(condition, "int32"), [size]))
    sums = call.emit(relax.op.cumsum(flat, 0, "int32"))

    def scatter(marks: te.Tensor, total: te.Tensor) -> te.Tensor:
        def body(ins: Any, outs: Any) -> Any:
            with IRBuilder() as ib:
                marks, total, out = (T.buffer_proxy(b) for b in (*ins, *outs))
                with T.seq_scope():
                    with T.serial(0, count) as k:
                        out[k] = T.int32(0)
                    with T.serial(0, size) as i:
                        with T.If(tirx.all(marks[i] > 0, total[i] <= count)):
                            with T.Then():
                                out[total[i] - 1] = tirx.Cast("int32", i)
                return ib.get()

        return te.extern([(count,)], [marks, total], body, dtype="int32", name="places")

    places = call.compute(scatter, flat, sums, name="places")
    last = call.emit(relax.op.max(sums))
    return places, call.emit(relax.op.equal(last, relax.const(count, "int32")))


def _taken(call: Call, x: Expr, places: Expr, axis: int) -> Expr:
    shape = shape_of(x)
    count = shape_of(places)[0]
    if not count or 0 in shape:
        return call.emit(relax.op.zeros([*shape[:axis], count, *shape[axis + 1 :]], dtype_of(x)))
    return call.emit(relax.op.take(x, places, axis))


def _marked(call: Call, result: Expr, right: Expr) -> Expr:
    """A result as it is, if as many were found as it has room for."""
    dtype = dtype_of(result)
    if dtype == "bool":
        return result
    least: Any = np.nan if "float" in dtype else np.iinfo(dtype).min if dtype != "int64" else -1
    wrong = relax.const(least, dtype)
    return call.emit(relax.op.where(right, result, wrong))


RULES: dict[str, Rule] = {
    "Compress": compress,
    "NonMaxSuppression": non_max_suppression,
    "NonZero": nonzero,
    "Unique": unique,
}
