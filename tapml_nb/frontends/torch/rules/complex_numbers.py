"""Complex numbers, which Relax has no dtype for.

A complex tensor is a real one with a last axis of two, as ``torch.view_as_real`` shows it.  No
rule of TVM's knows that, so a call that has to do with complex numbers is converted here or not
at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import fx
from tvm import relax, te, tirx

from tapml_nb.frontends.torch.grouping import is_complex
from tapml_nb.frontends.torch.rules.call import (
    Call,
    Expr,
    Rule,
    axes_of,
    cast,
    constant,
    dtype_name,
    dtype_of,
    shape_of,
)

_BY_ROOT, _BY_SIZE = 1, 2
"""PyTorch's numbers of an FFT's normalizations: by the root of the size, by the size."""


def concerns_complex(node: fx.Node) -> bool:
    """Whether a call yields or reads a complex tensor."""
    return is_complex(node) or any(map(is_complex, node.all_input_nodes))


def same(call: Call, x: Expr, *_: Any) -> Expr:
    return x


def by_tvm(call: Call, *_: Any) -> Expr:
    """A call that says nothing of the axes behind those that it moves."""
    return call.by_tvm({})


def to_complex(call: Call, x: Expr, *_: Any) -> Expr:
    (given,) = call.node.all_input_nodes
    return cast(x, _dtype(call)) if is_complex(given) else _joined(call, _number(call, given, x))


def from_parts(call: Call, real: Expr, imaginary: Expr) -> Expr:
    return _joined(call, (real, imaginary))


def polar(call: Call, magnitude: Expr, angle: Expr) -> Expr:
    return _joined(call, _turned(call, magnitude, angle))


# -- element by element ---------------------------------------------------------------------------


def add(call: Call, a: Expr, b: Expr, alpha: Any = 1) -> Expr:
    return _added(call, a, b, alpha, relax.op.add)


def subtract(call: Call, a: Expr, b: Expr, alpha: Any = 1) -> Expr:
    return _added(call, a, b, alpha, relax.op.subtract)


def subtract_from(call: Call, a: Expr, b: Expr, alpha: Any = 1) -> Expr:
    x, y = _operands(call, a, b)
    if alpha != 1:
        raise ValueError("a factor")
    return _joined(call, _each(call, relax.op.subtract, y, x))


def multiply(call: Call, a: Expr, b: Expr) -> Expr:
    return _joined(call, _product(call, *_operands(call, a, b)))


def divide(call: Call, a: Expr, b: Expr) -> Expr:
    return _joined(call, _quotient(call, *_operands(call, a, b)))


def reciprocal(call: Call, z: Expr) -> Expr:
    one = relax.const(1.0, _dtype(call))
    return _joined(call, _quotient(call, (one, None), _parts(call, z)))


def negate(call: Call, z: Expr) -> Expr:
    return relax.op.negative(z)


def conjugate(call: Call, z: Expr) -> Expr:
    return relax.op.multiply(z, relax.const(np.array([1, -1], dtype_of(z)), dtype_of(z)))


def magnitude(call: Call, z: Expr) -> Expr:
    return _size(call, _parts(call, z))


def angle(call: Call, z: Expr) -> Expr:
    real, imaginary = _parts(call, z)
    return relax.op.atan2(imaginary, real)


def sign(call: Call, z: Expr) -> Expr:
    size = call.emit(relax.op.expand_dims(_size(call, _parts(call, z)), -1))
    zero = constant(0.0, z)
    nothing = call.emit(relax.op.equal(size, zero))
    safe = call.emit(relax.op.where(nothing, constant(1.0, z), size))
    return relax.op.divide(z, safe)


def exponential(call: Call, z: Expr) -> Expr:
    real, imaginary = _parts(call, z)
    return _joined(call, _turned(call, call.emit(relax.op.exp(real)), imaginary))


def logarithm(call: Call, z: Expr) -> Expr:
    real, imaginary = _parts(call, z)
    size = call.emit(_size(call, (real, imaginary)))
    return _joined(call, (relax.op.log(size), relax.op.atan2(imaginary, real)))


def power(call: Call, z: Expr, exponent: Any) -> Expr:
    if not isinstance(exponent, int | float) or exponent not in (1, 2, 3, 4):
        raise ValueError(f"the exponent {exponent}")
    parts = result = _parts(call, z)
    for _ in range(int(exponent) - 1):
        result = _product(call, result, parts)
    return _joined(call, result)


def equal(call: Call, a: Expr, b: Expr) -> Expr:
    return relax.op.equal(_size_of_difference(call, a, b), relax.const(0.0, _real_dtype(call)))


def differ(call: Call, a: Expr, b: Expr) -> Expr:
    return relax.op.not_equal(_size_of_difference(call, a, b), relax.const(0.0, _real_dtype(call)))


def choose(call: Call, condition: Expr, a: Expr, b: Expr) -> Expr:
    x, y = (_joined(call, parts) for parts in _operands(call, a, b, first=1))
    return relax.op.where(call.emit(relax.op.expand_dims(condition, -1)), x, y)


def filled(call: Call, z: Expr, value: Any, *_: Any) -> Expr:
    parts = np.array([complex(value).real, complex(value).imag], dtype_of(z))
    return relax.op.broadcast_to(relax.const(parts, dtype_of(z)), shape_of(z))


def scalar(call: Call, value: Any, *_: Any) -> Expr:
    return _joined(call, _number(call, None, value))


def full(call: Call, sizes: Sequence[int], value: Any, *_: Any) -> Expr:
    return relax.op.broadcast_to(scalar(call, value), [*sizes, 2])


def zeros(call: Call, z: Expr, *_: Any) -> Expr:
    return relax.op.zeros_like(z)


# -- sums -----------------------------------------------------------------------------------------


def total(
    call: Call, z: Expr, dims: Sequence[int] | None = None, keep: bool = False, *_: Any
) -> Expr:
    return relax.op.sum(z, axes_of(dims, _rank(z)), keep)


def mean(
    call: Call, z: Expr, dims: Sequence[int] | None = None, keep: bool = False, *_: Any
) -> Expr:
    return relax.op.mean(z, axes_of(dims, _rank(z)), keep)


def running_sum(call: Call, z: Expr, dim: int, *_: Any) -> Expr:
    return relax.op.cumsum(z, dim % _rank(z))


def matmul(call: Call, a: Expr, b: Expr) -> Expr:
    return _joined(call, _matmul(call, *_operands(call, a, b)))


def add_matmul(call: Call, c: Expr, a: Expr, b: Expr, beta: Any = 1, alpha: Any = 1) -> Expr:
    if (beta, alpha) != (1, 1):
        raise ValueError("factors")
    base, x, y = _operands(call, c, a, b)
    return _joined(call, _each(call, relax.op.add, base, _matmul(call, x, y)))


# -- layout ---------------------------------------------------------------------------------------


def reshape(call: Call, z: Expr, sizes: Sequence[int]) -> Expr:
    return relax.op.reshape(z, [*sizes, 2])


def permute(call: Call, z: Expr, dims: Sequence[int]) -> Expr:
    return relax.op.permute_dims(z, [*(dim % len(dims) for dim in dims), len(dims)])


def transpose(call: Call, z: Expr, one: int, other: int) -> Expr:
    order = list(range(_rank(z) + 1))
    one, other = one % _rank(z), other % _rank(z)
    order[one], order[other] = other, one
    return relax.op.permute_dims(z, order)


def unsqueeze(call: Call, z: Expr, dim: int) -> Expr:
    return relax.op.expand_dims(z, dim if dim >= 0 else dim - 1)


def squeeze(call: Call, z: Expr, dims: int | Sequence[int] | None = None) -> Expr:
    shape = shape_of(z)
    single = [dim for dim in axes_of(dims, _rank(z)) if shape[dim] == 1]
    return relax.op.squeeze(z, single) if single else z


def expand(call: Call, z: Expr, sizes: Sequence[int], *_: Any) -> Expr:
    have = [*[1] * (len(sizes) - _rank(z)), *shape_of(z)]
    full = [n if size == -1 else size for n, size in zip(have[:-1], sizes, strict=True)]
    return relax.op.broadcast_to(z, [*full, 2])


def repeat(call: Call, z: Expr, times: Sequence[int]) -> Expr:
    return relax.op.tile(z, [*times, 1])


def part(
    call: Call, z: Expr, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Expr:
    axis = dim % _rank(z)
    begin, stop, step = slice(start, end, step).indices(shape_of(z)[axis])
    return relax.op.strided_slice(z, [axis], [begin], [max(begin, stop)], [step])


def select(call: Call, z: Expr, dim: int, index: int) -> Expr:
    axis = dim % _rank(z)
    index %= shape_of(z)[axis]
    one = call.emit(relax.op.strided_slice(z, [axis], [index], [index + 1]))
    return relax.op.squeeze(one, [axis])


def take(call: Call, z: Expr, dim: int, index: Expr) -> Expr:
    return relax.op.take(z, index, dim % _rank(z))


def gather(call: Call, z: Expr, dim: int, index: Expr, *_: Any) -> Expr:
    sizes = [*shape_of(index), 2]
    both = call.emit(relax.op.broadcast_to(call.emit(relax.op.expand_dims(index, -1)), sizes))
    return relax.op.gather_elements(z, both, dim % _rank(z))


def concatenate(call: Call, parts: Sequence[Expr], dim: int = 0) -> Expr:
    given = call.node.args[0]
    both = [_joined(call, _number(call, n, x)) for n, x in zip(given, parts, strict=True)]  # type: ignore[arg-type]
    return relax.op.concat(both, dim % _rank(both[0]))


def split(call: Call, z: Expr, sizes: Sequence[int], dim: int = 0) -> tuple[Expr, ...]:
    ends = np.cumsum(sizes).tolist()
    return tuple(part(call, z, dim, end - size, end) for size, end in zip(sizes, ends, strict=True))


def flip(call: Call, z: Expr, dims: Sequence[int]) -> Expr:
    for dim in dims:
        z = call.emit(relax.op.flip(z, dim % _rank(z)))
    return z


def pad(call: Call, z: Expr, widths: Sequence[int], value: Any = 0) -> Expr:
    if value or min(widths, default=0) < 0:
        raise ValueError(f"{widths} of {value}")
    pairs = [(0, 0)] * (_rank(z) - len(widths) // 2)
    pairs += [(widths[k], widths[k + 1]) for k in range(len(widths) - 2, -1, -2)]
    return relax.op.nn.pad(z, [n for pair in [*pairs, (0, 0)] for n in pair])


# -- transforms -----------------------------------------------------------------------------------


def fft_complex(
    call: Call, z: Expr, dims: Sequence[int], normalization: int, forward: bool
) -> Expr:
    shape = shape_of(z)[:-1]
    for dim in dims:
        z = _transformed(call, z, dim % len(shape), forward=forward)
    return _normalized(z, math.prod(shape[dim] for dim in dims), normalization)


def fft_from_real(
    call: Call, x: Expr, dims: Sequence[int], normalization: int, onesided: bool
) -> Expr:
    shape = shape_of(x)
    z = _joined(call, (call.emit(cast(x, _dtype(call))), None))
    for dim in reversed(dims):
        axis = dim % len(shape)
        half = onesided and dim == dims[-1]
        z = _transformed(call, z, axis, count=shape[axis] // 2 + 1 if half else shape[axis])
    return _normalized(z, math.prod(shape[dim] for dim in dims), normalization)


def fft_to_real(
    call: Call, z: Expr, dims: Sequence[int], normalization: int, last_size: int
) -> Expr:
    """The last axis holds one half of a spectrum whose other half is its conjugate."""
    shape = shape_of(z)[:-1]
    *others, last = (dim % len(shape) for dim in dims)
    for axis in others:
        z = _transformed(call, z, axis, forward=False)
    size = last_size * math.prod(shape[axis] for axis in others)
    return _normalized(_real_part(call, z, last, last_size), size, normalization)


Parts = tuple[Expr, Expr | None]
"""Real and imaginary parts; None where there is nothing imaginary."""


def _real_dtype(call: Call) -> str:
    """The dtype of the parts of what a call reads."""
    dtypes = [node.meta["val"].dtype for node in call.node.all_input_nodes]
    wide = reduce(torch.promote_types, dtypes)
    return dtype_name(wide.to_real())


def _dtype(call: Call) -> str:
    """The dtype of the parts of a call's result."""
    dtype = call.node.meta["val"].dtype
    return dtype_name(dtype.to_real()) if dtype.is_complex else _real_dtype(call)


