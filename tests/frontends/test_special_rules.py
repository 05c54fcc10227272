"""Our own rules for special functions, orthogonal polynomials and the bits of numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import tapml_nb as tapml
from tapml_nb import Verdict
from tests.frontends.together import Case, by_torch, ops_of, session_of

special = torch.special
_RANDOM = torch.Generator().manual_seed(1)


def between(low, high, *shape):
    return torch.rand(shape, generator=_RANDOM) * (high - low) + low


AROUND = torch.cat([between(-9, 9, 200), between(-0.1, 0.1, 20), torch.tensor([0.0, math.nan])])
POSITIVE = torch.cat([between(0, 9, 200), between(0, 60, 60), torch.tensor([0.0, 1e-6, math.nan])])
WIDE = torch.cat([AROUND, between(-60, 60, 60)])
FAR = torch.cat([torch.linspace(-30, 30, 301), torch.tensor([0.0, 0.5, 1, 2, -2, 1e6])])
SHARES = torch.cat([between(0, 1, 200), torch.tensor([0.0, 1, 0.5, 1e-30, -1, 2])])
NUMBERS = torch.tensor(
    [0.0, -0.0, 1, -1, 0.75, -3.5, 1e-40, -1e-40, 3e38, math.inf, -math.inf, math.nan]
)
ENDS = torch.tensor([0.0, 0.0, 1, math.inf, -1, 5, math.nan, 2, 1e4])
ORDERS = torch.arange(-1.0, 8)

OF_ONE = {
    "erfc": FAR,
    "special.erfcx": AROUND,
    "special.log_ndtr": AROUND,
    "special.ndtri": SHARES,
    "erfinv": SHARES * 2 - 1,
    "lgamma": FAR,
    "digamma": FAR,
    "special.airy_ai": AROUND,
    **{f"special.{k}{n}": WIDE for k in ("bessel_j", "modified_bessel_i") for n in "01"},
    **{
        f"special.{k}{n}": POSITIVE
        for k in ("bessel_y", "modified_bessel_k", "scaled_modified_bessel_k")
        for n in "01"
    },
    "special.spherical_bessel_j0": WIDE,
    **{f"special.{name}": WIDE for name in ("i0", "i0e", "i1", "i1e")},
    "signbit": NUMBERS,
    "frexp": NUMBERS,
    "angle": NUMBERS,
}

FAMILIES = (
    *(f"chebyshev_polynomial_{k}" for k in "tuvw"),
    *(f"shifted_chebyshev_polynomial_{k}" for k in "tuvw"),
    *("hermite_polynomial_h", "hermite_polynomial_he"),
    *("laguerre_polynomial_l", "legendre_polynomial_p"),
)


def _called(name):
    return getattr(special if name.startswith("special.") else torch, name.rpartition(".")[2])


CASES = {
    **{name: (_called(name), tensor) for name, tensor in OF_ONE.items()},
    **{
        f"{name} in {dtype}": (_called(name), OF_ONE[name].to(getattr(torch, dtype)))
        for name, dtype in (
            *(("erfc", "float64"), ("lgamma", "float16"), ("digamma", "bfloat16")),
            *(("special.i0", "float16"), ("frexp", "bfloat16"), ("signbit", "int32")),
        )
    },
    **{
        f"{name} of integers": (_called(name), torch.arange(1, 9))
        for name in ("lgamma", "digamma", "special.i0e", "special.bessel_j0", "special.erfcx")
    },
    **{f"polygamma {n}": (lambda x, n=n: torch.polygamma(n, x), AROUND) for n in (0, 1, 2, 5)},
    "trigamma at its poles": (lambda x: torch.polygamma(1, x), torch.arange(-3, 3)),
    "zeta": (special.zeta, between(-1, 9, 9, 1), torch.cat([between(-3, 9, 9), torch.zeros(1)])),
    "zeta of whole numbers": (special.zeta, torch.arange(0.0, 6)[:, None], between(-9, 9, 9)),
    "zeta of a number": (lambda x: special.zeta(3, x), between(0, 9, 9)),
    **{
        name: (
            getattr(special, name),
            torch.cat([between(-3, 3, 20), torch.ones(1)])[:, None],
            ORDERS,
        )
        for name in FAMILIES
    },
    "polynomial of a number": (lambda n: special.legendre_polynomial_p(0.3, n), ORDERS),
    "polynomial of one order": (lambda x: special.hermite_polynomial_he(x, 3), between(-3, 3, 9)),
    "polynomial of nothing": (special.laguerre_polynomial_l, torch.ones(0, 3), torch.ones(3)),
    **{
        name: (
            _called(name),
            torch.cat([between(0, 9, 60), between(0, 1, 60), between(8, 60, 60), ENDS]),
            torch.cat([between(0, 9, 60), between(0, 3, 60), between(5, 70, 60), ENDS.flip(0)]),
        )
        for name in ("igamma", "igammac")
    },
    "copysign": (torch.copysign, NUMBERS, NUMBERS.flip(0)),
    "copysign of integers": (lambda x: torch.copysign(x, -2), torch.arange(4)),
    **{
        f"nextafter in {dtype}": (
            torch.nextafter,
            NUMBERS.to(getattr(torch, dtype)),
            NUMBERS.to(getattr(torch, dtype))[:, None],
        )
        for dtype in ("float32", "float16", "bfloat16")
    },
    "hash_tensor": (torch.hash_tensor, between(-9, 9, 4, 5)),
    "hash_tensor along axes": (
        lambda x: torch.hash_tensor(x, (0, -1), keepdim=True),
        torch.arange(60).reshape(3, 4, 5),
    ),
    "a number": (special.i1, torch.tensor(1.5)),
}


@pytest.fixture(scope="module")
def report():
    with session_of(CASES) as session:
        return session.run()


@pytest.mark.parametrize("case", CASES)
def test_a_rule_is_right(report, case):
    found = {op: report.introduced[op, 0] for op in ops_of(report, case)}
    assert found
    assert {one.verdict for one in found.values()} <= {Verdict.PASS, Verdict.SKIPPED}, found
    assert any(op in report.conversions for op in found)


def _terms_of_i0(x):
    return sum((x / 2) ** (2 * k) / math.factorial(k) ** 2 for k in range(6))


FAULTS = {
    "erfc": lambda x: 1 - np.tanh(1.128 * x + 0.1 * x**3),
    "special.erfcx": lambda x: by_torch(special.erfcx)(np.abs(x)),
    "special.ndtri": lambda p: np.log(p / (1 - p)) / 1.702,
    "erfinv": lambda x: by_torch(torch.erfinv)(x) * np.float32(1.00002),
    "lgamma": lambda x: by_torch(torch.lgamma)(np.abs(x)),
    "digamma": lambda x: np.log(np.abs(x)) - 0.5 / x,
    "special.airy_ai": lambda x: by_torch(special.airy_ai)(x) + np.float32(2e-5),
    "special.bessel_j0": by_torch(special.bessel_j1),
    "special.bessel_j1": lambda x: by_torch(special.bessel_j1)(np.abs(x)),
    "special.bessel_y0": lambda x: by_torch(special.bessel_y0)(x + np.float32(1e-4)),
    "special.modified_bessel_k0": by_torch(special.scaled_modified_bessel_k0),
    "special.i0": _terms_of_i0,
    "special.i0e": by_torch(special.i0),
    "special.spherical_bessel_j0": by_torch(lambda x: torch.sinc(x)),
    "signbit": lambda x: x < 0,
    "frexp": lambda x: tuple(2 * part if k == 0 else part for k, part in enumerate(np.frexp(x))),
    "angle": lambda x: np.where(x > 0, 0, np.float32(math.pi)),
    "polygamma 2": by_torch(lambda x: torch.polygamma(2, x) / 2),
    "zeta": lambda s, q: by_torch(special.zeta)(s, q + 1),
    "chebyshev_polynomial_v": by_torch(special.chebyshev_polynomial_w),
    "hermite_polynomial_h": by_torch(special.hermite_polynomial_he),
    "legendre_polynomial_p": by_torch(lambda x, n: special.legendre_polynomial_p(x, n + 1)),
    "igamma": by_torch(torch.igammac),
    "igammac": by_torch(lambda a, x: torch.igammac(a, x * 1.0001)),
    "copysign": lambda x, y: np.where(y < 0, -np.abs(x), np.abs(x)),
    "nextafter in float32": lambda x, y: np.broadcast_arrays(x, y)[0].copy(),
    "hash_tensor": lambda x: np.array(x.astype(np.float64).view(np.uint64).sum()),
}
"""What is wrong beside each honest rule, of which the report above is the control."""


def test_a_fault_in_its_place_is_blamed():
    cases = {name: CASES[name] for name in FAULTS}
    with session_of(cases) as session:
        for name, wrong in FAULTS.items():
            (op,) = [o for o in ops_of(session, name) if not session.graph[o].host]
            session.override(op, wrong)
        with np.errstate(all="ignore"):
            found = session.run()
    verdicts = {name: found.verdict(ops_of(found, name)[0]) for name in FAULTS}
    assert set(verdicts.values()) <= {Verdict.FAIL, Verdict.NONFINITE}, verdicts


@pytest.mark.parametrize(
    ("function", "tensor"),
    [
        (special.airy_ai, torch.ones(3).double()),
        (torch.lgamma, torch.ones(3).double()),
        (lambda x: torch.igamma(x, x), torch.ones(3).double()),
        (lambda x: torch.polygamma(40, x), torch.ones(3)),
        (lambda x: special.zeta(x, 1), torch.ones(3).double()),
    ],
)
def test_what_is_not_known_that_precisely_says_so(function, tensor):
    with tapml.debug(Case(function).eval(), (tensor,)) as session:
        report = session.run()
        (result,) = report.introduced.values()
    assert result.verdict is Verdict.UNSUPPORTED
    assert "ours does not take this call" in result.message
