"""The right operation on the wrong operands: what the operator's inputs let one check."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np

from tapml_nb.judge.diagnosis.case import MOST, Case, Points
from tapml_nb.judge.diagnosis.pattern import Diagnosis, Pattern, found

_BINARY: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "sub": np.subtract,
    "div": np.divide,
    "pow": np.power,
    "floor_divide": lambda a, b: np.floor(a / b),
    "remainder": np.mod,
    "fmod": np.fmod,
    "atan2": np.arctan2,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_CONTRACTIONS = frozenset(("mm", "bmm", "matmul", "linear", "addmm"))
_DOTS = 96
"""Sums that a test of a contraction takes."""

_WORK = 1 << 21
"""Elements of an input up to which a reduction is taken over every axis."""


def _softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    result: np.ndarray = e / e.sum(axis=axis, keepdims=True)
    return result


def _normalize(x: np.ndarray, axis: int) -> np.ndarray:
    result: np.ndarray = (x - x.mean(axis=axis, keepdims=True)) / x.std(axis=axis, keepdims=True)
    return result


_REDUCTIONS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "sum": lambda x, axis: x.sum(axis=axis),
    "mean": lambda x, axis: x.mean(axis=axis),
    "prod": lambda x, axis: x.prod(axis=axis),
    "amax": lambda x, axis: x.max(axis=axis),
    "amin": lambda x, axis: x.min(axis=axis),
    "max": lambda x, axis: x.max(axis=axis),
    "min": lambda x, axis: x.min(axis=axis),
    "argmax": lambda x, axis: x.argmax(axis=axis),
    "argmin": lambda x, axis: x.argmin(axis=axis),
    "var": lambda x, axis: x.var(axis=axis, ddof=1),
    "std": lambda x, axis: x.std(axis=axis, ddof=1),
    "softmax": _softmax,
    "_softmax": _softmax,
    "log_softmax": lambda x, axis: np.log(_softmax(x, axis)),
    "_log_softmax": lambda x, axis: np.log(_softmax(x, axis)),
    "cumsum": lambda x, axis: x.cumsum(axis=axis),
    "layer_norm": _normalize,
    "sort": lambda x, axis: np.sort(x, axis=axis),
}


def swapped_operands(case: Case) -> Diagnosis | None:
    """An element-wise operator of two tensors took them in the other order."""
    function = _BINARY.get(case.kind)
    aligned = dict(case.aligned())
    if function is None or len(case.inputs) < 2 or not {0, 1} <= aligned.keys():
        return None

    def candidate(points: Points) -> tuple[np.ndarray, float]:
        a, b = (case.values(aligned[k], points) for k in (0, 1))
        return function(b, a).astype(np.float64), 1.0

    if not case.explains(candidate, 6 if case.floating else 24):
        return None
    words = f"the operands of {case.kind} are swapped"
    return found(Pattern.SWAPPED_OPERANDS, words, "computed from the inputs in the other order")


def wrong_contraction(case: Case) -> Diagnosis | None:
    """A matrix product took its operands in the other order, or transposed."""
    if case.kind not in _CONTRACTIONS or case.count < 6:
        return None
    matrices = [x for x in case.inputs if x.ndim >= 2]
    if len(matrices) != 2:
        return None
    a, b = matrices
    if case.kind == "linear":
        b = b.swapaxes(-1, -2)
    readings: list[tuple[Pattern, str, np.ndarray, np.ndarray]] = [
        (Pattern.SWAPPED_OPERANDS, "the operands of the product are swapped", b, a),
        (
            Pattern.TRANSPOSED_OPERAND,
            "the second operand of the product is transposed",
            a,
            b.swapaxes(-1, -2),
        ),
        (
            Pattern.TRANSPOSED_OPERAND,
            "the first operand of the product is transposed",
            a.swapaxes(-1, -2),
            b,
        ),
    ]
    points = case.bad[:_DOTS]
    rest = [x for x in case.inputs if x.ndim < 2]
    for pattern, words, left, right in readings:
        dots = _dots(case, points, left, right)
        if dots is None:
            continue
        for bias in rest:
            dots = dots + np.broadcast_to(bias, case.shape)[case.places(points.index)]
        tolerance = 8.0 * points.allowed + 1e-4 * np.abs(dots)
        if (
            np.mean(np.abs(points.target - dots) <= tolerance) >= MOST
            and case.count > case.size / 4
        ):
            return found(pattern, words, f"so computed, {len(points)} elements agree")
    return None


def _dots(case: Case, points: Points, left: np.ndarray, right: np.ndarray) -> np.ndarray | None:
    """Elements of ``left @ right``, if that has the output's shape; float64."""
    try:
        batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    except ValueError:
        return None
    if left.shape[-1] != right.shape[-2]:
        return None
    if (*batch, left.shape[-2], right.shape[-1]) != case.shape:
        return None
    *at, row, column = case.places(points.index)
    left = np.broadcast_to(left, (*batch, *left.shape[-2:]))
    right = np.broadcast_to(right, (*batch, *right.shape[-2:]))
    rows = left[(*at, row)].astype(np.float64)
    columns = right.swapaxes(-1, -2)[(*at, column)].astype(np.float64)
    result: np.ndarray = np.einsum("ij,ij->i", rows, columns)
    return result


