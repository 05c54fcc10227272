"""Named fixes for conversion rules of TVM 0.27's PyTorch importer that are wrong.

None is in force unless the user names it: what the importer produces is what is judged.  With a
fix in force one can look past a known fault, at what else is wrong; the report says which are in
force, and for which operators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from tvm import relax

from tapml_nb.frontends.torch.rules import resampling
from tapml_nb.frontends.torch.rules.along_axis import any_true
from tapml_nb.frontends.torch.rules.arithmetic import addmm, layer_norm, wide_product
from tapml_nb.frontends.torch.rules.call import (
    Call,
    Expr,
    Rule,
    cast,
    dtype_of,
    is_floating,
    shape_of,
)
from tapml_nb.frontends.torch.rules.indexing import index, index_put
from tapml_nb.frontends.torch.rules.operands import in_float32, in_floats


@dataclass(frozen=True)
class Workaround:
    """A fix for rules of the importer's.

    Attributes:
        name: what the user calls it.
        fault: what TVM does wrong, in a sentence.
        rules: the right rules by ATen overload; of several for one, the first that does not
            return ``NotImplemented`` is used.
    """

    name: str
    fault: str
    rules: Mapping[str, Rule]


def choose(names: Sequence[str]) -> tuple[Workaround, ...]:
    """The workarounds of these names.

    Raises:
        ValueError: if there is none of a name.
    """
    known = {workaround.name: workaround for workaround in WORKAROUNDS}
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if name not in known:
            raise ValueError(
                f"workarounds: there is none called {name!r}; choose from {', '.join(known)}"
            )
    return tuple(workaround for workaround in WORKAROUNDS if workaround.name in names)


def _select(call: Call, x: Expr, dim: int, at: int) -> Expr:
    if at >= 0:
        return NotImplemented
    return relax.op.take(x, relax.const(at + shape_of(x)[dim], "int64"), dim)


def _cumsum(call: Call, x: Expr, dim: int, dtype: str | None) -> Expr:
    if dtype_of(x) == call.dtype:
        return NotImplemented
    # Relax's cumsum can convert on its own, but does not compile for booleans.
    return relax.op.cumsum(call.promoted(x), dim)


def _of_booleans(
    function: Callable[..., Expr], call: Call, a: Expr, b: Expr, alpha: float = 1
) -> Expr:
    """A sum or a product of two truth values."""
    if call.dtype != "bool" or alpha != 1:
        return NotImplemented
    return function(call.promoted(a), call.promoted(b))


def _as_numbers(call: Call, *_: Any) -> Any:
    """TVM's own rule on integers in booleans' place."""
    booleans = {node: x for node, x in call.operands.items() if dtype_of(x) == "bool"}
    if not booleans:
        return NotImplemented
    result = call.by_tvm({node: call.emit(cast(x, "int32")) for node, x in booleans.items()})
    if len(call.values) == 1:
        return cast(call.emit(result), call.dtype)
    return call.narrowed(*(result[k] for k in range(len(call.values))))


def _scaled(
    combine: Callable[[Expr, Expr], Expr], call: Call, a: Any, b: Any, alpha: float
) -> Expr:
    if alpha == 1:
        return NotImplemented
    a, b = call.promoted(a), call.promoted(b)
    return combine(a, relax.op.multiply(b, relax.const(alpha, call.dtype)))


def _promoted(call: Call, *_: Any) -> Any:
    """TVM's own rule on operands of the dtype that PyTorch promotes them to."""
    operands = (call.importer.env[node] for node in call.node.all_input_nodes)
    dtypes = [dtype_of(operand) for operand in operands if isinstance(operand, relax.Expr)]
    if all(map(is_floating, dtypes)) or not is_floating(call.dtype):
        return NotImplemented
    return in_floats(call)


def _product(call: Call, a: Expr, b: Expr) -> Expr:
    return cast(wide_product(call, a, b), call.dtype)


def _narrow_only(rule: Rule, call: Call, *arguments: Any) -> Any:
    return rule(call, *arguments) if call.dtype != "float32" else NotImplemented


def _of_narrow(rule: Rule, call: Call, *arguments: Any) -> Any:
    """A rule for calls of which an operand is float16 or bfloat16."""
    tensors = (call.importer.env[node] for node in call.node.all_input_nodes)
    dtypes = {dtype_of(tensor) for tensor in tensors if isinstance(tensor, relax.Expr)}
    return rule(call, *arguments) if dtypes & {"float16", "bfloat16"} else NotImplemented


def _beside_number(call: Call, *arguments: Any) -> Any:
    """TVM's own rule in float32 where a number is none of the result's narrow dtype."""
    if call.dtype not in ("float16", "bfloat16"):
        return NotImplemented
    numbers = [number for number in arguments if isinstance(number, int | float)]
    exact = torch.tensor(numbers, dtype=torch.float64)
    rounded = exact.to(getattr(torch, call.dtype)).to(torch.float64)
    return NotImplemented if torch.equal(rounded, exact) else in_float32(call)


