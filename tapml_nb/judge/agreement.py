"""Whether a language model on the target would say the same: top-1 agreement and KL divergence.

Numbers that people know of logits, beside the noise floor: a model may leave its floor and still
choose every token as before, or the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tapml_nb.graph import Graph, ValueId
from tapml_nb.numerics import is_float, np_dtype

KL_LIMIT = 1e-3
"""Mean divergence, in nats, up to which two models are taken for the same."""


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


def agreement(target: np.ndarray, source: np.ndarray) -> Agreement:
    """Compare logits of one shape ``[..., vocabulary]``, in float64.

    The divergence is Σ p ln(p/q) with p the softmax of the source's logits and q that of the
    target's (S. Kullback, R. A. Leibler, "On Information and Sufficiency", 1951).
    """
    p = source.reshape(-1, source.shape[-1]).astype(np.float64)
    q = target.reshape(-1, target.shape[-1]).astype(np.float64)
    sound = np.isfinite(q).all(axis=1) | ~np.isfinite(p).all(axis=1)
    with np.errstate(all="ignore"):
        chosen = np.take_along_axis(p, q.argmax(axis=1)[:, None], axis=1)[:, 0]
        same = sound & (chosen == p.max(axis=1))
        log_p, log_q = _log_softmax(p), _log_softmax(q)
        terms = np.where(np.isneginf(log_p), 0.0, np.exp(log_p) * (log_p - log_q))
        kl = np.where(sound, np.maximum(np.nan_to_num(terms.sum(axis=1)), 0.0), np.inf)
    return Agreement(len(p), float(same.mean()), float(kl.mean()))


def logits(graph: Graph) -> ValueId | None:
    """The output that holds a language model's logits, if the model looks like one.

    That is a floating-point output ``[batch, positions, vocabulary]`` beside an integer input
    ``[batch, positions]``.
    """
    tokens = {
        v.spec.shape
        for v in graph.values.values()
        if v.role == "input" and not v.host and np_dtype(v.spec.dtype).kind in "iu"
    }
    for name in graph.outputs:
        value = graph.values[name]
        if value.host or value.role != "operator" or len(value.spec.shape) != 3:
            continue
        if is_float(np_dtype(value.spec.dtype)) and value.spec.shape[:2] in tokens:
            return name
    return None


def _log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(axis=1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
