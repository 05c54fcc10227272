"""An element's scale: the size of the operands that it really has.

Rounding errors are proportional to what is rounded.  That is seldom the result alone: a sum that
cancels is small, and its terms are not.  So an element's unit of error is the dtype's roundoff
times its own magnitude *plus what stands beside it*, and what that is depends on the arithmetic
(N. Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., §3.3 and §4.2):

* of sums of products (matrix products, convolutions, means, pooling) the root of the sum of the
  squared terms, which independent roundings of the terms amount to.  These operators are linear in
  each operand, so the same operator gives it, run in float64 on the squares of its inputs;
* of Fourier transforms the same; their factors have all signs, so it is what they make of inputs
  with random signs that is squared and averaged;
* of a sum or difference its addends;
* of a product or quotient nothing;
* of a function what a rounding of its argument moves, and 1 where it is made of numbers of order
  one (``tanh`` near 0);
* of a complex number, in both of its parts, its magnitude: libraries add the products that they are
  made of in their own ways;
* of what is normalized row by row, and of all else, what roundings of all inputs move along the
  row, or its root mean square if that is larger: its elements share what they are divided by.

Elements that share nothing thus share no scale: a massive token excuses nothing in others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import numpy as np

from tapml_nb.array_api import Array, dtype_of, median, namespace, size_of, wide, zeros_like
from tapml_nb.graph import Op
from tapml_nb.judge.arithmetic import (
    ABSOLUTE,
    MEANS,
    MOVES,
    PERIODIC,
    PROPORTIONAL,
    Arithmetic,
    arithmetic,
    bare,
)
from tapml_nb.numerics import is_float, largest_finite

Exact = Callable[[Mapping[int, Array]], Sequence[Array] | None]
"""Runs the operator in float64 with other arrays in the place of some of its tensor inputs, by
their number; None where that cannot be done."""

_STEP = 2.0**-24
"""Relative change of an input that stands for a rounding, small enough to be linear."""

_DRAWS = 2
"""How often the roundings of all inputs are drawn; rows are averaged over."""

_FEW = 4096
"""Elements up to which they are drawn four times as often."""

_JUMP = 2.0**16 * _STEP
"""Part of a result beyond which a move is a jump."""

_SPREAD = 8.0
"""How far above its middle a row's moves may be on the whole."""

_SEED = 0x7A9

_TRANSFORMS = frozenset(("fft_r2c", "fft_c2r", "fft_c2c"))
"""PyTorch's Fourier transforms, as they are decomposed."""

_SIGNINGS = 16
"""How often the inputs of a Fourier transform get random signs."""

_ROUND_COMPLEX = ("abs", "sgn", "sign")
"""What only selects of real numbers, and computes of complex ones."""


def arithmetic_of(op: Op, complex_: bool = False) -> Arithmetic:
    """What kind of arithmetic an operator is, of real or of complex numbers."""
    kind = arithmetic(op.primitives, several=len(op.members) > 1)
    rounds = kind in (Arithmetic.ROUNDED, Arithmetic.ADDED) or any(
        bare(name) in _ROUND_COMPLEX for name in op.primitives
    )
    return Arithmetic.FUNCTION if complex_ and rounds else kind


def beside(
    op: Op,
    inputs: Sequence[Array],
    outputs: Sequence[np.dtype],
    exact: Sequence[Array],
    run: Exact,
    complex_inputs: Sequence[bool] = (),
    complex_outputs: Sequence[bool] = (),
    *,
    squares: Callable[[], Sequence[Array] | None] | None = None,
) -> list[Array | None]:
    """What stands beside each element of an operator's outputs, in the outputs' own unit.

    Args:
        op: the operator.
        inputs: its tensor inputs as the source had them.
        outputs: the dtypes of its outputs.
        exact: its outputs in float64.
        run: how to run it in float64 on others.
        complex_inputs, complex_outputs: which inputs and outputs have real and imaginary parts on
            their last axis; none, if empty.
        squares: what runs it in float64 on the squares of its floating-point inputs, if there is
            something that takes less memory than to make them all.

    Returns:
        For each output float32 of its shape, or of its shape with one column where rows share it;
        None where that is not known, and for integers.
    """
    if not any(map(is_float, outputs)):
        return [None] * len(outputs)
    pairs = frozenset(k for k, is_complex in enumerate(complex_inputs) if is_complex)
    joint = frozenset(k for k, is_complex in enumerate(complex_outputs) if is_complex)
    kind = arithmetic_of(op, bool(pairs or joint))
    transforms = _is_transform(op)
    moves = kind in (Arithmetic.MOVES, Arithmetic.ROUNDED) and not transforms
    # What moves a part of much, as an embedding does, leaves most of it as it is.
    floats = {} if moves else {k: wide(x) for k, x in enumerate(inputs) if is_float(dtype_of(x))}
    found: list[Array] | None = None
    with np.errstate(all="ignore"):
        if transforms:
            found = _of_transform([wide(x) for x in inputs], exact, run)
        elif moves:
            found = [_nothing(result) for result in exact]
        elif kind is Arithmetic.ADDED:
            found = _addends(floats, exact)
        elif kind is Arithmetic.FUNCTION:
            # Of integers alone it is one of the numbers that they become.
            numbers = floats or dict(enumerate(inputs))
            found = _of_function(op, numbers, exact, run)
        elif kind is Arithmetic.SUMMED:
            run_squares = squares or partial(_of_squares, floats, run, pairs)
            found = _terms(op, floats, exact, run_squares())
        if found is None:
            found = _rows(op, floats, outputs, exact, run, joint)
        found = [_joint(x, exact[k]) if k in joint else x for k, x in enumerate(found)]
        return [
            _plain(x) if is_float(dtype) else None for x, dtype in zip(found, outputs, strict=True)
        ]