def _rank(z: Expr) -> int:
    return len(shape_of(z)) - 1


def _number(call: Call, given: Any, value: Any) -> Parts:
    """An argument, a tensor or a number, in the dtype of the result's parts."""
    dtype = _dtype(call)
    if not isinstance(value, relax.Expr):
        number = complex(value)
        imaginary = relax.const(number.imag, dtype) if number.imag else None
        return relax.const(number.real, dtype), imaginary
    value = call.emit(cast(value, dtype))
    return _parts(call, value) if is_complex(given) else (value, None)


def _operands(call: Call, *values: Any, first: int = 0) -> list[Parts]:
    """Arguments from the ``first`` on."""
    given = call.node.args[first:]
    return [_number(call, node, value) for node, value in zip(given, values, strict=False)]


def _parts(call: Call, z: Expr) -> tuple[Expr, Expr]:
    axis = len(shape_of(z)) - 1
    real, imaginary = (
        call.emit(relax.op.squeeze(relax.op.strided_slice(z, [axis], [k], [k + 1]), axis))
        for k in (0, 1)
    )
    return real, imaginary


def _joined(call: Call, parts: Parts) -> Expr:
    """Parts as a tensor with a last axis of two."""
    real = call.emit(parts[0])
    imaginary = call.emit(relax.op.zeros_like(real) if parts[1] is None else parts[1])
    shape = np.broadcast_shapes(shape_of(real), shape_of(imaginary))
    both = [
        part if tuple(shape_of(part)) == shape else relax.op.broadcast_to(part, shape)
        for part in (real, imaginary)
    ]

    return call.emit(relax.op.stack(both, -1))


