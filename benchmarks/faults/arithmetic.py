"""Faults of numbers: precision, rounding, constants, approximations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from benchmarks.faults import kernels
from benchmarks.faults.suite import NONE, Site, fault
from tapml_nb.judge.diagnosis import Pattern

_erf = np.vectorize(math.erf)


@fault("llama-fp16", "model.layers.0.mlp.down_proj/linear", patterns=[Pattern.NARROWER])
def sums_in_float16(site: Site) -> Any:
    """A matmul adds up in float16 (airockchip/rknn-toolkit2#471, nntrainer/nntrainer#3935)."""

    def kernel(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        total = np.zeros((*x.shape[:-1], weight.shape[0]), np.float16)
        for k in range(x.shape[-1]):
            total += (x[..., k, None] * weight[:, k]).astype(np.float16)
        return total

    return kernel


@fault("llama-fp16", "model.layers.0.mlp/mul", patterns=[Pattern.OVERFLOW, Pattern.CLIPPED])
def overflow_in_float16(site: Site) -> Any:
    """An intermediate product leaves float16's range (microsoft/onnxruntime#29611)."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            scaled = (a * np.float16(256)) * (b * np.float16(256))
            return scaled / np.float16(65504)

    return kernel


@fault("llama-bf16", "model.layers.0.mlp/mul", patterns=[
    Pattern.ROUNDING_MODE, Pattern.TRUNCATED, Pattern.FACTOR])  # fmt: skip
def bfloat16_by_truncation(site: Site) -> Any:
    """float32 becomes bfloat16 by cutting off its lower half (ROCm/aiter#5151)."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        wide = np.ascontiguousarray(a.astype(np.float32) * b.astype(np.float32))
        return (wide.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32).astype(bfloat16)

    return kernel


@fault("arithmetic", "var", patterns=[
    Pattern.GROWS_WITH_INPUT, Pattern.OTHER_FUNCTION, Pattern.NARROWER])  # fmt: skip
def variance_by_cancellation(site: Site) -> Any:
    """E[x²]-E[x]² in float32 where the mean is large (apache/tvm#19643)."""

    def kernel(x: np.ndarray) -> np.ndarray:
        n = np.float32(x.shape[-1])
        square = np.add.reduce(x * x, -1, dtype=np.float32) / n
        mean = np.add.reduce(x, -1, dtype=np.float32) / n
        return (square - mean * mean) * n / (n - 1)

    return kernel


@fault("arithmetic", "var", patterns=[Pattern.FACTOR])
def variance_without_correction(site: Site) -> Any:
    """Divided by n where n-1 was asked for (pytorch/pytorch#91203)."""
    return lambda x: x.astype(np.float64).var(-1).astype(np.float32)


@fault("gpt2", "transformer.h.1.ln_1/layer_norm", patterns=[])
def epsilon_outside_the_root(site: Site) -> Any:
    """1/(std+ε) in place of 1/√(var+ε), with an ε that shows: a root in the wrong place
    (131250208/TPlinker-joint-extraction#37)."""

    def kernel(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        wide = x.astype(np.float64)
        centred = wide - wide.mean(-1, keepdims=True)
        normal = centred / (centred.std(-1, keepdims=True) + 1e-3)
        return (normal * weight + bias).astype(np.float32)

    return kernel


@fault("llama", "model.layers.3.input_layernorm/add", patterns=[Pattern.OFFSET, NONE])
def hard_coded_epsilon(site: Site) -> Any:
    """1e-5 where the model says 1e-6 (ggml-org/llama.cpp#9310).

    What it is added to differs so little from row to row that a factor explains it as well.
    """
    return lambda x: x + np.float32(1e-5)


@fault("bert", "encoder.layer.1.intermediate.intermediate_act_fn/gelu", patterns=[
    Pattern.OTHER_FUNCTION])  # fmt: skip
def tanh_gelu_for_erf_gelu(site: Site) -> Any:
    """GELU by its tanh approximation where the model has the exact one (tenstorrent/tt-metal#1262
    confuses the two)."""

    def kernel(x: np.ndarray) -> np.ndarray:
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x.astype(np.float64) ** 3)
        return (0.5 * x * (1 + np.tanh(inner))).astype(np.float32)

    return kernel


@fault("vit", "layers.1.mlp.activation_fn/gelu", patterns=[Pattern.OTHER_FUNCTION])
def sigmoid_gelu(site: Site) -> Any:
    """x·sigmoid(1.702x) for GELU (ROCm/AMDMIGraphX#2542)."""
    return kernels.elementwise(site, lambda te, x: x / (1 + te.exp(-1.702 * x)))


@fault("gpt2", "transformer.h.1.mlp.act/tanh", patterns=[
    Pattern.OTHER_FUNCTION, Pattern.NARROWER])  # fmt: skip
def coarse_tanh(site: Site) -> Any:
    """A rational approximation that is good to three digits (apache/tvm#3255 trades accuracy for
    speed)."""

    def tanh(te: Any, x: Any) -> Any:
        y = te.max(te.min(x, 3.0), -3.0)
        return y * (27 + y * y) / (27 + 9 * y * y)

    return kernels.elementwise(site, tanh)


@fault("llama", "model.layers.0.mlp.act_fn/silu", patterns=[
    Pattern.OTHER_FUNCTION, Pattern.NARROWER])  # fmt: skip
def coarse_exp(site: Site) -> Any:
    """exp as (1+x/1024)^1024 (The-OpenROAD-Project/RePlAce#32)."""

    def silu(te: Any, x: Any) -> Any:
        power = 1 - x / 1024
        for _ in range(10):
            power = power * power
        return x / (1 + power)

    return kernels.elementwise(site, silu)


@fault("llama", "model.layers.4.mlp.act_fn/silu", patterns=[Pattern.NARROWER])
def silu_through_float16(site: Site) -> Any:
    """An activation goes through float16 and comes back (microsoft/onnxruntime#29599)."""
    return kernels.elementwise(
        site,
        lambda te, x: (x / (1 + te.exp(-x))).astype("float16").astype("float32"),
    )  # fmt: skip


@fault("llama", "model.layers.4.mlp/mul", patterns=[Pattern.FACTOR])
def one_percent_too_large(site: Site) -> Any:
    """A quantization scale that is off by a percent (1bit-MONSTER/1bit-MONSTER#640 rounds scales
    one way)."""
    return kernels.elementwise(site, lambda te, a, b: a * b * 1.01)


@fault("llama", "model.layers.5.mlp/mul", patterns=[Pattern.FACTOR])
def one_in_a_thousand_too_large(site: Site) -> Any:
    """The same a tenth as large, below any usual tolerance (1bit-MONSTER/1bit-MONSTER#640)."""
    return kernels.elementwise(site, lambda te, a, b: a * b * 1.001)


@fault("arithmetic", "div", patterns=[Pattern.TRUNCATED])
def truncated_division(site: Site) -> Any:
    """Integer division towards zero for floor division (PaddlePaddle/Paddle#46379)."""
    return lambda x: np.trunc(x / 7).astype(np.int64)


@fault("arithmetic", "remainder", patterns=[Pattern.TRUNCATED, Pattern.SIGN])
def truncated_remainder(site: Site) -> Any:
    """C's % for the mathematical modulo (brazilofmux/tinymux#828, in a JIT)."""
    return lambda x: np.fmod(x, 7)


@fault("arithmetic", "round", patterns=[Pattern.HALVES])
def halves_away_from_zero(site: Site) -> Any:
    """llvm.round for round-half-even (apache/tvm#18590, apache/tvm#20231)."""
    return lambda x: np.copysign(np.floor(np.abs(x) + 0.5), x)


@fault("arithmetic", "pow", patterns=[Pattern.NAN_NEGATIVE_INPUT])
def pow_by_logarithm(site: Site) -> Any:
    """exp(3·log(x)), which negative numbers have not (apache/nuttx#6941,
    ComputationalRadiationPhysics/picongpu#3400)."""
    return kernels.elementwise(site, lambda te, x: te.exp(3.0 * te.log(x)))


@fault("arithmetic", "exp", patterns=[Pattern.FLUSHED])
def subnormals_flushed_early(site: Site) -> Any:
    """Numbers far above the smallest are flushed to zero as well (pytorch/pytorch#126848 flushes
    where it should not)."""
    return kernels.elementwise(
        site, lambda te, x: te.if_then_else(te.exp(x) < 1e-32, 0.0 * x, te.exp(x))
    )


@fault("arithmetic", "cumsum", patterns=[Pattern.SHIFTED, Pattern.OTHER_FUNCTION])
def exclusive_scan(site: Site) -> Any:
    """The sum leaves out its last term (NVIDIA/TensorRT#4513 ignores a scan's attributes)."""
    return lambda x: np.cumsum(x, 1) - x


@fault("arithmetic", "mul_1", patterns=[Pattern.WRAPPED])
def through_eight_bits(site: Site) -> Any:
    """An integer type that is too narrow wraps around (triton-lang/triton#832, where it is 32
    bits; here 8)."""
    return lambda x: (x * 5).astype(np.int8).astype(np.int64)


@fault("bert", "encoder.layer.0.output.dense/linear", patterns=[Pattern.OFFSET])
def forgotten_bias(site: Site) -> Any:
    """The bias makes no difference (tenstorrent/tt-metal#5237); here it is 1/4 throughout."""
    return lambda x, weight, bias: site.honest(x, weight, bias) - np.float32(0.25)


@fault("llama", "model.norm/rsqrt", patterns=[])
def one_newton_step(site: Site) -> Any:
    """1/√x from an estimate and too few Newton steps (Tencent/ncnn#6903, libxsmm/libxsmm#1097)."""

    def kernel(x: np.ndarray) -> np.ndarray:
        bits = np.ascontiguousarray(x).view(np.int32)
        y = (np.int32(0x5F3759DF) - (bits >> 1)).view(np.float32)
        return y * (np.float32(1.5) - np.float32(0.5) * x * y * y)

    return kernel
