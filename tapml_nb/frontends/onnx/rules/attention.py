"""Attention and rotary positions, as operator sets from 23 on have them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import relax

from tapml_nb.frontends.onnx.rules.call import Call, Expr, Rule, cast, constant, dtype_of, shape_of

_PRODUCT, _PROBABILITIES = 0, 3
"""What the fourth output of attention may be: products of queries and keys, or their softmax."""


def attention(
    call: Call,
    q: Expr,
    k: Expr,
    v: Expr,
    mask: Expr | None = None,
    past_key: Expr | None = None,
    past_value: Expr | None = None,
    lengths: Expr | None = None,
) -> tuple[Expr, ...]:
    """All outputs of attention: the result, keys and values with those of the past, the scores.

    Raises:
        ValueError: where the fourth output shows scores in between, or attention has a window.
    """
    told = call.attributes
    shows = told.get("qk_matmul_output_mode") or _PRODUCT
    if call.wants(3) and shows not in (_PRODUCT, _PROBABILITIES):
        raise ValueError(f"qk_matmul_output_mode {shows}")
    if max(told.get("left_window_size", -1), told.get("right_window_size", -1)) >= 0:
        raise ValueError("attention with a window")
    flat = len(shape_of(q)) == 3
    if flat:
        q = _heads(call, q, told["q_num_heads"])
        k, v = (_heads(call, x, told["kv_num_heads"]) for x in (k, v))
    past = 0 if past_key is None else shape_of(past_key)[2]
    if past_key is not None:
        k = call.emit(relax.op.concat([past_key, k], 2))
        v = call.emit(relax.op.concat([past_value, v], 2))
    (batch, heads, queries, width), keys = shape_of(q), shape_of(k)[2]
    shared = heads // shape_of(k)[1]
    every_k, every_v = (
        call.emit(relax.op.repeat(x, shared, 1)) if shared > 1 else x for x in (k, v)
    )
    scale = constant(math.sqrt(told.get("scale") or 1 / math.sqrt(width)), q)
    turned = relax.op.permute_dims(relax.op.multiply(every_k, scale), [0, 1, 3, 2])
    product = call.emit(relax.op.matmul(relax.op.multiply(q, scale), turned))
    scores = product
    if softcap := told.get("softcap"):
        bound = constant(softcap, q)
        scores = relax.op.multiply(relax.op.tanh(relax.op.divide(scores, bound)), bound)
    for allowed_or_bias in _masks(call, q, mask, lengths, past, keys):
        scores = _masked(call, call.emit(scores), call.emit(allowed_or_bias))
    weights = _softmax(call, call.emit(scores))
    y = call.emit(relax.op.matmul(weights, every_v))
    if flat:
        y = call.emit(relax.op.permute_dims(y, [0, 2, 1, 3]))
        y = relax.op.reshape(y, [batch, queries, heads * shape_of(v)[3]])
    return (y, k, v, weights if shows == _PROBABILITIES else product)


def _heads(call: Call, x: Expr, heads: int) -> Expr:
    batch, length, width = shape_of(x)
    apart = relax.op.reshape(x, [batch, length, heads, width // heads])
    return call.emit(relax.op.permute_dims(apart, [0, 2, 1, 3]))


def _masks(
    call: Call, q: Expr, mask: Expr | None, lengths: Expr | None, past: int, keys: int
) -> list[Expr]:
    """What keys a query may look at: booleans, or numbers to add to its scores."""
    batch, _, queries, _ = shape_of(q)
    found: list[Expr] = []
    if mask is not None:
        missing = keys - shape_of(mask)[-1]
        if missing:
            rest = [*shape_of(mask)[:-1], missing]
            closed = False if dtype_of(mask) == "bool" else -math.inf
            fill = relax.const(np.full(rest, closed, dtype_of(mask)), dtype_of(mask))
            mask = relax.op.concat([mask, fill], -1)
        found.append(mask)
    number = relax.const(np.arange(keys, dtype=np.int64).reshape(1, 1, 1, keys))
    if lengths is not None:
        ends = relax.op.reshape(cast(lengths, "int64"), [batch, 1, 1, 1])
        found.append(relax.op.less(number, ends))
    if call.attributes.get("is_causal"):
        own = np.arange(queries, dtype=np.int64).reshape(1, 1, queries, 1)
        last: Any = relax.const(own + past)
        if lengths is not None and past == 0:
            last = relax.op.add(relax.op.subtract(ends, relax.const(np.int64(queries))), last)
        found.append(relax.op.less_equal(number, last))
    return found


def _masked(call: Call, scores: Expr, mask: Expr) -> Expr:
    if dtype_of(mask) != "bool":
        return relax.op.add(scores, mask)
    return relax.op.where(mask, scores, constant(-math.inf, scores))


def _softmax(call: Call, scores: Expr) -> Expr:
    """Softmax of the last axis; 0 throughout where a query may look at nothing."""
    wide = cast(scores, "float32") if dtype_of(scores) in ("float16", "bfloat16") else scores
    wide = call.emit(wide)
    top = call.emit(relax.op.max(wide, -1, True))
    nothing = relax.op.equal(top, constant(-math.inf, top))
    least = relax.op.where(nothing, constant(0, top), top)
    powers = call.emit(relax.op.exp(relax.op.subtract(wide, least)))
    total = call.emit(relax.op.sum(powers, -1, True))
    total = relax.op.where(nothing, constant(1, total), total)
    return call.emit(cast(call.emit(relax.op.divide(powers, total)), dtype_of(scores)))


def rotary_embedding(
    call: Call, x: Expr, cosines: Expr, sines: Expr, positions: Expr | None = None
) -> Expr:
    """Pairs of numbers, turned by the angle of their position."""
    told, shape = call.attributes, shape_of(x)
    if len(shape) == 3:
        batch, length, width = shape
        heads = told["num_heads"]
        x = call.emit(relax.op.reshape(x, [batch, length, heads, width // heads]))
    else:
        x = call.emit(relax.op.permute_dims(x, [0, 2, 1, 3]))
    width = shape_of(x)[3]
    turned = told.get("rotary_embedding_dim") or width
    if positions is not None:
        cosines, sines = (
            relax.op.take(table, positions, 0, mode="clip") for table in (cosines, sines)
        )
    cosines, sines = (call.emit(relax.op.expand_dims(a, 2)) for a in (cosines, sines))
    rest = None
    if turned < width:
        x, rest = _split(call, x, turned)
    if told.get("interleaved"):
        pairs = relax.op.reshape(x, [*shape_of(x)[:3], turned // 2, 2])
        one, two = (
            call.emit(relax.op.squeeze(part, [4])) for part in _split(call, call.emit(pairs), 1)
        )
    else:
        one, two = _split(call, x, turned // 2)
    times, plus, minus = relax.op.multiply, relax.op.add, relax.op.subtract
    real = call.emit(minus(times(cosines, one), times(sines, two)))
    imaginary = call.emit(plus(times(sines, one), times(cosines, two)))
    if told.get("interleaved"):
        stacked = call.emit(relax.op.stack([real, imaginary], -1))
        result = relax.op.reshape(stacked, shape_of(x))
    else:
        result = relax.op.concat([real, imaginary], -1)
    if rest is not None:
        result = relax.op.concat([call.emit(result), rest], -1)
    result = call.emit(result)
    if len(shape) == 3:
        return relax.op.reshape(result, shape)
    return relax.op.permute_dims(result, [0, 2, 1, 3])


def _split(call: Call, x: Expr, at: int) -> tuple[Expr, Expr]:
    """The last axis in two."""
    parts = call.emit(relax.op.split(x, [at], len(shape_of(x)) - 1))
    return call.emit(parts[0]), call.emit(parts[1])


RULES: dict[str, Rule] = {"Attention": attention, "RotaryEmbedding": rotary_embedding}
