"""Faults of convolutions and pooling."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.faults.suite import Site, fault
from tapml_nb.judge.diagnosis import Pattern


@fault("convolutions", "stem/conv2d", patterns=[])
def padding_on_the_other_side(site: Site) -> Any:
    """Padded at the end in place of the beginning (apache/tvm#6646)."""
    return lambda x, weight, bias: site.honest(np.roll(x, (-1, -1), (2, 3)), weight, bias)


@fault("convolutions", "grouped/conv2d", patterns=[])
def groups_mixed_up(site: Site) -> Any:
    """A grouped convolution as if it were depthwise: groups read their neighbours' channels
    (apache/tvm#5132)."""
    return lambda x, weight, bias: site.honest(np.roll(x, 4, 1), weight, bias)


@fault("convolutions", "dilated/conv2d", patterns=[])
def dilation_forgotten(site: Site) -> Any:
    """The taps of a dilated convolution lie beside one another (pytorch/executorch#18616
    ignores an attribute in the same way)."""

    def kernel(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
        taps = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
        y = np.einsum("nchwij,ocij->nohw", taps, weight) + bias[:, None, None]
        return y.astype(np.float32)

    return kernel


@fault("convolutions", "norm/batch_norm", patterns=[])
def running_statistics_ignored(site: Site) -> Any:
    """Batch norm with the statistics of this batch (tenstorrent/tt-metal#45968)."""

    def kernel(x: np.ndarray, *parameters: np.ndarray) -> np.ndarray:
        wide = x.astype(np.float64)
        mean = wide.mean((0, 2, 3), keepdims=True)
        return ((wide - mean) / np.sqrt(wide.var((0, 2, 3), keepdims=True) + 1e-5)).astype(
            np.float32
        )

    return kernel


@fault("convolutions", "average/avg_pool2d", patterns=[])
def padding_not_counted(site: Site) -> Any:
    """The average leaves the padding out of its count (apache/tvm#18487)."""

    def kernel(x: np.ndarray) -> np.ndarray:
        ones = site.honest(np.ones_like(x))
        return site.honest(x) / ones

    return kernel


@fault("convolutions", "maximum/max_pool2d", patterns=[])
def maximum_with_zero_padding(site: Site) -> Any:
    """Padded with 0 in place of -inf (tenstorrent/tt-metal#28804)."""

    def kernel(x: np.ndarray) -> np.ndarray:
        y = site.honest(x)
        for edge in (np.s_[:, :, 0], np.s_[:, :, -1], np.s_[..., 0], np.s_[..., -1]):
            y[edge] = np.maximum(y[edge], 0)
        return y

    return kernel


@fault("convolutions", "relu", patterns=[Pattern.CLIPPED])
def saturates(site: Site) -> Any:
    """Values stop at half the range that they should have (sbryngelson/ANEForge#115)."""
    return lambda x: np.clip(x, 0, np.float32(1.0))


@fault("convolutions", "silu", patterns=[Pattern.ONE_SLICE])
def one_channel_wrong(site: Site) -> Any:
    """A channel holds its neighbour's values: the offset of one face of a tile is wrong
    (tenstorrent/tt-llk#697)."""

    def kernel(x: np.ndarray) -> np.ndarray:
        y = site.honest(x)
        y[:, 11] = y[:, 10]
        return y

    return kernel
