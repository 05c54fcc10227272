"""Inputs that real ones do not show, derived from them: other magnitudes, ties, sizes.

Only activations are changed, never weights, and only by what keeps them plausible: magnitudes that
the model itself has somewhere, sizes one off, values that occur twice.  Whether an operator is
defined on the result is for the source to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tapml_nb.numerics import is_float, largest_finite

_LEVELS = 4
"""Steps from zero to the largest magnitude that are left where values are to tie."""

_AXES = 2
"""Axes whose size is changed: the last ones that have any."""


@dataclass(frozen=True)
class Magnitudes:
    """The range of a model's activations: largest magnitude of the largest and smallest tensor."""

    largest: float
    smallest: float

    @classmethod
    def of(cls, tensors: Iterator[np.ndarray]) -> Magnitudes:
        """Look through tensors; sentinels, zeros and integers say nothing."""
        tops = [top for array in tensors if (top := magnitude(array)) > 0]
        return cls(max(tops, default=1.0), min(tops, default=1.0))


@dataclass(frozen=True)
class Derived:
    """Inputs of an operator, and in what they differ from the real ones."""

    variant: str
    arrays: list[np.ndarray]


def magnitude(array: np.ndarray) -> float:
    """The largest magnitude of a floating-point tensor of ordinary numbers, else 0.

    A tensor with infinities or sentinels (a mask filled with the most negative number) has none.
    """
    if not is_float(array.dtype) or array.size == 0:
        return 0.0
    top = float(np.abs(array).max())
    return top if top < largest_finite(array.dtype) / 4 else 0.0


def derived_values(
    arrays: Sequence[np.ndarray], activations: Sequence[bool], magnitudes: Magnitudes
) -> Iterator[Derived]:
    """Inputs of the same shapes with other values; ``activations`` says which of the real ones may
    change."""
    numbers = [a and magnitude(x) > 0 for a, x in zip(activations, arrays, strict=True)]
    indices = [a and x.dtype.kind in "iu" for a, x in zip(activations, arrays, strict=True)]
    if any(numbers):
        for name, top in (("largest", magnitudes.largest), ("smallest", magnitudes.smallest)):
            yield _changed(f"{name} magnitude", arrays, numbers, partial(_scaled, top=top))
        yield _changed("negated", arrays, numbers, np.negative)
        yield _changed("exact ties", arrays, numbers, _with_ties)
        yield _changed("equal rows", arrays, numbers, _with_equal_rows)
        yield _changed("zeros", arrays, numbers, np.zeros_like)
    either = [n or i for n, i in zip(numbers, indices, strict=True)]
    if any(either):
        yield _changed("reversed", arrays, either, _reversed)


def derived_shapes(arrays: Sequence[np.ndarray], activations: Sequence[bool]) -> Iterator[Derived]:
    """Inputs with one axis a little shorter or longer, or of size one.

    Axes of activations that have the same place and size change together.
    """
    lead = next((x for x, a in zip(arrays, activations, strict=True) if a and x.ndim), None)
    if lead is None:
        return
    for axis, size in [(axis, n) for axis, n in enumerate(lead.shape) if n > 1][-_AXES:]:
        chosen = [
            a and x.ndim == lead.ndim and x.shape[axis] == size
            for x, a in zip(arrays, activations, strict=True)
        ]
        for wanted in sorted({size - 1, size + 1, 1}):
            variant = f"axis {axis} of size {wanted}"
            yield _changed(variant, arrays, chosen, partial(_resized, axis=axis, size=wanted))


def _changed(
    variant: str,
    arrays: Sequence[np.ndarray],
    chosen: Sequence[bool],
    change: Callable[[np.ndarray], np.ndarray],
) -> Derived:
    result = [
        np.ascontiguousarray(change(x)).astype(x.dtype, copy=False) if c else x
        for x, c in zip(arrays, chosen, strict=True)
    ]
    return Derived(variant, result)


def _scaled(array: np.ndarray, top: float) -> np.ndarray:
    limit = min(top, largest_finite(array.dtype) / 4)
    return np.asarray(array.astype(np.float64) * (limit / magnitude(array)))


def _with_ties(array: np.ndarray) -> np.ndarray:
    step = magnitude(array) / _LEVELS
    return np.asarray(np.round(array.astype(np.float64) / step) * step)


def _with_equal_rows(array: np.ndarray) -> np.ndarray:
    if array.ndim < 2:
        return np.full_like(array, array.reshape(-1)[0])
    row = array.reshape(-1, array.shape[-1])[0]
    return np.broadcast_to(row, array.shape)


def _reversed(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1)[::-1].reshape(array.shape)


def _resized(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    return np.asarray(np.take(array, np.arange(size) % array.shape[axis], axis=axis))
