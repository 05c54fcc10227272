"""Faults of places: tiles, lanes, axes, strides, indices."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.faults import kernels
from benchmarks.faults.suite import Site, fault
from tapml_nb.judge.diagnosis import Pattern


@fault("llama", "model.layers.2.mlp.up_proj/linear", patterns=[Pattern.TAIL])
def tail_of_a_wide_tile(site: Site) -> Any:
    """172 columns in tiles of 64: those of the last, incomplete one are wrong
    (NVIDIA/Fuser#3963)."""

    def kernel(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        y = site.honest(x, weight)
        y[..., 128:] *= np.float32(0.5)
        return y

    return kernel


@fault("llama", "lm_head/linear", patterns=[Pattern.TAIL])
def tail_of_a_narrow_tile(site: Site) -> Any:
    """333 columns in tiles of 16: the last 13 stay zero (tenstorrent/tt-metal#54798)."""

    def kernel(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        y = site.honest(x, weight)
        y[..., 320:] = 0
        return y

    return kernel


@fault("llama", "model.layers.2.mlp.down_proj/linear", patterns=[])
def tail_of_the_sum(site: Site) -> Any:
    """172 terms in tiles of 16: the last 12 are not added (tile-ai/tilelang-ascend#1341)."""
    return kernels.kernel(site, lambda te, x, weight: te.compute(
        (2, 21, 64),
        lambda b, i, j: te.sum(
            x[b, i, k := te.reduce_axis((0, 160), "k")] * weight[j, k], axis=k
        ),
    ))  # fmt: skip


@fault("llama", "model.layers.3.mlp.act_fn/silu", patterns=[Pattern.DUPLICATED_LANES])
def duplicated_lanes(site: Site) -> Any:
    """Four lanes of a vector hold the first one's value (apache/tvm#8308 computes a lane's offset
    wrongly)."""
    return kernels.kernel(site, lambda te, x: te.compute(
        (2, 21, 172),
        lambda b, i, j: x[b, i, j // 4 * 4] / (1 + te.exp(-x[b, i, j // 4 * 4])),
    ))  # fmt: skip


@fault("llama", "model.layers.3.mlp/mul", patterns=[Pattern.LANE_STRIPE])
def one_lane_wrong(site: Site) -> Any:
    """Every fourth element misses its second factor (pytorch/pytorch#56741)."""
    return kernels.kernel(site, lambda te, a, b: te.compute(
        (2, 21, 172),
        lambda n, i, j: te.if_then_else(
            te.indexmod(j, 4) == 3, a[n, i, j], a[n, i, j] * b[n, i, j]
        ),
    ))  # fmt: skip


@fault("gpt2", "transformer.h.1.mlp.c_fc/addmm", patterns=[Pattern.ONE_ELEMENT])
def one_element(site: Site) -> Any:
    """A single element is wrong, at the corner of a tile (cuDNN's in tensorflow/tensorflow#32836
    corrupts a few)."""

    def kernel(bias: np.ndarray, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        y = site.honest(bias, x, weight)
        y[15, 127] += np.float32(0.01)
        return y

    return kernel


@fault("llama", "model.layers.2.self_attn.q_proj/linear", patterns=[Pattern.TRANSPOSED_OPERAND])
def square_weight_transposed(site: Site) -> Any:
    """A square weight is used as if it had been transposed already (tinygrad/tinygrad#18103)."""
    return lambda x, weight: site.honest(x, np.ascontiguousarray(weight.T))


@fault("bert", "encoder.layer.0.attention.self/matmul_1", patterns=[
    Pattern.TRANSPOSED_OPERAND])  # fmt: skip
def reads_a_transposed_layout(site: Site) -> Any:
    """The weights of attention are read with their last two axes exchanged
    (pytorch/pytorch#108342 transposes a weight without a word)."""
    return lambda a, b: site.honest(np.ascontiguousarray(a.swapaxes(-1, -2)), b)


@fault("arithmetic", "sub_1", patterns=[Pattern.SWAPPED_OPERANDS, Pattern.SIGN])
def operands_swapped(site: Site) -> Any:
    """1.5 - x for x - 1.5 (mitsuba-renderer/drjit#529)."""
    return kernels.elementwise(site, lambda te, x: 1.5 - x)


@fault("arithmetic", "cat", patterns=[Pattern.CONCATENATION_ORDER, Pattern.PERMUTED])
def concatenated_in_the_wrong_order(site: Site) -> Any:
    """The second part comes first (torch-spyre/torch-spyre#3133: a `cat` of
    halves is wrong)."""
    return lambda a, b: np.concatenate([b, a])


@fault("arithmetic", "gather", patterns=[])
def gather_off_by_one(site: Site) -> Any:
    """Every index is one too large, the last one wraps (apache/tvm#20217)."""
    return lambda x, index: np.take_along_axis(x, (index + 1) % 9, 1)


@fault("arithmetic", "argmax", patterns=[])
def argmax_of_magnitudes(site: Site) -> Any:
    """Negative numbers compare wrongly (NVIDIA/MatX#197, kakaobrain/trident#143): the largest
    magnitude wins."""
    return lambda x: np.abs(x).argmax(1)


@fault("arithmetic", "topk", patterns=[])
def topk_not_sorted(site: Site) -> Any:
    """The right elements in the wrong order (tensorflow/tensorflow#21173)."""

    def kernel(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        where = np.sort(np.argsort(-x, -1, kind="stable")[:, :5], -1)
        return np.take_along_axis(x, where, -1), where

    return kernel


@fault("bert", "encoder.layer.1.output/add", patterns=[
    Pattern.STALE_COPY, Pattern.ONE_SLICE, Pattern.PERMUTED])  # fmt: skip
def later_batch_entries_wrong(site: Site) -> Any:
    """Only the first entry of a batch is right (monatis/clip.cpp#67)."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        y = a + b
        y[1:] = y[:1]
        return y

    return kernel


@fault("bert", "encoder.layer.0.attention.self/transpose_4", patterns=[
    Pattern.SWAPPED_AXES, Pattern.STALE_COPY])  # fmt: skip
def written_in_the_old_order(site: Site) -> Any:
    """A transpose is taken for a reshape (onnx/tensorflow-onnx#226, PINTO0309/onnx2tf#479)."""
    return lambda x: x.reshape(2, 17, 4, 16).copy()


@fault("t5", "encoder.block.1.layer.1.DenseReluDense.wi/linear", patterns=[Pattern.BLOCK])
def one_tile_wrong(site: Site) -> Any:
    """One tile of 8 by 32 of a matmul is computed from stale operands (iree-org/iree#23952)."""

    def kernel(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        y = site.honest(x, weight)
        y[:, :8, 32:64] = np.float32(0.75) * y[:, :8, 32:64][..., ::-1]
        return y

    return kernel


@fault("vit", "embeddings/cat", patterns=[Pattern.REVERSED, Pattern.PERMUTED])
def patches_reversed(site: Site) -> Any:
    """A loop runs backwards over the tokens (the flipped index of pytorch/pytorch#101950)."""
    return lambda token, patches: np.ascontiguousarray(np.concatenate([token, patches], 1)[:, ::-1])


@fault("vit", "embeddings/add", patterns=[])
def positions_broadcast_along_the_wrong_axis(site: Site) -> Any:
    """A bias goes along the wrong axis (openxla/xla#46897): here every token gets the position of
    the first one."""
    return lambda x, position: x + position[:, :1]
