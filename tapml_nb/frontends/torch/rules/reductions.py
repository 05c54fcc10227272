"""Reductions and running reductions along an axis."""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx, topi

from tapml_nb.frontends.torch.rules.call import (
    Call,
    Expr,
    Rule,
    axes_of,
    cast,
    constant,
    dtype_of,
    shape_of,
)


def amax(call: Call, x: Expr, dims: Any, keepdim: bool) -> Expr:
    return relax.op.max(x, axes_of(dims, len(shape_of(x))), keepdim)


def amin(call: Call, x: Expr, dims: Any, keepdim: bool) -> Expr:
    return relax.op.min(x, axes_of(dims, len(shape_of(x))), keepdim)


def min_dim(call: Call, x: Expr, dim: int, keepdim: bool) -> tuple[Expr, Expr]:
    return relax.op.min(x, dim, keepdim), relax.op.argmin(x, dim, keepdim)


def prod_dim(call: Call, x: Expr, dim: int, keepdim: bool, dtype: str | None) -> Expr:
    return relax.op.prod(cast(x, call.dtype), dim, keepdim)


def any_of_all(call: Call, x: Expr) -> Expr:
    if dtype_of(x) != "bool":
        x = call.emit(relax.op.not_equal(x, constant(0, x)))
    return relax.op.astype(relax.op.max(relax.op.astype(x, "int32")), "bool")


def var_mean(
    call: Call, x: Expr, dims: Any, correction: float | None, keepdim: bool
) -> tuple[Expr, Expr]:
    shape = shape_of(x)
    axes = axes_of(dims, len(shape))
    count = 1
    for axis in axes:
        count *= shape[axis]
    scale = count / (count - (1 if correction is None else correction))
    variance = relax.op.variance(x, axes, keepdim)
    return (
        relax.op.multiply(variance, constant(scale, x)),
        relax.op.mean(x, axes, keepdim),
    )


def cummax(call: Call, x: Expr, dim: int) -> tuple[Expr, Expr]:
    return _running_extreme(call, x, dim, tirx.max, "cummax")


def cummin(call: Call, x: Expr, dim: int) -> tuple[Expr, Expr]:
    return _running_extreme(call, x, dim, tirx.min, "cummin")


def _running_extreme(call: Call, x: Expr, dim: int, choose: Any, name: str) -> tuple[Expr, Expr]:
    """Where an element is the extreme so far, its index is; among equal ones the last, as in
    PyTorch."""
    axis = dim % len(shape_of(x))

    def marks(data: te.Tensor, best: te.Tensor) -> te.Tensor:
        def mark(*at: Any) -> Any:
            new = data(*at) == best(*at)
            return tirx.if_then_else(new, tirx.Cast("int64", at[axis]), tirx.const(0, "int64"))

        return te.compute(data.shape, mark)

    best = call.compute(_scan(choose, name, axis), x, name=name)
    indices = call.compute(marks, x, best, name=f"{name}_marks")
    return best, call.compute(_scan(tirx.max, name, axis), indices, name=f"{name}_indices")


def logcumsumexp(call: Call, x: Expr, dim: int) -> Expr:
    def add(a: Any, b: Any) -> Any:
        larger, smaller = tirx.max(a, b), tirx.min(a, b)
        return larger + tirx.log1p(tirx.exp(smaller - larger))

    wide = call.emit(cast(x, "float32" if dtype_of(x) != "float64" else "float64"))
    axis = dim % len(shape_of(x))
    return cast(
        call.compute(_scan(add, "logcumsumexp", axis), wide, name="logcumsumexp"), dtype_of(x)
    )


def _scan(combine: Any, name: str, axis: int) -> Any:
    """A function of a tensor: what ``combine`` makes of its elements so far along an axis."""

    def run(data: te.Tensor) -> te.Tensor:
        # The identity is read by exclusive scans alone.
        return topi.scan.scanop(data, combine, tirx.const(0, data.dtype), name, axis)

    return run


RULES: dict[str, Rule] = {
    "aten.amax.default": amax,
    "aten.amin.default": amin,
    "aten.min.dim": min_dim,
    "aten.prod.dim_int": prod_dim,
    "aten.any.default": any_of_all,
    "aten.var_mean.correction": var_mean,
    "aten.cummax.default": cummax,
    "aten.cummin.default": cummin,
    "aten.logcumsumexp.default": logcumsumexp,
}
