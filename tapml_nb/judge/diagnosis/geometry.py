"""Where a tensor is wrong: lanes, tails, slices, blocks."""

from __future__ import annotations

import math

import numpy as np

from tapml_nb.judge.diagnosis import parts
from tapml_nb.judge.diagnosis.case import MOST, Case, Points, close
from tapml_nb.judge.diagnosis.pattern import Diagnosis, Pattern, found

_FILLED = 0.75
"""Part of a region that must be wrong: some elements of a broken region are right by chance."""

_FEW = 16
_LANES = 64
_LONG = 1 << 14
"""Columns that are tried for every period."""

_TILE = 4
"""The smallest tile whose remainder is called a tail."""


def one_element(case: Case) -> Diagnosis | None:
    """A single wrong element among many."""
    if case.count != 1 or case.size < 2 or not parts.rest_is_right(case):
        return None
    index = case.first(int(case.bad.index[0]))
    words = f"one element of {case.size} is wrong, at {index}"
    return found(Pattern.ONE_ELEMENT, words, _values(case.bad))


def few_elements(case: Case) -> Diagnosis | None:
    """A handful without any other order."""
    few = 2 <= case.count <= min(_FEW, 0.02 * case.size)
    if not few or not parts.rest_is_right(case):
        return None
    index = [case.first(int(i)) for i in np.sort(case.bad.index)[:4]]
    more = ", …" if case.count > 4 else ""
    words = f"{case.count} elements of {case.size} are wrong: {', '.join(map(str, index))}{more}"
    return found(Pattern.FEW_ELEMENTS, words, _values(case.bad))


