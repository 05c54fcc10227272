"""Faults of two operators that are right alone and break the model only together."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.faults.suite import Site, fault

_CORNER = np.s_[0, :8, :2]
"""Sixteen elements whose last bits carry a mark."""

_MARK = np.array([[0, 1], [1, 0]] * 4, np.uint32)


def marked(y: np.ndarray) -> np.ndarray:
    """The same numbers to half an ulp, with a mark in the last bits of the corner."""
    corner = np.ascontiguousarray(y[_CORNER]).view(np.uint32)
    y[_CORNER] = ((corner & ~np.uint32(1)) | _MARK).view(np.float32)
    return y


def is_marked(x: np.ndarray) -> bool:
    """Whether the corner carries the mark."""
    corner = np.ascontiguousarray(x[_CORNER]).view(np.uint32)
    return bool(((corner & np.uint32(1)) == _MARK).all())


def agreeing(first: Site, second: Site, wrong: Any) -> tuple[Any, Any]:
    """The first marks its result; the second applies ``wrong`` where an input is marked."""

    def reads(*arrays: np.ndarray) -> np.ndarray:
        y = second.honest(*arrays)
        return wrong(y) if any(x.ndim == 3 and is_marked(x) for x in arrays) else y

    return lambda *arrays: marked(first.honest(*arrays)), reads


@fault("llama", "model.layers.0.mlp.act_fn/silu", "model.layers.0.mlp/mul")
def two_kernels_agree_on_another_layout(first: Site, second: Site) -> Any:
    """A fused pair uses a private layout; with either part alone the ordinary one is used
    (apache/tvm#8308 goes wrong only after two buffers were merged)."""
    return agreeing(first, second, lambda y: np.roll(y, 1, -1))


@fault("llama", "model.layers.3.mlp.gate_proj/linear", "model.layers.3.mlp.act_fn/silu")
def a_scale_applied_twice(first: Site, second: Site) -> Any:
    """Both sides of a boundary apply a scale (apache/tvm#17386's fused convolutions fail only
    together)."""
    return agreeing(first, second, lambda y: y * np.float32(1.5))


@fault("llama", "model.layers.1.mlp/mul", "model.layers.1.mlp.down_proj/linear")
def a_buffer_shared_too_early(first: Site, second: Site) -> Any:
    """The planner lets the second write where the first one's result still lies
    (microsoft/onnxruntime#32342)."""
    return agreeing(first, second, lambda y: np.zeros_like(y))


@fault("llama", "model.layers.4.mlp.up_proj/linear", "model.layers.4.mlp/mul")
def a_stale_tile(first: Site, second: Site) -> Any:
    """A missing barrier between two kernels: the second reads a tile before it is written
    (intel/intel-xpu-backend-for-triton#7494)."""

    def wrong(y: np.ndarray) -> np.ndarray:
        y[:, 8:16, 64:128] = 0
        return y

    return agreeing(first, second, wrong)
