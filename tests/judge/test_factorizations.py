"""Linear algebra is judged by the equations that define it: another right answer passes, a wrong
one does not, however badly conditioned the matrix is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tapml_nb import Verdict
from tapml_nb.graph import Op
from tapml_nb.judge.factorizations import definition
from tests.frontends.together import ops_of, session_of

_RANDOM = np.random.default_rng(0)


def normal(*shape):
    return _RANDOM.standard_normal(shape).astype(np.float32)


def conditioned(n, condition):
    """A matrix whose singular values fall evenly from 1 to one over its condition."""
    u, v = (np.linalg.qr(_RANDOM.standard_normal((n, n)))[0] for _ in range(2))
    return (u * np.logspace(0, -np.log10(condition), n) @ v).astype(np.float32)


def damaged(x, by=1.01):
    """One element is 1 % too large: the largest, so that it is one that matters."""
    x = x.copy()
    x.flat[np.abs(x).argmax()] *= np.float32(by)
    return x


def svd(a):
    u, s, v = np.linalg.svd(a, full_matrices=False)
    return u, s, v


def svd_signs(a):
    u, s, v = svd(a)
    signs = np.where(np.arange(s.size) % 2, -1, 1).astype(np.float32)
    return u * signs, s, v * signs[:, None]


def svd_one_sign(a):
    u, s, v = svd_signs(a)
    u[:, 1] *= -1
    return u, s, v


def svd_swapped(a):
    u, s, v = svd(a)
    u[:, [0, 1]], v[[0, 1]] = u[:, [1, 0]], v[[1, 0]]
    return u, s, v


def svd_rotated(a):
    """Another basis of the first two singular vectors, whose values are equal."""
    u, s, v = svd(a)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]], np.float32)
    u[:, :2], v[:2] = u[:, :2] @ turn, turn.T @ v[:2]
    return u, s, v


def svd_damaged(which):
    def kernel(a):
        found = [*svd(a)]
        found[which] = damaged(found[which])
        return tuple(found)

    return kernel


def not_finite(a):
    u, s, v = svd(a)
    u[0, 0] = np.nan
    return u, s, v


def eigh(a, signs=1.0, order=slice(None)):
    values, vectors = np.linalg.eigh(a)
    return values, np.ascontiguousarray((vectors * np.float32(signs))[:, order])


def qr_signs(a):
    q, r = np.linalg.qr(a)
    signs = np.where(np.arange(q.shape[1]) % 2, -1, 1).astype(np.float32)
    return q * signs, r * signs[:, None]


def qr_damaged(a):
    q, r = qr_signs(a)
    return damaged(q), r


def last_of_largest(column):
    return int(np.flatnonzero(column == column.max())[-1])


def lu(a, choose=last_of_largest):
    """Elimination that takes the last of the largest elements, where the source takes the first."""
    lu, pivots = a.astype(np.float64), []
    for k in range(len(a)):
        p = k + choose(np.abs(lu[k:, k]))
        lu[[k, p]] = lu[[p, k]]
        pivots.append(p + 1)
        lu[k + 1 :, k] /= lu[k, k]
        lu[k + 1 :, k + 1 :] -= np.outer(lu[k + 1 :, k], lu[k, k + 1 :])
    return lu.astype(np.float32), np.array(pivots, np.int32)


A, S = normal(6, 4), np.diag(np.array([2, 2, 1, 0.5], np.float32)) @ np.linalg.qr(normal(4, 4))[0]
SPD = A.T @ A
WORSE, RIGHT = conditioned(12, 1e6), normal(12, 2)
TIED = np.array([[1, 2, 0.5, 1], [-1, 1, 3, 2], [1, -4, 2, 5], [0.5, 1, 1, 7]], np.float32)


def reduced(a):
    return torch.linalg.svd(a, full_matrices=False)


def left(a):
    return torch.linalg.svd(a, full_matrices=False)[0]


PASS, FAIL = Verdict.PASS, Verdict.FAIL

KERNELS = {
    "svd": (reduced, (A,), svd, PASS),
    "svd, other signs": (reduced, (A,), svd_signs, PASS),
    "svd, one sign of a pair": (reduced, (A,), svd_one_sign, FAIL),
    "svd, vectors swapped": (reduced, (A,), svd_swapped, FAIL),
    "svd, U wrong": (reduced, (A,), svd_damaged(0), FAIL),
    "svd, S wrong": (reduced, (A,), svd_damaged(1), FAIL),
    "svd, V wrong": (reduced, (A,), svd_damaged(2), FAIL),
    "svd, NaN": (reduced, (A,), not_finite, Verdict.NONFINITE),
    "svd, another basis": (reduced, (S,), svd_rotated, PASS),
    "svd, a basis of different values": (reduced, (A,), svd_rotated, FAIL),
    "U": (left, (A,), lambda a: svd_signs(a)[0], PASS),
    "U swapped": (left, (A,), lambda a: svd_swapped(a)[0], FAIL),
    "U wrong": (left, (A,), lambda a: damaged(svd(a)[0]), FAIL),
    "eigh, other signs": (torch.linalg.eigh, (SPD,), lambda a: eigh(a, [1, -1, 1, -1]), PASS),
    "eigh, swapped": (torch.linalg.eigh, (SPD,), lambda a: eigh(a, order=[1, 0, 2, 3]), FAIL),
    "eigh, longer": (torch.linalg.eigh, (SPD,), lambda a: eigh(a, [1, 1.01, 1, 1]), FAIL),
    "qr, other signs": (torch.linalg.qr, (A,), qr_signs, PASS),
    "qr, Q wrong": (torch.linalg.qr, (A,), qr_damaged, FAIL),
    "qr, deficient": (torch.linalg.qr, (A[:, [0, 0, 1]],), qr_signs, PASS),
    "qr, deficient and wrong": (torch.linalg.qr, (A[:, [0, 0, 1]],), qr_damaged, FAIL),
    "Q": (lambda a: torch.linalg.qr(a)[0], (A,), lambda a: qr_signs(a)[0], PASS),
    "Q wrong": (lambda a: torch.linalg.qr(a)[0], (A,), lambda a: qr_damaged(a)[0], FAIL),
    "R": (lambda a: torch.linalg.qr(a, "r")[1], (A,), lambda a: qr_signs(a)[1], PASS),
    "R wrong": (
        lambda a: torch.linalg.qr(a, "r")[1],
        (A,),
        lambda a: damaged(qr_signs(a)[1]),
        FAIL,
    ),
    "lu, a tie": (torch.linalg.lu_factor, (TIED,), lu, PASS),
    "lu, a tie and wrong": (
        torch.linalg.lu_factor,
        (TIED,),
        lambda a: (damaged(lu(a)[0]), lu(a)[1]),
        FAIL,
    ),
    "lu, other pivots": (torch.linalg.lu_factor, (TIED,), lambda a: lu(a[::-1]), FAIL),
    "lu, no pivots": (torch.linalg.lu_factor, (TIED,), lambda a: lu(a, lambda _: 0), FAIL),
    "solve": (torch.linalg.solve, (WORSE, RIGHT), np.linalg.solve, PASS),
    "solve, wrong": (
        torch.linalg.solve,
        (WORSE, RIGHT),
        lambda a, b: damaged(np.linalg.solve(a, b)),
        FAIL,
    ),
    "inv": (torch.linalg.inv, (WORSE,), np.linalg.inv, PASS),
    "inv from the other side": (
        torch.linalg.inv,
        (WORSE,),
        lambda a: np.linalg.inv(a.T).T.copy(),
        PASS,
    ),
    "inv, wrong": (torch.linalg.inv, (WORSE,), lambda a: damaged(np.linalg.inv(a)), FAIL),
    "cholesky": (torch.linalg.cholesky, (SPD,), np.linalg.cholesky, PASS),
    "cholesky, wrong": (
        torch.linalg.cholesky,
        (SPD,),
        lambda a: damaged(np.linalg.cholesky(a)),
        FAIL,
    ),
    "det, wrong": (torch.linalg.det, (SPD,), lambda a: np.linalg.det(a) * np.float32(1.01), FAIL),
    "pinv, wrong": (torch.linalg.pinv, (A,), lambda a: damaged(np.linalg.pinv(a)), FAIL),
    "exp, wrong": (
        torch.linalg.matrix_exp,
        (SPD / 8,),
        lambda a: damaged(torch.linalg.matrix_exp(torch.from_numpy(a)).numpy()),
        FAIL,
    ),
}
"""A model, its inputs, a kernel, and the verdict on that."""


@pytest.fixture(scope="module")
def report():
    cases = {
        name: (function, *map(torch.tensor, inputs))
        for name, (function, inputs, *_) in KERNELS.items()
    }
    with session_of(cases) as session:
        for name, (*_, kernel, _) in KERNELS.items():
            for op in ops_of(session, name):
                session.override(op, kernel)
        return session.run()


@pytest.mark.parametrize("case", KERNELS)
def test_a_kernel(report, case):
    (op,) = ops_of(report, case)
    result = report.introduced[op, 0]
    assert result.verdict is KERNELS[case][-1], result
    if case.startswith("svd, "):
        assert result.diagnosis is None or "S wrong" in case or "NaN" in case


def test_an_equation_that_the_source_is_off_tells_nothing(report):
    """As of complex numbers, which come as pairs of real ones."""
    op = Op("x", "aten.linalg_svd", "", "", "", ("i",), ("u", "s", "v"), None, ())
    a = normal(3, 3, 2)
    assert definition(op, [a], [a, a[..., 0], a], [a, a[..., 0], a]) is None


def test_what_is_not_enough_for_an_equation_has_none():
    op = Op("x", "aten.linalg_svd", "", "", "", ("i",), ("s",), None, ())
    values = np.linalg.svd(A, compute_uv=False)
    assert definition(op, [A], [values], [values]) is None
