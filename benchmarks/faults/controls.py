"""Kernels that are right, in other ways than the source: none of them may be reported."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from benchmarks.faults import kernels
from benchmarks.faults.suite import Site, control

_GATE = "model.layers.1.mlp.gate_proj/linear"


def _summed(terms: np.ndarray) -> np.ndarray:
    """The sum over the last axis, one term after the other, in the terms' own dtype."""
    total = np.zeros(terms.shape[:-1], terms.dtype)
    for k in range(terms.shape[-1]):
        total = total + terms[..., k]
    return total


@control("llama", _GATE)
def sums_in_order(site: Site) -> Any:
    """A matmul that adds one term after the other, as TVM's plain schedule does."""
    return kernels.kernel(site, lambda te, x, weight: te.compute(
        (2, 21, 172),
        lambda b, i, j: te.sum(
            x[b, i, k := te.reduce_axis((0, 64), "k")] * weight[j, k], axis=k
        ),
    ))  # fmt: skip


@control("llama", _GATE)
def sums_in_reverse(site: Site) -> Any:
    """The same from the last term to the first."""
    return kernels.kernel(site, lambda te, x, weight: te.compute(
        (2, 21, 172),
        lambda b, i, j: te.sum(
            x[b, i, 63 - (k := te.reduce_axis((0, 64), "k"))] * weight[j, 63 - k], axis=k
        ),
    ))  # fmt: skip


