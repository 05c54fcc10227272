"""How often sequences of words occur in texts whose words are numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, te, tirx

from tapml_nb.frontends.onnx.rules.call import Call, Expr, Rule, dtype_of, shape_of


def tfidf(call: Call, x: Expr) -> Expr:
    """``TfIdfVectorizer`` of integers: n-grams of consecutive words, and of words as far apart as
    may be skipped, counted, weighed or both.

    Raises:
        ValueError: for a pool of texts.
    """
    told, shape = call.attributes, shape_of(x)
    if not told.get("pool_int64s"):
        raise ValueError("a pool of texts")
    length = shape[-1]
    columns = list(told["ngram_indexes"])
    weights = list(told.get("weights") or [1.0] * len(columns))
    totals: Expr = None
    for size, first, grams in _pools(told):
        if not told["min_gram_length"] <= size <= told["max_gram_length"]:
            continue
        skips = 1 if size == 1 else told["max_skip_count"] + 1
        counted = _counted(call, x, grams, skips) if length else None
        if counted is None:
            continue
        part = slice(first, first + len(grams))
        sums = _weighed(call, counted, columns[part], weights[part], max(columns) + 1, told["mode"])
        totals = sums if totals is None else call.emit(relax.op.add(totals, sums))
    wanted = [*shape[:-1], max(columns) + 1]
    if totals is None:
        return relax.op.zeros(wanted, "float32")
    return relax.op.reshape(totals, wanted)


def _pools(told: Any) -> list[tuple[int, int, np.ndarray]]:
    """The n-grams by their length: how long, the number of the first, and a row of words each."""
    pool, starts = np.array(told["pool_int64s"]), list(told["ngram_counts"])
    found, number = [], 0
    for size, (begin, end) in enumerate(
        zip(starts, [*starts[1:], len(pool)], strict=True), start=1
    ):
        if grams := (end - begin) // size:
            found.append((size, number, pool[begin : begin + grams * size].reshape(grams, size)))
            number += grams
    return found


def _counted(call: Call, x: Expr, grams: np.ndarray, skips: int) -> Expr:
    """How often each n-gram occurs in each text."""
    shape, dtype, size = shape_of(x), dtype_of(x), grams.shape[1]
    texts, length = (shape[0] if len(shape) == 2 else 1), shape[-1]

    def count(data: te.Tensor, words: te.Tensor) -> te.Tensor:
        skip = te.reduce_axis((0, skips), "skip")
        start = te.reduce_axis((0, length), "start")

        def element(text: Any, gram: Any) -> Any:
            row = [text] if len(shape) == 2 else []
            fits = start + (size - 1) * (skip + 1) < length
            alike = [
                data(*row, tirx.min(start + k * (skip + 1), length - 1)) == words(gram, k)
                for k in range(size)
            ]
            one, zero = tirx.const(1, "int32"), tirx.const(0, "int32")
            return te.sum(tirx.Select(tirx.all(fits, *alike), one, zero), axis=[skip, start])

        return te.compute([texts, len(grams)], element, "counted")

    return call.compute(count, x, relax.const(grams.astype(dtype), dtype), name="ngrams")


def _weighed(
    call: Call, counted: Expr, columns: list[int], weights: list[float], width: int, mode: str
) -> Expr:
    """What the counts are worth, each in its column: the count, a weight, or their product."""

    def weigh(counts: te.Tensor, places: te.Tensor, factors: te.Tensor) -> te.Tensor:
        gram = te.reduce_axis((0, len(columns)), "gram")

        def element(text: Any, column: Any) -> Any:
            times = tirx.Cast("float32", counts(text, gram))
            if mode == "IDF":
                times = tirx.Cast("float32", counts(text, gram) > 0)
            value = times if mode == "TF" else times * factors(gram)
            here = places(gram) == column
            return te.sum(tirx.Select(here, value, tirx.const(0.0, "float32")), axis=gram)

        return te.compute([counts.shape[0], width], element, "weighed")

    given = (
        relax.const(np.array(columns, np.int32), "int32"),
        relax.const(np.array(weights, np.float32), "float32"),
    )
    return call.compute(weigh, counted, *given, name="tfidf")


RULES: dict[str, Rule] = {"TfIdfVectorizer": tfidf}
