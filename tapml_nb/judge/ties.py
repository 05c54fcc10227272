"""Indices that choose among equals: sort, top-k and argmax may break ties as they like.

An index output is right if what it selects is right: gathered through the target's indices, the
input must give the same elements as through the source's.  Where a slice is permuted (sort,
top-k) no index may come twice.
"""

from __future__ import annotations

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


def chooses(op: Op, output: int) -> bool:
    """Whether this output of an operator holds indices into its input."""
    return _INDEX_OUTPUT.get(op.kind) == output


def same_choice(op: Op, values: np.ndarray, target: np.ndarray, source: np.ndarray) -> bool:
    """Whether the target's indices select elements equal to those that the source's select.

    Args:
        op: the operator; ``dim`` (elsewhere ``axis``) is among its constants.
        values: its input.
        target: the target's indices.
        source: the source's indices, of the same shape.
    """
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
        return False
    if op.kind in _PERMUTING:
        ordered = np.sort(theirs, axis=axis)
        if (np.diff(ordered, axis=axis) == 0).any():
            return False
    wide = values.astype(np.float64) if values.dtype.kind not in "iub" else values
    picked = [np.take_along_axis(wide, indices, axis) for indices in (theirs, ours)]
    return bool(np.array_equal(picked[0], picked[1], equal_nan=wide.dtype.kind == "f"))
