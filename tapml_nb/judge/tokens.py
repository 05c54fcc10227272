"""Language models: how far off each token is, and whether the target would say the same.

Which axis of a tensor runs along the tokens of a step, no graph says, but sizes do: it is the axis
that in every step is as long as the step's token ids.  Where steps differ in length (a prompt, then
single tokens) hardly any other axis can be that; where two axes could, nothing is claimed.

Top-1 agreement and KL divergence are numbers that people know of logits, beside the noise floor: a
model may leave its floor and still choose every token as before, or the other way round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tapml_nb.array_api import Array, namespace, np_dtype, wide
from tapml_nb.execute.source import SourceRun
from tapml_nb.graph import Graph, Value, ValueId
from tapml_nb.measured import Ask, Asking, at_once
from tapml_nb.numerics import is_float

KL_LIMIT = 1e-3
"""Mean divergence, in nats, up to which two models are taken for the same."""


def token_input(graph: Graph) -> ValueId | None:
    """A model's first integer input ``[batch, positions]``; None if it takes no tokens."""
    for name in graph.inputs:
        value = graph.values[name]
        if not value.host and len(value.spec.shape) == 2 and _are_integers(value):
            return name
    return None


def _are_integers(value: Value) -> bool:
    return np_dtype(value.spec.dtype).kind in "iu"


class TokenAxes:
    """The token axes of a model's tensors; the source run must be complete."""

    def __init__(self, source: SourceRun) -> None:
        self._source = source
        self._known: dict[ValueId, int | None] = {}
        self._tokens = token_input(source.program.graph)

    def axis(self, value: ValueId, step: int) -> int | None:
        """The token axis of a tensor in a step; None where there is none, or it is not clear."""
        if self._tokens is None or step >= self._source.program.steps:
            return None
        if value not in self._known:
            self._known[value] = self._find(value)
        return self._known[value]

    def _find(self, value: ValueId) -> int | None:
        shapes, lengths = self._shapes(value), [shape[1] for shape in self._shapes(self._tokens)]
        if len({len(shape) for shape in shapes}) != 1:
            return None
        sizes = enumerate(zip(*shapes, strict=True))
        axes = [axis for axis, along in sizes if list(along) == lengths]
        # Of single tokens every such axis holds the same, namely all.
        return axes[0] if len(axes) == 1 or (axes and max(lengths) == 1) else None

    def _shapes(self, value: ValueId | None) -> list[tuple[int, ...]]:
        steps = range(self._source.program.steps)
        return [tuple(self._source.values(step)[value].shape) for step in steps]  # type: ignore[index]


@dataclass(frozen=True)
class Agreement:
    """Two models' logits at the same positions.

    Attributes:
        positions: how many positions were compared.
        top1: share of them at which both choose the same token; equal logits are no choice, so
            a tie that is broken in another way agrees.
        kl: mean Kullback-Leibler divergence of the target's distribution from the source's, in
            nats; infinite where the target's logits are not finite and the source's are.
    """

    positions: int
    top1: float
    kl: float

    def __str__(self) -> str:
        same = round(self.top1 * self.positions)
        return f"top-1 agrees at {same} of {self.positions} positions, KL {self.kl:.2g} nats"


def agreement(target: Array, source: Array) -> Agreement:
    """Compare logits of one shape ``[..., vocabulary]``, in float64.

    The divergence is Σ p ln(p/q) with p the softmax of the source's logits and q that of the
    target's (S. Kullback, R. A. Leibler, "On Information and Sufficiency", 1951).
    """
    return at_once(_agreeing(target, source))


def _agreeing(target: Array, source: Array) -> Asking[Agreement]:
    (top1, kl), _ = yield Ask(_agreement, [target, source])
    return Agreement(math.prod(source.shape[:-1]), float(top1), float(kl))


def _agreement(target: Array, source: Array, _: Sequence[float]) -> tuple[list[Array], list[Array]]:
    xp, shape = namespace(target, source), (-1, source.shape[-1])
    p, q = (wide(xp.reshape(x, shape)) for x in (source, target))
    sound = xp.all(xp.isfinite(q), axis=1) | ~xp.all(xp.isfinite(p), axis=1)
    chosen = xp.take_along_axis(p, xp.argmax(q, axis=1, keepdims=True), axis=1)[:, 0]
    same = sound & (chosen == xp.max(p, axis=1))
    log_p, log_q = _log_softmax(p), _log_softmax(q)
    terms = xp.where(log_p == -math.inf, 0.0, xp.exp(log_p) * (log_p - log_q))
    sums = xp.sum(terms, axis=1)
    kl = xp.where(xp.isnan(sums), 0.0, xp.clip(sums, 0.0, None))
    kl = xp.where(sound, kl, math.inf)
    return [xp.mean(xp.astype(same, xp.float64)), xp.mean(kl)], []


def logits(graph: Graph) -> ValueId | None:
    """The output that holds a language model's logits, if the model looks like one.

    That is a floating-point output ``[batch, positions, vocabulary]`` beside an integer input
    ``[batch, positions]``.
    """
    inputs = [v for v in graph.values.values() if v.role == "input" and not v.host]
    tokens = {v.spec.shape for v in inputs if _are_integers(v)}
    for name in graph.outputs:
        value = graph.values[name]
        if value.host or value.role != "operator" or len(value.spec.shape) != 3:
            continue
        if is_float(np_dtype(value.spec.dtype)) and value.spec.shape[:2] in tokens:
            return name
    return None


def _log_softmax(x: Array) -> Array:
    xp = namespace(x)
    shifted = x - xp.max(x, axis=1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=1, keepdims=True))
