"""Elements that an operator's own specification leaves undefined: any value is right there.

* A floating-point number converted to an integer that cannot hold it, and NaN and infinities
  (ONNX ``Cast``; C17 §6.3.1.4, which PyTorch and TVM follow).
* Integers divided by 0 (C17 §6.5.5), in quotients and remainders.
* Bits shifted by less than 0 or by the width of the type or more (C17 §6.5.7).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tapml_nb.graph import Op
from tapml_nb.judge.arithmetic import MOVES, bare
from tapml_nb.numerics import is_float

Rule = Callable[[Sequence[np.ndarray], np.ndarray], np.ndarray | None]


def undefined(op: Op, inputs: Sequence[np.ndarray], source: np.ndarray) -> np.ndarray | None:
    """Which elements of an output are undefined: a mask of its shape; None if none is.

    Args:
        op: the operator.
        inputs: its tensor inputs.
        source: what the source gives.
    """
    if not op.primitives or source.dtype.kind not in "iu" or len(op.members) > 1:
        return None
    made = {name for name in map(bare, op.primitives) if name not in MOVES}
    rule = _RULES.get(made.pop()) if len(made) == 1 else None
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


def _converted(inputs: Sequence[np.ndarray], source: np.ndarray) -> np.ndarray | None:
    if not inputs or not is_float(inputs[0].dtype):
        return None
    bounds = np.iinfo(source.dtype)
    whole = np.trunc(inputs[0].astype(np.float64))
    # The largest integers of 64 bits are no floating-point numbers, one more is.
    inside = (whole >= float(bounds.min)) & (whole < float(bounds.max) + 1.0)
    return np.asarray(~inside)  # NaN is nowhere inside


def _divided(inputs: Sequence[np.ndarray], source: np.ndarray) -> np.ndarray | None:
    if len(inputs) != 2 or any(x.dtype.kind not in "iu" for x in inputs):
        return None
    return np.asarray(inputs[1] == 0)


def _shifted(inputs: Sequence[np.ndarray], source: np.ndarray) -> np.ndarray | None:
    if len(inputs) != 2 or any(x.dtype.kind not in "iu" for x in inputs):
        return None
    by = inputs[1]
    return np.asarray((by < 0) | (by >= 8 * source.dtype.itemsize))


_RULES: dict[str, Rule] = {
    **dict.fromkeys(("to_copy", "convert_element_type", "cast", "castlike", "astype"), _converted),
    **dict.fromkeys(
        ("div", "divide", "floor_divide", "remainder", "fmod", "mod", "floor_mod"), _divided
    ),
    **dict.fromkeys(
        (
            "bitwise_left_shift",
            "bitwise_right_shift",
            "left_shift",
            "right_shift",
            "lshift",
            "rshift",
            "bitshift",
        ),
        _shifted,
    ),
}
