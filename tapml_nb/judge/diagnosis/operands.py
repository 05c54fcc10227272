"""The right operation on the wrong operands: what the operator's inputs let one check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import permutations, product

import numpy as np

from tapml_nb.judge.diagnosis.case import MOST, Candidate, Case, Points, close, rms
from tapml_nb.judge.diagnosis.pattern import Diagnosis, Pattern, found
from tapml_nb.numerics import unit_roundoff

Unary = Callable[[np.ndarray], np.ndarray]
Binary = Callable[[np.ndarray, np.ndarray], np.ndarray]

_BINARY: dict[str, Binary] = {
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
_UNARY: dict[str, Unary] = {
    "cos": np.cos,
    "sin": np.sin,
    "exp": np.exp,
    "log": np.log,
    "tanh": np.tanh,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
}
_TERMS: dict[str, Binary] = {"add": np.add, "mul": np.multiply}
_NARROW = ((8, "bfloat16"), (11, "float16 or TF32"))
"""Significant bits of narrower dtypes."""

_ROUNDINGS: tuple[tuple[str, Unary], ...] = (("rounded", np.rint), ("cut off", np.trunc))
_CONTRACTIONS = frozenset(("mm", "bmm", "matmul", "linear", "addmm"))
_DOTS = 96
"""Elements at which a product is computed anew."""

_WORK = 1 << 21
"""Elements of an input up to which a reduction is taken over every axis."""


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(e / e.sum(axis=axis, keepdims=True))


def _normalize(x: np.ndarray, axis: int) -> np.ndarray:
    return np.asarray((x - x.mean(axis=axis, keepdims=True)) / x.std(axis=axis, keepdims=True))


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
    "log_softmax": lambda x, axis: np.log(_softmax(x, axis)),
    "cumsum": lambda x, axis: x.cumsum(axis=axis),
    "layer_norm": _normalize,
    "sort": lambda x, axis: np.sort(x, axis=axis),
}


def swapped_operands(case: Case) -> Diagnosis | None:
    """An element-wise operator of two tensors took them in the other order."""
    function = _BINARY.get(case.kind)
    aligned = dict(case.aligned())
    if function is None or not {0, 1} <= aligned.keys() or not case.count:
        return None

    def swapped(points: Points) -> np.ndarray:
        values = function(case.values(aligned[1], points), case.values(aligned[0], points))
        return values.astype(np.float64)

    right = function(case.values(aligned[0], case.bad), case.values(aligned[1], case.bad))
    if _is_right(case, right.astype(np.float64)) and case.explains(
        swapped, 6 if case.floating else 24
    ):
        words = f"the operands of {case.kind} are swapped"
        return found(Pattern.SWAPPED_OPERANDS, words, "computed from the inputs in the other order")
    return None


@dataclass(frozen=True)
class _Product:
    """A reading of the inputs as a matrix product plus terms: which are its operands, and which of
    the two are transposed first."""

    left: int
    right: int
    turned: tuple[bool, bool]


def wrong_contraction(case: Case) -> Diagnosis | None:
    """A matrix product took its operands in the other order, or transposed."""
    if case.kind not in _CONTRACTIONS or case.count < max(6, case.size / 4):
        return None
    points = case.bad[:_DOTS]
    right = _product(case, points, points.exact)
    wrong = _product(case, points, points.target) if right else None
    if right is None or wrong is None or right == wrong:
        return None
    evidence = f"so computed from the inputs, {len(points)} elements agree"
    if (right.left, right.right) != (wrong.left, wrong.right):
        words = f"inputs {right.left} and {right.right} of the product are swapped"
        return found(Pattern.SWAPPED_OPERANDS, words, evidence)
    which = right.left if right.turned[0] != wrong.turned[0] else right.right
    words = f"input {which} of the product is transposed, or should have been"
    return found(Pattern.TRANSPOSED_OPERAND, words, evidence)


def narrow_operands(case: Case) -> Diagnosis | None:
    """A matrix product rounded its operands, one of them, or its products to a narrower dtype."""
    if case.kind not in _CONTRACTIONS or not case.floating:
        return None
    points = case.any[:_DOTS][case.any.finite[:_DOTS]]
    right = _product(case, points, points.exact) if len(points) >= _DOTS // 2 else None
    if right is None:
        return None
    error = rms(points.error)
    if not 0 < error < 0.1 * rms(points.exact):
        return None
    for (bits, name), (way, round_) in product(_NARROW, _ROUNDINGS):
        if 2.0**-bits <= unit_roundoff(case.dtype):
            continue
        change = partial(_shorten, bits=bits, round_=round_)
        for what, changes in (
            ("operands of the product are", (change, change, _same)),
            (f"operand {right.left} of the product is", (change, _same, _same)),
            (f"operand {right.right} of the product is", (_same, change, _same)),
            ("products that are added up are", (_same, _same, change)),
        ):
            short = _dots(case, points, right, *changes)
            assert short is not None
            left = rms(points.target - short)
            if left < 0.25 * error:
                words = f"the {what} {way} to {name}"
                smaller = f"{error / left:.3g} times smaller"
                evidence = f"so computed, the error of {len(points)} elements is {smaller}"
                return found(Pattern.NARROWER, words, evidence)
    return None


def narrow_terms(case: Case) -> Diagnosis | None:
    """An element-wise operator of two tensors rounded one or both of them first."""
    function = _TERMS.get(case.kind) or _BINARY.get(case.kind)
    aligned = dict(case.aligned())
    if function is None or not {0, 1} <= aligned.keys() or case.dtype != np.float32:
        return None
    if case.count < 6:
        return None
    if not _is_right(case, function(*(case.values(aligned[k], case.bad) for k in (0, 1)))):
        return None
    for bits, name in _NARROW:
        for which in ((0, 1), (0,), (1,)):

            def narrowed(
                points: Points, bits: int = bits, which: tuple[int, ...] = which
            ) -> np.ndarray:
                given = [case.values(aligned[k], points) for k in (0, 1)]
                for k in which:
                    given[k] = _shorten(given[k], bits, np.rint)
                return function(*given)

            if case.explains(narrowed):
                inputs = "inputs are" if len(which) == 2 else f"input {which[0]} is"
                words = f"the {inputs} rounded to {name}"
                return found(Pattern.NARROWER, words, f"so computed, all {case.count} agree")
    return None


def narrow_input(case: Case) -> Diagnosis | None:
    """A function rounded its input to a narrower dtype first."""
    function = _UNARY.get(case.kind)
    x = dict(case.aligned()).get(0)
    if function is None or x is None or case.dtype != np.float32 or case.count < 6:
        return None
    if not _is_right(case, function(case.values(x, case.bad))):
        return None
    for (bits, name), (way, round_) in product(_NARROW, _ROUNDINGS):

        def narrowed(points: Points, bits: int = bits, round_: Unary = round_) -> np.ndarray:
            return function(_shorten(case.values(x, points), bits, round_))

        if case.explains(narrowed):
            words = f"the input of {case.kind} is {way} to {name}"
            return found(Pattern.NARROWER, words, f"so computed, all {case.count} agree")
    return None


def _product(case: Case, points: Points, values: np.ndarray) -> _Product | None:
    """The reading of the inputs that gives these values."""
    matrices = [k for k, x in enumerate(case.inputs) if x.ndim >= 2]
    for left, right in permutations(matrices[:3], 2):
        for first, second in product((False, True), repeat=2):
            reading = _Product(left, right, (first, second))
            dots = _dots(case, points, reading)
            if dots is not None and np.mean(close(dots, values, _near(points))) >= MOST:
                return reading
    return None


def _dots(
    case: Case,
    points: Points,
    reading: _Product,
    of_left: Unary = _same,
    of_right: Unary = _same,
    of_products: Unary = _same,
) -> np.ndarray | None:
    """Elements of a product plus all other inputs, if it has the output's shape; float64.

    What is to be rounded is: rows of the left operand, columns of the right one, or products.
    """
    left, right = (
        case.inputs[k].swapaxes(-1, -2) if turned else case.inputs[k]
        for k, turned in zip((reading.left, reading.right), reading.turned, strict=True)
    )
    terms = [x for k, x in enumerate(case.inputs) if k not in (reading.left, reading.right)]
    try:
        batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        terms = [np.broadcast_to(x, case.shape) for x in terms]
    except ValueError:
        return None
    shape = (*batch, left.shape[-2], right.shape[-1])
    if shape != case.shape or left.shape[-1] != right.shape[-2]:
        return None
    places = case.places(points.index)
    *at, row, column = places
    left = np.broadcast_to(left, (*batch, *left.shape[-2:]))
    right = np.broadcast_to(right, (*batch, *right.shape[-2:]))
    rows = of_left(left[(*at, row)].astype(np.float64))
    columns = of_right(right.swapaxes(-1, -2)[(*at, column)].astype(np.float64))
    result: np.ndarray = of_products(rows * columns).sum(axis=1)
    for term in terms:
        result = result + term[places].astype(np.float64)
    return result


def _shorten(x: np.ndarray, bits: int, round_: Unary) -> np.ndarray:
    """Numbers with so many significant bits, rounded as told."""
    mantissa, exponent = np.frexp(x)
    return np.asarray(np.ldexp(round_(np.ldexp(mantissa, bits)), exponent - bits))


def wrong_axis(case: Case) -> Diagnosis | None:
    """A reduction ran along another axis than the source's."""
    function = _REDUCTIONS.get(case.kind.removeprefix("_"))
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
            elif case.explains(_all(flat), factor=2.0):
                wrong.append(axis)
    if not wrong or not right:
        return None
    words = f"{case.kind} runs along axis {wrong[0]} in place of axis {right[0]}"
    return found(Pattern.WRONG_AXIS, words, "computed from the input along every axis")


def _all(flat: np.ndarray) -> Candidate:
    """A candidate that is known in full."""
    return lambda points: flat[points.index].astype(np.float64)


def _near(points: Points) -> np.ndarray:
    return np.asarray(16.0 * points.allowed + 1e-5 * np.abs(points.exact))


def _is_right(case: Case, computed: np.ndarray) -> bool:
    """Whether this is what the wrong elements should be."""
    return bool(np.mean(close(computed, case.bad.exact, _near(case.bad))) >= MOST)


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
            joined = np.concatenate([case.inputs[k] for k in order], axis)
            if case.explains(_all(joined.reshape(-1))):
                words = f"the inputs are joined along axis {axis} in the order {list(order)}"
                return found(Pattern.CONCATENATION_ORDER, words, f"of {len(order)} inputs")
    return None
