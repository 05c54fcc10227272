"""Booleans and integers, which are exact; NaN, infinities and the largest numbers; what nothing
settles.  A fault, and a kernel beside it that is right."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from ml_dtypes import bfloat16
from tvm.script import tirx as T

from benchmarks.faults.suite import NONE, Site, control, fault
from tapml_nb.judge.diagnosis import Pattern
from tapml_nb.judge.verdict import Verdict

# -- booleans and integers -------------------------------------------------------------------------


@fault("extremes", "ge", patterns=[Pattern.NEVER_WRITTEN])
def booleans_nobody_wrote(site: Site) -> Any:
    """All are true, and whatever is in memory reads as true (Dao-AILab/flash-attention#1813 leaves
    outputs unwritten)."""

    @T.prim_func(s_tir=True)
    def kernel(x: T.Buffer((1, 16, 64), "float32"), y: T.Buffer((1, 16, 64), "bool")) -> None:
        T.evaluate(0)

    return kernel


@fault("extremes", "ge", patterns=[Pattern.NEVER_WRITTEN, Pattern.ONE_SLICE])
def a_row_of_booleans_nobody_wrote(site: Site) -> Any:
    """All but the last row is written (microsoft/onnxruntime#29238: bytes that are neither 0 nor
    1)."""

    @T.prim_func(s_tir=True)
    def kernel(x: T.Buffer((1, 16, 64), "float32"), y: T.Buffer((1, 16, 64), "bool")) -> None:
        for i, j in T.grid(15, 64):
            y[0, i, j] = x[0, i, j] >= T.float32(0)

    return kernel


@control("extremes", "ge")
def booleans_that_are_all_true(site: Site) -> Any:
    """The comparison turned round."""

    @T.prim_func(s_tir=True)
    def kernel(x: T.Buffer((1, 16, 64), "float32"), y: T.Buffer((1, 16, 64), "bool")) -> None:
        for i, j in T.grid(16, 64):
            y[0, i, j] = T.float32(0) <= x[0, i, j]

    return kernel


@fault("extremes", "gt", patterns=[Pattern.ONE_ELEMENT])
def a_boolean_that_varies(site: Site) -> Any:
    """One of a thousand is true every other time (microsoft/Tutel#339: other choices on the same
    inputs)."""
    calls = itertools.count()

    def kernel(x: np.ndarray) -> np.ndarray:
        y = x > 0
        y[0, 0, 0] ^= next(calls) % 2 == 1
        return y

    return kernel


@control("extremes", "gt")
def booleans_by_the_sign(site: Site) -> Any:
    """Positive, by the sign bit."""
    return lambda x: ~np.signbit(x) & (x != 0)


@fault("extremes", "mul", patterns=[Pattern.ONE_ELEMENT])
def an_integer_that_varies(site: Site) -> Any:
    """The last one counts the calls (microsoft/Tutel#339)."""
    calls = itertools.count()

    def kernel(x: np.ndarray) -> np.ndarray:
        y = x * 5
        y[-1, -1] += next(calls) % 2
        return y

    return kernel


@control("extremes", "mul")
def integers_by_shifts(site: Site) -> Any:
    """4x + x."""
    return lambda x: (x << 2) + x


# -- the largest numbers, infinity, NaN ------------------------------------------------------------


@fault("extremes", "masked_fill", patterns=[Pattern.OVERFLOW, NONE])
def lowest_becomes_infinite(site: Site) -> Any:
    """A mask of the lowest number becomes -inf (huggingface/transformers#17306)."""
    return lambda x, mask: np.where(mask, np.float32(-np.inf), x)


@fault("channels-fp16", "masked_fill", patterns=[Pattern.OVERFLOW, NONE])
def lowest_becomes_infinite_in_float16(site: Site) -> Any:
    """The same of -65504 (huggingface/transformers#17306)."""
    return lambda x, mask: np.where(mask, np.float16(-np.inf), x)


@fault("channels-bf16", "masked_fill", patterns=[Pattern.OVERFLOW, NONE])
def lowest_becomes_infinite_in_bfloat16(site: Site) -> Any:
    """float32's lowest number, rounded to bfloat16 (huggingface/transformers#17306)."""
    return lambda x, mask: np.where(mask, np.float32(-np.inf), x.astype(np.float32)).astype(
        bfloat16
    )


@fault("extremes", "masked_fill_1", patterns=[Pattern.INFINITY_LOST, Pattern.CLIPPED])
def infinity_becomes_lowest(site: Site) -> Any:
    """-inf becomes the lowest number (microsoft/onnxruntime#26055 replaces it)."""
    lowest = np.finfo(np.float32).min
    return lambda x, mask: np.where(mask, lowest, x)


@control("extremes", "masked_fill")
def filled_with_the_lowest(site: Site) -> Any:
    """By a selection."""
    lowest = np.finfo(np.float32).min
    return lambda x, mask: np.where(~mask, x, lowest)


@control("channels-fp16", "masked_fill")
def filled_with_the_lowest_in_float16(site: Site) -> Any:
    """The same of -65504."""
    return lambda x, mask: np.where(~mask, x, np.finfo(np.float16).min)


@control("extremes", "masked_fill_1")
def filled_with_infinity(site: Site) -> Any:
    """By a selection."""
    return lambda x, mask: np.where(~mask, x, np.float32(-np.inf))


@fault("extremes", "maximum", patterns=[Pattern.NAN_LOST])
def nan_dropped(site: Site) -> Any:
    """The larger of NaN and a number is the number (pytorch/pytorch#43590)."""
    return np.fmax


@control("extremes", "maximum")
def nan_kept(site: Site) -> Any:
    """By comparisons, NaN first."""
    return lambda a, b: np.where(
        np.isnan(a) | np.isnan(b), np.float32(np.nan), np.where(a > b, a, b)
    )


# -- constants -------------------------------------------------------------------------------------


@fault("channels-fp16", "mul_1", patterns=[Pattern.FACTOR])
def constant_rounded_to_float16(site: Site) -> Any:
    """0.044715 becomes 0.04471 before it is used (microsoft/onnxscript#2179)."""
    return lambda x: x * np.float16(0.044715)


@control("channels-fp16", "mul_1")
def constant_in_float32(site: Site) -> Any:
    """A product in float32, rounded once."""
    return lambda x: (x.astype(np.float32) * np.float32(0.044715)).astype(np.float16)


# -- what nothing settles --------------------------------------------------------------------------


@control("undefined", "to")
def cast_that_saturates(site: Site) -> Any:
    """NaN as 0, and what is too large as the largest integer: no specification says otherwise."""
    limits = np.iinfo(np.int32)

    def kernel(x: np.ndarray) -> np.ndarray:
        wide = np.nan_to_num(x.astype(np.float64), nan=0, posinf=limits.max, neginf=limits.min)
        return np.trunc(np.clip(wide, limits.min, limits.max)).astype(np.int32)

    return kernel


@control("undefined", "dropout", verdicts=[Verdict.UNSUPPORTED])
def dropout_that_is_on(site: Site) -> Any:
    """Another result each time, and none to compare with."""
    return None
