"""What makes the answer of linear algebra right: the equations that define it.

Of an ill-conditioned matrix the elements of an answer say little: rounding moves them far, and a
fault of 1 % is lost in that.  What they multiply to is not moved: a stable algorithm gives the
exact answer for a matrix that differs by roundings (N. Higham, *Accuracy and Stability of Numerical
Algorithms*, 2nd ed., §7.1, §9.3, §19.3).  So the residual of each equation must be as small as the
source's, or as roundings explain.

And where several answers are right, nothing else can be asked for: singular vectors and
eigenvectors have any sign, and those of equal values are any basis; a QR factorization has any
signs; of equal pivots an LU factorization takes any.  Singular values and eigenvalues are judged as
numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tapml_nb.graph import Op

Arrays = Sequence[np.ndarray]


@dataclass(frozen=True)
class Equation:
    """An equation, in words, and how far an answer is from it, over the size of what is added up in
    it; NaN counts as infinite."""

    says: str
    residual: float


@dataclass(frozen=True)
class Definition:
    """The equations of an answer.

    Attributes:
        equations: what must hold.
        free: the outputs of which no element is determined, as long as they hold.
        length: terms in one sum, at most.
    """

    equations: Sequence[Equation]
    free: frozenset[int]
    length: int


def is_factorized(op: Op) -> bool:
    """Whether an operator's answer has equations that define it."""
    return op.kind in _DEFINITIONS and len(op.members) <= 1


def definition(op: Op, inputs: Arrays, outputs: Arrays, source: Arrays) -> Definition | None:
    """The equations of an operator's ``outputs``, the target's or the source's own; None where
    what is there is not enough to write them down."""
    if not is_factorized(op) or not inputs or any(0 in x.shape for x in inputs):
        return None
    floats = [x.astype(np.float64) if x.dtype.kind == "f" else x for x in inputs]
    wide = [x.astype(np.float64) if x.dtype.kind == "f" else x for x in outputs]
    try:
        with np.errstate(all="ignore"):
            return _DEFINITIONS[op.kind](op.constants, floats, wide, source)
    except (ValueError, IndexError, np.linalg.LinAlgError):
        return None  # complex numbers, or matrices that share axes in another way


def open_outputs(op: Op, outputs: Arrays) -> frozenset[int]:
    """The outputs of an operator of which elements need not be the source's whatever they are:
    vectors that have any sign."""
    if op.kind in _SVD and len(outputs) == 3:
        return frozenset((0, 2)) if all(x.size for x in outputs) else frozenset()
    if op.kind in _SVD | _EIGH:
        most = max((x.ndim for x in outputs), default=0)
        return frozenset(k for k, x in enumerate(outputs) if x.ndim == most and most > 1)
    return frozenset()


def _size(x: np.ndarray, axis: Any = (-2, -1)) -> np.ndarray:
    """Frobenius norm."""
    return np.asarray(np.sqrt(np.square(x).sum(axis, keepdims=True)))


def _t(x: np.ndarray) -> np.ndarray:
    return np.swapaxes(x, -1, -2)


def _equation(says: str, left: np.ndarray, right: Any, scale: Any) -> Equation:
    off = np.abs(left - right)
    relative = np.where(off == 0, 0.0, off / np.maximum(scale, np.finfo(np.float32).tiny))
    worst = float(np.max(relative, initial=0.0))
    return Equation(says, worst if np.isfinite(worst) else np.inf)


def _orthonormal(says: str, q: np.ndarray) -> Equation:
    return _equation(says, _t(q) @ q, np.eye(q.shape[-1]), 1.0)


def _solution(says: str, a: np.ndarray, x: np.ndarray, b: np.ndarray) -> Equation:
    """A X = B, column by column."""
    return _equation(says, a @ x, b, _size(a) * _size(x, -2) + _size(b, -2))


