"""The incomplete gamma functions P(a, x) and Q(a, x) in float32.

P is its power series up to ``x = a + 1`` (NIST DLMF 8.11.4), Q its continued fraction from there on
(8.9.2), and for small a and x a power series of its own (8.7.1).  What stands before them is
``D = x^a exp(-x) / Γ(a + 1)``: the product of its parts or, from 8 on, made of how far x is from a
(N. M. Temme, SIAM J. Math. Anal. 10, 1979).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from tvm import tirx

from tapml_nb.frontends.torch.rules.call import Call, Expr, Rule
from tapml_nb.frontends.torch.rules.iterations import iterated
from tapml_nb.frontends.torch.rules.series import (
    Number,
    fitted,
    horner,
    is_nan,
    let,
    number,
    select,
)

_FAR = 8
"""From where on Stirling's series is exact in float32 with the terms below."""

_GONE = 300.0
"""From where on D is 0 in float32 if a is below that."""


def _reciprocal(f: np.ndarray) -> np.ndarray:
    return np.array([1 / math.gamma(v + 1) for v in f.tolist()])


def _over_square(m: np.ndarray) -> np.ndarray:
    """``(m - log(1 + m)) / m²``, by its power series."""
    return np.asarray(sum((-m) ** (k - 2) / k for k in range(2, 80)))


def _log_gamma_over(a: np.ndarray) -> np.ndarray:
    """``log Γ(1 + a) / a``; at 0 its limit."""
    near = np.abs(a) < 1e-9
    values = np.array([math.lgamma(1 + v) for v in a.tolist()])
    return np.where(near, -np.euler_gamma, values / np.where(near, 1, a))


def _growth(m: np.ndarray) -> np.ndarray:
    """``(exp(m) - 1) / m``."""
    near = np.abs(m) < 1e-12
    return np.where(near, 1.0, np.expm1(m) / np.where(near, 1, m))


def _before(a: Number, x: Number) -> Number:
    """D."""
    whole = tirx.floor(a)
    part = a - whole
    product = fitted(_reciprocal, (0.0, 1.0), part)
    for k in range(1, _FAR):
        product = product / select(whole >= float(k), part + float(k), 1.0)
    half = tirx.exp(x * -0.5)
    near = tirx.pow(x, a) * half * product * half

    def far(m: Number) -> Number:
        apart = select(
            tirx.abs(m) < 0.4,
            m * m * fitted(_over_square, (-0.4, 0.0, 0.4), m),
            m - tirx.log(x / a),
        )
        r = 1.0 / a
        correction = horner([1 / 12, -1 / 360, 1 / 1260], r * r) * r
        return tirx.exp(a * apart * -1.0 - correction) / tirx.sqrt(a * (2 * math.pi))

    return select(a < float(_FAR), select(x > _GONE, 0.0, near), let((x - a) / a, far))


def _upper_near_0(a: Number, x: Number) -> Number:
    """Q of small a and x."""
    total = number(0.0, x)
    power = number(1.0, x)
    for k in range(1, 15):
        power = power * x
        total = total + power * ((-1) ** k / math.factorial(k)) / (a + float(k))

    def combined(logarithm: Number) -> Number:
        grown = select(
            logarithm > -1.0,
            logarithm * fitted(_growth, (-1.0, 0.4), logarithm),
            tirx.exp(logarithm) - 1.0,
        )
        return (grown + tirx.exp(logarithm) * a * total) * -1.0

    return let(a * (tirx.log(x) - fitted(_log_gamma_over, (0.0, 0.5), a)), combined)


def incomplete_gamma(upper: bool, call: Call, a: Expr, x: Expr) -> Expr:
    """P, or Q if ``upper``; NaN where either argument is negative.

    Raises:
        ValueError: in float64.
    """
    if call.wide == "float64":
        raise ValueError("incomplete gamma functions in float64")

    def steps(a: Number) -> Number:
        terms = tirx.floor(tirx.sqrt(tirx.max(tirx.min(a, 1e8), 0.0)) * 6.0) + 40.0
        return select(is_nan(a), 40.0, terms)

    def begin(a: Number, x: Number) -> tuple[Number, ...]:
        one = number(1.0, x)
        return one, one, x - a + (steps(a) * 2.0 + 1.0)

    def step(k: Any, state: Any, values: Any) -> tuple[Number, ...]:
        (term, total, fraction), (a, x) = state, values
        m = tirx.Cast(call.wide, k)
        j = steps(a) - m
        term = term * x / (a + (m + 1.0))
        return term, total + term, (x - a + (j * 2.0 - 1.0)) - j * (j - a) / fraction

    def end(state: Any, values: Any) -> Number:
        (_, total, fraction), (a, x) = state, values

        def found(before: Number) -> Number:
            below, above = before * total, before * a / fraction
            small = x < a + 1.0
            if not upper:
                return select(small, below, 1.0 - above)
            own = tirx.all(small, a < 0.5)
            return select(own, _upper_near_0(a, x), select(small, 1.0 - below, above))

        none, all_ = (1.0, 0.0) if upper else (0.0, 1.0)
        value = let(_before(a, x), found)
        value = select(tirx.any(is_nan(a), is_nan(x)), math.nan, value)
        # The later of these comes first, as in PyTorch.
        value = select(x == math.inf, all_, value)
        value = select(a == math.inf, select(x == math.inf, math.nan, number(none, x)), value)
        value = select(x == 0.0, none, value)
        value = select(a == 0.0, select(x > 0.0, all_, number(math.nan, x)), value)
        return select(tirx.any(a < 0.0, x < 0.0), math.nan, value)

    return iterated(
        call,
        begin,
        lambda a, _: tirx.Cast("int32", steps(a)),
        step,
        end,
        call.promoted(a),
        call.promoted(x),
        name="incomplete_gamma",
    )


RULES: dict[str, Rule] = {
    "aten.igamma.default": partial(incomplete_gamma, False),
    "aten.igammac.default": partial(incomplete_gamma, True),
}
