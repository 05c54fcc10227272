"""Complex numbers within an operator, which Relax has no dtype for.

A complex tensor is a real one with a last axis of two, as ``torch.view_as_real`` shows it.  No
rule of TVM's knows that, so a call that has to do with complex numbers is converted here or not
at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import fx
from tvm import relax, te, tirx

from tapml_nb.frontends.torch.grouping import is_complex
from tapml_nb.frontends.torch.rules.call import Call, Expr, Rule, cast, constant, dtype_of, shape_of

_BY_ROOT, _BY_SIZE = 1, 2
"""PyTorch's numbers of an FFT's normalizations: by the root of the size, by the size."""


def concerns_complex(node: fx.Node) -> bool:
    """Whether a call yields or reads a complex tensor."""
    return is_complex(node) or any(map(is_complex, node.all_input_nodes))


def same(call: Call, x: Expr, *_: Any) -> Expr:
    return x


def to_complex(call: Call, x: Expr, *_: Any) -> Expr:
    return _pairs(call, x) if not is_complex(call.node.all_input_nodes[0]) else x


def from_parts(call: Call, real: Expr, imaginary: Expr) -> Expr:
    return relax.op.stack([real, imaginary], -1)


def polar(call: Call, magnitude: Expr, angle: Expr) -> Expr:
    parts = [relax.op.multiply(magnitude, f(angle)) for f in (relax.op.cos, relax.op.sin)]
    return relax.op.stack(parts, -1)


def multiply(call: Call, a: Expr, b: Expr) -> Expr:
    (a, a_complex), (b, b_complex) = _operands(call, a, b)
    if not (a_complex and b_complex):
        return relax.op.multiply(a, b)
    (ar, ai), (br, bi) = _parts(call, a), _parts(call, b)
    product, minus, plus = relax.op.multiply, relax.op.subtract, relax.op.add
    return relax.op.stack(
        [minus(product(ar, br), product(ai, bi)), plus(product(ar, bi), product(ai, br))], -1
    )


def conjugate(call: Call, z: Expr) -> Expr:
    return relax.op.multiply(z, relax.const(np.array([1, -1], dtype_of(z)), dtype_of(z)))


def magnitude(call: Call, z: Expr) -> Expr:
    return relax.op.sqrt(relax.op.sum(relax.op.multiply(z, z), -1))


def angle(call: Call, z: Expr) -> Expr:
    real, imaginary = _parts(call, z)
    return relax.op.atan2(imaginary, real)


def reshape(call: Call, z: Expr, sizes: Sequence[int]) -> Expr:
    return relax.op.reshape(z, [*sizes, 2])


def permute(call: Call, z: Expr, dims: Sequence[int]) -> Expr:
    return relax.op.permute_dims(z, [*(dim % len(dims) for dim in dims), len(dims)])


def unsqueeze(call: Call, z: Expr, dim: int) -> Expr:
    return relax.op.expand_dims(z, dim if dim >= 0 else dim - 1)


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
    z = _pairs(call, x)
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


def _operands(call: Call, *values: Any) -> list[tuple[Any, bool]]:
    """Operands of an element-wise call with whether each is complex; real tensors get the axis."""
    found: list[tuple[Any, bool]] = []
    for given, value in zip(call.node.args, values, strict=False):
        if not isinstance(value, relax.Expr):
            other = next(v for v in values if isinstance(v, relax.Expr))
            if isinstance(value, complex):
                raise ValueError("a complex number as argument")
            found.append((constant(value, other), False))
        elif is_complex(given):  # type: ignore[arg-type]
            found.append((value, True))
        else:
            found.append((relax.op.expand_dims(value, -1), False))
    return found


def _pairs(call: Call, x: Expr) -> Expr:
    """A real tensor as a complex one."""
    wide = call.emit(cast(x, "float64" if dtype_of(x) == "float64" else "float32"))
    return call.emit(relax.op.stack([wide, relax.op.zeros_like(wide)], -1))


def _parts(call: Call, z: Expr) -> list[Expr]:
    axis = len(shape_of(z)) - 1
    return [
        call.emit(relax.op.squeeze(relax.op.strided_slice(z, [axis], [k], [k + 1]), axis))
        for k in (0, 1)
    ]


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
    "aten.complex.default": from_parts,
    "aten.polar.default": polar,
    "aten.mul.Tensor": multiply,
    "aten._conj.default": conjugate,
    "aten.conj_physical.default": conjugate,
    "aten.abs.default": magnitude,
    "aten.angle.default": angle,
    "aten.view.default": reshape,
    "aten.permute.default": permute,
    "aten.unsqueeze.default": unsqueeze,
    "aten._fft_c2c.default": fft_complex,
    "aten._fft_r2c.default": fft_from_real,
    "aten._fft_c2r.default": fft_to_real,
}
