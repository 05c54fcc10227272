"""Bessel and Airy functions in float32.

Near 0 they are power series (NIST DLMF 10.2.2, 10.8, 10.25.2, 10.31, 9.4.1), as they are or as the
polynomials through their values; far from it the oscillating ones are a wave of slowly varying
modulus and phase, and the others an exponential, over a root (10.17, 10.40, 9.7).  What varies
slowly there is Hankel's integral from 0 to infinity

    ∫ exp(-t) t^(n-1/2) (1 + c t / x)^(n-1/2) dt / Γ(n+1/2)

of order n, with c = i/2 for J + iY and 1/2 for K (G. N. Watson, *A Treatise on the Theory of Bessel
Functions*, §6.12, §7.2), by the trapezoidal rule for t = exp(u); and, for I, its integral over the
half circle (10.32.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from tvm import tirx

from tapml_nb.frontends.torch.rules.series import (
    Number,
    fitted,
    is_nan,
    let,
    select,
    taylor,
)

_FAR = 8.0
"""From where on J, Y and I are what they are far from 0."""

_EULER = float(np.euler_gamma)


def _hankel(order: float, c: complex, x: np.ndarray) -> np.ndarray:
    """Hankel's integral; 1 at infinity."""
    step = 1 / 16
    u = np.arange(-48, 4, step)
    t = np.exp(u)
    weights = step * np.exp(-t + u * (order + 0.5)) / math.gamma(order + 0.5)
    with np.errstate(divide="ignore"):
        inverse = np.where(x == np.inf, 0.0, 1 / x)
    return np.asarray((1 + c * inverse[:, None] * t) ** (order - 0.5) @ weights)


def _series(order: int, t: np.ndarray, sign: float = 1.0) -> np.ndarray:
    """``(2/x)^n`` times J (sign -1) or I (sign 1) of x, of ``t = x²/4``."""
    total, term = np.zeros_like(t), np.full_like(t, 1 / math.factorial(order))
    for k in range(1, 60):
        total += term
        term = term * t * sign / (k * (k + order))
    return total


def _logarithmic(order: int, t: np.ndarray, sign: float) -> np.ndarray:
    """The like series whose terms are multiplied by ψ(k+1) + ψ(n+k+1) (10.8.1, 10.31.1)."""
    total, term = np.zeros_like(t), np.full_like(t, 1 / math.factorial(order))
    psi, other = -_EULER, -_EULER + sum(1 / j for j in range(1, order + 1))
    for k in range(1, 60):
        total += term * (psi + other)
        term = term * t * sign / (k * (k + order))
        psi, other = psi + 1 / k, other + 1 / (k + order)
    return total


def _coefficient(order: int, k: int) -> float:
    return 1 / (math.factorial(k) * math.factorial(k + order))


def _first_kind_near(order: int, t: np.ndarray) -> np.ndarray:
    return _series(order, t, -1.0)


def _second_kind_near(order: int, t: np.ndarray) -> np.ndarray:
    """What is left of Y, over ``x^n``, when its logarithm and its pole are taken away."""
    return np.asarray(-_logarithmic(order, t, -1.0) / math.pi / 2**order)


def _modulus(order: float, part: Callable[[Any], Any], v: np.ndarray) -> np.ndarray:
    """Of ``v = (8/x)²``: P, or ``Q x / 8``."""
    v = np.maximum(v, 1e-12)
    root = np.sqrt(v)
    value = part(_hankel(order, 0.5j, _FAR / root))
    return np.asarray(value if part is np.real else value / root)


_QUARTERS = (0.0, 4.0, 16.0)
"""Pieces of ``x²/4`` up to 8."""


def _named(function: Callable[..., np.ndarray], *arguments: Any) -> Callable[[Any], np.ndarray]:
    return partial(function, *arguments)


_J_NEAR = [_named(_first_kind_near, n) for n in range(2)]
_Y_NEAR = [_named(_second_kind_near, n) for n in range(2)]
_P = [_named(_modulus, n, np.real) for n in range(2)]
_Q = [_named(_modulus, n, np.imag) for n in range(2)]