def _svd(constants: Mapping[str, Any], inputs: Arrays, outputs: Arrays, source: Arrays) -> Any:
    (a,) = inputs
    free = [k for k, x in enumerate(outputs) if x.ndim == a.ndim]
    if not free or any(not x.size for x in outputs):
        return None
    transposed = constants.get("full_matrices") is None  # torch.svd gives V
    exact = np.linalg.svd(a, compute_uv=False)
    given = [x for x in outputs if x.ndim == a.ndim - 1]
    values = given[0] if given else exact
    largest = values.max(-1)[..., None, None]
    k = values.shape[-1]
    equations = []
    if len(free) == 2:
        u, v = outputs[free[0]], outputs[free[1]] if transposed else _t(outputs[free[1]])
        product = (u[..., :k] * values[..., None, :]) @ _t(v[..., :k])
        equations.append(_equation("A = U S Vh", product, a, largest))
        equations += [_orthonormal("Uh U = 1", u), _orthonormal("Vh V = 1", v)]
    else:
        place = free[0]
        if given and place == 0:
            left = True
        elif given:
            left = False
        else:
            left = _is_left(a, source[place].astype(np.float64), exact, transposed)
        w = outputs[place] if left or transposed else _t(outputs[place])
        rotated = (_t(a) if left else a) @ w
        sizes = np.zeros((*rotated.shape[:-2], rotated.shape[-1]))
        sizes[..., :k] = values
        wanted = np.square(sizes)[..., None, :] * np.eye(sizes.shape[-1])
        scale = largest * np.maximum(sizes[..., None, :], sizes[..., :, None])
        scale = np.maximum(scale, np.square(largest) * 2.0**-20)
        name = "Uh A Ah U = S S" if left else "Vh Ah A V = S S"
        equations += [_equation(name, _t(rotated) @ rotated, wanted, scale)]
        equations += [_orthonormal("the vectors are orthonormal", w)]
    return Definition(equations, frozenset(free), max(a.shape[-2:]))


def _is_left(a: np.ndarray, w: np.ndarray, exact: np.ndarray, transposed: bool) -> bool:
    """Whether vectors, of which nothing else is read, are U, and not V."""

    def off(rotated: np.ndarray) -> float:
        lengths = np.sqrt(np.square(rotated).sum(-2))[..., : exact.shape[-1]]
        return float(np.abs(lengths - exact).max())

    if w.shape[-2] != a.shape[-2]:
        return False
    right = w if transposed else _t(w)
    if right.shape[-2] != a.shape[-1]:
        return True
    return off(_t(a) @ w) <= off(a @ right)


def _eigh(constants: Mapping[str, Any], inputs: Arrays, outputs: Arrays, source: Arrays) -> Any:
    (a,) = inputs
    free = [k for k, x in enumerate(outputs) if x.ndim == a.ndim]
    if not free:
        return None
    upper = str(constants.get("UPLO", "L")).upper() == "U"
    half = np.triu(a) if upper else np.tril(a)
    a = half + _t(half) - half * np.eye(a.shape[-1])
    given = [x for x in outputs if x.ndim == a.ndim - 1]
    values = given[0] if given else np.linalg.eigvalsh(a)
    v = outputs[free[0]]
    equations = [
        _equation("A V = V L", a @ v, v * values[..., None, :], _size(a)),
        _orthonormal("Vh V = 1", v),
    ]
    return Definition(equations, frozenset(free), a.shape[-1])


def _qr(constants: Mapping[str, Any], inputs: Arrays, outputs: Arrays, source: Arrays) -> Any:
    (a,) = inputs
    places = [k for k, x in enumerate(outputs) if x.ndim == a.ndim]
    columns = _size(a, -2)
    q = r = None
    if len(places) == 2:
        q, r = outputs[places[0]], outputs[places[1]]
    elif len(places) == 1:
        only = source[places[0]].astype(np.float64)
        if constants.get("mode") == "r" or not np.any(np.tril(only, -1)):
            r = outputs[places[0]]
        else:
            q = outputs[places[0]]
    equations = []
    if r is not None:
        equations.append(_equation("R is triangular", np.tril(r, -1), 0.0, columns))
    if q is not None:
        equations.append(_orthonormal("Qh Q = 1", q))
    if q is not None and r is not None:
        equations.append(_equation("A = Q R", q @ r, a, columns))
    elif q is not None:
        upper = _t(q) @ a
        equations.append(_equation("Qh A is triangular", np.tril(upper, -1), 0.0, columns))
        equations.append(_equation("Q Qh A = A", q @ upper, a, columns))
    elif r is not None:
        equations.append(_equation("Rh R = Ah A", _t(r) @ r, _t(a) @ a, _t(columns) * columns))
    return Definition(equations, frozenset(places), max(a.shape[-2:])) if equations else None


