"""Conversions from and to numbers of eight bits and fewer, and what is quantized to them.

Floating-point numbers are taken apart and put together as bits: by integers alone, so that every
target gives the same code (ONNX, *Float stored in 8 bits*, and the table of ``Cast``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from tapml_nb.frontends.onnx.carriers import CODES, INTEGERS
from tapml_nb.frontends.onnx.rules.call import Call, Expr, Rule, cast, dtype_of, shape_of

_FLOATS = ("float32", "float16", "bfloat16")
_SMALL = (*_FLOATS, "int8", "uint8", "int16", "uint16", "bool", *INTEGERS)
"""Dtypes whose every number is one of float32's."""

_RANGES = {
    **{f"int{n}": (-(1 << n - 1), (1 << n - 1) - 1) for n in (2, 4, 8, 16)},
    **{f"uint{n}": (0, (1 << n) - 1) for n in (2, 4, 8, 16)},
}


@dataclass(frozen=True)
class _Format:
    """A floating-point format with a sign.

    Attributes:
        fraction: bits behind the point.
        bias: of the exponent.
        sign: the sign's bit.
        most: the code of the largest number.
        infinity: the code of infinity, or of what is too large; None where there is neither.
        nan: the code of NaN; it has no sign where the format has but one zero.
    """

    fraction: int
    bias: int
    sign: int
    most: int
    infinity: int | None
    nan: int

    @property
    def one_zero(self) -> bool:
        return self.nan == self.sign and self.infinity is not None


_FORMATS = {
    "float8_e4m3fn": _Format(3, 7, 0x80, 0x7E, 0x7F, 0x7F),
    "float8_e5m2": _Format(2, 15, 0x80, 0x7B, 0x7C, 0x7E),
    "float8_e4m3fnuz": _Format(3, 8, 0x80, 0x7F, 0x80, 0x80),
    "float8_e5m2fnuz": _Format(2, 16, 0x80, 0x7F, 0x80, 0x80),
    "float4_e2m1fn": _Format(1, 1, 0x8, 0x7, None, 0x8),  # NaN becomes -0
}
_POWERS = "float8_e8m0fnu"
"""Powers of two, without a sign."""


def convert(call: Call, x: Expr, like: Expr | None = None) -> Expr:
    """A tensor in another dtype.  What is too large becomes the largest number, or if the node does
    not saturate infinity or NaN; integers keep their low bits.  The standard does not say how
    numbers with a fraction become integers of few bits: as in onnxruntime they are rounded, halves
    away from 0.

    Raises:
        ValueError: if neither dtype is a narrow one, numbers would be rounded twice, or sources
            differ in what is right.
    """
    before, after = _dtypes(call)
    if not {before, after} & {*_FORMATS, _POWERS, *INTEGERS}:
        raise ValueError(f"{before} as {after}")
    return _narrowed(call, _widened(call, x, before, after), before, after)


def quantize(call: Call, x: Expr, scale: Expr, zero: Expr | None = None) -> Expr:
    """``x / scale``, rounded to the nearest even integer and moved by the zero point, or as a
    floating-point number of eight bits or fewer.

    Raises:
        ValueError: if ``x`` is none of float32's numbers.
    """
    before, after = _dtypes(call)
    if before not in _FLOATS:
        raise ValueError(f"quantization of {before}")
    told, shape = call.attributes, shape_of(x)
    x, scale = (call.emit(cast(tensor, "float32")) for tensor in (x, scale))
    share = _spread(told, scale, shape)

    def divide(data: te.Tensor, by: te.Tensor) -> te.Tensor:
        return te.compute(shape, lambda *at: data(*at) / by(*share(at)), "scaled")

    scaled = call.compute(divide, x, scale, name="quantize")
    steps = scaled if after in _FORMATS else call.emit(relax.op.round(scaled))
    if zero is not None and not after.startswith("float8"):
        wide = call.emit(cast(_widened(call, zero, after, "float32"), "float32"))
        place = _spread(told, wide, shape)

        def move(data: te.Tensor, by: te.Tensor) -> te.Tensor:
            return te.compute(shape, lambda *at: data(*at) + by(*place(at)), "moved")

        steps = call.compute(move, steps, wide, name="quantize_move")
    if after in _FORMATS:
        return _narrowed(call, steps, "float32", after)
    low, high = _RANGES[after]
    clipped = call.emit(relax.op.clip(steps, low, high))
    return relax.op.astype(clipped, INTEGERS.get(after, after))