def _each(call: Call, function: Callable[[Expr, Expr], Expr], a: Parts, b: Parts) -> Parts:
    """A sum or difference, part by part."""
    real = call.emit(function(a[0], b[0]))
    if a[1] is None and b[1] is None:
        return real, None
    nothing = constant(0.0, real)
    imaginary = function(nothing if a[1] is None else a[1], nothing if b[1] is None else b[1])
    return real, call.emit(imaginary)


def _added(
    call: Call, a: Expr, b: Expr, alpha: Any, function: Callable[[Expr, Expr], Expr]
) -> Expr:
    x, y = _operands(call, a, b)
    if alpha != 1:
        y = _product(call, _number(call, None, alpha), y)
    return _joined(call, _each(call, function, x, y))


def _bilinear(call: Call, function: Callable[[Expr, Expr], Expr], a: Parts, b: Parts) -> Parts:
    """A product of some kind, which is linear in either operand."""

    def of(x: Expr | None, y: Expr | None) -> Expr | None:
        return None if x is None or y is None else call.emit(function(x, y))

    def both(x: Expr | None, y: Expr | None, together: Callable[[Expr, Expr], Expr]) -> Expr | None:
        if x is None or y is None:
            return y if x is None else x
        return call.emit(together(x, y))

    (ar, ai), (br, bi) = a, b
    real = both(of(ar, br), of(ai, bi), relax.op.subtract)
    return real, both(of(ar, bi), of(ai, br), relax.op.add)