def _addends(floats: Mapping[int, Array], exact: Sequence[Array]) -> list[Array] | None:
    """Root of the sum of the squares of what is added."""
    result, xp = exact[0], namespace(exact[0])
    total = _zeros(result)
    for x in map(wide, floats.values()):
        try:
            total = total + xp.broadcast_to(x * x, result.shape)
        except (ValueError, RuntimeError):  # not added as it is, but parts of it
            return None
    return [xp.sqrt(total)]


def _of_function(
    op: Op, floats: Mapping[int, Array], exact: Sequence[Array], run: Exact
) -> list[Array] | None:
    names = {bare(name) for name in op.primitives} | {bare(op.kind)}
    total = [_zeros(result) for result in exact]
    for k, x in floats.items():
        if not names.isdisjoint(PERIODIC):
            break
        moved = run({k: wide(x) * (1 + _STEP)})
        if moved is None or any(m.shape != r.shape for m, r in zip(moved, exact, strict=True)):
            return None
        for n, (m, result) in enumerate(zip(moved, exact, strict=True)):
            total[n] = total[n] + _finite(abs(m - result) / _STEP)
    if not names.isdisjoint(ABSOLUTE):
        return [sum_ + 1.0 for sum_ in total]
    if not names.isdisjoint(PROPORTIONAL) and len(floats) == 1:
        (x,) = floats.values()
        if x.shape == exact[0].shape:
            return [sum_ + abs(wide(x)) for sum_ in total]
    return total


def _joint(beside: Array, exact: Array) -> Array:
    """What stands beside both parts of complex numbers: beside either, and their magnitude."""
    xp = namespace(exact)
    either, finite = xp.broadcast_to(beside, exact.shape), _finite(exact)
    whole = xp.hypot(either[..., 0], either[..., 1]) + xp.hypot(finite[..., 0], finite[..., 1])
    return xp.broadcast_to(whole[..., None], exact.shape)


def _squared(x: Array, is_complex: bool) -> Array:
    """Squares of magnitudes; those of complex numbers as complex numbers."""
    if not is_complex:
        return x * x
    xp = namespace(x)
    power = xp.sum(x * x, axis=-1)
    return xp.stack([power, xp.zeros_like(power)], axis=-1)


def _of_squares(
    floats: Mapping[int, Array], run: Exact, pairs: Collection[int]
) -> Sequence[Array] | None:
    """What an operator makes of the squares of its inputs; ``pairs``: those that are complex."""
    return run({k: _squared(wide(x), k in pairs) for k, x in floats.items()})


def _terms(
    op: Op,
    floats: Mapping[int, Array],
    exact: Sequence[Array],
    squares: Sequence[Array] | None,
) -> list[Array] | None:
    """Root of the sum of the squared terms; ``squares``: what the operator makes of those of its
    inputs."""
    if squares is None or any(s.shape != r.shape for s, r in zip(squares, exact, strict=True)):
        return None
    terms = 1.0
    if any(MEANS.search(bare(name)) for name in op.primitives) and floats:
        # The squares of x/n add up to 1/n of the mean of the squares.
        terms = max(1.0, max(map(size_of, floats.values())) / max(1, size_of(exact[0])))
    return [namespace(s).sqrt(abs(s) / terms) for s in squares]


