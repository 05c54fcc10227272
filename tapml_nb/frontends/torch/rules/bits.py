"""Floating-point numbers by their bits: sign, exponent and neighbours (IEEE 754, §3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from tapml_nb.frontends.torch.rules.call import (
    Call,
    Expr,
    Rule,
    cast,
    dtype_of,
    is_floating,
)
from tapml_nb.frontends.torch.rules.operands import elementwise


@dataclass(frozen=True)
class _Format:
    """A binary format: the integers of its size, and the bits of its fraction and exponent."""

    integer: str
    fraction: int
    exponent: int

    def whole(self, number: int) -> Any:
        return tirx.const(number, self.integer)


_FORMATS = {
    "float16": _Format("int16", 10, 5),
    "bfloat16": _Format("int16", 7, 8),
    "float32": _Format("int32", 23, 8),
    "float64": _Format("int64", 52, 11),
}


def _bits(x: Any) -> Any:
    return tirx.reinterpret(_FORMATS[str(x.ty.dtype)].integer, x)


def _is_negative(x: Any) -> Any:
    """Whether the sign bit is set, as it is of -0 and of some NaN."""
    bits = _bits(x)
    return bits < tirx.const(0, str(bits.ty.dtype))


def _is_nan(x: Any) -> Any:
    kind = _FORMATS[str(x.ty.dtype)]
    infinity = ((1 << kind.exponent) - 1) << kind.fraction
    size = _bits(x) & kind.whole((1 << (kind.exponent + kind.fraction)) - 1)
    return size > kind.whole(infinity)


def signbit(call: Call, x: Expr) -> Expr:
    def negative(value: Any) -> Any:
        if is_floating(str(value.ty.dtype)):
            return _is_negative(value)
        return value < tirx.const(0, str(value.ty.dtype))

    return elementwise(call, negative, x, name="signbit")


def copysign(call: Call, x: Expr, sign: Expr | float) -> Expr:
    def signed(value: Any, other: Any) -> Any:
        size = tirx.abs(value)
        return tirx.Select(_is_negative(other), tirx.const(0, str(value.ty.dtype)) - size, size)

    return elementwise(call, signed, call.promoted(x), call.promoted(sign), name="copysign")


def frexp(call: Call, x: Expr) -> tuple[Expr, Expr]:
    """A mantissa between 1/2 and 1 and an exponent; 0, infinities and NaN have the exponent 0."""
    x = call.emit(cast(x, call.wide))
    dtype = dtype_of(x)
    kind = _FORMATS[dtype]
    highest = (1 << kind.exponent) - 1
    middle = highest // 2 - 1

    def parts(value: Any) -> tuple[Any, Any]:
        # A subnormal number becomes a normal one, exactly, by a power of two.
        small = tirx.abs(value) < tirx.const(2.0 ** (1 - highest // 2), dtype)
        scaled = tirx.Select(small, value * tirx.const(2.0**kind.fraction, dtype), value)
        bits = tirx.reinterpret(kind.integer, scaled)
        exponent = (bits >> kind.whole(kind.fraction)) & kind.whole(highest)
        plain = tirx.any(exponent == kind.whole(0), exponent == kind.whole(highest))
        mask = ~(highest << kind.fraction)
        bits = (bits & kind.whole(mask)) | kind.whole(middle << kind.fraction)
        mantissa = tirx.Select(plain, value, tirx.reinterpret(dtype, bits))
        shift = tirx.Select(small, kind.whole(middle + kind.fraction), kind.whole(middle))
        return mantissa, tirx.Cast("int32", tirx.Select(plain, kind.whole(0), exponent - shift))

    mantissa = elementwise(call, lambda value: parts(value)[0], x, name="mantissa")
    exponent = elementwise(call, lambda value: parts(value)[1], x, name="exponent")
    return call.narrowed(mantissa, exponent)


def nextafter(call: Call, x: Expr, towards: Expr) -> Expr:
    """The neighbour of a number: bits of numbers of one sign are in order as integers."""
    dtype = call.dtype
    kind = _FORMATS[dtype]

    def step(value: Any, goal: Any) -> Any:
        bits, zero, one = tirx.reinterpret(kind.integer, value), kind.whole(0), kind.whole(1)
        outwards = tirx.Select(value < goal, bits >= zero, bits < zero)
        moved = tirx.reinterpret(kind.integer, bits + tirx.Select(outwards, one, zero - one))
        least = kind.whole(1), kind.whole(-(1 << (kind.fraction + kind.exponent)) + 1)
        nothing = tirx.const(0, dtype)
        moved = tirx.Select(value == nothing, tirx.Select(goal > nothing, *least), moved)
        found = tirx.reinterpret(dtype, moved)
        found = tirx.Select(value == goal, goal, found)
        return tirx.Select(tirx.any(_is_nan(value), _is_nan(goal)), value + goal, found)

    return elementwise(call, step, call.promoted(x), call.promoted(towards), name="nextafter")


def hash_tensor(call: Call, x: Expr, dims: Any, keepdim: bool, mode: int) -> Expr:
    """The exclusive or of all elements, as 64-bit integers or the bits of float64.

    Raises:
        ValueError: for another mode than 0.
    """
    if mode:
        raise ValueError(f"hash_tensor in mode {mode}")
    rank = len(x.ty.shape)
    axes = sorted({dim % rank for dim in dims}) if dims and rank else list(range(rank))
    wide = call.emit(cast(x, "float64" if is_floating(dtype_of(x)) else "int64"))
    none = tirx.const(0, "int64")
    xor = te.comm_reducer(lambda a, b: a ^ b, lambda _: none, name="xor")
    shape = [1 if k in axes else n for k, n in enumerate(wide.ty.shape)]
    result = shape if keepdim else [n for k, n in enumerate(shape) if k not in axes]

    def combine(data: te.Tensor) -> te.Tensor:
        k = {axis: te.reduce_axis((0, data.shape[axis]), f"k{axis}") for axis in axes}

        def element(*at: Any) -> Any:
            kept = range(rank) if keepdim else [axis for axis in range(rank) if axis not in k]
            place = {**dict(zip(kept, at, strict=True)), **k}
            value = data(*(place[axis] for axis in range(rank)))
            bits = tirx.reinterpret("int64", value) if data.dtype == "float64" else value
            return xor(bits, axis=list(k.values())) if k else bits

        reduced = te.compute(result, element)
        return te.compute(result, lambda *at: tirx.reinterpret("uint64", reduced(*at)))

    return call.compute(combine, wide, name="hash_tensor")


def angle(call: Call, x: Expr) -> Expr:
    """π of negative real numbers, 0 of others."""
    x = call.promoted(x)

    def turn(value: Any) -> Any:
        dtype = str(value.ty.dtype)
        half = tirx.const(3.141592653589793, dtype)
        found = tirx.Select(value < tirx.const(0, dtype), half, tirx.const(0, dtype))
        return tirx.Select(_is_nan(value), value, found)

    return elementwise(call, turn, x, name="angle")


RULES: dict[str, Rule] = {
    "aten.signbit.default": signbit,
    "aten.copysign.Tensor": copysign,
    "aten.copysign.Scalar": copysign,
    "aten.frexp.Tensor": frexp,
    "aten.nextafter.default": nextafter,
    "aten.hash_tensor.default": hash_tensor,
    "aten.angle.default": angle,
}
