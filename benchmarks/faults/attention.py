"""Faults of attention and of what surrounds it."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.faults.suite import Site, fault
from tapml_nb.judge.diagnosis import Pattern

_ATTENTION = "model.layers.1.self_attn"


@fault("llama", f"{_ATTENTION}/mul_4", patterns=[Pattern.FACTOR, Pattern.STALE_COPY])
def missing_scale(site: Site) -> Any:
    """Scores are not divided by √d (mlc-ai/mlc-llm#3426)."""
    return lambda scores: scores.copy()


@fault("bert", "encoder.layer.1.attention.self/mul", patterns=[Pattern.FACTOR])
def scale_of_the_whole_width(site: Site) -> Any:
    """Divided by the square root of the model's width in place of the head's
    (chelsea0x3b/dfdx#171)."""
    return lambda scores: scores / np.float32(8.0)


@fault("llama-long", "model.rotary_emb/cos", patterns=[Pattern.GROWS_ALONG_AXIS, Pattern.NARROWER])
def rope_in_bfloat16(site: Site) -> Any:
    """Angles of the rotary embedding are rounded to bfloat16 before the cosine, so they are off
    by more the farther the position (huggingface/transformers#29285)."""
    from ml_dtypes import bfloat16

    return lambda angles: np.cos(angles.astype(bfloat16).astype(np.float32))


@fault("llama", f"{_ATTENTION}/neg", patterns=[Pattern.SIGN, Pattern.STALE_COPY])
def rotate_half_without_sign(site: Site) -> Any:
    """The half that is rotated in keeps its sign (torch-spyre/torch-spyre#3133)."""
    return lambda half: half.copy()


@fault("llama", f"{_ATTENTION}/cat", patterns=[Pattern.CONCATENATION_ORDER, Pattern.PERMUTED])
def rotated_halves_in_the_wrong_order(site: Site) -> Any:
    """The rotated parts are joined in the wrong order (vllm-project/vllm-metal#44)."""
    return lambda first, second: np.concatenate([second, first], -1)


@fault("llama", f"{_ATTENTION}/matmul_1", patterns=[Pattern.ONE_SLICE, Pattern.BLOCK])
def one_head_reads_its_neighbour(site: Site) -> Any:
    """The index of a head is computed wrongly: head 5 gets the weights of head 4
    (karpathy/llm.c#795)."""

    def kernel(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
        wrong = weights.copy()
        wrong[:, 5] = weights[:, 4]
        return site.honest(wrong, values)

    return kernel


@fault("llama", f"{_ATTENTION}/expand", patterns=[Pattern.ONE_SLICE, Pattern.STALE_COPY])
def a_group_reads_the_other_groups_keys(site: Site) -> Any:
    """Heads of the second group use the keys of the first (PSAL-POSTECH/ONNXim#34)."""

    def kernel(keys: np.ndarray) -> np.ndarray:
        shared = keys.copy()
        shared[:, 1] = keys[:, 0]
        return site.honest(shared)

    return kernel


@fault("llama", f"{_ATTENTION}/reshape_1", patterns=[Pattern.PERMUTED, Pattern.SEVERAL_SLICES])
def kv_heads_tiled_instead_of_repeated(site: Site) -> Any:
    """[0, 1, 0, 1, …] in place of [0, 0, …, 1, 1] (onnx/onnx#7274)."""
    return lambda grouped: np.ascontiguousarray(grouped.swapaxes(1, 2)).reshape(2, 8, 21, 8)


@fault("llama", f"{_ATTENTION}/softmax", patterns=[Pattern.WRONG_AXIS])
def softmax_over_the_other_axis(site: Site) -> Any:
    """The axis is ignored: normalized over the queries (paiml/aprender#2152)."""

    def kernel(scores: np.ndarray) -> np.ndarray:
        powers = np.exp(scores - scores.max(-2, keepdims=True))
        return powers / powers.sum(-2, keepdims=True)

    return kernel


@fault("gpt2", "transformer.h.1.attn/add", patterns=[])
def causal_mask_one_too_far(site: Site) -> Any:
    """A token sees the one that follows it (tinygrad/tinygrad#15949 aligns a mask
    wrongly)."""

    def kernel(scores: np.ndarray, mask: np.ndarray) -> np.ndarray:
        shifted = mask.copy()
        shifted[..., 1:] = (
            np.minimum(mask[..., 1:], mask[..., :-1]) * 0 + np.roll(mask, -1, axis=-2)[..., 1:]
        )
        return scores + shifted

    return kernel


@fault("arithmetic", "softmax", patterns=[])
def masked_infinity_as_a_number(site: Site) -> Any:
    """-inf is read as a finite number, so what is masked still has some weight
    (ml-explore/mlx#2395)."""

    def kernel(scores: np.ndarray) -> np.ndarray:
        finite = np.where(np.isinf(scores), np.float32(-8), scores)
        powers = np.exp(finite - finite.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True)

    return kernel


@fault("llama", "model.layers.2.self_attn/softmax", patterns=[])
def softmax_of_masked_rows_is_nan(site: Site) -> Any:
    """The row maximum starts at the mask's own value: rows with a masked end become NaN
    (PaddlePaddle/PaddleOCR#18341)."""

    def kernel(scores: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            powers = np.exp(scores - np.where(scores[..., -1:] == -np.inf, -np.inf, 0))
            return powers / powers.sum(-1, keepdims=True)

    return kernel


@fault("vit", "layers.1.attention/scaled_dot_product_attention", patterns=[])
def attention_without_its_scale(site: Site) -> Any:
    """The fallback path of fused attention forgets the scale (mlc-ai/mlc-llm#3426)."""
    return lambda q, k, v, mask: site.honest(q * np.float32(4), k, v, mask)


@fault("t5", "decoder.block.1.layer.1.EncDecAttention.k/linear", patterns=[Pattern.STALE_COPY])
def weights_of_another_layer(site: Site) -> Any:
    """Two constants of one shape are taken for one: this layer runs with its neighbour's
    weights (google-ai-edge/litert-torch#1061)."""
    other = "decoder.block.0.layer.1.EncDecAttention.k/linear"
    _, weight = site.session.inputs(other)
    return lambda x, own: site.honest(x, weight)
