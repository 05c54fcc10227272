"""What is carried from one call to the next: states of linear attention and of causal convolutions,
and caches that are written to."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from tapml_nb.array_api import np_dtype
from tapml_nb.frontends.onnx.rules.call import (
    Call,
    Expr,
    Rule,
    cast,
    constant,
    dtype_of,
    shape_of,
    wide,
)
from tapml_nb.frontends.onnx.rules.sequences import MOST_STEPS, stacked, steps_of


def linear_attention(
    call: Call,
    query: Expr,
    key: Expr,
    value: Expr,
    past: Expr | None = None,
    decay: Expr | None = None,
    beta: Expr | None = None,
) -> tuple[Expr, Expr]:
    """The recurrence, unrolled: the state fades, is corrected, written to and read at each step.

    Raises:
        ValueError: for sequences that are too long to be unrolled.
    """
    told, emit = call.attributes, call.emit
    heads, shared = told["q_num_heads"], told["kv_num_heads"]
    batch, length, _ = shape_of(query)
    if not 0 < length <= MOST_STEPS:
        raise ValueError(f"a sequence of {length} steps, and it unrolls 1 to {MOST_STEPS}")
    given, kept = dtype_of(query), dtype_of(query if past is None else past)
    width, value_width = shape_of(key)[2] // shared, shape_of(value)[2] // shared
    scale = told.get("scale") or 1 / math.sqrt(width)
    # A state has the axes batch, head, key and value.
    queries = _by_step(call, query, [heads, 1, width])
    keys = _by_step(call, key, [shared, width, 1])
    values = _by_step(call, value, [shared, 1, value_width])
    fades = None if decay is None else _by_step(call, decay, [shared, -1, 1])
    rates = None if beta is None else _by_step(call, beta, [shape_of(beta)[2], 1, 1])
    if past is None:
        state = emit(relax.op.zeros([batch, shared, width, value_width], dtype_of(keys[0])))
    else:
        state = emit(wide(past))
    read = []
    for t in range(length):
        k, v = keys[t], values[t]
        if fades is not None:
            state = emit(relax.op.multiply(state, relax.op.exp(fades[t])))
        if rates is not None:
            found = emit(relax.op.sum(emit(relax.op.multiply(state, k)), 2, True))
            v = emit(relax.op.multiply(rates[t], relax.op.subtract(v, found)))
        state = emit(relax.op.add(state, relax.op.multiply(k, v)))
        every = emit(relax.op.repeat(state, heads // shared, 1)) if heads > shared else state
        read.append(emit(relax.op.matmul(queries[t], every)))
    result = stacked(call, read)
    result = emit(relax.op.multiply(result, constant(scale, result)))
    result = emit(relax.op.permute_dims(result, [1, 0, 2, 3, 4]))
    result = emit(relax.op.reshape(result, [batch, length, heads * value_width]))
    return cast(result, given), cast(state, kept)


def _by_step(call: Call, x: Expr, sizes: list[int]) -> list[Expr]:
    """A packed sequence at every step, as it is computed with, its last axis in several."""
    batch, length, _ = shape_of(x)
    apart = call.emit(relax.op.reshape(call.emit(wide(x)), [batch, length, *sizes]))
    return steps_of(call, call.emit(relax.op.permute_dims(apart, [1, 0, 2, 3, 4])))


def causal_conv_with_state(
    call: Call, x: Expr, w: Expr, b: Expr | None = None, past: Expr | None = None
) -> tuple[Expr, Expr]:
    """A convolution of each channel with what came before, and what is left for the next call."""
    given, emit = dtype_of(x), call.emit
    batch, channels, length = shape_of(x)
    before = shape_of(w)[2] - 1
    if before:
        if past is None:
            past = emit(relax.op.zeros([batch, channels, before], given))
        x = emit(relax.op.concat([past, x], 2))
    y = emit(relax.op.nn.conv1d(emit(wide(x)), emit(wide(w)), groups=channels))
    if b is not None:
        y = emit(relax.op.add(y, relax.op.reshape(emit(wide(b)), [1, channels, 1])))
    if call.attributes.get("activation", "none") != "none":
        y = emit(relax.op.nn.silu(y))
    if not before:  # nothing is left, of which GPUs have no kernel
        nothing = np.zeros([batch, channels, 0], np_dtype(given))
        return cast(y, given), relax.const(nothing, given)
    left = relax.op.strided_slice(x, [2], [length], [length + before])
    return cast(y, given), left


def tensor_scatter(call: Call, cache: Expr, update: Expr, at: Expr | None = None) -> Expr:
    """A cache in which each sequence of a batch has an update from its own place on."""
    shape = shape_of(cache)
    axis = call.attributes["axis"] % len(shape)
    size, count = shape[axis], shape_of(update)[axis]
    around = call.attributes["mode"] == "circular"
    if at is None:
        at = relax.const(np.zeros(shape[0], np.int64))

    def scatter(old: te.Tensor, new: te.Tensor, first: te.Tensor) -> te.Tensor:
        def element(*place: Any) -> Any:
            k = tirx.Cast("int64", place[axis]) - first(place[0])
            if around:
                k = tirx.floormod(k, tirx.const(size, "int64"))
            inside = tirx.all(k >= 0, k < count)
            k = tirx.Cast("int32", k)
            return tirx.if_then_else(inside, new(*place[:axis], k, *place[axis + 1 :]), old(*place))

        return te.compute(shape, element)

    return call.compute(scatter, cache, update, at, name="tensor_scatter")


RULES: dict[str, Rule] = {
    "CausalConvWithState": causal_conv_with_state,
    "LinearAttention": linear_attention,
    "TensorScatter": tensor_scatter,
}
