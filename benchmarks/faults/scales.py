"""Elements that share a tensor and nothing else; sums that cancel.  A fault, and a kernel beside it
that is right."""

from __future__ import annotations

from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from benchmarks.faults.suite import NONE, Site, control, fault
from tapml_nb.judge.diagnosis import Pattern


def _in_order(terms: np.ndarray) -> np.ndarray:
    """The sum over the last axis, one term after the other, in float32."""
    return np.add.accumulate(terms, -1, dtype=np.float32)[..., -1]


def _rms_norm(x: np.ndarray, gain: np.ndarray, squares: np.ndarray) -> np.ndarray:
    mean = squares / np.float32(x.shape[-1])
    return x / np.sqrt(mean + np.float32(1e-6)) * gain


# -- massive tokens and channels -------------------------------------------------------------------


@fault("extremes", "rms_norm", patterns=[])
def a_term_lost_beside_a_massive_token(site: Site) -> Any:
    """All tokens but a massive one lose the last element of their row
    (tile-ai/tilelang-ascend#890 loses a tail)."""

    def kernel(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        squares = x * x
        squares[:, [k for k in range(16) if k != 3], -1] = 0
        return _rms_norm(x, gain, _in_order(squares)[..., None])

    return kernel


@control("extremes", "rms_norm")
def rms_norm_in_order(site: Site) -> Any:
    """The squares of each row are added one after the other."""
    return lambda x, gain: _rms_norm(x, gain, _in_order(x * x)[..., None])


@fault("extremes", "mean", patterns=[])
def a_square_lost_beside_a_massive_token(site: Site) -> Any:
    """The mean of squares of all tokens but a massive one lacks its last term
    (tile-ai/tilelang-ascend#890)."""

    def kernel(x: np.ndarray) -> np.ndarray:
        terms = x.copy()
        terms[:, [k for k in range(16) if k != 3], -1] = 0
        return _in_order(terms) / np.float32(64)

    return kernel


@control("extremes", "mean")
def mean_of_squares_in_order(site: Site) -> Any:
    """One square after the other."""
    return lambda x: _in_order(x) / np.float32(64)


def _product(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
    return (x.astype(np.float32) * gain.astype(np.float32)).astype(bfloat16)


@fault("channels-bf16", "mul", patterns=[Pattern.FLUSHED, NONE])
def small_ones_zeroed_beside_massive_channels(site: Site) -> Any:
    """Everything below 0.05 becomes 0 (tenstorrent/tt-metal#51866: a softplus that is 0 below
    -5)."""

    def kernel(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        y = _product(x, gain)
        return np.where(np.abs(y.astype(np.float32)) < 0.05, bfloat16(0), y)

    return kernel


@fault("channels-bf16", "mul", patterns=[Pattern.SIGN, NONE])
def small_ones_negated_beside_massive_channels(site: Site) -> Any:
    """Everything below 0.05 has the other sign (pytorch/pytorch#185480 loses that of small
    ones)."""

    def kernel(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        y = _product(x, gain).astype(np.float32)
        return np.where(np.abs(y) < 0.05, -y, y).astype(bfloat16)

    return kernel


@control("channels-bf16", "mul")
def rounded_once(site: Site) -> Any:
    """A product in float32, rounded to bfloat16."""
    return _product


@fault("channels-bf16", "add", patterns=[Pattern.FLUSHED, NONE])
def small_terms_dropped_beside_massive_channels(site: Site) -> Any:
    """Sums below 0.05 become 0 (tenstorrent/tt-llk#675: a packer flushes)."""

    def kernel(x: np.ndarray, shift: np.ndarray) -> np.ndarray:
        y = x.astype(np.float32) + shift.astype(np.float32)
        return np.where(np.abs(y) < 0.05, 0, y).astype(bfloat16)

    return kernel


@control("channels-bf16", "add")
def added_in_float32(site: Site) -> Any:
    """The same, rounded once."""
    return lambda x, shift: (x.astype(np.float32) + shift.astype(np.float32)).astype(bfloat16)


# -- wide ranges -----------------------------------------------------------------------------------


@fault("extremes", "exp", patterns=[Pattern.FACTOR, Pattern.OTHER_FUNCTION, NONE])
def exp_wrong_where_it_is_small(site: Site) -> Any:
    """10 % off below 1e-3, where others are 1e13 (tenstorrent/tt-metal#3189: approximate for
    negative exponents)."""

    def kernel(x: np.ndarray) -> np.ndarray:
        y = np.exp(x)
        return np.where(y < 1e-3, np.float32(1.1) * y, y)

    return kernel


@control("extremes", "exp")
def exp_by_exp2(site: Site) -> Any:
    """2^(x·log₂e) with the product in two parts, as libraries do."""

    def kernel(x: np.ndarray) -> np.ndarray:
        whole = np.rint(x * np.float32(1.4426950408889634))
        rest = x - whole * np.float32(0.693359375) + whole * np.float32(2.12194440e-4)
        return np.ldexp(np.exp(rest), whole.astype(np.int32))

    return kernel


# -- moves -----------------------------------------------------------------------------------------


def _altered(y: np.ndarray) -> np.ndarray:
    """Elements below 2 off by one in a thousand."""
    return np.where(np.abs(y) < 2, y * np.float32(1.001), y)


@fault("extremes", "cat", patterns=[Pattern.FACTOR, NONE])
def concatenation_that_scales(site: Site) -> Any:
    """What is joined is not what was given (PaddlePaddle/Paddle-Lite#6243, where dtypes are mixed
    up)."""
    return lambda a, b: _altered(np.concatenate([a, b], 1))


@fault("extremes", "slice", patterns=[Pattern.NARROWER, NONE])
def slice_through_bfloat16(site: Site) -> Any:
    """A part of a tensor goes through a narrower format (tenstorrent/tt-metal#54899: a copy that
    converts)."""
    return lambda x: np.where(
        np.abs(x[:, 2:11]) < 2, x[:, 2:11].astype(bfloat16).astype(np.float32), x[:, 2:11]
    )


@fault("extremes", "transpose", patterns=[
    Pattern.NARROWER, Pattern.TRUNCATED, Pattern.ROUNDING_MODE, NONE])  # fmt: skip
def transpose_that_loses_bits(site: Site) -> Any:
    """The last four bits are cut off (tenstorrent/tt-llk#675: a move that rounds)."""

    def kernel(x: np.ndarray) -> np.ndarray:
        bits = np.ascontiguousarray(x.swapaxes(1, 2)).view(np.uint32)
        return (bits & np.uint32(0xFFFFFFF0)).view(np.float32)

    return kernel


@control("extremes", "cat")
def concatenation_as_it_is(site: Site) -> Any:
    """Values moved, and nothing else."""
    return lambda a, b: np.concatenate([a, b], 1)


@control("extremes", "slice")
def slice_as_it_is(site: Site) -> Any:
    """The same of a part."""
    return lambda x: x[:, 2:11].copy()


@control("extremes", "transpose")
def transpose_as_it_is(site: Site) -> Any:
    """The same in another order."""
    return lambda x: x.swapaxes(1, 2).copy()


# -- sums that cancel ------------------------------------------------------------------------------


@fault("extremes", "mean_2", patterns=[])
def mean_of_centred_values_short_of_one(site: Site) -> Any:
    """The last term is left out of a sum that is 0 but for rounding (tile-ai/tilelang#2381 drops a
    tail)."""
    return lambda x: _in_order(x[..., :-1]) / np.float32(8192)


@control("extremes", "mean_2")
def mean_of_centred_values(site: Site) -> Any:
    """One term after the other; the result is noise, and so is its difference from any other."""
    return lambda x: _in_order(x) / np.float32(8192)


@control("extremes", "mean_2")
def mean_of_centred_values_by_a_factor(site: Site) -> Any:
    """Each term is divided before it is added."""
    return lambda x: _in_order(x * np.float32(1 / 8192))


@control("extremes", "sub")
def centred(site: Site) -> Any:
    """x - mean(x) as x + (-mean)."""
    return lambda x, mean: x + np.float32(-1) * mean


@fault("extremes", "mean_3", patterns=[])
def pooling_short_of_a_row(site: Site) -> Any:
    """A mean after an instance norm leaves out the last row (tenstorrent/tt-metal#53267 pools a
    padded picture)."""
    return lambda x: (
        x[:, :, :-1].astype(np.float64).sum((2, 3)).astype(np.float32) / np.float32(9216)
    )


@control("extremes", "mean_3")
def pooling_in_order(site: Site) -> Any:
    """All of a channel, one after the other: the exact result is 0."""
    return lambda x: _in_order(x.reshape(2, 8, 9216)) / np.float32(9216)


@control("extremes", "mean_3")
def pooling_by_columns(site: Site) -> Any:
    """Columns first, then their sums."""
    return lambda x: _in_order(_in_order(x.swapaxes(2, 3))) / np.float32(9216)


@fault("extremes", "long/linear", patterns=[])
def one_term_of_four_thousand(site: Site) -> Any:
    """A long sum loses its last 16 terms (tile-ai/tilelang#2381)."""
    return lambda x, weight: (x[:, :-16].astype(np.float64) @ weight[:, :-16].T).astype(np.float32)


@control("extremes", "long/linear")
def four_thousand_terms_in_order(site: Site) -> Any:
    """One product after the other, where all operands have a mean of 3."""
    return lambda x, weight: _in_order(x[:, None] * weight)


@control("extremes", "long/linear")
def four_thousand_terms_backwards(site: Site) -> Any:
    """The same from the last to the first."""
    return lambda x, weight: _in_order((x[:, None] * weight)[..., ::-1])


@fault("extremes", "norm/layer_norm", patterns=[])
def another_epsilon_beside_a_large_mean(site: Site) -> Any:
    """1e-3 where the model says 1e-5 (foundation-model-stack/foundation-model-stack#99)."""

    def kernel(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        wide = x.astype(np.float64)
        apart = wide - wide.mean(-1, keepdims=True)
        normal = apart / np.sqrt(wide.var(-1, keepdims=True) + 1e-3)
        return (normal * weight + bias).astype(np.float32)

    return kernel


@control("extremes", "norm/layer_norm")
def layer_norm_in_order(site: Site) -> Any:
    """Mean and variance by sums in order, where the mean is 30 and the deviation 1."""

    def kernel(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        n = np.float32(64)
        apart = x - (_in_order(x) / n)[..., None]
        variance = _in_order(apart * apart) / n
        return apart / np.sqrt(variance + np.float32(1e-5))[..., None] * weight + bias

    return kernel
