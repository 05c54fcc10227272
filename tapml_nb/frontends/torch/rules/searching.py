"""Sorting, counting and searching."""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx, topi

from tapml_nb.frontends.torch.rules.call import Call, Expr, Rule, cast, constant, dtype_of, shape_of


def topk(call: Call, x: Expr, k: int, dim: int, largest: bool, in_order: bool) -> tuple[Expr, Expr]:
    """Sorted is one of the orders that an unsorted top-k may have."""
    both = call.emit(relax.op.topk(x, k, dim, "both", largest, "int64"))
    return relax.TupleGetItem(both, 0), relax.TupleGetItem(both, 1)


def sort_stable(
    call: Call, x: Expr, stable: bool | None, dim: int, descending: bool
) -> tuple[Expr, Expr]:
    indices = call.emit(relax.op.argsort(x, dim, descending, "int64"))
    return relax.op.gather_elements(x, indices, dim % len(shape_of(x))), indices


def kthvalue(call: Call, x: Expr, k: int, dim: int, keepdim: bool) -> tuple[Expr, Expr]:
    axis = dim % len(shape_of(x))
    both = call.emit(relax.op.topk(x, k, axis, "both", False, "int64"))

    def last(member: int) -> Expr:
        tensor = relax.op.strided_slice(relax.TupleGetItem(both, member), [axis], [k - 1], [k])
        return tensor if keepdim else relax.op.squeeze(tensor, axis)

    return last(0), last(1)


def searchsorted(
    call: Call,
    edges: Expr,
    x: Expr | float,
    int32: bool,
    right: bool,
    side: str | None,
    sorter: Expr | None,
) -> Expr:
    if sorter is not None:
        raise ValueError("searchsorted with a sorter")
    if not isinstance(x, relax.Expr):
        x = call.emit(relax.op.full([], constant(x, edges), dtype_of(edges)))
    right = right or side == "right"

    def search(sequence: te.Tensor, values: te.Tensor) -> te.Tensor:
        return topi.searchsorted(sequence, values, right, call.dtype)

    scalar = not shape_of(x)
    found = call.compute(
        search, edges, call.emit(relax.op.reshape(x, [1])) if scalar else x, name="searchsorted"
    )
    return relax.op.reshape(found, []) if scalar else found


def histc(call: Call, x: Expr, bins: int, low: float, high: float) -> Expr:
    """Bins of equal width, the last one closed; without bounds, those of the values."""
    values = call.emit(relax.op.reshape(cast(x, "float32"), [-1]))
    if low == high:
        bounds = [call.emit(relax.op.min(values)), call.emit(relax.op.max(values))]
    else:
        bounds = [call.emit(relax.op.full([], relax.const(b, "float32"))) for b in (low, high)]

    def count(data: te.Tensor, first: te.Tensor, last: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, data.shape[0]), "k")

        def inside(b: Any) -> Any:
            place = (data(k) - first()) * bins / (last() - first())
            slot = tirx.min(tirx.Cast("int32", place), bins - 1)
            hit = tirx.all(data(k) >= first(), data(k) <= last(), slot == b)
            return te.sum(tirx.if_then_else(hit, 1.0, 0.0), axis=k)

        return te.compute([bins], inside)

    return cast(call.compute(count, values, *bounds, name="histc"), dtype_of(x))


RULES: dict[str, Rule] = {
    "aten.topk.default": topk,
    "aten.sort.stable": sort_stable,
    "aten.kthvalue.default": kthvalue,
    "aten.searchsorted.Tensor": searchsorted,
    "aten.searchsorted.Scalar": searchsorted,
    "aten.histc.default": histc,
}