def _both(call: Call, a: Expr, b: Any) -> Expr:
    if call.dtype != "bool":
        return NotImplemented
    return relax.op.logical_and(call.promoted(a), call.promoted(b))


_TRIGONOMETRY = ("asin", "acos", "atan", "sinh", "cosh", "tan", "asinh", "acosh", "atanh")

WORKAROUNDS: tuple[Workaround, ...] = (
    Workaround(
        "negative_index",
        "select and index read out of bounds where an index is negative, and index takes the outer "
        "product of index tensors where some axes are not indexed",
        {"aten.select.int": _select, "aten.index.Tensor": index},
    ),
    Workaround(
        "index_put",
        "index_put writes to the wrong places where an axis between indexed ones, or two of one "
        "size before them, are not indexed, or an index is negative",
        {"aten.index_put.default": index_put},
    ),
    Workaround(
        "integer_cumsum",
        "cumsum of integers and booleans narrower than int64 keeps their dtype",
        {"aten.cumsum.default": _cumsum},
    ),
    Workaround(
        "alpha",
        "add and sub leave out alpha, the factor of their second operand",
        {
            "aten.add.Tensor": partial(_scaled, relax.op.add),
            "aten.sub.Tensor": partial(_scaled, relax.op.subtract),
        },
    ),
    Workaround(
        "integer_promotion",
        "true division and reciprocals of integers, and arithmetic of integers with floating-point "
        "numbers, yield integers; atan2 of integers does not compile",
        {
            f"aten.{name}": _promoted
            for name in (
                *("add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar"),
                *("mul.Tensor", "mul.Scalar", "div.Tensor", "div.Scalar", "pow.Scalar"),
                *("pow.Tensor_Scalar", "reciprocal.default", "atan2.default"),
            )
        },
    ),
    Workaround(
        "product_dtype",
        "matrix products, convolutions and batch normalizations yield float32 whatever their "
        "operands' dtype",
        {
            "aten.mm.default": partial(_narrow_only, _product),
            "aten.bmm.default": partial(_narrow_only, _product),
            "aten.matmul.default": partial(_narrow_only, _product),
            "aten.addmm.default": partial(_narrow_only, addmm),
            "aten.baddbmm.default": partial(_narrow_only, addmm),
            "aten.convolution.default": partial(_narrow_only, in_float32),
            "aten._native_batch_norm_legit_no_training.default": partial(_narrow_only, in_float32),
        },
    ),
    Workaround(
        "narrow_floats",
        "in bfloat16, normalizations, powers, selections by order and tests for NaN do not compile "
        "or crash, as inverse and hyperbolic functions do in float16, sums are kept narrow, and "
        "LLVM spends minutes on gelu in float16 for x86-64 without an mcpu",
        {"aten.native_layer_norm.default": partial(_of_narrow, layer_norm)}
        | {
            f"aten.{name}": partial(_of_narrow, in_float32)
            for name in (
                *("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar"),
                *("topk.default", "sort.default", "max.dim", "argmax.default", "argmin.default"),
                *("isnan.default", "isinf.default", "linalg_vector_norm.default", "gelu.default"),
                *(f"{name}.default" for name in _TRIGONOMETRY),
                *("sum.default", "sum.dim_IntList", "mean.default", "mean.dim"),
            )
        },
    ),
    Workaround(
        "narrow_numbers",
        "a number beside a tensor of bfloat16 or float16 is rounded to that dtype, as 0.1 is to "
        "0.10009765625: PyTorch computes in float32",
        {
            f"aten.{name}.{kind}": _beside_number
            for name in ("add", "sub", "mul", "div")
            for kind in ("Tensor", "Scalar")
        },
    ),
    Workaround(
        "resize",
        "interpolate takes a scale that is given for the ratio of the sizes, and leaves out "
        "antialiasing",
        {
            overload: rule
            for overload, rule in resampling.RULES.items()
            if overload.startswith(("aten.upsample", "aten._upsample"))
        },
    ),
    Workaround(
        "grid_sample",
        "grid_sample yields another shape, and samples other places",
        {"aten.grid_sampler_2d.default": resampling.RULES["aten.grid_sampler_2d.default"]},
    ),
    Workaround(
        "boolean_numbers",
        "sums, products and comparisons of booleans do not compile, which isfinite and isclose are "
        "made of, and sorting and their largest one crash",
        {
            "aten.add.Tensor": partial(_of_booleans, relax.op.logical_or),
            "aten.mul.Tensor": partial(_of_booleans, relax.op.logical_and),
            **{
                f"aten.{name}": _as_numbers
                for name in ("ne.Scalar", "eq.Scalar", "sort.default", "max.dim")
            },
        },
    ),
    Workaround(
        "any_dtype",
        "any along an axis yields its operand's dtype in place of bool",
        {"aten.any.dim": any_true, "aten.any.dims": any_true},
    ),
)
