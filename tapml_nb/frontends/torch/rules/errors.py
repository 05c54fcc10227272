"""The error function's relatives: ``erfc``, ``erfcx`` and the inverses.

``erfcx(x) (2 + x) / 2`` is smooth in ``u = (2 - x) / (2 + x)`` from 0 to infinity (M. M. Shepherd
and J. G. Laframboise, Math. Comp. 36, 1981), and so is ``erfinv(x) / x`` in the root of
``-log((1 - x)(1 + x))`` (M. Giles, *Approximating the erfinv function*, GPU Computing Gems, 2011).
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from tvm import tirx

from tapml_nb.frontends.torch.rules.series import (
    Number,
    fitted,
    is_nan,
    let,
    select,
    square_exponential,
)

_NOTHING = 40.0
"""From where on ``erfc`` is 0 in float64."""


@cache
def _legendre() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(200)
    return nodes, weights


def _scaled_complement(x: np.ndarray) -> np.ndarray:
    """``erfcx`` from 0 on: by its definition, or by Gauss and Legendre's rule for the integral of
    ``exp(-t² - 2xt)`` (NIST DLMF 7.7.1, scaled), whose integrand is gone at t = 6."""
    nodes, weights = _legendre()

    def far(value: float) -> float:
        end = min(6.0, 40 / value)
        t = (nodes + 1) * end / 2
        total = np.exp(-t * (t + 2 * value)) @ weights * end / 2
        return float(total * 2 / math.sqrt(math.pi))

    return np.array([math.erfc(v) * math.exp(v * v) if v < 2 else far(v) for v in x.tolist()])


def _fraction_of_erfcx(u: np.ndarray) -> np.ndarray:
    t = np.maximum((1 + u) / 2, 1e-300)
    return _scaled_complement(2 / t - 2) / t


def _erfcx_from_0(x: Number) -> Number:
    return let(
        2.0 / (2.0 + x),
        lambda t: fitted(_fraction_of_erfcx, (-1.0, 0.0, 1.0), t * 2.0 - 1.0) * t,
    )


def erfcx(x: Number) -> Number:
    def found(size: Number) -> Number:
        return let(
            _erfcx_from_0(size),
            lambda above: select(x < 0.0, square_exponential(size, 1.0) * 2.0 - above, above),
        )

    value = let(select(x < -_NOTHING, -_NOTHING, x), lambda x: let(tirx.abs(x), found))
    return select(is_nan(x), x, value)


def erfc(x: Number) -> Number:
    def found(size: Number) -> Number:
        above = square_exponential(size, -1.0) * _erfcx_from_0(size)
        return let(above, lambda above: select(x < 0.0, 2.0 - above, above))

    size = tirx.abs(x)
    value = let(select(size > _NOTHING, _NOTHING, size), found)
    return select(is_nan(x), x, value)


@cache
def _inverse(w: float) -> float:
    """``erfinv(x) / x`` where ``w = -log(1 - x²)``, by Newton's method in float64."""
    if w < 1e-8:
        return math.sqrt(math.pi) / 2
    x = math.sqrt(-math.expm1(-w))
    z = math.sqrt(w) * 0.9
    for _ in range(60):
        if z < 1:
            step = (math.erf(z) - x) / (2 / math.sqrt(math.pi) * math.exp(-z * z))
        else:  # Newton's method on the logarithm of erfc
            scaled = float(_scaled_complement(np.array([z]))[0])
            wanted = -w - math.log1p(x)
            step = -(math.log(scaled) - z * z - wanted) * scaled * math.sqrt(math.pi) / 2
        z -= step
        if abs(step) < 1e-15 * z:
            break
    return z / x


def _inverse_of_w(w: np.ndarray) -> np.ndarray:
    return np.array([_inverse(v) for v in np.maximum(w, 0.0).tolist()])


def _inverse_of_root(s: np.ndarray) -> np.ndarray:
    return _inverse_of_w(s * s)


def _over_argument(w: Number) -> Number:
    """``erfinv(x) / x`` of ``w = -log(1 - x²)``."""
    near = fitted(_inverse_of_w, (0.0, 2.0, 5.0), w)
    far = let(
        tirx.sqrt(w), lambda root: fitted(_inverse_of_root, (2.2, 3.6, 6.0, 11.0, 28.0), root)
    )
    return select(w < 5.0, near, far)


def erfinv(x: Number) -> Number:
    w = tirx.log((1.0 - x) * (1.0 + x)) * -1.0
    found = let(w, _over_argument) * x
    found = select(x == 1.0, math.inf, select(x == -1.0, -math.inf, found))
    return select(tirx.any(tirx.abs(x) > 1.0, is_nan(x)), math.nan, found)


def ndtri(p: Number) -> Number:
    """The normal distribution's quantile: ``√2 erfinv(2p - 1)``."""
    w = tirx.log(p * 2.0 * ((1.0 - p) * 2.0)) * -1.0
    found = let(w, _over_argument) * ((p - 0.5) * (2.0 * math.sqrt(2)))
    found = select(p == 0.0, -math.inf, select(p == 1.0, math.inf, found))
    return select(tirx.any(p < 0.0, p > 1.0, is_nan(p)), math.nan, found)
