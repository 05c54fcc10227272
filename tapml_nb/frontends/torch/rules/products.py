"""Matrix products, convolutions and distances."""

from __future__ import annotations

from typing import Any

import torch
from tvm import relax, te, tirx

from tapml_nb.frontends.torch.rules.call import Call, Expr, Rule, cast, constant, dtype_of, shape_of


def in_float32(call: Call, *_: Any) -> Expr:
    """TVM's own rule on operands widened to float32, its result narrowed again."""
    wide = {
        node: call.emit(relax.op.astype(call.importer.env[node], "float32"))
        for node in call.node.all_input_nodes
        if isinstance(node.meta.get("val"), torch.Tensor)
    }
    return cast(call.by_tvm(wide), call.dtype)


def wide_product(call: Call, a: Expr, b: Expr) -> Expr:
    """A matrix product, of narrow operands as it is summed up: in float32."""
    wide = "float32" if call.dtype in ("float16", "bfloat16") else call.dtype
    return call.emit(relax.op.matmul(a, b, out_dtype=wide))


def addmm(call: Call, bias: Expr, a: Expr, b: Expr, beta: float, alpha: float) -> Expr:
    product = wide_product(call, a, b)
    bias = call.emit(cast(bias, dtype_of(product)))
    if alpha != 1:
        product = relax.op.multiply(product, constant(alpha, product))
    if beta != 1:
        bias = relax.op.multiply(bias, constant(beta, bias))
    return cast(call.emit(relax.op.add(bias, product)), call.dtype)


def addbmm(call: Call, bias: Expr, a: Expr, b: Expr, beta: float, alpha: float) -> Expr:
    product = call.emit(relax.op.sum(relax.op.matmul(a, b), 0))
    return relax.op.add(
        relax.op.multiply(bias, constant(beta, product)),
        relax.op.multiply(product, constant(alpha, product)),
    )


def int_mm(call: Call, a: Expr, b: Expr) -> Expr:
    return relax.op.matmul(a, b, out_dtype="int32")


def grouped_mm(
    call: Call,
    x: Expr,
    weights: Expr,
    ends: Expr | None,
    bias: Expr | None = None,
    out_dtype: str | None = None,
) -> Expr:
    """Rows of ``x`` [rows, k] times a weight of [groups, k, n]: a row belongs to the first group
    that ends behind it; rows behind all groups are 0.

    Raises:
        ValueError: for layouts other than mixture-of-experts models use.
    """
    if bias is not None or ends is None or (len(shape_of(x)), len(shape_of(weights))) != (2, 3):
        raise ValueError("grouped_mm other than of [rows, k] by [groups, k, n] with offsets")
    (rows, depth), (groups, _, columns) = shape_of(x), shape_of(weights)

    def product(data: te.Tensor, weight: te.Tensor, end: te.Tensor) -> te.Tensor:
        g = te.reduce_axis((0, groups), "g")
        group = te.compute(
            [rows],
            lambda i: te.sum(tirx.Cast("int32", tirx.Cast("int32", end(g)) <= i), axis=g),
            "group",
        )
        k = te.reduce_axis((0, depth), "k")

        def element(i: Any, j: Any) -> Any:
            own = tirx.min(group(i), groups - 1)
            a, b = (tirx.Cast("float32", v) for v in (data(i, k), weight(own, k, j)))
            return te.sum(a * b, axis=k)

        dense = te.compute([rows, columns], element, "product")
        return te.compute(
            [rows, columns],
            lambda i, j: tirx.Cast(
                call.dtype, tirx.if_then_else(group(i) < groups, dense(i, j), 0.0)
            ),
        )

    return call.compute(product, x, weights, ends, name="grouped_mm")


def cdist(call: Call, a: Expr, b: Expr, p: float, *_: Any) -> Expr:
    difference = relax.op.subtract(relax.op.expand_dims(a, -2), relax.op.expand_dims(b, -3))
    return _norm(call, relax.op.abs(difference), p)


def dist(call: Call, a: Expr, b: Expr, p: float) -> Expr:
    difference = call.emit(relax.op.abs(relax.op.subtract(a, b)))
    return _norm(call, relax.op.reshape(difference, [-1]), p)


def _norm(call: Call, magnitude: Expr, p: float) -> Expr:
    """The p-norm along the last axis."""
    magnitude = call.emit(magnitude)
    if p == float("inf"):
        return relax.op.max(magnitude, -1)
    if p == 0:
        present = relax.op.not_equal(magnitude, constant(0, magnitude))
        return relax.op.sum(relax.op.astype(present, dtype_of(magnitude)), -1)
    if p == 1:
        return relax.op.sum(magnitude, -1)
    if p == 2:
        return relax.op.sqrt(relax.op.sum(relax.op.multiply(magnitude, magnitude), -1))
    powers = relax.op.sum(relax.op.power(magnitude, constant(p, magnitude)), -1)
    return relax.op.power(powers, constant(1 / p, magnitude))


RULES: dict[str, Rule] = {
    "aten.addmm.default": addmm,
    "aten.addmv.default": addmm,
    "aten.addbmm.default": addbmm,
    "aten._int_mm.default": int_mm,
    "aten._grouped_mm.default": grouped_mm,
    "transformers.grouped_mm_fallback.default": grouped_mm,
    "aten.convolution.default": in_float32,
    "aten._cdist_forward.default": cdist,
    "aten.dist.default": dist,
}
