"""What recurrent nodes are told by their attributes, and their float64 run.

onnx's reference implementation leaves out activations, clipping, lengths of sequences and coupled
gates, and onnxruntime has no kernel for float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tapml_nb.frontends.onnx.model import OnnxNode

QUANTIZED = "com.microsoft.DynamicQuantizeLSTM"
"""An LSTM whose weights are integers, and whose input and state become such before each product."""

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1, QUANTIZED: 4}
"""How many gates have weights, by operator."""

_DEFAULTS = {
    "LSTM": ("sigmoid", "tanh", "tanh"),
    "GRU": ("sigmoid", "tanh"),
    "RNN": ("tanh",),
    QUANTIZED: ("sigmoid", "tanh", "tanh"),
}

_NUMBERS: dict[str, tuple[float | None, float | None]] = {
    "affine": (1.0, 0.0),
    "elu": (1.0, None),
    "hardsigmoid": (0.2, 0.5),
    "leakyrelu": (0.01, None),
    "relu": (None, None),
    "scaledtanh": (1.0, 1.0),
    "sigmoid": (None, None),
    "softplus": (None, None),
    "softsign": (None, None),
    "tanh": (None, None),
    "thresholdedrelu": (1.0, None),
}
"""The numbers alpha and beta that an activation takes where it is given none, onnxruntime's where
the standard says nothing; None for those that it has not."""


@dataclass(frozen=True)
class Activation:
    """A function of a gate, such as ``tanh``, with its numbers."""

    name: str
    alpha: float
    beta: float


@dataclass(frozen=True)
class Recurrence:
    """The attributes of a recurrent node.

    Attributes:
        reverse: for each direction, whether it begins at a sequence's end.
        activations: of each direction, those of its gates in the standard's order (f, g, h).
        clip: what the gates are bounded by before their activations; 0 for nothing.
        batch_first: whether the batch is the first axis of sequences and states (``layout``).
        coupled: whether the forget gate of an LSTM is one minus its input gate.
        linear_before_reset: whether a GRU resets the product of its state, and not the state.
    """

    reverse: tuple[bool, ...]
    activations: tuple[tuple[Activation, ...], ...]
    clip: float
    batch_first: bool
    coupled: bool
    linear_before_reset: bool


def recurrence(kind: str, attributes: Mapping[str, Any]) -> Recurrence:
    """The attributes of a node of this kind.

    Raises:
        ValueError: for an activation that the standard does not know.
    """
    direction = attributes.get("direction", "forward")
    reverse = {"forward": (False,), "reverse": (True,)}.get(direction, (False, True))
    each = len(_DEFAULTS[kind])
    names = [name.lower() for name in attributes.get("activations") or ()]
    found = _activations(
        names or [*_DEFAULTS[kind]] * len(reverse),
        attributes.get("activation_alpha") or (),
        attributes.get("activation_beta") or (),
    )
    return Recurrence(
        reverse,
        tuple(found[k * each : (k + 1) * each] for k in range(len(reverse))),
        attributes.get("clip") or 0.0,
        bool(attributes.get("layout")),
        bool(attributes.get("input_forget")),
        bool(attributes.get("linear_before_reset")),
    )


def _activations(
    names: Sequence[str], alphas: Sequence[float], betas: Sequence[float]
) -> tuple[Activation, ...]:
    """Activations with the numbers that are theirs: each takes the next of those it has."""
    given = iter(alphas), iter(betas)
    found = []
    for name in names:
        if name not in _NUMBERS:
            raise ValueError(f"there is no activation called {name!r}")
        alpha, beta = (
            0.0 if default is None else next(numbers, default)
            for numbers, default in zip(given, _NUMBERS[name], strict=True)
        )
        found.append(Activation(name, alpha, beta))
    return tuple(found)


Product = Callable[[Any], Any]
"""What makes of rows what they add to gates."""


def recurrent_exact(node: OnnxNode, values: Mapping[str, Any]) -> list[np.ndarray] | None:
    """The outputs of a recurrent node in float64; its floating-point inputs are float64.

    None for a quantized LSTM of several sequences or with their lengths, of which it is not known
    over what onnxruntime takes the range that it quantizes.
    """
    kind = node.kind
    told = recurrence(kind, node.attributes())
    inputs: list[Any] = [values[name] if name else None for name in node.proto.input]
    x, w, r, b, lengths, h, c, p, *scales = inputs + [None] * (8 - len(inputs))
    h, c = (None if s is None else np.swapaxes(s, 0, 1) if told.batch_first else s for s in (h, c))
    x = np.swapaxes(x, 0, 1) if told.batch_first else x
    if kind == QUANTIZED and (x.shape[1] != 1 or lengths is not None):
        return None
    directions, batch = len(told.reverse), x.shape[1]
    hidden = r.shape[1] if kind == QUANTIZED else r.shape[2]
    zeros = np.zeros((directions, batch, hidden))
    b = np.zeros((directions, 2 * GATES[kind] * hidden)) if b is None else b
    p = np.zeros((directions, 3 * hidden)) if p is None else p
    lengths = np.full(batch, len(x)) if lengths is None else lengths
    h, c = (zeros.copy() if state is None else state.copy() for state in (h, c))
    y = np.zeros((len(x), directions, batch, hidden))
    for d, reverse in enumerate(told.reverse):
        matrices = [(w[d], *(s[d] for s in scales[:2])), (r[d], *(s[d] for s in scales[2:]))]
        of_input, of_state = (_quantized(*m) if scales else _plain(*m) for m in matrices)
        bw, br = np.split(b[d], 2)
        inner = _Direction(told, [_function(a) for a in told.activations[d]], of_state, br, p[d])
        sums = of_input(x.reshape(len(x) * batch, -1)).reshape(len(x), batch, -1) + bw
        for t in range(len(x))[:: -1 if reverse else 1]:
            new_h, new_c = _STEPS[kind](inner, sums[t], h[d], c[d])
            alive = (t < lengths)[:, None]
            y[t, d] = np.where(alive, new_h, 0.0)
            h[d], c[d] = np.where(alive, new_h, h[d]), np.where(alive, new_c, c[d])
    if told.batch_first:
        y, h, c = y.transpose(2, 0, 1, 3), h.swapaxes(0, 1), c.swapaxes(0, 1)
    return [made for name, made in zip(node.proto.output, (y, h, c), strict=False) if name]


@dataclass(frozen=True)
class _Direction:
    """One direction: what it is told, and its own functions and numbers."""

    told: Recurrence
    functions: Sequence[Callable[[Any], Any]]
    product: Product
    bias: np.ndarray
    peepholes: np.ndarray

    def gate(self, x: Any, which: int) -> Any:
        """A gate's value of its sum."""
        clip = self.told.clip
        return self.functions[which](np.clip(x, -clip, clip) if clip else x)


