"""Our rules for linear algebra against PyTorch, through a session on llvm."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tapml_nb import Verdict
from tapml_nb.frontends.program import Unsupported
from tapml_nb.frontends.torch import import_torch
from tests.frontends.together import Case, ops_of, session_of

_RANDOM = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=_RANDOM)


def positive(*shape):
    x = normal(*shape)
    return x @ x.mT + 0.1 * torch.eye(shape[-1])


def conditioned(n, condition):
    """A matrix whose singular values fall evenly from 1 to one over its condition."""
    u, v = (torch.linalg.qr(normal(n, n).double())[0] for _ in range(2))
    return ((u * torch.logspace(0, -np.log10(condition), n).double()) @ v).float()


def factorized(a):
    return torch.linalg.lu_factor(a)


WIDE, TALL, SQUARE, SPD = normal(2, 3, 5), normal(2, 7, 4), normal(3, 6, 6), positive(2, 5, 5)
DEFICIENT = normal(6, 2) @ normal(2, 5)
EQUAL = torch.diag(torch.tensor([2.0, 1.0, 2.0, 1.0])) @ torch.linalg.qr(normal(4, 4))[0]
SINGULAR = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [1.0, 0.0, 1.0]])
TIED = torch.tensor([[1.0, 2.0, 0.5], [-1.0, 1.0, 3.0], [1.0, -4.0, 2.0]])
QR, TAU = torch.geqrf(TALL)
LU, PIVOTS = factorized(SQUARE)

UNIQUE = {
    "lu_factor": (torch.linalg.lu_factor, SQUARE),
    "lu_factor of wide": (torch.linalg.lu_factor_ex, WIDE),
    "lu_factor singular": (torch.linalg.lu_factor_ex, torch.zeros(2, 3, 3)),
    "lu_factor tied": (torch.linalg.lu_factor, TIED),
    "lu": (torch.linalg.lu, TALL),
    "lu_unpack": (torch.lu_unpack, LU, PIVOTS),
    "lu_unpack data": (lambda a, p: torch.lu_unpack(a, p, unpack_pivots=False)[1:], LU, PIVOTS),
    "lu_solve": (torch.linalg.lu_solve, LU, PIVOTS, normal(3, 6, 2)),
    "lu_solve right": (
        lambda a, p, b: torch.linalg.lu_solve(a, p, b, left=False),
        LU,
        PIVOTS,
        normal(3, 2, 6),
    ),
    "lu_solve adjoint": (
        lambda a, p, b: torch.linalg.lu_solve(a, p, b, adjoint=True),
        LU,
        PIVOTS,
        normal(3, 6, 2),
    ),
    "solve": (torch.linalg.solve, SQUARE, normal(3, 6, 2)),
    "solve vectors": (torch.linalg.solve, SQUARE, normal(3, 6)),
    "solve right": (lambda a, b: torch.linalg.solve(a, b, left=False), SQUARE, normal(3, 2, 6)),
    "solve alike": (torch.linalg.solve, SQUARE, normal(6, 2)),
    "solve badly conditioned": (torch.linalg.solve, conditioned(12, 1e6), normal(12, 2)),
    "inv": (torch.linalg.inv, SQUARE),
    "inv badly conditioned": (torch.linalg.inv, conditioned(12, 1e5)),
    "det": (torch.linalg.det, SQUARE),
    "det singular": (torch.linalg.det, SINGULAR),
    "slogdet": (torch.linalg.slogdet, SQUARE),
    "slogdet singular": (torch.linalg.slogdet, SINGULAR),
    "cholesky": (torch.linalg.cholesky, SPD),
    "cholesky upper": (lambda a: torch.linalg.cholesky(a, upper=True), SPD),
    "cholesky_ex": (torch.linalg.cholesky_ex, SPD),
    "cholesky_solve": (torch.cholesky_solve, normal(2, 5, 3), torch.linalg.cholesky(SPD)),
    "cholesky_solve upper": (
        lambda b, a: torch.cholesky_solve(b, a, upper=True),
        normal(2, 5, 3),
        torch.linalg.cholesky(SPD).mT.contiguous(),
    ),
    "cholesky_inverse": (torch.cholesky_inverse, torch.linalg.cholesky(SPD)),
    **{
        f"solve_triangular {upper} {left} {unit}": (
            lambda a, b, upper=upper, left=left, unit=unit: torch.linalg.solve_triangular(
                a, b, upper=upper, left=left, unitriangular=unit
            ),
            SPD,
            normal(2, 5, 3) if left else normal(2, 3, 5),
        )
        for upper, left, unit in (
            (True, True, False),
            (False, True, True),
            (True, False, True),
            (False, False, False),
        )
    },
    "triangular_solve": (
        lambda b, a: torch.triangular_solve(b, a, upper=False, transpose=True),
        normal(2, 5, 3),
        SPD,
    ),
    "geqrf": (torch.geqrf, TALL),
    "geqrf of wide": (torch.geqrf, WIDE),
    "householder_product": (torch.linalg.householder_product, QR, TAU),
    "ormqr": (torch.ormqr, QR, TAU, normal(2, 7, 3)),
    "ormqr transposed": (
        lambda a, t, c: torch.ormqr(a, t, c, transpose=True),
        QR,
        TAU,
        normal(2, 7, 3),
    ),
    "ormqr right": (lambda a, t, c: torch.ormqr(a, t, c, left=False), QR, TAU, normal(2, 3, 7)),
    "matrix_exp": (torch.linalg.matrix_exp, SQUARE),
    "matrix_exp of large": (torch.linalg.matrix_exp, -10 * SPD),
    "pinv": (torch.linalg.pinv, TALL),
    "pinv of wide": (torch.linalg.pinv, WIDE),
    "pinv deficient": (lambda a: torch.linalg.pinv(a, rtol=1e-3), DEFICIENT),
    "pinv bounded": (lambda a: torch.linalg.pinv(a, atol=0.5), TALL),
    "pinv hermitian": (lambda a: torch.linalg.pinv(a, hermitian=True), SPD),
    "svdvals": (torch.linalg.svdvals, WIDE),
    "eigvalsh": (torch.linalg.eigvalsh, SPD),
    "cond": (torch.linalg.cond, SQUARE),
    "matrix_rank": (lambda a: torch.linalg.matrix_rank(a, rtol=1e-3), DEFICIENT),
    "matrix_power": (lambda a: torch.linalg.matrix_power(a, -2), SPD),
}
"""What has one answer."""

FREE = {
    "svd": (lambda a: torch.linalg.svd(a, full_matrices=False), TALL),
    "svd of wide": (lambda a: torch.linalg.svd(a, full_matrices=False), WIDE),
    "full svd": (torch.linalg.svd, TALL),
    "full svd of wide": (torch.linalg.svd, WIDE),
    "svd deficient": (torch.linalg.svd, DEFICIENT),
    "svd of equal values": (torch.linalg.svd, EQUAL),
    "svd of zeros": (torch.linalg.svd, torch.zeros(3, 4)),
    "svd of many": (lambda a: torch.linalg.svd(a, full_matrices=False), normal(40, 30)),
    "svd of huge": (torch.linalg.svd, 1e25 * SQUARE),
    "U": (lambda a: torch.linalg.svd(a)[0], SQUARE),
    "Vh": (lambda a: torch.linalg.svd(a)[2], SQUARE),
    "old svd": (torch.svd, TALL),
    "eigh": (torch.linalg.eigh, SPD),
    "eigh upper": (lambda a: torch.linalg.eigh(a, UPLO="U"), SQUARE),
    "eigh of equal values": (torch.linalg.eigh, torch.eye(4) + torch.ones(4, 4)),
    "eigh of many": (torch.linalg.eigh, positive(40, 40)),
    "qr": (torch.linalg.qr, TALL),
    "qr complete": (lambda a: torch.linalg.qr(a, "complete"), TALL),
    "qr of wide": (torch.linalg.qr, WIDE),
    "qr deficient": (torch.linalg.qr, DEFICIENT),
    "Q": (lambda a: torch.linalg.qr(a)[0], TALL),
    "R": (lambda a: torch.linalg.qr(a, "r")[1], TALL),
}
"""What has several."""

NOTHING = {
    "det of nothing": (torch.linalg.det, normal(2, 0, 0)),
    "slogdet of nothing": (torch.linalg.slogdet, normal(2, 0, 0)),
    "solve of nothing": (torch.linalg.solve, normal(0, 3, 3), normal(0, 3, 2)),
    "inv of nothing": (torch.linalg.inv, normal(0, 0)),
    "svd of nothing": (torch.linalg.svd, normal(3, 0)),
    "qr of nothing": (lambda a: torch.linalg.qr(a, "complete"), normal(3, 0)),
    "lu of nothing": (torch.linalg.lu, normal(3, 0)),
    "ormqr of nothing": (torch.ormqr, normal(5, 0), normal(0), normal(5, 2)),
}

CASES = {
    **UNIQUE,
    **FREE,
    **NOTHING,
    **{
        f"{name} in float64": (
            function,
            *(t.double() if t.is_floating_point() else t for t in given),
        )
        for name, (function, *given) in {**UNIQUE, **FREE}.items()
        if name in ("solve", "svd", "eigh", "matrix_exp", "cholesky")
    },
}


@pytest.fixture(scope="module")
def report():
    with session_of(CASES) as session:
        return session.run()


@pytest.mark.filterwarnings("ignore:torch.(cholesky|triangular_solve) is deprecated")
@pytest.mark.parametrize("case", CASES)
def test_a_rule_is_right(report, case):
    ops = ops_of(report, case)
    found = {op: (report.verdict(op), report.introduced[op, 0].message) for op in ops}
    fine = {Verdict.PASS} if case not in NOTHING else {Verdict.PASS, Verdict.SKIPPED}
    assert any(verdict in fine for verdict, _ in found.values()), found
    assert {v for v, _ in found.values()} <= {Verdict.PASS, Verdict.SKIPPED}, found
    assert all("not checked" not in message for _, message in found.values())


def test_a_matrix_that_is_too_large_to_be_factorized_in_order_says_so():
    program = import_torch(Case(torch.linalg.inv).eval(), (torch.eye(1025),))
    values = program.bind(0, {})
    (op,) = program.graph.ops
    values.update(zip(op.outputs, program.run(op.id, values), strict=True))
    with pytest.raises(Unsupported, match="more than 1024"):
        program.unit(op.id, values)