def wrong_axis(case: Case) -> Diagnosis | None:
    """A reduction ran along another axis than the source's."""
    function = _REDUCTIONS.get(case.kind)
    if function is None or not case.inputs or case.count < 6:
        return None
    x = case.inputs[0]
    if not 0 < x.size <= _WORK or x.ndim < 2:
        return None
    x = x.astype(np.float64)
    right: list[int] = []
    wrong: list[int] = []
    with np.errstate(all="ignore"):
        for axis in range(x.ndim):
            y = function(x, axis)
            if y.size != case.size:
                continue
            flat = y.reshape(-1).astype(np.float64)
            agrees = np.abs(flat[case.bad.index] - case.bad.exact) <= _near(case.bad)
            if agrees.mean() >= MOST:
                right.append(axis)
            elif case.explains(lambda points, flat=flat: (flat[points.index], 2.0)):  # type: ignore[misc]
                wrong.append(axis)
    if not wrong or not right:
        return None
    words = f"{case.kind} runs along axis {wrong[0]} in place of axis {right[0]}"
    return found(Pattern.WRONG_AXIS, words, "computed from the input along every axis")


def _near(points: Points) -> np.ndarray:
    result: np.ndarray = 16.0 * points.allowed + 1e-5 * np.abs(points.exact)
    return result


def concatenation_order(case: Case) -> Diagnosis | None:
    """The inputs were joined in another order."""
    if not 2 <= len(case.inputs) <= 4 or "cat" not in case.kind:
        return None
    if any(x.dtype != case.dtype or x.ndim != len(case.shape) for x in case.inputs):
        return None
    source = case.reference.source
    for axis in range(len(case.shape)):
        sizes = [x.shape[axis] for x in case.inputs]
        others = {x.shape[:axis] + x.shape[axis + 1 :] for x in case.inputs}
        if len(others) > 1 or sum(sizes) != case.shape[axis]:
            continue
        if not np.array_equal(np.concatenate(case.inputs, axis), source):
            continue
        for order in list(permutations(range(len(case.inputs))))[1:]:
            flat = np.concatenate([case.inputs[k] for k in order], axis).reshape(-1)
            if case.explains(lambda p, flat=flat: (flat[p.index].astype(np.float64), 1.0)):  # type: ignore[misc]
                words = f"the inputs are joined along axis {axis} in the order {list(order)}"
                return found(Pattern.CONCATENATION_ORDER, words, f"of {len(order)} inputs")
    return None