def dequantize(call: Call, x: Expr, scale: Expr, zero: Expr | None = None) -> Expr:
    """``(x - zero) * scale``, in float32; zero points of floating-point numbers are 0."""
    before, after = _dtypes(call)
    told, shape = call.attributes, shape_of(x)
    wide = "float64" if after == "float64" else "float32"
    value = call.emit(cast(_widened(call, x, before, wide), wide))
    factor = call.emit(cast(scale, wide))
    share = _spread(told, factor, shape)
    moved = []
    if zero is not None and before not in _FORMATS:
        moved = [call.emit(relax.op.astype(zero, wide))]

    def scaled(data: te.Tensor, by: te.Tensor, *less: te.Tensor) -> te.Tensor:
        place = [_spread(told, one, shape) for one in moved]

        def element(*at: Any) -> Any:
            own = data(*at)
            for tensor, index in zip(less, place, strict=True):
                own = own - tensor(*index(at))
            return own * by(*share(at))

        return te.compute(shape, element, "dequantized")

    return cast(call.compute(scaled, value, factor, *moved, name="dequantize"), after)


def _dtypes(call: Call) -> tuple[str, str]:
    """What the node reads, and what it yields."""
    before, after = call.takes[0], call.gives[0]
    assert before is not None
    assert after is not None
    return before.dtype, after.dtype


def _spread(told: Any, by: Expr, shape: list[int]) -> Callable[[Any], list[Any]]:
    """Where a scale or zero point is for an element: one for all, for an index of an axis, or for a
    block of them."""
    sizes = shape_of(by)
    if all(size == 1 for size in sizes):
        return lambda at: [0] * len(sizes)
    axis = told.get("axis", 1) % len(shape)
    if block := told.get("block_size"):
        return lambda at: [*at[:axis], tirx.floordiv(at[axis], block), *at[axis + 1 :]]
    if len(sizes) != 1:
        raise ValueError(f"scales of {len(sizes)} axes without blocks")
    return lambda at: [at[axis]]


def _widened(call: Call, x: Expr, before: str, after: str) -> Expr:
    """A tensor as its numbers: of a narrow floating-point format in float32."""
    if before not in (*_FORMATS, _POWERS):
        return x
    number = _power if before == _POWERS else _number

    def decode(data: te.Tensor) -> te.Tensor:
        def element(*at: Any) -> Any:
            code = data(*at) if before in CODES else tirx.reinterpret("uint8", data(*at))
            return number(tirx.Cast("uint32", code), _FORMATS.get(before))

        return te.compute(data.shape, element, "numbers")

    return call.compute(decode, x, name="decode")


def _narrowed(call: Call, x: Expr, before: str, after: str) -> Expr:
    """Numbers in the dtype of a node's result."""
    if after in INTEGERS:
        whole = _whole(call, x) if "float" in dtype_of(x) else call.emit(cast(x, "int32"))
        low, high = _RANGES[after]
        width = relax.const(high - low, "int32")
        bits = call.emit(relax.op.bitwise_and(whole, width))
        if low:
            sign = relax.const(-low, "int32")
            flipped = call.emit(relax.op.bitwise_xor(bits, sign))
            bits = call.emit(relax.op.subtract(flipped, sign))
        return relax.op.astype(bits, INTEGERS[after])
    if after not in (*_FORMATS, _POWERS):
        return cast(x, after)
    if before not in (*_SMALL, *_FORMATS, _POWERS):
        raise ValueError(f"{before} to {after}, by way of float32, would be rounded twice")
    told = call.attributes
    saturates = bool(told.get("saturate", 1))
    if not saturates and after in ("float8_e4m3fn", "float8_e5m2", _POWERS):
        raise ValueError(f"numbers beyond {after} that do not become its largest one")
    single = call.emit(cast(x, "float32"))

    def encode(data: te.Tensor) -> te.Tensor:
        def element(*at: Any) -> Any:
            bits = tirx.reinterpret("uint32", data(*at))
            if after == _POWERS:
                code = _power_code(bits, told.get("round_mode", "up"))
            else:
                code = _code(bits, _FORMATS[after], saturates)
            code = tirx.Cast("uint8", code)
            return code if after in CODES else tirx.reinterpret(after, code)

        return te.compute(data.shape, element, "codes")

    return call.compute(encode, single, name="encode")


def _whole(call: Call, x: Expr) -> Expr:
    """The nearest integers, halves away from 0."""

    def nearest(data: te.Tensor) -> te.Tensor:
        def element(*at: Any) -> Any:
            own, zero = data(*at), tirx.const(0.0, "float32")
            size = tirx.Select(own < zero, -own, own)
            below = tirx.floor(size)
            up = size - below >= tirx.const(0.5, "float32")
            whole = tirx.Cast("int32", below) + tirx.Cast("int32", up)
            return tirx.Select(own < zero, -whole, whole)

        return te.compute(data.shape, element, "nearest")

    return call.compute(nearest, call.emit(cast(x, "float32")), name="nearest")