def _plain(weights: np.ndarray) -> Product:
    return lambda rows: rows @ weights.T


def _quantized(weights: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> Product:
    centred = weights.astype(np.float64) - zero.astype(np.float64)

    def product(rows: np.ndarray) -> np.ndarray:
        low, high = min(rows.min(), 0.0), max(rows.max(), 0.0)
        step = (high - low) / 255 or 1.0
        middle = np.rint(np.clip(-low / step, 0, 255))
        steps = np.clip(np.rint(rows / step) + middle, 0, 255) - middle
        return np.asarray((steps @ centred) * (step * scale))

    return product


def _lstm(own: _Direction, x: Any, h: Any, c: Any) -> tuple[Any, Any]:
    i, o, f, g = np.split(x + own.product(h) + own.bias, 4, -1)
    pi, po, pf = np.split(own.peepholes, 3)
    i = own.gate(i + pi * c, 0)
    f = 1 - i if own.told.coupled else own.gate(f + pf * c, 0)
    c = f * c + i * own.gate(g, 1)
    o = own.gate(o + po * c, 0)
    return o * own.functions[2](c), c


def _gru(own: _Direction, x: Any, h: Any, c: Any) -> tuple[Any, Any]:
    xz, xr, xh = np.split(x, 3, -1)
    z, r, inner = np.split(own.product(h) + own.bias, 3, -1)
    z, r = own.gate(xz + z, 0), own.gate(xr + r, 0)
    if own.told.linear_before_reset:
        inner = r * inner
    else:
        inner = (own.product(r * h) + own.bias)[..., 2 * h.shape[-1] :]
    return (1 - z) * own.gate(xh + inner, 1) + z * h, c


def _rnn(own: _Direction, x: Any, h: Any, c: Any) -> tuple[Any, Any]:
    return own.gate(x + own.product(h) + own.bias, 0), c


_STEPS: dict[str, Callable[[_Direction, Any, Any, Any], tuple[Any, Any]]] = {
    "LSTM": _lstm,
    "GRU": _gru,
    "RNN": _rnn,
    QUANTIZED: _lstm,
}


def _function(activation: Activation) -> Callable[[Any], Any]:
    alpha, beta = activation.alpha, activation.beta
    functions: dict[str, Callable[[Any], Any]] = {
        "affine": lambda x: alpha * x + beta,
        "elu": lambda x: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
        "hardsigmoid": lambda x: np.clip(alpha * x + beta, 0, 1),
        "leakyrelu": lambda x: np.where(x < 0, alpha * x, x),
        "relu": lambda x: np.maximum(x, 0),
        "scaledtanh": lambda x: alpha * np.tanh(beta * x),
        "sigmoid": lambda x: 0.5 + 0.5 * np.tanh(0.5 * x),
        "softplus": lambda x: np.logaddexp(x, 0),
        "softsign": lambda x: x / (1 + np.abs(x)),
        "tanh": np.tanh,
        "thresholdedrelu": lambda x: np.where(x > alpha, x, 0),
    }
    return functions[activation.name]
