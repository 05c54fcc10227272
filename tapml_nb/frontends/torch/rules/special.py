"""Special functions, which Relax does not have: computed in float64, from their definitions.

The gamma function is Stirling's series (NIST DLMF 5.11) far from 0; nearer, its recurrence leads
there, and below 1/2 its reflection (5.5).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from tvm import te, tirx

from tapml_nb.frontends.torch.rules.call import Call, Expr, Rule, cast

_NOTHING = 40
"""From where on erfc is 0 in float64."""

_FAR = 10
"""From where on Stirling's series is exact in float64 with the terms below."""

_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)
"""The numbers B2, B4, … of both series."""


def _of_each(function: Callable[[Any], Any], name: str, call: Call, x: Expr) -> Expr:
    """A function of one float64 number, of each element."""
    wide = call.emit(cast(x, "float64"))

    def compute(data: te.Tensor) -> te.Tensor:
        return te.compute(data.shape, lambda *at: function(data(*at)))

    return cast(call.compute(compute, wide, name=name), call.dtype)


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


def _log_gamma_far(x: Any) -> Any:
    half = _number(0.5)
    total = (x - half) * tirx.log(x) - x + _number(0.5 * math.log(2 * math.pi))
    power = x
    for n, bernoulli in enumerate(_BERNOULLI, 1):
        total = total + _number(bernoulli / (2 * n * (2 * n - 1))) / power
        power = power * x * x
    return total


def _log_gamma(x: Any) -> Any:
    mirrored = x < _number(0.5)
    y = tirx.Select(mirrored, _number(1) - x, x)
    product = _number(1)
    for n in range(_FAR):
        product = product * tirx.Select(y < _number(_FAR), y + _number(n), _number(1))
    shifted = tirx.Select(y < _number(_FAR), y + _number(_FAR), y)
    log_gamma = _log_gamma_far(shifted) - tirx.log(product)
    sine = tirx.abs(tirx.sin(_number(math.pi) * (x - tirx.floor(x))))
    reflected = _number(math.log(math.pi)) - tirx.log(sine) - log_gamma
    found = tirx.Select(mirrored, reflected, log_gamma)
    root = tirx.any(x == _number(1), x == _number(2))
    found = tirx.Select(root, _number(0), found)
    infinite = tirx.any(
        tirx.all(x <= _number(0), x == tirx.floor(x)), tirx.abs(x) == _number(math.inf)
    )
    return tirx.Select(infinite, _number(math.inf), found)


def _digamma(x: Any) -> Any:
    mirrored = x < _number(0)
    y = tirx.Select(mirrored, _number(1) - x, x)
    missing = _number(0)
    near = y < _number(_FAR)
    for n in range(_FAR):
        missing = missing + tirx.Select(near, _number(1) / (y + _number(n)), _number(0))
    y = tirx.Select(near, y + _number(_FAR), y)
    total = tirx.log(y) - _number(0.5) / y - missing
    power = y * y
    for n, bernoulli in enumerate(_BERNOULLI, 1):
        total = total - _number(bernoulli / (2 * n)) / power
        power = power * y * y
    turn = _number(math.pi) * (x - tirx.floor(x))
    reflected = total - _number(math.pi) * tirx.cos(turn) / tirx.sin(turn)
    found = tirx.Select(mirrored, reflected, total)
    pole = tirx.all(mirrored, x == tirx.floor(x))
    found = tirx.Select(pole, _number(math.nan), found)
    return tirx.Select(x == _number(0), _number(-math.inf), found)


RULES: dict[str, Rule] = {
    f"aten.{name}.default": partial(_of_each, function, name)
    for name, function in {"erfc": _erfc, "lgamma": _log_gamma, "digamma": _digamma}.items()
}