def _wave(order: int, second: bool, x: Number) -> Number:
    """J or Y far from 0: ``P cos - Q sin`` or ``P sin + Q cos`` of x less an odd number of eighths
    of a turn, over the root of πx/2."""

    def found(inverse: Number) -> Number:
        v = inverse * inverse
        p, q = fitted(_P[order], (0.0, 1.0), v), fitted(_Q[order], (0.0, 1.0), v) * inverse
        sine, cosine = tirx.sin(x), tirx.cos(x)
        along, across = (cosine + sine, sine - cosine)  # of the phase, times √2
        if order:
            along, across = sine - cosine, (sine + cosine) * -1.0
        combined = p * across + q * along if second else p * along - q * across
        return combined / tirx.sqrt(x * math.pi)

    return let(_FAR / x, found)


def bessel_j(order: int, x: Number) -> Number:
    """At infinity NaN, as in PyTorch."""

    def found(size: Number) -> Number:
        near = let(size * size * 0.25, lambda t: fitted(_J_NEAR[order], _QUARTERS, t))
        if order:
            near = near * size * 0.5
        return select(size < _FAR, near, _wave(order, False, size))

    value = let(tirx.abs(x), found)
    if order:
        value = let(value, lambda value: select(x < 0.0, value * -1.0, value))
    return value


def bessel_y(order: int, x: Number) -> Number:
    """NaN below 0, and minus infinity at 0; at infinity NaN, too, as in PyTorch."""

    def near(t: Number) -> Number:
        first = fitted(_J_NEAR[order], _QUARTERS, t)
        rest = fitted(_Y_NEAR[order], _QUARTERS, t)
        logarithm = tirx.log(x * 0.5) * (2 / math.pi)
        if order:
            return (logarithm * first * 0.5 + rest) * x - 2 / math.pi / x
        return logarithm * first + rest

    value = select(x < _FAR, let(x * x * 0.25, near), _wave(order, True, x))
    value = select(x == 0.0, -math.inf, value)
    return select(x < 0.0, math.nan, value)


def _half_circle(order: int, v: np.ndarray) -> np.ndarray:
    """``√x exp(-x)`` times I, of ``v = 8/x``, whose integrand is as narrow as 1/√x."""
    x = _FAR / np.maximum(v, 1e-6)[:, None]
    ends = np.minimum(math.pi, 9 / np.sqrt(x / 2))
    points = np.linspace(0, 1, 2001)[None]
    angles = points * ends
    values = np.exp(-2 * x * np.sin(angles / 2) ** 2) * np.cos(order * angles)
    return np.asarray(np.trapezoid(values, angles, axis=1) * np.sqrt(x[:, 0]) / math.pi)


_I_FAR = [_named(_half_circle, n) for n in range(2)]


def bessel_i(order: int, scaled: bool, x: Number) -> Number:
    """I, or ``exp(-|x|)`` times it."""

    def found(size: Number) -> Number:
        near = let(
            size * size * 0.25,
            lambda t: taylor(partial(_coefficient, order), _FAR**2 / 4, t),
        )
        if order:
            near = near * size * 0.5
        far = fitted(_I_FAR[order], (0.0, 1.0), _FAR / size) / tirx.sqrt(size)
        if scaled:
            return select(size < _FAR, near * tirx.exp(size * -1.0), far)
        # As in PyTorch it is infinite where exp(x) is, which is a little before the function is.
        return select(size < _FAR, near, far * tirx.exp(size))

    value = let(tirx.abs(x), found)
    if order:
        value = let(value, lambda value: select(x < 0.0, value * -1.0, value))
    return value


def _third_kind(order: int, v: np.ndarray) -> np.ndarray:
    """``√x exp(x)`` times K, of ``v = 1/x``."""
    v = np.maximum(v, 1e-12)
    return np.asarray(np.real(_hankel(order, 0.5, 1 / v)) * math.sqrt(math.pi / 2))


_K_FAR = [_named(_third_kind, n) for n in range(2)]


def _k_rest(order: int, t: np.ndarray) -> np.ndarray:
    return _logarithmic(order, t, 1.0) / 2


_K_NEAR = [_named(_k_rest, n) for n in range(2)]