def _order(pivots: np.ndarray, m: int) -> np.ndarray:
    """The order of m rows that pivots, from 1, leave them in."""
    flat = pivots.reshape(-1, pivots.shape[-1]).astype(np.int64) - 1
    rows = np.tile(np.arange(m), (len(flat), 1))
    every = np.arange(len(flat))
    for k in range(flat.shape[1]):
        other = flat[:, k]
        rows[every, k], rows[every, other] = rows[every, other], rows[every, k]
    return rows.reshape(*pivots.shape[:-1], m)


def _factors(lu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    m, n = lu.shape[-2:]
    k = min(m, n)
    return np.tril(lu[..., :k], -1) + np.eye(m, k), np.triu(lu[..., :k, :])


def _product_of(lu: np.ndarray, pivots: np.ndarray) -> np.ndarray:
    """The matrix that was factorized."""
    lower, upper = _factors(lu)
    rows = _order(pivots, lu.shape[-2])
    return np.take_along_axis(lower @ upper, np.argsort(rows, -1)[..., None], -2)


def _lu_equations(a: np.ndarray, product: np.ndarray, lower: np.ndarray, pivot: bool) -> Any:
    equations = [_equation("A = P L U", product, a, _size(a))]
    if pivot:
        above = np.maximum(np.abs(lower) - 1.0, 0.0)
        equations.append(_equation("no element of L is above 1", above, 0.0, 1.0))
    return equations


def _lu_factor(
    constants: Mapping[str, Any], inputs: Arrays, outputs: Arrays, source: Arrays
) -> Any:
    (a,), (lu, pivots) = inputs, outputs[:2]
    if lu.shape != a.shape or pivots.dtype.kind != "i" or pivots.ndim != a.ndim - 1:
        return None
    if pivots.min(initial=1) < 1 or pivots.max(initial=1) > a.shape[-2]:
        return Definition([Equation("pivots are rows", np.inf)], frozenset(), 1)
    pivot = bool(constants.get("pivot", True))
    equations = _lu_equations(a, _product_of(lu, pivots), _factors(lu)[0], pivot)
    tied = bool((pivots != source[1]).any())
    return Definition(equations, frozenset((0, 1) if tied else ()), max(a.shape[-2:]))


def _lu(constants: Mapping[str, Any], inputs: Arrays, outputs: Arrays, source: Arrays) -> Any:
    (a,), (p, lower, upper) = inputs, outputs
    pivot = bool(constants.get("pivot", True))
    equations = []
    if p.size:
        once = [np.array_equal(p.sum(axis), np.ones(p.shape[:-1])) for axis in (-1, -2)]
        fine = all(once) and bool(((p == 0) | (p == 1)).all())
        equations.append(Equation("P permutes rows", 0.0 if fine else np.inf))
    product = lower @ upper if not p.size else p @ lower @ upper
    equations += _lu_equations(a, product, lower, pivot)
    beside = np.triu(lower, 1), np.tril(upper, -1)
    triangular = not any(x.any() for x in beside)
    unit = (np.diagonal(lower, axis1=-2, axis2=-1) == 1).all()
    equations.append(Equation("L and U are triangular", 0.0 if triangular and unit else np.inf))
    tied = bool(p.size) and bool((p != source[0]).any())
    return Definition(equations, frozenset((0, 1, 2) if tied else ()), max(a.shape[-2:]))


def _cholesky(constants: Mapping[str, Any], inputs: Arrays, outputs: Arrays, source: Arrays) -> Any:
    (a,), factor = inputs, outputs[0]
    if factor.ndim != a.ndim:
        return None
    upper = bool(constants.get("upper", False))
    lower, half = (_t(factor), _t(np.triu(a))) if upper else (factor, np.tril(a))
    root = np.sqrt(np.abs(np.diagonal(a, axis1=-2, axis2=-1)))
    scale = root[..., :, None] * root[..., None, :]
    equations = [
        _equation("A = L Lh", np.tril(lower @ _t(lower)), half, scale),
        _equation("L is triangular", np.triu(lower, 1), 0.0, root[..., :, None]),
    ]
    return Definition(equations, frozenset(), a.shape[-1])


def _solving(a: np.ndarray, x: np.ndarray, b: np.ndarray, left: bool = True) -> Definition:
    if left:
        return Definition([_solution("A X = B", a, x, b)], frozenset(), a.shape[-1])
    equation = _solution("X A = B", _t(a), _t(x), _t(b))
    return Definition([equation], frozenset(), a.shape[-1])


def _solve(constants: Mapping[str, Any], inputs: Arrays, outputs: Arrays, source: Arrays) -> Any:
    (a, b), x = inputs, outputs[0]
    if b.ndim == 1 or (a.ndim - 1 == b.ndim and a.shape[:-1] == b.shape):
        return _solving(a, x[..., None], b[..., None])
    return _solving(a, x, b, bool(constants.get("left", True)))


def _inverse(constants: Mapping[str, Any], inputs: Arrays, outputs: Arrays, source: Arrays) -> Any:
    """Of A X = 1 and X A = 1 a stable algorithm keeps one, and which depends on it."""
    (a,), x = inputs, outputs[0]
    eye = np.broadcast_to(np.eye(a.shape[-1]), a.shape)
    sides = _solution("A X = 1", a, x, eye), _solution("X A = 1", _t(a), _t(x), eye)
    return Definition([min(sides, key=lambda side: side.residual)], frozenset(), a.shape[-1])


def _triangle(a: np.ndarray, constants: Mapping[str, Any]) -> np.ndarray:
    half = np.triu(a) if constants.get("upper", True) else np.tril(a)
    if constants.get("unitriangular"):
        eye = np.eye(a.shape[-1])
        half = half * (1 - eye) + eye
    return _t(half) if constants.get("transpose") else half


def _solve_triangular(
    constants: Mapping[str, Any], inputs: Arrays, outputs: Arrays, source: Arrays
) -> Any:
    a, b = inputs
    return _solving(_triangle(a, constants), outputs[0], b, bool(constants.get("left", True)))


def _triangular_solve(
    constants: Mapping[str, Any], inputs: Arrays, outputs: Arrays, source: Arrays
) -> Any:
    b, a = inputs
    return _solving(_triangle(a, constants), outputs[0], b)


def _lu_solve(constants: Mapping[str, Any], inputs: Arrays, outputs: Arrays, source: Arrays) -> Any:
    integers = [k for k, x in enumerate(inputs) if x.dtype.kind == "i"]
    (place,) = integers
    lu, pivots, b = inputs[place - 1], inputs[place], inputs[2 if place == 1 else 0]
    a = _product_of(lu, pivots)
    adjoint = bool(constants.get("adjoint", False))
    return _solving(_t(a) if adjoint else a, outputs[0], b, bool(constants.get("left", True)))


def _cholesky_solve(
    constants: Mapping[str, Any], inputs: Arrays, outputs: Arrays, source: Arrays
) -> Any:
    b, factor = inputs
    lower = _t(np.triu(factor)) if constants.get("upper", False) else np.tril(factor)
    return _solving(lower @ _t(lower), outputs[0], b)


_SVD = frozenset(("aten.linalg_svd", "aten.svd"))
_EIGH = frozenset(("aten.linalg_eigh",))

_DEFINITIONS: dict[str, Callable[..., Definition | None]] = {
    **dict.fromkeys(_SVD, _svd),
    **dict.fromkeys(_EIGH, _eigh),
    **dict.fromkeys(("aten.linalg_qr", "aten.qr"), _qr),
    **dict.fromkeys(
        ("aten.linalg_lu_factor", "aten.linalg_lu_factor_ex", "aten._lu_with_info"), _lu_factor
    ),
    "aten.linalg_lu": _lu,
    **dict.fromkeys(
        ("aten.linalg_cholesky", "aten.linalg_cholesky_ex", "aten.cholesky"), _cholesky
    ),
    **dict.fromkeys(("aten.linalg_solve", "aten.linalg_solve_ex"), _solve),
    **dict.fromkeys(("aten.linalg_inv", "aten.linalg_inv_ex", "aten.inverse"), _inverse),
    "aten.linalg_solve_triangular": _solve_triangular,
    "aten.triangular_solve": _triangular_solve,
    **dict.fromkeys(("aten.lu_solve", "aten.linalg_lu_solve"), _lu_solve),
    "aten.cholesky_solve": _cholesky_solve,
}
