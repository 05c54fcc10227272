"""Fourier transforms by definition; a complex number is a pair on the last axis, as ONNX has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from onnx.helper import tensor_dtype_to_np_dtype
from tvm import relax, te, tirx

from tapml_nb.array_api import np_dtype
from tapml_nb.frontends.onnx.rules.call import (
    Call,
    Expr,
    Rule,
    cast,
    dtype_of,
    shape_of,
    wide,
)

_MOST = 1 << 15
"""Terms of the longest transform: products of two indices stay within 32 bits."""


def dft(call: Call, x: Expr, length: Expr | None = None, axis: Expr | None = None) -> Expr:
    """The transform along an axis, or its inverse; of one side of a spectrum, real numbers.

    Raises:
        ValueError: if length or axis are known only at run time, or it is too long.
    """
    told = call.attributes
    inverse, onesided = bool(told.get("inverse")), bool(told.get("onesided"))
    along = told.get("axis", -2) if axis is None else _number(axis)
    shape = shape_of(x)
    along %= len(shape)
    size = 2 * (shape[along] - 1) if inverse and onesided else shape[along]
    size = size if length is None else _number(length)
    half = size // 2 + 1
    read = min(shape[along], half if inverse and onesided else size)
    result = [*shape[:-1], 1 if inverse and onesided else 2]
    result[along] = half if onesided and not inverse else size
    waves = _waves(size, shape[-1], inverse)[:, : result[-1]]
    weights = np.full(read, 1 / size if inverse else 1.0)
    if inverse and onesided:
        # The other side is the conjugate of this one, but for what has no counterpart.
        weights[[k for k in range(read) if k and 2 * k != size]] *= 2

    def transform(data: te.Tensor, wave: te.Tensor, weight: te.Tensor) -> te.Tensor:
        k, part = te.reduce_axis((0, read), "k"), te.reduce_axis((0, shape[-1]), "part")

        def term(*at: Any) -> Any:
            turn = tirx.indexmod(at[along] * k, size)
            place = [*at[:along], k, *at[along + 1 : -1], part]
            return te.sum(data(*place) * weight(k) * wave(part, at[-1], turn), axis=[k, part])

        return te.compute(result, term)

    given = dtype_of(x)
    x = call.emit(wide(x))
    tables = [_table(table, x) for table in (waves, weights)]
    return cast(call.compute(transform, x, *tables, name="fourier"), given)


def stft(
    call: Call, x: Expr, step: Expr, window: Expr | None = None, length: Expr | None = None
) -> Expr:
    """The transforms of frames of a signal, through a window.

    Raises:
        ValueError: if step or length are known only at run time, or a frame is too long.
    """
    hop = _number(step)
    batch, signal, numbers = shape_of(x)
    if length is not None:
        size = _number(length)
    else:
        size = signal if window is None else shape_of(window)[0]
    terms = size // 2 + 1 if call.attributes["onesided"] else size
    result = [batch, (signal - size) // hop + 1, terms, 2]

    def transform(data: te.Tensor, wave: te.Tensor, weight: te.Tensor) -> te.Tensor:
        k, part = te.reduce_axis((0, size), "k"), te.reduce_axis((0, numbers), "part")

        def term(b: Any, frame: Any, to: Any, half: Any) -> Any:
            sample = data(b, frame * hop + k, part) * weight(k)
            return te.sum(sample * wave(part, half, tirx.indexmod(to * k, size)), axis=[k, part])

        return te.compute(result, term)

    given = dtype_of(x)
    x = call.emit(wide(x))
    waves = _table(_waves(size, numbers, inverse=False), x)
    window = _table(np.ones(size), x) if window is None else call.emit(wide(window))
    return cast(call.compute(transform, x, waves, window, name="stft"), given)


def mel_weight_matrix(
    call: Call, bins: Expr, length: Expr, rate: Expr, lower: Expr, upper: Expr
) -> Expr:
    """Triangles over the terms of a spectrum: a constant, for all that it is made of are numbers.

    Raises:
        ValueError: if its numbers are known only at run time.
    """
    count, terms, sampled = (_number(x) for x in (bins, length, rate))
    low, high = (2595 * np.log10(1 + _value(edge) / 700) for edge in (lower, upper))
    edges = low + np.arange(count + 2) * (high - low) / (count + 2)
    edges = 700 * (10 ** (edges / 2595) - 1)
    begin, top, end = (
        (np.floor((terms + 1) * edges / sampled).astype(int))[k : k + count] for k in range(3)
    )
    term = np.arange(terms // 2 + 1)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        rising, falling = (term - begin) / (top - begin), (end - term) / (end - top)
    rises = (begin <= term) & (term <= top) & (begin < top)
    falls = (top <= term) & (term < end)
    matrix = np.where(falls, falling, np.where(rises, rising, term == top))
    dtype = tensor_dtype_to_np_dtype(call.attributes["output_datatype"]).name
    return relax.const(matrix.astype(np_dtype(dtype)), dtype)


def _waves(size: int, numbers: int, inverse: bool) -> np.ndarray:
    """What real and imaginary parts (if ``numbers`` is 2) add to either part, by the turn.

    Raises:
        ValueError: for transforms that are too long.
    """
    if not 0 < size <= _MOST:
        raise ValueError(f"a transform of {size} terms, and it takes 1 to {_MOST}")
    angle = 2 * np.pi * np.arange(size) / size * (1 if inverse else -1)
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, sine], [-sine, cosine]])[:numbers]


def _table(numbers: np.ndarray, like: Expr) -> Expr:
    dtype = dtype_of(like)
    return relax.const(numbers.astype(np_dtype(dtype)), dtype)


def _number(x: Expr) -> int:
    return int(_value(x))


def _value(x: Expr) -> float:
    if not isinstance(x, tvm.ir.GenericConst):
        raise ValueError("what says its size or its axis is known only at run time")
    return float(x.value.numpy().reshape(()))


RULES: dict[str, Rule] = {"DFT": dft, "MelWeightMatrix": mel_weight_matrix, "STFT": stft}