def _product(call: Call, a: Parts, b: Parts) -> Parts:
    return _bilinear(call, relax.op.multiply, a, b)


def _matmul(call: Call, a: Parts, b: Parts) -> Parts:
    return _bilinear(call, relax.op.matmul, a, b)


def _quotient(call: Call, a: Parts, b: Parts) -> Parts:
    """By a real number part by part; by a complex one scaled by its larger part, so that no square
    leaves the dtype's range."""

    def over(x: Expr | None, y: Expr) -> Expr | None:
        return None if x is None else call.emit(relax.op.divide(x, y))

    br, bi = b
    if bi is None:
        return over(a[0], br), over(a[1], br)
    scale = call.emit(relax.op.maximum(relax.op.abs(br), relax.op.abs(bi)))
    small: Parts = over(br, scale), over(bi, scale)
    power = _size_squared(call, small)
    turned = _product(call, a, (small[0], call.emit(relax.op.negative(small[1]))))
    whole = over(turned[0], power), over(turned[1], power)
    return over(whole[0], scale), over(whole[1], scale)


def _size_squared(call: Call, parts: Parts) -> Expr:
    squares = [call.emit(relax.op.multiply(x, x)) for x in parts if x is not None]
    return call.emit(reduce(relax.op.add, squares))


def _size(call: Call, parts: tuple[Expr, Expr]) -> Expr:
    """The magnitude: the larger part times what is between 1 and √2, so that no square leaves the
    dtype's range."""
    sizes = [call.emit(relax.op.abs(x)) for x in parts]
    large, small = (call.emit(f(*sizes)) for f in (relax.op.maximum, relax.op.minimum))
    zero = call.emit(relax.op.equal(large, constant(0.0, large)))
    ratio = relax.op.divide(small, relax.op.where(zero, constant(1.0, large), large))
    squared = call.emit(relax.op.multiply(call.emit(ratio), ratio))
    return relax.op.multiply(large, relax.op.sqrt(relax.op.add(squared, constant(1.0, large))))