def _u(value: int) -> Any:
    return tirx.const(value, "uint32")


def _number(code: Any, form: _Format | None) -> Any:
    """What a code stands for, in float32."""
    assert form is not None
    size = tirx.bitwise_and(code, _u(form.sign - 1))
    exponent = tirx.shift_right(size, _u(form.fraction))
    fraction = tirx.bitwise_and(size, _u((1 << form.fraction) - 1))
    bits = tirx.shift_left(size + _u((127 - form.bias) << form.fraction), _u(23 - form.fraction))
    small = tirx.Cast("float32", tirx.Cast("int32", fraction)) * tirx.const(
        float(np.ldexp(1.0, 1 - form.bias - form.fraction)), "float32"
    )
    value = tirx.Select(exponent == _u(0), small, tirx.reinterpret("float32", bits))
    nan = tirx.const(float("nan"), "float32")
    if form.infinity is not None and form.one_zero:
        special = tirx.Select(code == _u(form.nan), nan, value)
    elif form.infinity is not None:
        ends = tirx.Select(size == _u(form.infinity), tirx.const(float("inf"), "float32"), nan)
        special = tirx.Select(
            size > _u(form.most), nan if form.infinity == form.nan else ends, value
        )
    else:
        special = value
    negative = tirx.bitwise_and(code, _u(form.sign)) != _u(0)
    return tirx.Select(negative, -special, special)


def _code(bits: Any, form: _Format, saturates: bool) -> Any:
    """The code of a number in float32, given as its bits: rounded to nearest, ties to even."""
    size = tirx.bitwise_and(bits, _u(0x7FFFFFFF))
    stored = tirx.Cast("int32", tirx.shift_right(size, _u(23)))
    hidden = tirx.Select(stored > 0, _u(0x800000), _u(0))
    significand = tirx.bitwise_or(tirx.bitwise_and(size, _u(0x7FFFFF)), hidden)
    exponent = stored - (127 - form.bias)  # as the format stores it
    kept = tirx.max(exponent, 1)
    drop = tirx.Cast("uint32", tirx.min(23 - form.fraction + kept - exponent, 26))
    odd = tirx.bitwise_and(tirx.shift_right(significand, drop), _u(1))
    half = tirx.shift_left(_u(1), drop - _u(1)) - _u(1)
    rounded = tirx.shift_right(significand + half + odd, drop)
    code = rounded + tirx.Cast("uint32", tirx.shift_left(kept - 1, tirx.const(form.fraction)))
    large = tirx.any(exponent > (1 << 6), code > _u(form.most))
    beyond = form.most if saturates or form.infinity is None else form.infinity
    code = tirx.Select(large, _u(beyond), code)
    code = tirx.Select(size > _u(0x7F800000), _u(form.nan), code)
    negative = tirx.shift_right(bits, _u(31)) != _u(0)
    signed = tirx.bitwise_or(code, _u(form.sign))
    if form.infinity is None:  # NaN is what it is, whatever its sign
        negative = tirx.all(negative, size <= _u(0x7F800000))
    if form.one_zero:
        negative = tirx.all(negative, code != _u(0))
    return tirx.Select(negative, signed, code)


def _power(code: Any, _: _Format | None) -> Any:
    """What the code of a power of two stands for; the smallest is a subnormal number of float32."""
    bits = tirx.Select(code == _u(0), _u(0x400000), tirx.shift_left(code, _u(23)))
    number = tirx.reinterpret("float32", bits)
    return tirx.Select(code == _u(0xFF), tirx.const(float("nan"), "float32"), number)


def _power_code(bits: Any, rounding: str) -> Any:
    """The code of a power of two near a number in float32, of which the sign does not count; the
    largest where that is too large."""
    exponent = tirx.bitwise_and(tirx.shift_right(bits, _u(23)), _u(0xFF))
    fraction = tirx.bitwise_and(bits, _u(0x7FFFFF))
    half, normal = _u(0x400000), exponent > _u(0)  # half is the smallest power, as a subnormal
    if rounding == "up":
        more = fraction > tirx.Select(normal, _u(0), half)
    elif rounding == "nearest":
        more = tirx.any(fraction > half, tirx.all(fraction == half, normal))
    elif rounding == "down":
        more = tirx.const(False, "bool")
    else:
        raise ValueError(f"round_mode {rounding}")
    code = tirx.min(tirx.Select(more, exponent + _u(1), exponent), _u(0xFE))
    nan = tirx.all(exponent == _u(0xFF), fraction > _u(0))
    return tirx.Select(nan, _u(0xFF), code)


RULES: dict[str, Rule] = {
    "Cast": convert,
    "CastLike": convert,
    "DequantizeLinear": dequantize,
    "QuantizeLinear": quantize,
}