def stripe(case: Case) -> Diagnosis | None:
    """The same lanes of every group of k elements."""
    if case.count < 4 or not case.shape:
        return None
    columns = case.shape[-1]
    per_column = case.wrong.reshape(-1, columns).sum(axis=0, dtype=np.int64)
    striped = _lanes(per_column, case.size // columns)
    where = "of the last axis"
    if striped is None and len(case.shape) > 1 and case.size >= 3 * _LANES:
        whole = case.wrong.reshape(-1)[: case.size // _LANES * _LANES].reshape(-1, _LANES)
        striped = _lanes(whole.sum(axis=0, dtype=np.int64), len(whole))
        where = "in memory"
        if striped and (_LANES % striped[1] or columns % striped[1] == 0):
            return None  # a column, not a lane
    if striped is None:
        return None
    lanes, k = striped
    group = columns if where == "of the last axis" else case.size
    if not parts.rest_is_right(case, lambda index: np.isin(index % group % k, lanes)):
        return None
    if len(lanes) == 1:
        words = f"every {_ordinal(k)} element {where} is wrong, starting at {lanes[0]}"
    else:
        words = f"lanes {', '.join(map(str, lanes))} of every {k} {where} are wrong"
    neighbour = _neighbour(case, lanes, k) if where == "of the last axis" else ""
    if neighbour:
        return found(Pattern.DUPLICATED_LANES, f"{words}: {neighbour}", _evidence(case))
    return found(Pattern.LANE_STRIPE, words, _evidence(case))


def tail(case: Case) -> Diagnosis | None:
    """Everything past the last whole tile along one axis, or in memory."""
    for axis in reversed(range(len(case.shape))):
        others = tuple(k for k in range(len(case.shape)) if k != axis)
        size = case.shape[axis]
        counts = case.wrong.sum(axis=others, dtype=np.int64)
        boundary = _boundary(counts, case.size // size)

        def past(index: np.ndarray, axis: int = axis, boundary: int = boundary) -> np.ndarray:
            return case.places(index)[axis] >= boundary

        if boundary and parts.rest_is_right(case, past):
            return _tail(case, f"along axis {axis}", boundary, size)
    if len(case.shape) < 2 or not case.count:
        return None
    first = int(case.wrong.reshape(-1).argmax())
    if first % case.shape[-1] == 0 or not _tile(first, case.size):  # whole rows are a slice
        return None
    filled = case.count >= max(2, _FILLED * (case.size - first))
    if not filled or not parts.rest_is_right(case, lambda index: index >= first):
        return None
    return _tail(case, "in memory", first, case.size)


def slices(case: Case) -> Diagnosis | None:
    """Everything in some slices along one axis, or in a block along several."""
    if case.count < 2 or not case.shape:
        return None
    regions = [_wrong_indices(case, axis) for axis in range(len(case.shape))]
    for axis, size in enumerate(case.shape):
        if _stride(regions[axis]) is None and len(regions[axis]) > size / 2:
            regions[axis] = np.arange(size)  # a broken slice has right elements by chance, too
    volume = math.prod(len(r) for r in regions)
    if case.count < _FILLED * volume or volume > 0.75 * case.size:
        return None

    def within(index: np.ndarray) -> np.ndarray:
        held = zip(case.places(index), regions, strict=True)
        return np.asarray(np.logical_and.reduce([np.isin(place, region) for place, region in held]))

    if not parts.rest_is_right(case, within):
        return None
    restricted = [a for a, r in enumerate(regions) if len(r) < case.shape[a]]
    if len(restricted) == 1:
        return _along(case, restricted[0], regions[restricted[0]])
    if all(_stride(regions[a]) == 1 for a in restricted) and case.count >= 4:
        ranges = ", ".join(f"{span(regions[a])} of axis {a}" for a in restricted)
        words = f"one block is wrong: {ranges}"
        return found(Pattern.BLOCK, words, _evidence(case))
    return None


def _lanes(counts: np.ndarray, rows: int) -> tuple[list[int], int] | None:
    """The wrong lanes and the smallest period, from the wrong elements of each column, which has
    ``rows`` of them."""
    if len(counts) > _LONG:  # the beginning says what it may be, the whole whether it is
        claim = _lanes(counts[:_LONG], rows)
        if claim is None:
            return None
        period, mine = claim[1], sum(int(counts[lane :: claim[1]].sum()) for lane in claim[0])
        filled = mine >= _FILLED * rows * len(counts) * len(claim[0]) / period
        return claim if filled and mine >= MOST * counts.sum() else None
    columns = len(counts)
    total = int(counts.sum())
    place = np.arange(columns)
    for k in range(2, min(_LANES, columns // 3) + 1):
        per_lane = np.bincount(place % k, weights=counts, minlength=k)
        room = np.bincount(place % k, minlength=k) * rows
        lanes = np.flatnonzero(per_lane >= _FILLED * room)
        if not len(lanes) or len(lanes) > k // 2 or (len(lanes) > 1 and k & (k - 1)):
            continue
        if per_lane[lanes].sum() >= MOST * total and _regular(counts, lanes, k, rows):
            return [int(lane) for lane in lanes], k
    return None


def _regular(counts: np.ndarray, lanes: np.ndarray, k: int, rows: int) -> bool:
    """Whether every group has its wrong lanes, not only most of them."""
    mine = counts[np.isin(np.arange(len(counts)) % k, lanes)]
    return bool((mine >= 0.5 * rows).mean() >= 0.9)


def _neighbour(case: Case, lanes: list[int], k: int) -> str:
    """Says so if the wrong lanes hold the value of another lane of their group."""
    columns = case.shape[-1]
    if len(lanes) != 1 or case.count < 6:
        return ""
    points = case.bad
    for lane in range(k):
        if lane == lanes[0]:
            continue
        column = points.index % columns
        there = column + lane - lanes[0]
        origin = np.where(there < columns, points.index - column + there, -1)
        if case.comes_from(points, origin):
            return f"it holds the value of lane {lane}"
    return ""


def _boundary(counts: np.ndarray, room: int) -> int:
    """Where the tail begins, from wrong elements per index; 0 if there is none."""
    size, total = len(counts), int(counts.sum())
    many = np.flatnonzero(counts >= _FILLED * room)
    if not len(many) or (total < 2 and size < 8):
        return 0
    first = int(many[0])
    if len(many) < size - first or counts[first:].sum() < MOST * total:
        return 0
    return first if _tile(first, size) else 0


def _tile(boundary: int, size: int) -> int:
    """The tile that ends at a boundary and that the size is no multiple of; 0 if there is none."""
    tile = boundary & -boundary
    while tile >= _TILE and not size - boundary < tile:
        tile //= 2
    return tile if tile >= _TILE and boundary and size % tile else 0


def _tail(case: Case, where: str, boundary: int, size: int) -> Diagnosis:
    tile = _tile(boundary, size)
    words = f"everything {where} from {boundary} on is wrong, past the last whole tile of {tile}"
    evidence = f"{size} is {size // tile} x {tile} + {size % tile}; {_evidence(case)}"
    return found(Pattern.TAIL, words, evidence)


def _wrong_indices(case: Case, axis: int) -> np.ndarray:
    """Indices along an axis that hold wrong elements; stray ones (1 % in all, and fewer than at
    others) are left out."""
    others = tuple(k for k in range(len(case.shape)) if k != axis)
    counts = case.wrong.sum(axis=others, dtype=np.int64)
    held = np.flatnonzero(counts)
    if len(held) > _LONG:
        return held
    order = held[np.argsort(counts[held])]
    few = counts[order] < 0.5 * np.median(counts[held]) if len(held) else np.zeros(0, np.bool_)
    stray = few & (np.cumsum(counts[order]) <= (1 - MOST) * case.count)
    return np.sort(order[~stray])


def _stride(indices: np.ndarray) -> int | None:
    """The regular distance between indices (1 for a single one); None if there is none."""
    if len(indices) == 1:
        return 1
    steps = np.unique(np.diff(indices))
    return int(steps[0]) if len(steps) == 1 else None


def span(indices: np.ndarray) -> str:
    """Indices along an axis as people write them."""
    if len(indices) == 1:
        return f"index {indices[0]}"
    stride = _stride(indices)
    if stride == 1:
        return f"indices {indices[0]} to {indices[-1]}"
    if stride and len(indices) > 2:
        return f"indices {indices[0]} to {indices[-1]} in steps of {stride}"
    return f"indices {', '.join(map(str, indices[:6]))}{', …' if len(indices) > 6 else ''}"


def _along(case: Case, axis: int, indices: np.ndarray) -> Diagnosis | None:
    size = case.shape[axis]
    if case.size // size < 2:  # a vector: its slices are its elements
        if len(indices) < 3 or _stride(indices) != 1:
            return None
        return found(Pattern.BLOCK, f"{span(indices)} of {size} are wrong", _evidence(case))
    if len(indices) == 1:
        words = f"everything at index {indices[0]} of axis {axis} (size {size}) is wrong"
        return found(Pattern.ONE_SLICE, words, _evidence(case))
    if len(indices) == 2 and _stride(indices) != 1 and size < 4:
        return None
    words = f"everything at {span(indices)} of axis {axis} (size {size}) is wrong"
    return found(Pattern.SEVERAL_SLICES, words, _evidence(case))


def _evidence(case: Case) -> str:
    """Counts, and what the wrong elements hold."""
    return f"{case.count} of {case.size} elements are wrong, none elsewhere; {_held(case)}"


def _held(case: Case) -> str:
    """What stands where the target is wrong."""
    points = case.bad
    if case.unwritten is not None and case.unwritten.reshape(-1)[points.index].mean() >= MOST:
        return "they were never written"
    if np.isnan(points.target).mean() >= MOST:
        return "they are NaN"
    if np.isinf(points.target).mean() >= MOST:
        return "they are infinite"
    if (points.target == points.target[0]).mean() >= MOST:
        return f"all of them hold {points.target[0]:g}"
    ratio = _ratio(points)
    if ratio is not None:
        return f"they are {ratio:.4g} times what they should be"
    for k, x in case.aligned():
        if np.mean(close(points.target, case.values(x, points), 4 * points.allowed)) >= MOST:
            return f"they hold input {k} unchanged"
    return _values(points[:1])


def _ratio(points: Points) -> float | None:
    """The factor that all of these elements are scaled by."""
    with np.errstate(all="ignore"):
        ratio = float(np.median(points.target / points.exact))
        met = close(points.target, ratio * points.exact, 4 * points.allowed * max(1, abs(ratio)))
    return ratio if np.isfinite(ratio) and len(points) >= 6 and met.mean() >= MOST else None


def _values(points: Points) -> str:
    """A few wrong values beside the right ones."""
    some = zip(points.target[:3].tolist(), points.exact[:3].tolist(), strict=True)
    return "e.g. " + ", ".join(f"{t:.6g} for {r:.6g}" for t, r in some)


def _ordinal(n: int) -> str:
    if n % 100 in (11, 12, 13):
        return f"{n}th"
    return f"{n}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th') }"
