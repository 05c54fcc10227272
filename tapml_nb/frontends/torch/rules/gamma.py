"""The gamma function's relatives in float32: its logarithm, the logarithm's derivatives, zeta.

From 1/2 or 1 on they are polynomials between their roots, and far from 0 Stirling's series (NIST
DLMF 5.11.1, 5.11.2); below they are reflected (5.5.3, 5.5.4).  Hurwitz's zeta function is its sum,
and behind that Euler and Maclaurin's (25.11.5).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import tirx

from tapml_nb.frontends.torch.rules.series import (
    Number,
    fitted,
    horner,
    is_nan,
    let,
    select,
    sine_of_turns,
)

_FAR = 8.0
"""From where on the series are exact in float32 with the terms below."""

BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)
"""The numbers B2, B4, …"""

_MOST = 65536.0
"""Terms of a sum at most, which zeta needs at -65526."""

_ROOT = 1.4616321449683623
_ROOT_ROUNDED = 1.4616321325302124
"""Where digamma is 0 (DLMF 5.4.20), and that in float32."""


def _log_gamma(x: np.ndarray) -> np.ndarray:
    return np.array([math.lgamma(v) for v in x.tolist()])


def _over_first_root(x: np.ndarray) -> np.ndarray:
    """``log Γ(x) / (x - 1)``; at 1 its limit, Euler's constant."""
    near = np.abs(x - 1) < 1e-6
    return np.where(near, -np.euler_gamma, _log_gamma(x) / np.where(near, 1, x - 1))


def _over_second_root(x: np.ndarray) -> np.ndarray:
    near = np.abs(x - 2) < 1e-6
    return np.where(near, 1 - np.euler_gamma, _log_gamma(x) / np.where(near, 1, x - 2))


def _log_gamma_from_half(x: Number) -> Number:
    far = let(
        1.0 / x,
        lambda r: (
            (x - 0.5) * (tirx.log(x) - 1.0)
            + (0.5 * math.log(2 * math.pi) - 0.5)
            + horner([1 / 12, -1 / 360, 1 / 1260], r * r) * r
        ),
    )
    first = fitted(_over_first_root, (0.5, 1.0, 1.5), x) * (x - 1.0)
    second = fitted(_over_second_root, (1.5, 2.0, 3.0), x) * (x - 2.0)
    middle = fitted(_log_gamma, (3.0, 5.0, _FAR), x)
    found = select(x < 3.0, second, select(x < _FAR, middle, far))
    return select(x < 1.5, first, found)


def lgamma(x: Number) -> Number:
    """The logarithm of ``|Γ(x)|``, infinite at its poles."""
    size = tirx.abs(x)
    near = size < 0.5
    mirrored = select(x < 0.5, select(near, 1.0 + x, 1.0 - x), x)

    def found(value: Number) -> Number:
        # Next to 0 it is log Γ(1 + x) - log |x|, farther below it is reflected.
        sine = tirx.abs(sine_of_turns(x))
        return let(
            tirx.log(select(near, size, sine * (1 / math.pi))),
            lambda taken: select(
                near, value - taken, select(x < 0.5, -1.0 * (taken + value), value)
            ),
        )

    value = let(let(mirrored, _log_gamma_from_half), found)
    pole = tirx.all(x <= 0.0, x == tirx.floor(x))
    return select(tirx.any(pole, size == math.inf), math.inf, value)


def _digamma_exact(x: np.ndarray) -> np.ndarray:
    missing = np.zeros_like(x)
    for _ in range(16):
        missing += 1 / x
        x = x + 1
    total = np.log(x) - 0.5 / x - missing
    for n, bernoulli in enumerate(BERNOULLI, 1):
        total -= bernoulli / (2 * n) / x ** (2 * n)
    return np.asarray(total)


def _over_root(x: np.ndarray) -> np.ndarray:
    near = np.abs(x - _ROOT) < 1e-4
    x = np.where(near, _ROOT + 1e-4, x)
    return np.asarray(_digamma_exact(x) / (x - _ROOT))


def _digamma_from_1(x: Number) -> Number:
    far = let(
        1.0 / x,
        lambda r: tirx.log(x) - r * 0.5 - horner([1 / 12, -1 / 120, 1 / 252], r * r) * (r * r),
    )
    first = fitted(_over_root, (1.0, 1.5, 2.0), x) * ((x - _ROOT_ROUNDED) - (_ROOT - _ROOT_ROUNDED))
    middle = fitted(_digamma_exact, (2.0, 4.0, _FAR), x)
    return select(x < 2.0, first, select(x < _FAR, middle, far))


def digamma(x: Number) -> Number:
    """The derivative of ``log Γ``: NaN at its poles, but at 0, where it is infinite."""
    mirrored = x < -0.5
    near = tirx.all(x >= -0.5, x < 1.0)
    rest = x - tirx.floor(x + 0.5)
    turn = rest * math.pi
    cotangent = tirx.cos(turn) / tirx.sin(turn) * math.pi
    argument = select(mirrored, 1.0 - x, select(near, x + 1.0, x))

    def found(value: Number) -> Number:
        return select(mirrored, value - cotangent, select(near, value - 1.0 / x, value))

    # From -1/2 to 0 it is one step from there on, whose argument is less than 1.
    below = tirx.all(near, x < 0.0)
    argument = select(below, x + 2.0, argument)
    value = let(
        let(let(argument, _digamma_from_1), found),
        lambda value: select(below, value - 1.0 / (x + 1.0), value),
    )
    pole = tirx.all(x < 0.0, x == tirx.floor(x))
    sign = let(1.0 / x, lambda inverse: select(inverse < 0.0, math.inf, tirx.abs(inverse) * -1.0))
    return select(is_nan(x), x, select(pole, math.nan, select(x == 0.0, sign, value)))


def tail_of_zeta(s: Number, y: Number) -> Number:
    """What is left of Hurwitz's sum from ``y`` on, which is large (DLMF 25.11.5)."""
    power = tirx.pow(y, s * -1.0)

    def corrected(power: Number) -> Number:
        total = power * y / (s - 1.0) + power * 0.5
        term = power * (s / y)
        for n, bernoulli in enumerate(BERNOULLI[:5], 1):
            total = total + term * (bernoulli / math.factorial(2 * n))
            term = term * ((s + (2.0 * n - 1)) / y) * ((s + 2.0 * n) / y)
        return total

    return let(power, corrected)


def terms_of_zeta(q: Number) -> Any:
    """How many terms are summed up before the tail."""
    steps = tirx.ceil(tirx.min(tirx.max(10.0 - q, 9.0), _MOST))
    return tirx.Cast("int32", select(is_nan(q), 9.0, steps))
