"""Indices that choose among equals: sort, top-k and argmax may break ties as they like.

An index output is right if what it selects is right: gathered through the target's indices, the
input must give the same elements as through the source's.  Where a slice is permuted (sort,
top-k) no index may come twice.  What an unsorted top-k selects may stand in any order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tapml_nb.graph import Op

_INDEX_OUTPUT = {
    **dict.fromkeys(("aten.sort", "aten.topk", "aten.max", "aten.min"), 1),
    **dict.fromkeys(("aten.argsort", "aten.argmax", "aten.argmin"), 0),
    **dict.fromkeys(("onnx.TopK", "relax.topk"), 1),
    **dict.fromkeys(("onnx.ArgMax", "onnx.ArgMin"), 0),
    **dict.fromkeys(("relax.argsort", "relax.argmax", "relax.argmin"), 0),
}
"""Kinds that choose, and which of their outputs are the indices."""

_PERMUTING = frozenset(
    ("aten.sort", "aten.argsort", "aten.topk", "onnx.TopK", "relax.topk", "relax.argsort")
)


def chooses(op: Op, output: int, values: np.ndarray, result: np.ndarray) -> bool:
    """Whether this output of an operator holds indices into its input.

    Args:
        op: the operator; outputs that nobody reads are not among its.
        output: which output.
        values: its input.
        result: the output.
    """
    place = _INDEX_OUTPUT.get(op.kind)
    if place == 1 and len(op.outputs) == 1:
        return result.dtype.kind == "i" and values.dtype.kind != "i"
    return place == output


def same_choice(op: Op, values: np.ndarray, target: np.ndarray, source: np.ndarray) -> bool:
    """Whether the target's indices select elements equal to those that the source's select.

    Args:
        op: the operator; ``dim`` (elsewhere ``axis``) is among its constants.
        values: its input.
        target: the target's indices.
        source: the source's indices, of the same shape.
    """
    picked = _picked(op, values, target, source)
    return picked is not None and _equal(*picked[:2])


def unordered(op: Op) -> bool:
    """Whether what an operator selects may stand in any order."""
    return op.kind == "aten.topk" and op.constants.get("sorted") is False


def same_selection(
    op: Op, values: np.ndarray, target: Sequence[np.ndarray], source: Sequence[np.ndarray]
) -> bool:
    """Whether an unordered operator of the target's selects what the source's does.

    Elements and indices, where both are read, must belong together.

    Args:
        op: the operator.
        values: its input.
        target: the target's outputs.
        source: the source's outputs, of the same shapes.
    """
    indices = [k for k, result in enumerate(source) if chooses(op, k, values, result)]
    elements = [(target[k], source[k]) for k in range(len(source)) if k not in indices]
    axis = -1
    for k in indices:
        picked = _picked(op, values, target[k], source[k])
        if picked is None:
            return False
        theirs, ours, axis = picked
        if any(not _equal(theirs, found.astype(theirs.dtype)) for found, _ in elements):
            return False
        elements.append((theirs, ours))
    dim = op.constants.get("dim", axis)
    along = dim if isinstance(dim, int) else axis
    return all(_equal(np.sort(theirs, along), np.sort(ours, along)) for theirs, ours in elements)


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


def _picked(
    op: Op, values: np.ndarray, target: np.ndarray, source: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int] | None:
    """What the target's indices select, what the source's do, and along which axis; None if the
    target's cannot be."""
    dim = op.constants.get("dim", op.constants.get("axis", -1))
    if dim is None:  # over all elements
        values, axis = values.reshape(-1), 0
        chosen = [indices.reshape(-1) for indices in (target, source)]
    else:
        assert isinstance(dim, int)
        axis = dim % max(1, values.ndim)
        dropped = source.ndim < values.ndim
        chosen = [np.expand_dims(i, axis) if dropped else i for i in (target, source)]
    size = values.shape[axis]
    theirs, ours = chosen
    if theirs.min(initial=0) < 0 or theirs.max(initial=0) >= size:
        return None
    if op.kind in _PERMUTING:
        ordered = np.sort(theirs, axis=axis)
        if (np.diff(ordered, axis=axis) == 0).any():
            return None
    wide = values.astype(np.float64) if values.dtype.kind not in "iub" else values
    return (
        np.take_along_axis(wide, theirs, axis),
        np.take_along_axis(wide, ours, axis),
        axis,
    )
