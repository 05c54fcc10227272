"""Tensors of fewer than eight bits, and of eight that no target knows: how they cross to one.

Integers cross as integers of eight bits, one for each, floating-point numbers as their codes: the
bits that stand for them, in the low end of a byte.  What they mean there is a kernel's business.
"""

from __future__ import annotations

import numpy as np

from tapml_nb.array_api import np_dtype

INTEGERS = {"int2": "int8", "int4": "int8", "uint2": "uint8", "uint4": "uint8"}
"""Integers by name, with what carries them."""

CODES = ("float4_e2m1fn", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
"""Floating-point numbers that are carried as codes, in uint8."""


def carrier(dtype: str) -> str:
    """The dtype in which one crosses to a target: itself, where targets know it."""
    return "uint8" if dtype in CODES else INTEGERS.get(dtype, dtype)


def is_carried(array: object) -> bool:
    """Whether a value is a tensor that crosses in another dtype."""
    return isinstance(array, np.ndarray) and carrier(array.dtype.name) != array.dtype.name


def carried(array: np.ndarray) -> np.ndarray:
    """A tensor as it crosses."""
    if not is_carried(array):
        return array
    if array.dtype.name in CODES:
        return np.asarray(array, order="C").view(np.uint8)
    return array.astype(np_dtype(carrier(array.dtype.name)))


def restored(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """What one that has crossed stands for, in its own dtype."""
    if array.dtype == dtype or dtype.name not in (*INTEGERS, *CODES):
        return array
    if dtype.name in CODES and array.dtype == np.uint8:
        return np.asarray(array, order="C").view(dtype)
    return array.astype(dtype)
