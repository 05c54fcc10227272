"""Attention and rotary positions, as operator sets from 23 on have them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import relax

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

_PRODUCT, _CAPPED, _BIASED, _PROBABILITIES = 0, 1, 2, 3
"""What the fourth output of attention may be: products of queries and keys, these capped, with the
bias of all masks added, or their softmax."""


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

    Masks of all kinds are a bias that is added, as the definition has it: -inf where a query may
    not look, so a NaN that is masked stays one.  Rows in which nothing is left are 0.
    """
    told, given = call.attributes, dtype_of(q)
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
    q, every_k, every_v = (call.emit(wide(x)) for x in (q, k, v))
    if shared > 1:
        every_k, every_v = (call.emit(relax.op.repeat(x, shared, 1)) for x in (every_k, every_v))
    scale = constant(math.sqrt(told.get("scale") or 1 / math.sqrt(width)), q)
    turned = relax.op.permute_dims(relax.op.multiply(every_k, scale), [0, 1, 3, 2])
    product = call.emit(relax.op.matmul(relax.op.multiply(q, scale), turned))
    capped = product
    if softcap := told.get("softcap"):
        bound = constant(softcap, q)
        within = relax.op.tanh(relax.op.divide(product, bound))
        capped = call.emit(relax.op.multiply(within, bound))
    bias = _bias(call, q, mask, lengths, past, keys)
    biased = capped if bias is None else call.emit(relax.op.add(capped, bias))
    weights = _softmax(call, biased)
    if bias is not None:
        weights = _unless_all_is_masked(call, weights, bias)
    y = call.emit(relax.op.matmul(weights, every_v))
    y = call.emit(cast(y, given))
    if flat:
        y = call.emit(relax.op.permute_dims(y, [0, 2, 1, 3]))
        y = relax.op.reshape(y, [batch, queries, heads * shape_of(v)[3]])
    shows = told.get("qk_matmul_output_mode") or _PRODUCT
    shown = {_PRODUCT: product, _CAPPED: capped, _BIASED: biased, _PROBABILITIES: weights}[shows]
    return (y, k, v, cast(shown, given))


def _heads(call: Call, x: Expr, heads: int) -> Expr:
    batch, length, width = shape_of(x)
    apart = relax.op.reshape(x, [batch, length, heads, width // heads])
    return call.emit(relax.op.permute_dims(apart, [0, 2, 1, 3]))


def _bias(
    call: Call, q: Expr, mask: Expr | None, lengths: Expr | None, past: int, keys: int
) -> Expr | None:
    """What is added to the scores of all queries and keys; None for nothing."""
    told = call.attributes
    batch, _, queries, _ = shape_of(q)
    found: list[Expr] = []
    if mask is not None:
        missing = keys - shape_of(mask)[-1]
        if missing > 0:
            rest = [*shape_of(mask)[:-1], missing]
            closed = False if dtype_of(mask) == "bool" else -math.inf
            fill = relax.const(np.full(rest, closed, np_dtype(dtype_of(mask))), dtype_of(mask))
            mask = call.emit(relax.op.concat([mask, fill], -1))
        boolean = dtype_of(mask) == "bool"
        found.append(_closed_unless(call, mask, q) if boolean else cast(mask, dtype_of(q)))
    key = relax.const(np.arange(keys, dtype=np.int32).reshape(1, 1, 1, keys))
    own: Any = relax.const(np.arange(queries, dtype=np.int32).reshape(1, 1, queries, 1) + past)
    if lengths is not None:
        ends = call.emit(relax.op.reshape(cast(lengths, "int32"), [batch, 1, 1, 1]))
        found.append(_closed_unless(call, relax.op.less(key, ends), q))
        if past == 0:
            before = relax.op.subtract(ends, relax.const(np.int32(queries)))
            own = call.emit(relax.op.add(own, before))
    left, right = (told.get(f"{side}_window_size", -1) for side in ("left", "right"))
    if told.get("is_causal"):
        found.append(_closed_unless(call, relax.op.less_equal(key, own), q))
    if right >= 0:
        last = relax.op.add(own, relax.const(np.int32(right)))
        found.append(_closed_unless(call, relax.op.less_equal(key, last), q))
    if left >= 0:
        first = relax.op.subtract(own, relax.const(np.int32(left)))
        found.append(_closed_unless(call, relax.op.less_equal(first, key), q))
    total: Expr | None = None
    for bias in found:
        total = call.emit(bias if total is None else relax.op.add(total, bias))
    return total


def _closed_unless(call: Call, allowed: Expr, like: Expr) -> Expr:
    """0 where a query may look, -inf elsewhere."""
    open_, closed = constant(0.0, like), constant(-math.inf, like)
    return relax.op.where(call.emit(allowed), open_, closed)


def _softmax(call: Call, scores: Expr) -> Expr:
    """Softmax of the last axis; 0 throughout where all scores are -inf, of which TVM's maximum is
    the lowest finite number."""
    top = call.emit(relax.op.max(scores, -1, True))
    powers = call.emit(relax.op.exp(relax.op.subtract(scores, top)))
    total = call.emit(relax.op.sum(powers, -1, True))
    nothing = relax.op.equal(total, constant(0.0, total))
    total = relax.op.where(call.emit(nothing), constant(1.0, total), total)
    return call.emit(relax.op.divide(powers, total))


def _unless_all_is_masked(call: Call, weights: Expr, bias: Expr) -> Expr:
    """0 where a query may look at nothing, whatever its scores are."""
    looks = relax.op.not_equal(bias, constant(-math.inf, bias))
    # A maximum of booleans does not compile everywhere, and one of numbers begins at the lowest.
    count = relax.op.max(cast(call.emit(looks), "int32"), -1, True)
    some = call.emit(relax.op.greater(call.emit(count), relax.const(np.int32(0))))
    return call.emit(relax.op.where(some, weights, constant(0.0, weights)))


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
