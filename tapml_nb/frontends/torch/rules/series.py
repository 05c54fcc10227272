"""Functions of one number as polynomials, in the dtype that they are computed in.

A smooth function on an interval is interpolated in Chebyshev's points (L. N. Trefethen,
*Approximation Theory and Approximation Practice*, ch. 4 and 8), from values in float64, up to the
degree at which its series is down to the dtype's roundoff.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from tvm import tirx

Number = Any
"""A ``PrimExpr`` of a floating-point dtype: what Python's numbers meet it is of that dtype, too."""

Exact = Callable[[np.ndarray], np.ndarray]
"""A function in float64, of an array."""

_DEGREE = 48
"""What no function here needs more than."""

_KNOWN = 1e-15
"""How well the values are known: what is below it in a series is noise."""


def epsilon(x: Number) -> float:
    """The distance from 1 to the next number of a number's dtype."""
    return float(np.finfo(str(x.ty.dtype)).eps)


def number(value: float, like: Number) -> Number:
    """A constant of a number's dtype."""
    return tirx.const(float(value), str(like.ty.dtype))


def let(value: Number, then: Callable[[Number], Number]) -> Number:
    """What is made of a value that is computed once, and may be used more than once; an expression
    that holds one of these may not, for a name is bound in one place."""
    name = tirx.Var("t", str(value.ty.dtype))
    return tirx.Let(name, value, then(name))


def select(condition: Any, yes: Number | float, no: Number | float) -> Number:
    """One of two numbers, both of which are computed."""
    if isinstance(yes, int | float):
        yes = number(yes, no)
    if isinstance(no, int | float):
        no = number(no, yes)
    return tirx.Select(condition, yes, no)


def is_nan(x: Number) -> Any:
    """Whether a number is none."""
    return tirx.isnan(x)


def horner(coefficients: Sequence[float], x: Number) -> Number:
    """A polynomial, its constant first."""
    total = number(coefficients[-1], x)
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + float(coefficient)
    return total


def taylor(coefficient: Callable[[int], float], reach: float, x: Number) -> Number:
    """A power series with positive coefficients, up to terms that do not count at ``reach``."""
    terms = [coefficient(0)]
    total = terms[0]
    while terms[-1] * reach ** (len(terms) - 1) > epsilon(x) / 8 * total:
        terms.append(coefficient(len(terms)))
        total += terms[-1] * reach ** (len(terms) - 1)
    return horner(terms, x)


@cache
def _interpolated(exact: Exact, low: float, high: float, least: float) -> tuple[float, ...]:
    """The coefficients of a polynomial that goes from -1 to 1 on an interval."""
    middle, half = (low + high) / 2, (high - low) / 2

    def on_unit(u: Any) -> Any:
        return exact(middle + half * u)

    series: Any = np.polynomial.chebyshev.chebinterpolate(on_unit, _DEGREE)
    counts = np.nonzero(np.abs(series) > max(least / 8, _KNOWN) * np.abs(series).max())[0]
    kept = series[: counts[-1] + 1]
    return tuple(np.polynomial.chebyshev.cheb2poly(kept).tolist())


def fitted(exact: Exact, bounds: Sequence[float], x: Number) -> Number:
    """A smooth function, by a polynomial between any two bounds; beyond the outermost the nearest
    one goes on."""
    pieces = [
        horner(
            _interpolated(exact, low, high, epsilon(x)),
            (x - (low + high) / 2) * (2 / (high - low)),
        )
        for low, high in itertools.pairwise(bounds)
    ]
    found = pieces[0]
    for bound, piece in zip(bounds[1:], pieces[1:], strict=False):
        found = select(x < bound, found, piece)
    return found


def sine_of_turns(x: Number) -> Number:
    """``sin(πx)``, exact in what it leaves out: whole turns."""
    return let(
        x - tirx.floor(x + 0.5),
        lambda rest: tirx.sin(rest * math.pi) * _sign_of(x),
    )


def _sign_of(x: Number) -> Number:
    """1 or -1, as the nearest whole number is even or odd."""
    return let(
        tirx.floor(x + 0.5) * 0.5,
        lambda half: select(half == tirx.floor(half), 1.0, number(-1.0, half)),
    )


def square_exponential(x: Number, sign: float) -> Number:
    """``exp(±x²)``, the square in two parts of which the first is exact: an error of it would be
    one of the exponential."""
    return let(
        tirx.floor(x * 16.0) * 0.0625,
        lambda coarse: (
            tirx.exp((x - coarse) * (x + coarse) * sign) * tirx.exp(coarse * coarse * sign)
        ),
    )