def _size_of_difference(call: Call, a: Expr, b: Expr) -> Expr:
    """0 where two numbers are the same."""
    real, imaginary = _each(call, relax.op.subtract, *_operands(call, a, b))
    sizes = [relax.op.abs(part) for part in (real, imaginary) if part is not None]
    return call.emit(reduce(relax.op.add, sizes))


def _turned(call: Call, magnitude: Expr, angle: Expr) -> Parts:
    real, imaginary = (
        call.emit(relax.op.multiply(magnitude, f(angle))) for f in (relax.op.cos, relax.op.sin)
    )
    return real, imaginary


def _waves(size: int, dtype: str) -> tuple[Expr, Expr]:
    """Cosine and sine of every multiple of a circle's ``size``-th part, each rounded once."""
    turns = 2 * np.pi * np.arange(size) / size
    return relax.const(np.cos(turns), dtype), relax.const(np.sin(turns), dtype)


def _transformed(
    call: Call, z: Expr, axis: int, *, forward: bool = True, count: int | None = None
) -> Expr:
    """The first ``count`` terms of the discrete Fourier transform along an axis, by definition."""
    shape = shape_of(z)
    size = shape[axis]
    result = [*shape[:axis], size if count is None else count, *shape[axis + 1 :]]

    def transform(data: te.Tensor, cosine: te.Tensor, sine: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, size), "k")

        def term(*at: Any) -> Any:
            *place, part = at
            turn = tirx.indexmod(place[axis] * k, size)
            place[axis] = k
            sign = tirx.if_then_else(part == (0 if forward else 1), 1.0, -1.0)
            turned = data(*place, 1 - part) * sine(turn) * tirx.Cast(data.dtype, sign)
            return te.sum(data(*place, part) * cosine(turn) + turned, axis=k)

        return te.compute(result, term)

    return call.compute(transform, z, *_waves(size, dtype_of(z)), name="fourier")


