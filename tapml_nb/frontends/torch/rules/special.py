"""Special functions, which Relax does not have: of float32, or narrower and integers in that
(:mod:`errors`, :mod:`gamma`, :mod:`bessel`), and ``erfc`` of float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from tvm import tirx

from tapml_nb.frontends.torch.rules import bessel, errors, gamma
from tapml_nb.frontends.torch.rules.call import Call, Expr, Rule, cast
from tapml_nb.frontends.torch.rules.iterations import iterated
from tapml_nb.frontends.torch.rules.operands import elementwise
from tapml_nb.frontends.torch.rules.series import is_nan, let, number, select

_NOTHING = 40
"""From where on erfc is 0 in float64."""


def _of_each(
    name: str,
    function: Callable[[Any], Any],
    in_float64: Callable[[Any], Any] | None,
    call: Call,
    x: Expr,
) -> Expr:
    """A function of one number, of each element: of integers, too, and of narrow ones in float32.

    Raises:
        ValueError: if it is of float64 and not known as precisely as that.
    """
    if call.wide == "float64":
        if in_float64 is None:
            raise ValueError(f"{name} in float64")
        function = in_float64
    wide = call.emit(cast(x, call.wide))
    return cast(elementwise(call, function, wide, name=name), call.dtype)


def _number(value: float) -> Any:
    return tirx.const(float(value), "float64")


@cache
def _tail() -> tuple[float, ...]:
    """What ``log(erfc(x) exp(x²) / t)`` is, for t = 2 / (2 + x) = (1 + u) / 2, as a polynomial of u
    through Chebyshev's points."""

    def exact(u: Any) -> Any:
        t = np.maximum((1 + u) / 2, 1e-300)
        scaled = torch.special.erfcx(torch.from_numpy(2 / t - 2)).numpy()
        return np.log(scaled / t)

    series = np.polynomial.chebyshev.chebinterpolate(exact, 28)
    return tuple(np.polynomial.chebyshev.cheb2poly(series).tolist())


def _erfc(x: Any) -> Any:
    size = tirx.Select(tirx.abs(x) > _number(_NOTHING), _number(_NOTHING), tirx.abs(x))
    t = _number(2) / (_number(2) + size)
    u = _number(2) * t - _number(1)
    tail = _number(0)
    for coefficient in reversed(_tail()):
        tail = tail * u + _number(coefficient)
    # The square in two parts, the first exact: an error of it would be one of the exponential.
    coarse = tirx.floor(size * _number(16)) / _number(16)
    square = (size - coarse) * (size + coarse)
    above = t * tirx.exp(tail - square) * tirx.exp(_number(0) - coarse * coarse)
    return tirx.Select(x < _number(0), _number(2) - above, above)


def polygamma(call: Call, order: int, x: Expr) -> Expr:
    """The derivatives of digamma, which are zeta of whole numbers (NIST DLMF 25.11.12).

    Raises:
        ValueError: in float64, or where the order's factorial is no float32.
    """
    if order == 0:
        return _of_each("digamma", gamma.digamma, None, call, x)
    if call.wide == "float64" or order > 33:
        raise ValueError(f"polygamma of order {order} in {call.wide}")
    factor = math.factorial(order) * (1.0 if order % 2 else -1.0)

    def scaled(found: Any, q: Any) -> Any:
        pole = tirx.all(q <= 0.0, q == tirx.floor(q))
        found = select(pole, math.copysign(math.inf, factor), found * factor)
        if order > 1:
            return found
        # At its poles below 0 PyTorch's trigamma is what rounding leaves of π²/sin²(πx).
        left = let(math.pi / tirx.sin(q * math.pi), lambda root: root * root)
        return select(tirx.all(pole, q < 0.0), left, found)

    return _zeta(call, lambda q: number(order + 1.0, q), scaled, call.emit(cast(x, call.wide)))


def zeta(call: Call, s: Expr | float, q: Expr | float) -> Expr:
    """Hurwitz's zeta function: NaN below 1, and below 0 but for whole ``s``.

    Raises:
        ValueError: in float64.
    """
    if call.wide == "float64":
        raise ValueError("zeta in float64")

    def within(found: Any, s: Any, q: Any) -> Any:
        undefined = tirx.any(s < 1.0, tirx.all(q <= 0.0, s != tirx.floor(s)))
        pole = tirx.any(s == 1.0, tirx.all(s > 1.0, q <= 0.0, q == tirx.floor(q)))
        missing = tirx.any(is_nan(s), is_nan(q))
        found = select(undefined, math.nan, found)
        return select(missing, math.nan, select(pole, math.inf, found))

    operands = call.promoted(s), call.promoted(q)
    return _zeta(call, lambda s, q: s, within, *operands)


def _zeta(call: Call, exponent: Any, finished: Any, *operands: Expr) -> Expr:
    """Zeta of an exponent and the last operand; ``finished`` says what becomes of it."""

    def step(k: Any, state: Any, values: Any) -> tuple[Any]:
        s, q = exponent(*values), values[-1]
        return (state[0] + tirx.pow(q + tirx.Cast(call.wide, k), s * -1.0),)

    def end(state: Any, values: Any) -> Any:
        s, q = exponent(*values), values[-1]
        after = q + tirx.Cast(call.wide, gamma.terms_of_zeta(q))
        return let(state[0] + gamma.tail_of_zeta(s, after), lambda total: finished(total, *values))

    return iterated(
        call,
        lambda *values: (number(0.0, values[-1]),),
        lambda *values: gamma.terms_of_zeta(values[-1]),
        step,
        end,
        *operands,
        name="zeta",
    )


_FUNCTIONS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any] | None]] = {
    "erfc": (errors.erfc, _erfc),
    "special_erfcx": (errors.erfcx, None),
    "erfinv": (errors.erfinv, None),
    "special_ndtri": (errors.ndtri, None),
    "lgamma": (gamma.lgamma, None),
    "digamma": (gamma.digamma, None),
    "special_airy_ai": (bessel.airy_ai, None),
    "special_spherical_bessel_j0": (bessel.spherical_bessel_j0, None),
    **{
        f"special_bessel_{kind}{order}": (partial(function, order), None)
        for kind, function in (("j", bessel.bessel_j), ("y", bessel.bessel_y))
        for order in (0, 1)
    },
    **{
        name: (partial(bessel.bessel_i, order, scaled), None)
        for name, order, scaled in (
            *(("i0", 0, False), ("special_i0e", 0, True)),
            *(("special_i1", 1, False), ("special_i1e", 1, True)),
            *(("special_modified_bessel_i0", 0, False), ("special_modified_bessel_i1", 1, False)),
        )
    },
    **{
        f"special_{scaled}modified_bessel_k{order}": (
            partial(bessel.bessel_k, order, bool(scaled)),
            None,
        )
        for scaled in ("", "scaled_")
        for order in (0, 1)
    },
}

RULES: dict[str, Rule] = {
    **{
        f"aten.{name}.default": partial(_of_each, name, *functions)
        for name, functions in _FUNCTIONS.items()
    },
    "aten.polygamma.default": polygamma,
    **{f"aten.special_zeta.{o}": zeta for o in ("default", "other_scalar", "self_scalar")},
}
