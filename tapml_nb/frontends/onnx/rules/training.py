"""One step of an optimizer, as ``ai.onnx.preview.training`` defines it.

Rate and number of the step come first, then all tensors, their gradients, and what the optimizer
keeps of each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax

from tapml_nb.frontends.onnx.rules.call import Call, Expr, Rule, cast, constant, dtype_of

_Update = Callable[..., tuple[Expr, ...]]
"""From a node, rate, step, tensor, gradient and what is kept to the new tensor and that."""


def _for_each(update: _Update, kept: int) -> Rule:
    """A rule that updates every tensor, of each of which the optimizer keeps some others."""

    def rule(call: Call, rate: Expr, step: Expr, *tensors: Expr) -> tuple[Expr, ...]:
        count = len(tensors) // (2 + kept)
        made = [update(_Step(call, rate, step), *tensors[k::count]) for k in range(count)]
        return tuple(one for several in zip(*made, strict=True) for one in several)

    return rule


class _Step:
    """Arithmetic of a step: tensors with numbers, in the tensors' dtype."""

    def __init__(self, call: Call, rate: Expr, step: Expr) -> None:
        self.call, self.told = call, call.attributes
        self.rate, self.step = rate, step

    def add(self, a: Expr, b: Any) -> Expr:
        return self._of(relax.op.add, a, b)

    def less(self, a: Expr, b: Any) -> Expr:
        return self._of(relax.op.subtract, a, b)

    def times(self, a: Expr, b: Any) -> Expr:
        return self._of(relax.op.multiply, a, b)

    def over(self, a: Expr, b: Any) -> Expr:
        return self._of(relax.op.divide, a, b)

    def root(self, a: Expr) -> Expr:
        return self.call.emit(relax.op.sqrt(a))

    def number(self, tensor: Expr, like: Expr) -> Expr:
        """Rate or step, one number, in another tensor's dtype."""
        return self.call.emit(relax.op.reshape(self.call.emit(cast(tensor, dtype_of(like))), []))

    def first(self, then: Any, otherwise: Any, like: Expr) -> Expr:
        """One number in the first step, which is 0, another in all that follow."""
        begins = relax.op.less_equal(self.number(self.step, like), constant(0, like))
        values = [v if isinstance(v, relax.Expr) else constant(v, like) for v in (then, otherwise)]
        return self.call.emit(relax.op.where(self.call.emit(begins), *values))

    def regularized(self, x: Expr, gradient: Expr) -> Expr:
        return self.add(self.times(x, self.told["norm_coefficient"]), gradient)

    def power(self, base: float, like: Expr) -> Expr:
        """A number to the step's."""
        return self.call.emit(relax.op.power(constant(base, like), self.number(self.step, like)))

    def _of(self, function: Any, a: Expr, b: Any) -> Expr:
        other = b if isinstance(b, relax.Expr) else constant(b, a)
        return self.call.emit(function(a, other))


def _momentum(s: _Step, x: Expr, gradient: Expr, v: Expr) -> tuple[Expr, ...]:
    g, alpha = s.regularized(x, gradient), s.told["alpha"]
    v = s.add(s.times(v, alpha), s.times(g, s.first(1.0, s.told["beta"], x)))
    moves = v if s.told["mode"] == "standard" else s.add(g, s.times(v, alpha))
    return s.less(x, s.times(moves, s.number(s.rate, x))), v


def _adagrad(s: _Step, x: Expr, gradient: Expr, h: Expr) -> tuple[Expr, ...]:
    decay = s.add(s.times(s.number(s.step, x), s.told["decay_factor"]), 1.0)
    g = s.regularized(x, gradient)
    h = s.add(h, s.times(g, g))
    moves = s.over(
        s.times(g, s.over(s.number(s.rate, x), decay)), s.add(s.root(h), s.told["epsilon"])
    )
    return s.less(x, moves), h


def _adam(s: _Step, x: Expr, gradient: Expr, v: Expr, h: Expr) -> tuple[Expr, ...]:
    g, alpha, beta = s.regularized(x, gradient), s.told["alpha"], s.told["beta"]
    v = s.add(s.times(v, alpha), s.times(g, 1.0 - alpha))
    h = s.add(s.times(h, beta), s.times(s.times(g, g), 1.0 - beta))
    second = s.root(s.less(constant(1.0, x), s.power(beta, x)))
    factor = s.over(second, s.less(constant(1.0, x), s.power(alpha, x)))
    rate = s.times(s.number(s.rate, x), s.first(1.0, factor, x))
    moved = s.less(x, s.times(s.over(v, s.add(s.root(h), s.told["epsilon"])), rate))
    return s.times(moved, 1.0 - s.told["norm_coefficient_post"]), v, h


RULES: dict[str, Rule] = {
    "ai.onnx.preview.training.Adagrad": _for_each(_adagrad, 1),
    "ai.onnx.preview.training.Adam": _for_each(_adam, 2),
    "ai.onnx.preview.training.Momentum": _for_each(_momentum, 1),
}