def _is_transform(op: Op) -> bool:
    """Whether an operator is a Fourier transform, and nothing else that rounds."""
    computed = {bare(name) for name in op.primitives} - MOVES - {"to_copy"}
    return bool(computed) and computed <= _TRANSFORMS


def _of_transform(
    inputs: Sequence[Array], exact: Sequence[Array], run: Exact
) -> list[Array] | None:
    """Root of the sum of the squared terms; integers and booleans have terms like all numbers."""
    powers = [_zeros(result) for result in exact]
    random = np.random.default_rng(_SEED)
    for _ in range(_SIGNINGS):
        made = run({k: x * _signs(random, x) for k, x in enumerate(inputs)})
        if made is None or any(m.shape != r.shape for m, r in zip(made, exact, strict=True)):
            return None
        powers = [power + m * m / _SIGNINGS for power, m in zip(powers, made, strict=True)]
    return [namespace(power).sqrt(power) for power in powers]


def _rows(
    op: Op,
    floats: Mapping[int, Array],
    outputs: Sequence[np.dtype],
    exact: Sequence[Array],
    run: Exact,
    joint: Collection[int],
) -> list[Array]:
    """Along each row, what roundings of the inputs move, or the row's own magnitude."""
    powers = [_zeros(result) for result in exact]
    random = np.random.default_rng(_SEED)
    draws = _DRAWS if max(map(size_of, exact)) > _FEW else _DRAWS * 4
    inputs = {k: wide(x) for k, x in floats.items()}
    for _ in range(draws):
        moved = run({k: x * (1 + _STEP * _signs(random, x)) for k, x in inputs.items()})
        if moved is None:
            break
        for n, (m, result) in enumerate(zip(moved, exact, strict=True)):
            if m.shape == result.shape and dtype_of(result) == dtype_of(m) == np.float64:
                move = _smooth(m - result, result) / _STEP
                powers[n] = powers[n] + move * move / draws
    axis = op.constants.get("dim", op.constants.get("axis", -1))
    whole = axis if isinstance(axis, int) else -1
    return [
        _along(power, result, -1 if k in joint else whole, dtype)
        for k, (power, result, dtype) in enumerate(zip(powers, exact, outputs, strict=True))
    ]


def _along(power: Array, result: Array, axis: int, dtype: np.dtype) -> Array:
    """The larger root mean square along an axis, of what moves and of the result itself."""
    xp = namespace(result)
    if not result.ndim or not size_of(result) or not is_float(dtype):
        return xp.sqrt(power)
    last = result.ndim - 1
    axis = axis % result.ndim if -result.ndim <= axis < result.ndim else last
    moves = xp.sqrt(xp.mean(power, axis=axis, keepdims=True))
    # Small jumps, as of what is rounded to whole numbers inside, are rare along a row.
    middle = xp.sqrt(median(power, axis))
    moves = xp.where(middle > 0, xp.minimum(moves, _SPREAD * middle), moves)
    size = abs(_finite(result))
    size = xp.where(size < largest_finite(dtype) / 4, size, 0.0)  # no mask's filling
    row = xp.maximum(moves, xp.sqrt(xp.mean(size * size, axis=axis, keepdims=True)))
    return xp.broadcast_to(row, result.shape) if axis != last else row


def _signs(random: np.random.Generator, like: Array) -> Array:
    """As many random signs, the same whatever holds them."""
    drawn = random.integers(0, 2, tuple(like.shape), dtype=np.int8)
    return wide(namespace(like).asarray(drawn, device=like.device)) * 2.0 - 1.0


def _nothing(result: Array) -> Array:
    """Zeros, one for a row."""
    return _zeros(result[..., :1] if result.ndim else result)


def _zeros(result: Array) -> Array:
    return zeros_like(result, "float64")


def _smooth(moved: Array, result: Array) -> Array:
    """Moves without jumps: where something inside is counted or compared, a rounding may turn it,
    and no kernel may err by that."""
    size, xp = abs(_finite(result)), namespace(result)
    several = result.ndim and size_of(result)
    row = xp.sqrt(xp.mean(size * size, axis=-1, keepdims=True)) if several else 0.0
    return xp.where(abs(moved) < _JUMP * (size + row), moved, 0.0)


def _finite(array: Array) -> Array:
    xp = namespace(array)
    return xp.where(xp.isfinite(array), array, 0.0)


def _plain(array: Array) -> Array:
    """As it is kept: float32, nothing infinite."""
    xp = namespace(array)
    return xp.astype(xp.clip(_finite(array), None, float(np.finfo(np.float32).max)), xp.float32)
