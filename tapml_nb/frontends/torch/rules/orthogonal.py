"""Orthogonal polynomials by their recurrences (NIST DLMF 18.9), of an order that each element has.

An order is cut to a whole number; of a negative one the polynomial is 0, as PyTorch has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm import tirx

from tapml_nb.frontends.torch.rules.call import Call, Expr, Rule
from tapml_nb.frontends.torch.rules.iterations import iterated
from tapml_nb.frontends.torch.rules.series import Number, is_nan, number, select

_MOST = 65536.0
"""The highest order."""


@dataclass(frozen=True)
class _Family:
    """Polynomials of which the first is 1.

    Attributes:
        first: the one of order 1, of x.
        following: the one of order m + 1, of m, x, and the ones of orders m and m - 1.
    """

    first: Callable[[Number], Number]
    following: Callable[[Number, Number, Number, Number], Number]


def _chebyshev(first: Callable[[Number], Number], shifted: bool = False) -> _Family:
    def argument(x: Number) -> Number:
        return x * 2.0 - 1.0 if shifted else x

    return _Family(
        lambda x: first(argument(x)), lambda m, x, p, before: argument(x) * 2.0 * p - before
    )


_KINDS: dict[str, Callable[[Number], Number]] = {
    "t": lambda x: x,
    "u": lambda x: x * 2.0,
    "v": lambda x: x * 2.0 - 1.0,
    "w": lambda x: x * 2.0 + 1.0,
}

_FAMILIES = {
    **{f"chebyshev_polynomial_{k}": _chebyshev(first) for k, first in _KINDS.items()},
    **{f"shifted_chebyshev_polynomial_{k}": _chebyshev(f, True) for k, f in _KINDS.items()},
    "hermite_polynomial_h": _Family(
        lambda x: x * 2.0, lambda m, x, p, before: x * 2.0 * p - m * 2.0 * before
    ),
    "hermite_polynomial_he": _Family(lambda x: x, lambda m, x, p, before: x * p - m * before),
    "laguerre_polynomial_l": _Family(
        lambda x: 1.0 - x,
        lambda m, x, p, before: ((m * 2.0 + 1.0 - x) * p - m * before) / (m + 1.0),
    ),
    "legendre_polynomial_p": _Family(
        lambda x: x, lambda m, x, p, before: ((m * 2.0 + 1.0) * x * p - m * before) / (m + 1.0)
    ),
}


def polynomial(family: _Family, name: str, call: Call, x: Expr | float, n: Expr | float) -> Expr:
    def step(k: Any, state: Any, values: Any) -> tuple[Number, Number]:
        before, p = state
        m = tirx.Cast(call.wide, k) + 1.0
        return p, family.following(m, values[0], p, before)

    def count(_: Number, order: Number) -> Any:
        least = tirx.max(tirx.min(order, _MOST), 0.0)
        return tirx.Cast("int32", select(is_nan(order), 0.0, least))

    def end(state: Any, values: Any) -> Number:
        order = values[1]
        return select(order <= -1.0, 0.0, state[0])

    def begin(x: Number, _: Number) -> tuple[Number, Number]:
        return number(1.0, x), family.first(x)

    operands = call.promoted(x), call.promoted(n)
    return iterated(call, begin, count, step, end, *operands, name=name)


RULES: dict[str, Rule] = {
    f"aten.special_{name}.{overload}": partial(polynomial, family, name)
    for name, family in _FAMILIES.items()
    for overload in ("default", "x_scalar", "n_scalar")
}
