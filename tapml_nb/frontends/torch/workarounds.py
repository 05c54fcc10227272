"""Named fixes for conversion rules of TVM 0.27's PyTorch importer that are wrong.

None is in force unless the user names it: what the importer produces is what is judged.  With a
fix in force one can look past a known fault, at what else is wrong; the report says which are in
force, and for which operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import fx
from tvm import relax

from tapml_nb.frontends.torch.rules import pools, resampling
from tapml_nb.frontends.torch.rules.along_axis import any_true
from tapml_nb.frontends.torch.rules.arithmetic import (
    addmm,
    integer_power,
    layer_norm,
    standardized,
    wide_product,
)
from tapml_nb.frontends.torch.rules.call import (
    NARROW,
    Call,
    Expr,
    Rule,
    axes_of,
    cast,
    constant,
    dtype_name,
    dtype_of,
    is_floating,
    literal,
    shape_of,
)
from tapml_nb.frontends.torch.rules.indexing import RULES as INDEXING
from tapml_nb.frontends.torch.rules.indexing import index
from tapml_nb.frontends.torch.rules.operands import in_float32, in_floats, in_numbers


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


def _scaled(
    combine: Callable[[Expr, Expr], Expr], call: Call, a: Any, b: Any, alpha: float
) -> Expr:
    if alpha == 1:
        return NotImplemented
    a, b = call.number(a), call.number(b)
    return cast(call.emit(combine(a, relax.op.multiply(b, call.number(alpha)))), call.dtype)


def _promoted(call: Call, *_: Any) -> Any:
    """TVM's own rule on operands of the dtype that PyTorch promotes them to."""
    operands = (call.importer.env[node] for node in call.node.all_input_nodes)
    dtypes = [dtype_of(operand) for operand in operands if isinstance(operand, relax.Expr)]
    if all(map(is_floating, dtypes)) or not is_floating(call.dtype):
        return NotImplemented
    return in_floats(call)


def _compared(call: Call, *_: Any) -> Any:
    """TVM's own comparison of integers with floating-point numbers, as such."""
    given: list[Any] = [x.meta["val"] if isinstance(x, fx.Node) else x for x in call.node.args]
    dtype = dtype_name(torch.result_type(*given))
    integers = {n: t for n, t in call.operands.items() if not is_floating(dtype_of(t))}
    if not integers or not is_floating(dtype):
        return NotImplemented
    return call.by_tvm({node: call.emit(cast(t, dtype)) for node, t in integers.items()})


def _power(call: Call, base: Any, exponent: Any) -> Any:
    return NotImplemented if is_floating(call.dtype) else integer_power(call, base, exponent)


def _of_booleans(call: Call, *_: Any) -> Any:
    operands = (tensor for node, tensor in call.operands.items() if node in call.node.args)
    if all(dtype_of(tensor) != "bool" for tensor in operands):
        return NotImplemented
    return in_numbers(call)


def _along_an_axis(call: Call, x: Expr, *arguments: Any) -> Any:
    """Of a number TVM's rule raises, and ours stands in."""
    return _of_booleans(call) if shape_of(x) else NotImplemented


def _running_over_number(call: Call, x: Expr, *_: Any) -> Expr:
    """The only element itself."""
    return NotImplemented if shape_of(x) else cast(x, call.dtype)


def _bucketize(call: Call, x: Expr, *_: Any) -> Expr:
    if 0 not in shape_of(x):
        return NotImplemented
    return literal(np.zeros(shape_of(x)), call.dtype)


def _variance_of_nothing(call: Call, x: Expr, *_: Any) -> Expr:
    if 0 not in shape_of(x):
        return NotImplemented
    return cast(call.emit(literal(np.full(call.values[0].shape, math.nan), "float32")), call.dtype)


def _elu(call: Call, x: Expr, alpha: float, scale: float, input_scale: float) -> Expr:
    if scale == input_scale == 1:
        return NotImplemented
    wide = call.emit(cast(x, call.wide))
    above = relax.op.multiply(wide, constant(scale, wide))
    power = relax.op.exp(relax.op.multiply(wide, constant(input_scale, wide)))
    below = relax.op.multiply(
        relax.op.subtract(power, constant(1, wide)), constant(alpha * scale, wide)
    )
    positive = relax.op.greater(wide, constant(0, wide))
    return cast(call.emit(relax.op.where(positive, above, below)), call.dtype)


def _product(call: Call, a: Expr, b: Expr) -> Expr:
    return cast(wide_product(call, a, b), call.dtype)


