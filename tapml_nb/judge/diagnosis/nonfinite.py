"""NaN and infinities: where they come from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tapml_nb.judge.diagnosis.case import MOST, Case
from tapml_nb.judge.diagnosis.pattern import Diagnosis, Pattern, found
from tapml_nb.numerics import is_float, largest_finite


def masked_rows(case: Case) -> Diagnosis | None:
    """The rows in which everything is masked are the ones that are NaN."""
    if not case.shape or case.size == 0:
        return None
    lost = _lost(case).any(axis=-1)
    if not lost.any() or lost.all():
        return None
    for k, x in enumerate(case.inputs):
        masked = _fully_masked(x)
        if masked is None or not masked.any():
            continue
        try:
            masked = np.broadcast_to(masked, lost.shape)
        except ValueError:
            continue
        if np.array_equal(masked, lost):
            words = "NaN in exactly the rows that are fully masked"
            evidence = f"{int(lost.sum())} of {lost.size} rows, masked in input {k}"
            return found(Pattern.NAN_MASKED_ROW, words, evidence)
    return None


def lost_infinity(case: Case) -> Diagnosis | None:
    """The source has infinities, the target has numbers there."""
    source = case.bad.exact
    if not len(source) or not np.isfinite(case.bad.target).mean() >= MOST:
        return None
    here = np.isinf(source)
    everywhere = np.concatenate([case.bad.exact, case.good.exact])
    if here.mean() < MOST or here.sum() < MOST * np.isinf(everywhere).sum():
        return None
    words = "where the source is infinite, the target is finite"
    return found(Pattern.INFINITY_LOST, words, _first(case))


def lost_nan(case: Case) -> Diagnosis | None:
    """The source has NaN, the target has something else there: everywhere, or in some places.

    In which places is the order of the inputs' NaN, or of lanes that drop them, and says less.
    """
    if not len(case.bad) or not (np.isnan(case.bad.exact) & ~np.isnan(case.bad.target)).all():
        return None
    of = int(np.count_nonzero(np.isnan(case.reference.source)))
    words = "where the source is NaN, the target is not"
    if case.count < MOST * of:
        words = f"the target is not NaN in {case.count} of {of} places where the source is"
    for k, x in case.aligned():
        if is_float(x.dtype) and np.isnan(case.values(x, case.bad)).all():
            words += f": input {k} is NaN there"
            break
    return found(Pattern.NAN_LOST, words, _first(case))


def special_inputs(case: Case) -> Diagnosis | None:
    """NaN where, and only where, an input is negative or infinite."""
    lost, kept = ~np.isfinite(case.bad.target), np.isfinite(case.good.target)
    if not _mostly_lost(case) or not kept.any():
        return None
    for k, x in case.aligned():
        if not is_float(x.dtype) and x.dtype.kind != "i":
            continue
        bad, good = case.values(x, case.bad)[lost], case.values(x, case.good)[kept]
        for pattern, name, test in (
            (Pattern.NAN_INFINITE_INPUT, "infinite", np.isinf),
            (Pattern.NAN_NEGATIVE_INPUT, "negative", lambda v: v < 0),
        ):
            if len(bad) >= 3 and test(bad).mean() >= MOST and test(good).mean() <= 1 - MOST:
                if name == "negative" and len(np.unique(bad)) < 3:
                    continue  # a mask
                words = f"NaN where, and only where, input {k} is {name}"
                return found(pattern, words, f"{case.count} of {case.size} elements")
    return None


def overflow(case: Case) -> Diagnosis | None:
    """NaN or infinities beyond some magnitude of the result, of an input, or of a row of it."""
    if not _mostly_lost(case) or not len(case.good):
        return None
    for name, bad, good in _magnitudes(case):
        bad, good = bad[~np.isnan(bad)], good[~np.isnan(good)]
        if len(bad) == 0 or len(good) < 4:
            continue
        low, high = float(np.quantile(bad, 1 - MOST)), float(good.max())
        if low > 1 and (good >= low).mean() <= 0.002 and (len(bad) >= 3 or low >= 2 * high):
            words = f"NaN or infinite where {name} is above about {low:.3g}"
            evidence = f"{case.count} of {case.size} elements; elsewhere it is at most {high:.3g}"
            return found(Pattern.OVERFLOW, words, evidence)
    return None


def _magnitudes(case: Case) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """What may be too large, at the wrong and at the right elements."""
    bad, good = case.bad, case.good
    yield "the result's magnitude", np.abs(bad.exact), np.abs(good.exact)
    for k, x in case.aligned():
        if is_float(x.dtype):
            there = np.abs(case.values(x, bad)), np.abs(case.values(x, good))
            yield f"input {k}'s magnitude", *there
    for k, x in enumerate(case.inputs):
        if not is_float(x.dtype) or x.ndim < 2 or x.size == 0:
            continue
        if x.shape[:-1] not in (case.shape, case.shape[:-1]):
            continue
        top = np.abs(x).max(axis=-1).astype(np.float64)
        rows = np.broadcast_to(top if top.shape == case.shape else top[..., None], case.shape)
        lost = _lost(case)
        lines = lost.all(axis=-1) if case.shape == x.shape else lost
        if 2 <= lines.sum() < lines.size:
            name = f"the largest magnitude in a row of input {k}"
            yield name, case.values(rows, bad), case.values(rows, good)


def _first(case: Case) -> str:
    """How many are wrong, and what one of them holds."""
    index = case.first(int(case.bad.index[0]))
    return f"{case.count} elements, {index}: {case.bad.target[0]:g}"


def _lost(case: Case) -> np.ndarray:
    """Wrong elements that are NaN or infinite, with the output's shape."""
    if not is_float(case.dtype):
        return np.zeros(case.shape, np.bool_)
    return np.asarray(case.wrong & ~np.isfinite(case.target))


def _mostly_lost(case: Case) -> bool:
    return bool(len(case.bad) and (~np.isfinite(case.bad.target)).mean() >= MOST)


def _fully_masked(x: np.ndarray) -> np.ndarray | None:
    """Rows of a mask, or of masked scores, in which nothing is left; without the last axis."""
    if x.ndim < 2 or x.size == 0:
        return None
    if x.dtype == np.bool_:
        return np.asarray(~x.any(axis=-1))
    if is_float(x.dtype):
        limit = -largest_finite(x.dtype) / 4
        return np.asarray((x.astype(np.float64) <= limit).all(axis=-1))
    return None