def _real_part(call: Call, z: Expr, axis: int, size: int) -> Expr:
    """The real result of an inverse transform from half a spectrum."""
    shape = shape_of(z)[:-1]
    half = min(shape[axis], size // 2 + 1)
    result = [*shape[:axis], size, *shape[axis + 1 :]]

    def transform(data: te.Tensor, cosine: te.Tensor, sine: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, half), "k")

        def term(*at: Any) -> Any:
            place = list(at)
            turn = tirx.indexmod(place[axis] * k, size)
            place[axis] = k
            alone = tirx.any(k == 0, 2 * k == size)
            weight = tirx.Cast(data.dtype, tirx.if_then_else(alone, 1.0, 2.0))
            return te.sum(
                weight * (data(*place, 0) * cosine(turn) - data(*place, 1) * sine(turn)), axis=k
            )

        return te.compute(result, term)

    return call.compute(transform, z, *_waves(size, dtype_of(z)), name="fourier_real")


def _normalized(z: Expr, size: int, normalization: int) -> Expr:
    scale = {_BY_ROOT: 1 / math.sqrt(size), _BY_SIZE: 1 / size}.get(normalization)
    return z if scale is None else relax.op.multiply(z, constant(scale, z))


RULES: dict[str, Rule] = {
    "aten._to_copy.default": to_complex,
    "aten.view_as_complex.default": same,
    "aten.view_as_real.default": same,
    "aten.clone.default": same,
    "aten.alias.default": same,
    "aten.lift_fresh_copy.default": same,
    "aten.complex.default": from_parts,
    "aten.polar.default": polar,
    "aten.add.Tensor": add,
    "aten.add.Scalar": add,
    "aten.sub.Tensor": subtract,
    "aten.sub.Scalar": subtract,
    "aten.rsub.Scalar": subtract_from,
    "aten.mul.Tensor": multiply,
    "aten.mul.Scalar": multiply,
    "aten.div.Tensor": divide,
    "aten.div.Scalar": divide,
    "aten.reciprocal.default": reciprocal,
    "aten.neg.default": negate,
    "aten._conj.default": conjugate,
    "aten.conj_physical.default": conjugate,
    "aten._conj_physical.default": conjugate,
    "aten.abs.default": magnitude,
    "aten.angle.default": angle,
    "aten.sgn.default": sign,
    "aten.exp.default": exponential,
    "aten.log.default": logarithm,
    "aten.pow.Tensor_Scalar": power,
    "aten.eq.Tensor": equal,
    "aten.eq.Scalar": equal,
    "aten.ne.Tensor": differ,
    "aten.ne.Scalar": differ,
    "aten.where.self": choose,
    "aten.scalar_tensor.default": scalar,
    "aten.full.default": full,
    "aten.full_like.default": filled,
    "aten.zeros_like.default": zeros,
    "aten.sum.default": total,
    "aten.sum.dim_IntList": total,
    "aten.mean.default": mean,
    "aten.mean.dim": mean,
    "aten.cumsum.default": running_sum,
    "aten.mm.default": matmul,
    "aten.bmm.default": matmul,
    "aten.mv.default": matmul,
    "aten.dot.default": matmul,
    "aten.addmm.default": add_matmul,
    "aten.baddbmm.default": add_matmul,
    "aten.view.default": reshape,
    "aten.permute.default": permute,
    "aten.transpose.int": transpose,
    "aten.unsqueeze.default": unsqueeze,
    "aten.squeeze.default": squeeze,
    "aten.squeeze.dim": squeeze,
    "aten.squeeze.dims": squeeze,
    "aten.expand.default": expand,
    "aten.repeat.default": repeat,
    "aten.slice.Tensor": part,
    "aten.select.int": select,
    "aten.index_select.default": take,
    "aten.index.Tensor": by_tvm,
    "aten.gather.default": gather,
    "aten.cat.default": concatenate,
    "aten.split_with_sizes.default": split,
    "aten.flip.default": flip,
    "aten.constant_pad_nd.default": pad,
    "aten._fft_c2c.default": fft_complex,
    "aten._fft_r2c.default": fft_from_real,
    "aten._fft_c2r.default": fft_to_real,
}
