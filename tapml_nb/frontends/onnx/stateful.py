"""The float64 runs of what carries a state: onnx's definitions of these operators, and its
reference implementation, compute parts of them in float32 whatever they are given."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tapml_nb.frontends.onnx.model import OnnxNode


def linear_attention(
    told: Mapping[str, Any],
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    past: np.ndarray | None = None,
    decay: np.ndarray | None = None,
    beta: np.ndarray | None = None,
) -> list[np.ndarray]:
    """The recurrence step by step."""
    shared, group = told["kv_num_heads"], told["q_num_heads"] // told["kv_num_heads"]
    batch, length, _ = query.shape

    def packed(x: np.ndarray, *sizes: int) -> np.ndarray:
        return x.reshape(batch, length, *sizes)

    # Heads of keys and values, the queries of each, and what a head is made of.
    q, k, v = packed(query, shared, group, -1), packed(key, shared, -1), packed(value, shared, -1)
    state = np.zeros((batch, shared, k.shape[-1], v.shape[-1])) if past is None else past
    fades = None if decay is None else np.exp(packed(decay, shared, -1, 1))
    rates = None if beta is None else packed(beta, -1, 1)
    read = []
    for t in range(length):
        new = v[:, t]
        if fades is not None:
            state = state * fades[:, t]
        if rates is not None:
            new = rates[:, t] * (new - np.einsum("bhkv,bhk->bhv", state, k[:, t]))
        state = state + k[:, t, :, :, None] * new[:, :, None]
        read.append(np.einsum("bhgk,bhkv->bhgv", q[:, t], state).reshape(batch, -1))
    scale = told.get("scale") or 1 / math.sqrt(k.shape[-1])
    return [scale * np.stack(read, 1), state]


def causal_conv_with_state(
    told: Mapping[str, Any],
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    past: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Each channel with what came before it."""
    batch, channels, length = x.shape
    before = w.shape[2] - 1
    whole = np.concatenate([np.zeros((batch, channels, before)) if past is None else past, x], 2)
    y = np.einsum(
        "bclk,ck->bcl", np.lib.stride_tricks.sliding_window_view(whole, before + 1, 2), w[:, 0]
    )
    y = y if b is None else y + b[:, None]
    if told.get("activation", "none") != "none":
        y = y / (1 + np.exp(-y))
    return [y, whole[:, :, length:]]


_EXACT: dict[str, Callable[..., list[np.ndarray]]] = {
    "CausalConvWithState": causal_conv_with_state,
    "LinearAttention": linear_attention,
}

STATEFUL = frozenset(_EXACT)
"""The operators, by kind."""


def stateful_exact(node: OnnxNode, values: Mapping[str, Any]) -> list[np.ndarray]:
    """All outputs that a node has, in float64, of its inputs by name in float64."""
    made = _EXACT[node.kind](
        node.attributes(), *(values[name] if name else None for name in node.proto.input)
    )
    return [array for array, name in zip(made, node.proto.output, strict=False) if name]