def _narrow_only(rule: Rule, call: Call, *arguments: Any) -> Any:
    return rule(call, *arguments) if call.dtype != "float32" else NotImplemented


def _of_narrow(rule: Rule, call: Call, *arguments: Any) -> Any:
    """A rule for calls of which an operand is float16 or bfloat16."""
    tensors = (call.importer.env[node] for node in call.node.all_input_nodes)
    dtypes = {dtype_of(tensor) for tensor in tensors if isinstance(tensor, relax.Expr)}
    return rule(call, *arguments) if dtypes & set(NARROW) else NotImplemented


def _reduced(function: Callable[..., Expr], call: Call, x: Expr, dtype: str | None) -> Expr:
    return _reduced_along(function, call, x, None, False, dtype)


def _reduced_along(
    function: Callable[..., Expr], call: Call, x: Expr, dims: Any, keepdim: bool, dtype: str | None
) -> Expr:
    """A sum in float32 also where the narrow dtype is asked for: it is the result's alone."""
    if not {dtype_of(x), call.dtype} & set(NARROW):
        return NotImplemented
    wide = call.emit(cast(x, "float32"))
    if len(x.ty.shape):
        wide = call.emit(function(wide, axes_of(dims, len(x.ty.shape)), keepdim))
    return cast(wide, call.dtype)


def _batch_norm(
    call: Call,
    x: Expr,
    weight: Expr | None,
    bias: Expr | None,
    mean: Expr,
    variance: Expr,
    training: bool,
    momentum: float,
    epsilon: float,
) -> Any:
    """Normalized by the batch's own mean and deviation, which count towards the running ones."""
    if not training:
        return NotImplemented
    normalized, own, inverse, spread = _of_batch(call, x, weight, bias, epsilon)
    shape = shape_of(x)
    count = math.prod(shape) // shape[1]
    scale = relax.const(count / max(1, count - 1), dtype_of(spread))
    unbiased = call.emit(relax.op.multiply(spread, scale))
    return call.narrowed(
        *(normalized, own, inverse),
        _moved(call, mean, own, momentum),
        _moved(call, variance, unbiased, momentum),
    )


def _of_batch(
    call: Call, x: Expr, weight: Expr | None, bias: Expr | None, epsilon: float
) -> tuple[Expr, Expr, Expr, Expr]:
    """A batch normalized channel by channel, their means, 1/deviations and variances."""
    rank = len(shape_of(x))
    axes = [axis for axis in range(rank) if axis != 1]
    wide = call.emit(cast(x, "float32")) if dtype_of(x) in NARROW else x
    centred, mean, inverse = standardized(call, wide, axes, epsilon)
    result = call.emit(relax.op.multiply(centred, inverse))
    for factor, combine in ((weight, relax.op.multiply), (bias, relax.op.add)):
        if factor is not None:
            factor = relax.op.reshape(factor, [shape_of(x)[1], *[1] * (rank - 2)])
            factor = cast(call.emit(factor), dtype_of(wide))
            result = call.emit(combine(result, factor))
    variance = relax.op.mean(call.emit(relax.op.multiply(centred, centred)), axes)
    channels = [shape_of(x)[1]]
    return (
        result,
        call.emit(relax.op.reshape(mean, channels)),
        call.emit(relax.op.reshape(inverse, channels)),
        call.emit(variance),
    )


def _moved(call: Call, running: Expr, own: Expr, momentum: float) -> Expr:
    """A running number, on its way to the batch's own."""
    dtype = dtype_of(own)
    kept = relax.op.multiply(cast(running, dtype), relax.const(1 - momentum, dtype))
    return relax.op.add(kept, relax.op.multiply(own, relax.const(momentum, dtype)))


def _batch_norm_alone(
    call: Call, x: Expr, weight: Expr | None, bias: Expr | None, _: bool, __: float, epsilon: float
) -> tuple[Expr, ...]:
    return call.narrowed(*_of_batch(call, x, weight, bias, epsilon)[:3])


def _located(call: Call, *arguments: Any) -> Any:
    """Pools of which somebody reads where the largest elements are."""
    read = {user.args[1] for user in call.node.users}
    return pools.RULES[str(call.node.target)](call, *arguments) if 1 in read else NotImplemented


def _beside_number(call: Call, *arguments: Any) -> Any:
    """TVM's own rule in float32 where a number is none of the result's narrow dtype."""
    if call.dtype not in NARROW:
        return NotImplemented
    numbers = [number for number in arguments if isinstance(number, int | float)]
    exact = torch.tensor(numbers, dtype=torch.float64)
    rounded = exact.to(getattr(torch, call.dtype)).to(torch.float64)
    return NotImplemented if torch.equal(rounded, exact) else in_float32(call)


