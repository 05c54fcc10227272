"""Tensors of NumPy and of PyTorch alike, wherever they are: what the array API standard leaves out.

Statistics and verdicts are written once, against the `array API standard
<https://data-apis.org/array-api/latest/>`_, and run where the data is: what leaves a GPU is a
number.  NumPy follows the standard itself, and a target server needs nothing else; for PyTorch's
tensors ``array-api-compat`` does.
"""

from __future__ import annotations

import math
from functools import cache
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np

Array = Any
"""A ``numpy.ndarray`` or a ``torch.Tensor``."""

_ML_DTYPES = {
    name: np.dtype(getattr(ml_dtypes, name))
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4")
}

_IN_CACHE = 1 << 15
"""Elements per block: its float64 temporaries fit a processor's second-level cache."""

_ON_DEVICE = 1 << 22
"""Elements per block on a GPU: enough to keep it busy, and no great share of its memory, of which
ten float64 temporaries may be held at a time."""


def namespace(*arrays: Array) -> ModuleType:
    """The functions of the standard for arrays of one kind."""
    return _namespace_of(type(arrays[0]))  # type: ignore[arg-type]  # a type is hashable


@cache
def _namespace_of(kind: Any) -> ModuleType:
    if issubclass(kind, np.ndarray | np.generic):
        return np
    from array_api_compat import torch

    found: ModuleType = torch
    return found


def _of_numpy(array: Array) -> bool:
    return isinstance(array, np.ndarray | np.generic)


def np_dtype(name: str) -> np.dtype:
    """The NumPy dtype of a dtype name as TVM and PyTorch spell it (``"bool"``, ``"bfloat16"``).

    Raises:
        TypeError: if NumPy (with ml_dtypes) has no such dtype.
    """
    return _ML_DTYPES.get(name) or np.dtype(name)


def dtype_of(array: Array) -> np.dtype:
    """An array's dtype as NumPy has it."""
    if isinstance(array, np.ndarray | np.generic):
        return array.dtype
    return _dtype_of(array.dtype)


@cache
def _dtype_of(dtype: Any) -> np.dtype:
    return np_dtype(str(dtype).removeprefix("torch."))


def size_of(array: Array) -> int:
    """How many elements an array has."""
    return math.prod(array.shape)


def flat(array: Array) -> Array:
    """An array's elements in one row, in order."""
    return namespace(array).reshape(array, (-1,))


def wide(array: Array) -> Array:
    """An array in float64."""
    xp = namespace(array)
    return xp.astype(array, xp.float64)


def dot(one: Array, other: Array) -> Array:
    """The inner product of two rows of float64."""
    # A GPU multiplies many pairs of rows one by one.
    return one @ other if _of_numpy(one) else namespace(one).sum(one * other)


def viewed(array: Array, name: str) -> Array:
    """The bytes of an array, each element read as another dtype of its size."""
    if _of_numpy(array):
        return np.ascontiguousarray(array).view(np_dtype(name))
    return array.contiguous().view(getattr(namespace(array), name))


def block_of(array: Array) -> int:
    """How many elements are best worked on at a time, where an array is."""
    return _IN_CACHE if str(array.device) == "cpu" else _ON_DEVICE


def quantile(sample: Array, q: float) -> Array:
    """What a share ``q`` of a sample stays under, interpolated linearly; without a dimension."""
    if _of_numpy(sample):
        return np.quantile(sample, q)  # quicker than to sort
    place = q * (size_of(sample) - 1)
    ordered, below = namespace(sample).sort(sample), int(place)
    low, high = ordered[below], ordered[min(below + 1, size_of(sample) - 1)]
    return low + (high - low) * (place - below)


def median(array: Array, axis: int) -> Array:
    """What half of the values along an axis are below, with that axis kept at size 1."""
    if _of_numpy(array):
        return np.median(array, axis, keepdims=True)
    xp, size = namespace(array), array.shape[axis]
    ordered = xp.moveaxis(xp.sort(array, axis=axis), axis, 0)  # its own median is the lower one
    return xp.expand_dims((ordered[(size - 1) // 2] + ordered[size // 2]) / 2, axis=axis)


def on_host(array: Array) -> np.ndarray:
    """An array as NumPy has it: the same memory where that is the host's."""
    if _of_numpy(array):
        return np.asarray(array)
    dtype = dtype_of(array)
    there = array.detach().contiguous().cpu()
    if dtype in _ML_DTYPES.values():  # PyTorch does not give these to NumPy
        return np.asarray(viewed(there, f"uint{8 * dtype.itemsize}").numpy().view(dtype))
    return np.asarray(there.numpy())


def moved_to(array: Array, like: Array) -> Array:
    """An array where another one is, and as that one's kind has it."""
    if isinstance(like, np.ndarray | np.generic):
        return on_host(array)
    xp = namespace(like)
    if not _of_numpy(array):
        return array.to(like.device)
    dtype = array.dtype
    if dtype in _ML_DTYPES.values():
        bits = xp.asarray(array.view(f"uint{8 * dtype.itemsize}"), copy=True)
        return viewed(bits, dtype.name).to(like.device)
    return xp.asarray(array, copy=True).to(like.device)


def element(array: Array, index: int) -> Any:
    """One element, by its flat index, as a scalar of NumPy's."""
    return on_host(flat(array)[index : index + 1])[0]


def zeros_like(array: Array, dtype: str) -> Array:
    """Zeros of another dtype of the standard's (``"bool"``, ``"float32"``), where an array is."""
    xp = namespace(array)
    return xp.zeros(tuple(array.shape), dtype=getattr(xp, dtype), device=array.device)


def empty_like(array: Array) -> Array:
    """An array without elements, of the kind of another one, and where that is."""
    xp = namespace(array)
    return xp.empty((0,), dtype=xp.uint8, device=array.device)