def bessel_k(order: int, scaled: bool, x: Number) -> Number:
    """K, or ``exp(x)`` times it: NaN below 0, and infinite at 0."""

    def near(t: Number) -> Number:
        first = taylor(partial(_coefficient, order), 0.25, t)
        rest = fitted(_K_NEAR[order], (0.0, 0.25), t)
        logarithm = tirx.log(x * 0.5)
        if order:
            return (logarithm * first - rest) * (x * 0.5) + 1.0 / x
        return rest - logarithm * first

    far = fitted(_K_FAR[order], (0.0, 0.25, 0.5, 1.0), 1.0 / x) / tirx.sqrt(x)
    value = let(x * x * 0.25, near)
    if scaled:
        value = select(x < 1.0, value * tirx.exp(x), far)
    else:
        value = select(x < 1.0, value, far * tirx.exp(x * -1.0))
    value = select(x == 0.0, math.inf, value)
    return select(tirx.any(x < 0.0, is_nan(x)), math.nan, value)


def spherical_bessel_j0(x: Number) -> Number:
    """``sin(x) / x``; nearer to 0 its power series."""
    near = let(x * x, lambda t: 1.0 - t * (1 / 6) * (1.0 - t * (1 / 20) * (1.0 - t * (1 / 42))))
    value = select(tirx.abs(x) < 0.5, near, tirx.sin(x) / x)
    return select(tirx.abs(x) == math.inf, 0.0, value)


def _airy_near(x: np.ndarray) -> np.ndarray:
    """Maclaurin's series of Ai (9.4.1)."""
    first, second = np.ones_like(x), x.copy()
    even, odd = first.copy(), second.copy()
    for k in range(1, 40):
        first = first * x**3 / ((3 * k) * (3 * k - 1))
        second = second * x**3 / ((3 * k) * (3 * k + 1))
        even, odd = even + first, odd + second
    return np.asarray(
        even / (3 ** (2 / 3) * math.gamma(2 / 3)) - odd / (3 ** (1 / 3) * math.gamma(1 / 3))
    )


def _airy_above(v: np.ndarray) -> np.ndarray:
    """``exp(ζ) x^(1/4)`` times Ai, of ``v = 1/ζ`` (9.6.2)."""
    return np.real(_hankel(1 / 3, 0.5, 1 / np.maximum(v, 1e-12))) / (2 * math.sqrt(math.pi))


def _airy_below(part: Callable[[Any], Any], v: np.ndarray) -> np.ndarray:
    """P, or Qζ, of ``v = 1/ζ²``: Ai(-x) is a third of order 1/3 (9.6.6)."""
    v = np.maximum(v, 1e-12)
    root = np.sqrt(v)
    value = part(_hankel(1 / 3, 0.5j, 1 / root))
    return np.asarray(value if part is np.real else value / root) / math.sqrt(math.pi)


_AIRY_P, _AIRY_Q = _named(_airy_below, np.real), _named(_airy_below, np.imag)
_AIRY_LOW, _AIRY_HIGH = -4.0, 1.0


def airy_ai(x: Number) -> Number:
    """At infinity NaN, as in PyTorch."""
    size = tirx.abs(x)
    root = tirx.sqrt(size)

    def found(zeta: Number) -> Number:
        quarter = tirx.sqrt(root)
        above = tirx.exp(zeta * -1.0) / quarter
        above = above * fitted(_airy_above, (0.0, 0.5, 1.5), 1.0 / zeta)

        def wave(v: Number) -> Number:
            p = fitted(_AIRY_P, (0.0, 0.036), v)
            q = fitted(_AIRY_Q, (0.0, 0.036), v) / zeta
            sine, cosine = tirx.sin(zeta), tirx.cos(zeta)
            total = p * (cosine + sine) - q * (sine - cosine)
            return total / (quarter * math.sqrt(2))

        below = let(1.0 / (zeta * zeta), wave)
        return select(x < 0.0, below, above)

    near = fitted(_airy_near, (_AIRY_LOW, -2.0, 0.0, _AIRY_HIGH), x)
    far = let(size * root * (2 / 3), found)
    value = select(tirx.all(x > _AIRY_LOW, x < _AIRY_HIGH), near, far)
    return select(x == math.inf, math.nan, value)