_COMPARISONS = tuple(
    f"{name}.{kind}"
    for name in ("eq", "ne", "lt", "le", "gt", "ge")
    for kind in ("Tensor", "Scalar")
)
_TRIGONOMETRY = ("asin", "acos", "atan", "sinh", "cosh", "tan", "asinh", "acosh", "atanh", "atan2")

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
        {"aten.index_put.default": INDEXING["aten.index_put.default"]},
    ),
    Workaround(
        "degenerate_shapes",
        "cumsum and cumprod of a tensor without dimensions, and bucketize and var of one without "
        "elements, do not compile",
        {
            "aten.var.correction": _variance_of_nothing,
            "aten.cumsum.default": _running_over_number,
            "aten.cumprod.default": _running_over_number,
            "aten.bucketize.Tensor": _bucketize,
        },
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
        "numbers, yield integers, which are compared with fractions as with integers; atan2 of "
        "integers does not compile",
        {
            f"aten.{name}": _promoted
            for name in (
                *("add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar"),
                *("mul.Tensor", "mul.Scalar", "div.Tensor", "div.Scalar", "pow.Scalar"),
                *("pow.Tensor_Scalar"),
                *("reciprocal.default", "atan2.default"),
            )
        }
        | {f"aten.{name}": _compared for name in _COMPARISONS},
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
        "batch_statistics",
        "batch normalization by the batch's own mean and deviation yields zeros, or its result "
        "once more, in their place, and does not compile in bfloat16",
        {
            "aten._native_batch_norm_legit_functional.default": _batch_norm,
            "aten._native_batch_norm_legit.no_stats": _batch_norm_alone,
        },
    ),
    Workaround(
        "narrow_floats",
        "in bfloat16, normalizations, powers, selections by order and tests for NaN do not compile "
        "or crash, as inverse and hyperbolic functions do in float16, sums and variances are kept "
        "narrow, and "
        "LLVM spends minutes on gelu in float16 for x86-64 without an mcpu",
        {"aten.native_layer_norm.default": partial(_of_narrow, layer_norm)}
        | {
            f"aten.{name}": partial(_of_narrow, in_float32)
            for name in (
                *("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar"),
                *("topk.default", "sort.default", "argsort.default", "max.dim"),
                *("argmax.default", "argmin.default", "fmod.Tensor", "fmod.Scalar"),
                *("logaddexp.default", "var.correction", "_softmax.default"),
                *("isnan.default", "isinf.default", "linalg_vector_norm.default", "gelu.default"),
                *(f"{name}.default" for name in _TRIGONOMETRY),
            )
        }
        | {
            "aten.sum.default": partial(_reduced, relax.op.sum),
            "aten.sum.dim_IntList": partial(_reduced_along, relax.op.sum),
            "aten.mean.default": partial(_reduced, relax.op.mean),
            "aten.mean.dim": partial(_reduced_along, relax.op.mean),
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
        }
        | {"aten.leaky_relu.default": _beside_number},
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
        "any_dtype",
        "any along an axis yields its operand's dtype in place of bool",
        {"aten.any.dim": any_true, "aten.any.dims": any_true},
    ),
    Workaround(
        "elu",
        "elu leaves out its factors scale and input_scale, and thus selu is wrong",
        {"aten.elu.default": _elu},
    ),
    Workaround(
        "pool_indices",
        "max_pool yields zeros in place of where the largest elements are",
        {
            "aten.max_pool2d_with_indices.default": _located,
            "aten.max_pool3d_with_indices.default": _located,
        },
    ),
    Workaround(
        "integer_power",
        "powers of integers by integers do not compile",
        {"aten.pow.Tensor_Tensor": _power, "aten.pow.Scalar": _power},
    ),
    Workaround(
        "booleans",
        "sums, products, comparisons and extremes of booleans do not compile, and sorting them "
        "crashes",
        {
            f"aten.{name}": _of_booleans
            for name in (
                *("add.Tensor", "add.Scalar", "mul.Tensor", "mul.Scalar", "pow.Tensor_Scalar"),
                *_COMPARISONS,
                *("maximum.default", "minimum.default", "max.other", "min.other"),
                *("max.default", "min.default", "sign.default", "isnan.default", "isinf.default"),
            )
        }
        | {
            f"aten.{name}": _along_an_axis
            for name in (
                *("max.dim", "argmax.default", "argmin.default"),
                *("sort.default", "argsort.default", "topk.default"),
            )
        },
    ),
)