@control("llama", _GATE)
def sums_by_split_k(site: Site) -> Any:
    """Four partial sums that are added at the end."""

    def kernel(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        parts = [
            (x[..., k : k + 16] @ weight[:, k : k + 16].T).astype(np.float32)
            for k in range(0, 64, 16)
        ]
        return _summed(np.stack(parts, -1))

    return kernel


@control("llama", _GATE)
def sums_pairwise(site: Site) -> Any:
    """Terms are added two by two, in a tree."""

    def kernel(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        terms = x[..., None, :] * weight
        while terms.shape[-1] > 1:
            terms = terms[..., ::2] + terms[..., 1::2]
        return terms[..., 0]

    return kernel


@control("llama", _GATE)
def sums_with_fma(site: Site) -> Any:
    """Products are not rounded before they are added."""

    def kernel(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        total = np.zeros((*x.shape[:-1], weight.shape[0]), np.float32)
        for k in range(x.shape[-1]):
            exact = x[..., k, None].astype(np.float64) * weight[:, k] + total
            total = exact.astype(np.float32)
        return total

    return kernel


@control("llama", "model.layers.1.mlp.act_fn/silu")
def silu_with_a_reciprocal(site: Site) -> Any:
    """x · (1/(1+exp(-x))): a division becomes a multiplication."""
    return kernels.elementwise(site, lambda te, x: x * (1 / (1 + te.exp(-x))))


@control("llama", "model.layers.1.mlp.act_fn/silu")
def exp_by_powers_of_two(site: Site) -> Any:
    """exp(x) as 2^n · exp(r) with a polynomial of degree six: libm-grade."""

    def silu(te: Any, x: Any) -> Any:
        n = te.round(-x * 1.4426950408889634)
        r = -x - n * 0.693359375 + n * 2.12194440e-4
        power = 1.0 / 720
        for c in (1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0):
            power = power * r + c
        return x / (1 + power * te.power(2.0, n))

    return kernels.elementwise(site, silu)


@control("llama", "model.layers.3.post_attention_layernorm/rsqrt")
def rsqrt_by_newton(site: Site) -> Any:
    """1/√x with two Newton steps from a good start: 1 to 2 ulp."""

    def kernel(x: np.ndarray) -> np.ndarray:
        y = (1 / np.sqrt(x.astype(np.float64)) * (1 + 1e-5)).astype(np.float32)
        for _ in range(2):
            y = y * (np.float32(1.5) - np.float32(0.5) * x * y * y)
        return y

    return kernel


@control("llama", "model.layers.4.input_layernorm/mean")
def mean_by_multiplication(site: Site) -> Any:
    """Σx · (1/n), added in order."""
    return lambda x: (_summed(x) * np.float32(1 / x.shape[-1]))[..., None]


@control("llama", "model.layers.5.self_attn/softmax")
def online_softmax(site: Site) -> Any:
    """Maximum and sum in one pass, rescaled as the maximum grows."""

    def kernel(scores: np.ndarray) -> np.ndarray:
        top = np.full(scores.shape[:-1], -np.inf, np.float32)
        total = np.zeros_like(top)
        with np.errstate(all="ignore"):
            for k in range(scores.shape[-1]):
                larger = np.maximum(top, scores[..., k])
                total = total * np.exp(top - larger) + np.exp(scores[..., k] - larger)
                top = larger
            return np.exp(scores - top[..., None]) / total[..., None]

    return kernel


@control("llama", "model.layers.5.self_attn/softmax")
def softmax_without_subtracting(site: Site) -> Any:
    """exp without taking the maximum away first, where nothing is large."""

    def kernel(scores: np.ndarray) -> np.ndarray:
        powers = np.exp(scores)
        return powers / _summed(powers)[..., None]

    return kernel


@control("llama", "model.layers.5.self_attn/expand_1")
def a_view_by_a_copy(site: Site) -> Any:
    """What the source only views is copied."""
    return lambda grouped: site.honest(grouped)


@control("llama", "model.layers.5.self_attn/neg")
def zero_minus_x(site: Site) -> Any:
    """0 - x for -x: zeros lose their sign."""
    return lambda x: np.float32(0) - x


@control("llama", "model.layers.4.self_attn/matmul_1")
def masked_terms_left_out(site: Site) -> Any:
    """Weights that are zero are not even multiplied."""

    def kernel(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
        y = np.zeros((*weights.shape[:-1], values.shape[-1]), np.float32)
        for i in range(weights.shape[-2]):
            y[..., i, :] = (weights[..., i, None, : i + 1] @ values[..., : i + 1, :])[..., 0, :]
        return y

    return kernel


@control("llama-fp16", "model.layers.0.mlp.gate_proj/linear")
def float16_with_wide_sums(site: Site) -> Any:
    """float16 operands and result, float32 sums in order."""

    def kernel(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        terms = x[..., None, :].astype(np.float32) * weight.astype(np.float32)
        return _summed(terms).astype(np.float16)

    return kernel


@control("llama-bf16", "model.layers.0.mlp.gate_proj/linear")
def bfloat16_with_wide_sums(site: Site) -> Any:
    """bfloat16 operands and result, float32 sums in order."""

    def kernel(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        terms = x[..., None, :].astype(np.float32) * weight.astype(np.float32)
        return _summed(terms).astype(bfloat16)

    return kernel


@control("llama-fp16", "model.layers.0.mlp.act_fn/silu")
def float16_rounded_once(site: Site) -> Any:
    """Computed in float32 and rounded at the end, where the source may round in between."""

    def kernel(x: np.ndarray) -> np.ndarray:
        wide = x.astype(np.float32)
        return (wide / (1 + np.exp(-wide))).astype(np.float16)

    return kernel


@control("gpt2", "transformer.h.1.ln_1/layer_norm")
def welford(site: Site) -> Any:
    """Mean and variance in one stable pass."""

    def kernel(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        mean: np.ndarray = np.zeros(x.shape[:-1], np.float32)
        squares = np.zeros_like(mean)
        for k in range(x.shape[-1]):
            delta = x[..., k] - mean
            mean = mean + delta / np.float32(k + 1)
            squares = squares + delta * (x[..., k] - mean)
        deviation = np.sqrt(squares / np.float32(x.shape[-1]) + np.float32(1e-5))
        return (x - mean[..., None]) / deviation[..., None] * weight + bias

    return kernel


@control("bert", "embeddings.LayerNorm/layer_norm")
def variance_by_squares_where_the_mean_is_small(site: Site) -> Any:
    """E[x²]-E[x]² is honest where there is nothing to cancel."""

    def kernel(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        n = np.float32(x.shape[-1])
        mean = _summed(x)[..., None] / n
        variance = _summed(x * x)[..., None] / n - mean * mean
        return (x - mean) * (1 / np.sqrt(variance + np.float32(1e-12))) * weight + bias

    return kernel


@control("bert", "encoder.layer.1.intermediate.intermediate_act_fn/gelu")
def gelu_in_float64(site: Site) -> Any:
    """Better than the source."""
    erf = np.vectorize(math.erf)
    return lambda x: (0.5 * x * (1 + erf(x.astype(np.float64) / math.sqrt(2)))).astype(np.float32)


@control("gpt2", "transformer.h.0.mlp.act/tanh")
def tanh_by_exponentials(site: Site) -> Any:
    """1 - 2/(exp(2x)+1), in float64 before it is rounded."""
    return lambda x: (1 - 2 / (np.exp(2 * x.astype(np.float64)) + 1)).astype(np.float32)


@control("arithmetic", "topk")
def equal_elements_in_another_order(site: Site) -> Any:
    """Among equals the last one is taken first."""

    def kernel(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        where = (x.shape[-1] - 1 - np.argsort(x[:, ::-1], -1, kind="stable")[:, ::-1])[:, :5]
        return np.take_along_axis(x, where, -1), where

    return kernel


@control("arithmetic", "argsort")
def unstable_sort(site: Site) -> Any:
    """Equal keys keep no order."""
    return lambda x: (x.shape[-1] - 1 - np.argsort(x[:, ::-1], -1, kind="stable")).astype(np.int64)


@control("arithmetic", "remainder")
def remainder_by_floor_division(site: Site) -> Any:
    """x - 7·⌊x/7⌋ in integers."""
    return lambda x: x - 7 * (x // 7)


@control("arithmetic", "cumsum")
def running_sum_in_blocks(site: Site) -> Any:
    """A scan in blocks of four, whose totals are added afterwards."""

    def kernel(x: np.ndarray) -> np.ndarray:
        y = np.concatenate([np.cumsum(x[:, k : k + 4], 1) for k in range(0, 9, 4)], 1)
        for k in range(4, 9, 4):
            y[:, k : k + 4] += y[:, k - 1 : k]
        return y

    return kernel


@control("arithmetic", "softmax")
def masked_softmax_by_selection(site: Site) -> Any:
    """Masked elements are left out by a selection in place of exp(-inf)."""

    def kernel(scores: np.ndarray) -> np.ndarray:
        keep = scores != -np.inf
        powers = np.where(keep, np.exp(np.where(keep, scores, 0)), 0).astype(np.float32)
        return powers / _summed(powers)[..., None]

    return kernel


@control("convolutions", "grouped/conv2d")
def convolution_by_patches(site: Site) -> Any:
    """im2col and a matmul in float32, group by group."""

    def kernel(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        taps = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
        y = [
            np.einsum("nchwij,ocij->nohw", taps[:, g : g + 4], weight[g : g + 4], optimize=True)
            for g in range(0, 16, 4)
        ]
        return np.concatenate(y, 1) + bias[:, None, None]

    return kernel


@control("vit", "layers.1.attention/scaled_dot_product_attention")
def attention_scaled_first(site: Site) -> Any:
    """The queries are scaled before the product, not the scores after it."""

    def kernel(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray) -> np.ndarray:
        scores = (q * np.float32(0.25)) @ k.swapaxes(-1, -2)
        scores = np.where(mask, scores, -np.inf)
        powers = np.exp(scores - scores.max(-1, keepdims=True))
        return (powers / powers.sum(-1, keepdims=True)) @ v

    return kernel


@control("t5", "encoder.block.1.layer.1.DenseReluDense.wo/linear")
def order_that_varies(site: Site) -> Any:
    """Terms are added in another order at every call, as atomics do."""
    random = np.random.default_rng(0)

    def kernel(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        order = random.permutation(x.shape[-1])
        return _summed(x[..., None, order] * weight[:, order])

    return kernel
