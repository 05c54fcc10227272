"""What an operator's own specification leaves open: there more than one result is right.

Some elements are undefined, and any value is right:

* A floating-point number converted to an integer that cannot hold it, and NaN and infinities
  (ONNX ``Cast``; C17 §6.3.1.4, which PyTorch and TVM follow).
* Integers divided by 0 (C17 §6.5.5), in quotients and remainders.
* Bits shifted by less than 0 or by the width of the type or more (C17 §6.5.7).

Sort, top-k, argmax, a k-th value, a median and a mode may break ties as they like, but for a sort
that is to be stable.  An index output is right if what it selects
is right: gathered through the target's indices, the input must give the same elements as through
the source's.  Where a slice is permuted (sort, top-k) no index may come twice.  What an unsorted
top-k selects may stand in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tapml_nb.graph import Op
from tapml_nb.judge.arithmetic import MOVES, bare
from tapml_nb.numerics import is_float

Rule = Callable[[Sequence[np.ndarray], np.ndarray], np.ndarray | None]
"""Tells of an operator's inputs and the source's output which elements are undefined."""

_INDEX_OUTPUT = {
    **dict.fromkeys(("aten.sort", "aten.topk", "aten.max", "aten.min", "aten.kthvalue"), 1),
    **dict.fromkeys(("aten.median", "aten.nanmedian", "aten.mode"), 1),
    **dict.fromkeys(("aten.argsort", "aten.argmax", "aten.argmin"), 0),
    **dict.fromkeys(("onnx.TopK", "relax.topk"), 1),
    **dict.fromkeys(("onnx.ArgMax", "onnx.ArgMin"), 0),
    **dict.fromkeys(("relax.argsort", "relax.argmax", "relax.argmin"), 0),
}
"""Kinds that choose, and which of their outputs are the indices."""

_PERMUTING = frozenset(
    ("aten.sort", "aten.argsort", "aten.topk", "onnx.TopK", "relax.topk", "relax.argsort")
)


def undefined(op: Op, inputs: Sequence[np.ndarray], source: np.ndarray) -> np.ndarray | None:
    """Which elements of an output, that is ``source`` on the source, are undefined: a mask of its
    shape; None if none is."""
    rule = _rule(op, source.dtype)
    if rule is None:
        return None
    with np.errstate(all="ignore"):
        mask = rule(inputs, source)
    if mask is None or not mask.any():
        return None
    try:
        return np.asarray(np.broadcast_to(mask, source.shape))
    except ValueError:  # its inputs are laid out anew before it
        return None


def may_be_undefined(op: Op, dtype: np.dtype) -> bool:
    """Whether elements of an output of this dtype may be undefined, whatever they are."""
    return _rule(op, dtype) is not None


def _rule(op: Op, dtype: np.dtype) -> Rule | None:
    if not op.primitives or dtype.kind not in "iu" or len(op.members) > 1:
        return None
    made = {name for name in map(bare, op.primitives) if name not in MOVES}
    return _RULES.get(made.pop()) if len(made) == 1 else None


def _converted(inputs: Sequence[np.ndarray], source: np.ndarray) -> np.ndarray | None:
    if not inputs or not is_float(inputs[0].dtype):
        return None
    bounds = np.iinfo(source.dtype)
    whole = np.trunc(inputs[0].astype(np.float64))
    # The largest integers of 64 bits are no floating-point numbers, one more is.
    inside = (whole >= float(bounds.min)) & (whole < float(bounds.max) + 1.0)
    return np.asarray(~inside)  # NaN is nowhere inside


def _divided(inputs: Sequence[np.ndarray], source: np.ndarray) -> np.ndarray | None:
    return np.asarray(inputs[1] == 0) if _are_two_integers(inputs) else None


def _shifted(inputs: Sequence[np.ndarray], source: np.ndarray) -> np.ndarray | None:
    if not _are_two_integers(inputs):
        return None
    by = inputs[1]
    return np.asarray((by < 0) | (by >= 8 * source.dtype.itemsize))


def _are_two_integers(inputs: Sequence[np.ndarray]) -> bool:
    return len(inputs) == 2 and all(x.dtype.kind in "iu" for x in inputs)


_RULES: dict[str, Rule] = {
    **dict.fromkeys(("to_copy", "convert_element_type", "cast", "castlike", "astype"), _converted),
    **dict.fromkeys(("div", "divide", "floor_divide"), _divided),
    **dict.fromkeys(("remainder", "fmod", "mod", "floor_mod"), _divided),
    **dict.fromkeys(("left_shift", "right_shift", "lshift", "rshift", "bitshift"), _shifted),
    **dict.fromkeys(("bitwise_left_shift", "bitwise_right_shift"), _shifted),
}


def chooses(op: Op, output: int, values: np.ndarray, result: np.ndarray) -> bool:
    """Whether this output of an operator, on the source ``result``, holds indices into its input,
    ``values``."""
    place = _INDEX_OUTPUT.get(op.kind)
    # Outputs that nobody reads are not among an operator's; elements are all among the input's.
    if place == 1 and len(op.outputs) == 1:
        same_kind = values.dtype.kind == "i"
        return result.dtype.kind == "i" and not (same_kind and np.isin(result, values).all())
    return place == output


def same_choice(op: Op, values: np.ndarray, target: np.ndarray, source: np.ndarray) -> bool:
    """Whether the target's indices into an operator's input, ``values``, select elements equal to
    those that the source's select, which are of the same shape."""
    if op.constants.get("stable") is True:
        return False  # then ties stand in the order of the input
    picked = _picked(op, values, target, source)
    return picked is not None and _equal(*picked[:2])


def unordered(op: Op) -> bool:
    """Whether what an operator selects may stand in any order."""
    return op.kind == "aten.topk" and op.constants.get("sorted") is False


def same_selection(
    op: Op, values: np.ndarray, target: Sequence[np.ndarray], source: Sequence[np.ndarray]
) -> bool:
    """Whether an unordered operator of the target's selects from its input, ``values``, what the
    source's does.  Elements and indices, where both are read, must belong together."""
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
    if op.kind in _PERMUTING and (np.diff(np.sort(theirs, axis=axis), axis=axis) == 0).any():
        return None
    wide = values.astype(np.float64) if values.dtype.kind not in "iub" else values
    return np.take_along_axis(wide, theirs, axis), np.take_along_axis(wide, ours, axis), axis
