"""Tensors made small enough for a screen: windows, pooling, histograms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

MOST = 512
"""Cells along one side of a picture; what is larger is pooled."""

BLOCKS = 200
"""At most so many blocks of a tensor that are beyond the limit are told of one by one."""

BINS = 48


@dataclass(frozen=True)
class Picture:
    """Two axes of a tensor, pooled.

    Attributes:
        values: float32, at most :data:`MOST` by :data:`MOST`: of every group of elements the one
            with the largest magnitude; NaN or infinite where the group has such an element.
        axes: which axes of the tensor the rows and columns are.
        window: the range shown: first and last (exclusive) row and column.
        note: what was done to the other axes, in words.
        beyond: bool of the same shape: whether an element there is beyond the limit; None where
            that is not known.
        blocks: where in the whole of both axes elements are beyond the limit: first and last
            (exclusive) row and column of each block, from the top; at most :data:`BLOCKS`.
    """

    values: np.ndarray
    axes: tuple[int, int]
    window: tuple[int, int, int, int]
    note: str
    beyond: np.ndarray | None = None
    blocks: tuple[tuple[int, int, int, int], ...] = ()


def picture(
    tensor: np.ndarray,
    axes: tuple[int, int] | None = None,
    fixed: Mapping[int, int] | None = None,
    window: tuple[int, int, int, int] | None = None,
    marks: np.ndarray | None = None,
) -> Picture:
    """Two axes of a tensor: the others at a fixed index, or the largest magnitude over them.

    Args:
        tensor: any shape, any real dtype.
        axes: which axes are rows and columns; default the last two.  A tensor with fewer axes
            counts as having ones in front.
        fixed: index by axis, for axes that are not shown.
        window: first and last (exclusive) row and column to show; default all.
        marks: bool of the tensor's shape, which elements are beyond the limit.

    Raises:
        ValueError: if an argument does not fit the tensor.
    """
    data = tensor.reshape((1,) * (2 - tensor.ndim) + tensor.shape)
    rows, cols = axes or (data.ndim - 2, data.ndim - 1)
    if rows == cols or not (0 <= rows < data.ndim and 0 <= cols < data.ndim):
        raise ValueError(f"axes: {(rows, cols)}; this tensor has axes 0 to {data.ndim - 1}")
    top, bottom, left, right = window or (0, data.shape[rows], 0, data.shape[cols])
    top, bottom = max(0, top), min(data.shape[rows], bottom)
    left, right = max(0, left), min(data.shape[cols], right)
    if top >= bottom or left >= right:
        raise ValueError(f"window: {window} holds nothing of {data.shape}")
    index: list[slice | int] = [slice(None)] * data.ndim
    index[rows], index[cols] = slice(top, bottom), slice(left, right)
    notes = []
    for axis in range(data.ndim):
        if axis in (rows, cols):
            continue
        if fixed and axis in fixed:
            at = min(max(0, fixed[axis]), data.shape[axis] - 1)
            index[axis] = slice(at, at + 1)
            notes.append(f"axis {axis} at {at}")
        elif data.shape[axis] > 1:
            notes.append(f"largest over axis {axis}")
    shown = np.moveaxis(data[tuple(index)], (rows, cols), (-2, -1))
    shown = shown.reshape(-1, bottom - top, right - left)
    values = _largest(shown.astype(np.float32, copy=False), 0)
    values = _pooled(_pooled(values, 0), 1)
    note = f"; {', '.join(notes)}" if notes else ""
    shown_window = (top, bottom, left, right)
    if marks is None:
        return Picture(np.ascontiguousarray(values), (rows, cols), shown_window, note)
    index[rows] = index[cols] = slice(None)
    there = np.moveaxis(marks.reshape(data.shape)[tuple(index)], (rows, cols), (-2, -1))
    whole: np.ndarray = np.any(there.reshape(-1, *there.shape[-2:]), axis=0)
    beyond = _any(_any(whole[top:bottom, left:right], 0), 1)
    found = blocks(whole)
    return Picture(
        np.ascontiguousarray(values), (rows, cols), shown_window, note, beyond, tuple(found)
    )


def blocks(marks: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Where a matrix is true: first and last (exclusive) row and column of each connected part.

    Parts are told apart as far as tiles of a 64th of each side do; of more than :data:`BLOCKS` the
    last are left out.

    >>> blocks(np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1]], bool))
    [(0, 2, 0, 1), (2, 3, 2, 3)]
    """
    starts = [np.unique(np.arange(64) * n // 64) for n in marks.shape]
    tiles = np.logical_or.reduceat(np.logical_or.reduceat(marks, starts[0], 0), starts[1], 1)
    ends = [[*begin[1:].tolist(), n] for begin, n in zip(starts, marks.shape, strict=True)]
    left = {(int(r), int(c)) for r, c in np.argwhere(tiles)}
    found: list[tuple[int, int, int, int]] = []
    for tile in sorted(left):
        if tile not in left or len(found) == BLOCKS:
            continue
        part = _connected(tile, left)
        rows, cols = ([t[k] for t in part] for k in (0, 1))
        r0, c0 = int(starts[0][min(rows)]), int(starts[1][min(cols)])
        here = marks[r0 : ends[0][max(rows)], c0 : ends[1][max(cols)]]
        down, across = (np.flatnonzero(here.any(axis=axis)) for axis in (1, 0))
        found.append(
            (
                r0 + int(down[0]),
                r0 + int(down[-1]) + 1,
                c0 + int(across[0]),
                c0 + int(across[-1]) + 1,
            )
        )
    return found


def _connected(tile: tuple[int, int], left: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """The tiles that hang together with one, sides only; they are taken out of ``left``."""
    part, todo = [], [tile]
    left.discard(tile)
    while todo:
        r, c = todo.pop()
        part.append((r, c))
        for near in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
            if near in left:
                left.discard(near)
                todo.append(near)
    return part


def _any(marks: np.ndarray, axis: int) -> np.ndarray:
    size = marks.shape[axis]
    if size <= MOST:
        return marks
    result: np.ndarray = np.logical_or.reduceat(marks, np.arange(MOST) * size // MOST, axis)
    return result


def _largest(values: np.ndarray, axis: int) -> np.ndarray:
    """The element of largest magnitude along an axis, with its sign; NaN wins."""
    if values.shape[axis] == 1:
        return values.squeeze(axis)
    high, low = values.max(axis), values.min(axis)
    result: np.ndarray = np.where(-low > high, low, high)
    return result


def _pooled(values: np.ndarray, axis: int) -> np.ndarray:
    size = values.shape[axis]
    if size <= MOST:
        return values
    begins = np.arange(MOST) * size // MOST
    high = np.maximum.reduceat(values, begins, axis)
    low = np.minimum.reduceat(values, begins, axis)
    result: np.ndarray = np.where(-low > high, low, high)
    return result


@dataclass(frozen=True)
class Values:
    """What one tensor holds: range, mean, oddities, and counts in equal bins over the range."""

    low: float
    high: float
    mean: float
    zeros: int
    nan: int
    inf: int
    bins: np.ndarray


def summarize(tensor: np.ndarray) -> Values:
    """Range, mean and histogram over the finite elements (float64 arithmetic)."""
    data = tensor.reshape(-1).astype(np.float64)
    finite = data[np.isfinite(data)]
    bins = np.zeros(BINS)
    low = high = mean = float("nan")
    if finite.size:
        low, high, mean = float(finite.min()), float(finite.max()), float(finite.mean())
        if high - low > 0 and np.isfinite(high - low):
            bins = np.histogram(finite, BINS, (low, high))[0].astype(np.float64)
        else:
            bins[BINS // 2] = finite.size
    nan = int(np.count_nonzero(np.isnan(data)))
    zeros = int(np.count_nonzero(data == 0))
    return Values(low, high, mean, zeros, nan, data.size - finite.size - nan, bins)
