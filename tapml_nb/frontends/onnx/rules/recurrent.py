"""Recurrent networks, ``LSTM``, ``GRU`` and ``RNN``, unrolled: all steps share their kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from tvm import relax

from tapml_nb.frontends.onnx.recurrence import GATES, QUANTIZED, Activation, Recurrence, recurrence
from tapml_nb.frontends.onnx.rules.call import Call, Expr, Rule, constant, dtype_of, shape_of
from tapml_nb.frontends.onnx.rules.quantized import quantized_dynamically
from tapml_nb.frontends.onnx.rules.sequences import MOST_STEPS, parts, split, stacked, steps_of

Product = Callable[[Expr], Expr]
"""What makes of rows what they add to gates."""


@dataclass(frozen=True)
class _Cell:
    """One direction of a node.

    Attributes:
        call: the node.
        told: its attributes.
        activations: of its gates.
        products: what makes of its state what that adds to gates, which stand side by side.
        peepholes: what the input, output and forget gate see of the cell; None for nothing.
    """

    call: Call
    told: Recurrence
    activations: Sequence[Activation]
    products: Sequence[Product]
    peepholes: Sequence[Expr] | None

    def gates(self, x: Expr, h: Expr) -> list[Expr]:
        """Gates that stand side by side, of the size of a state."""
        return parts(self.call, x, shape_of(x)[-1] // shape_of(h)[-1], -1)

    def gate(self, x: Expr, activation: int) -> Expr:
        """A gate's value of its sum."""
        if self.told.clip:
            x = relax.op.clip(x, -self.told.clip, self.told.clip)
        return self.active(x, activation)

    def active(self, x: Expr, activation: int) -> Expr:
        """A function of what is not bounded."""
        return _function(self.activations[activation], self.call.emit(x))

    def peeped(self, x: Expr, which: int, c: Expr) -> Expr:
        """A gate's sum with what it sees of the cell."""
        if self.peepholes is None:
            return x
        return relax.op.add(x, relax.op.multiply(self.peepholes[which], c))


def _lstm(cell: _Cell, x: Expr, h: Expr, c: Expr) -> tuple[Expr, Expr]:
    emit, add, multiply = cell.call.emit, relax.op.add, relax.op.multiply
    i, o, f, g = cell.gates(emit(add(x, cell.products[0](h))), h)
    i = emit(cell.gate(cell.peeped(i, 0, c), 0))
    if cell.told.coupled:
        f = relax.op.subtract(constant(1, i), i)
    else:
        f = cell.gate(cell.peeped(f, 2, c), 0)
    c = emit(add(multiply(f, c), multiply(i, cell.gate(g, 1))))
    o = cell.gate(cell.peeped(o, 1, c), 0)
    return emit(multiply(o, cell.active(c, 2))), c


def _gru(cell: _Cell, x: Expr, h: Expr, c: Expr) -> tuple[Expr, Expr]:
    emit, add, multiply = cell.call.emit, relax.op.add, relax.op.multiply
    xs, hs = cell.gates(x, h), cell.gates(emit(cell.products[0](h)), h)
    z = emit(cell.gate(add(xs[0], hs[0]), 0))
    r = emit(cell.gate(add(xs[1], hs[1]), 0))
    if cell.told.linear_before_reset:
        inner = multiply(r, hs[2])
    else:
        inner = cell.products[1](emit(multiply(r, h)))
    new = cell.gate(add(xs[2], inner), 1)
    kept = multiply(z, h)
    return emit(add(multiply(relax.op.subtract(constant(1, z), z), new), kept)), c


def _rnn(cell: _Cell, x: Expr, h: Expr, c: Expr) -> tuple[Expr, Expr]:
    return cell.call.emit(cell.gate(relax.op.add(x, cell.products[0](h)), 0)), c


_STEPS: dict[str, Callable[[_Cell, Expr, Expr, Expr], tuple[Expr, Expr]]] = {
    "LSTM": _lstm,
    "GRU": _gru,
    "RNN": _rnn,
}


def recurrent(
    kind: str,
    call: Call,
    x: Expr,
    w: Expr,
    r: Expr,
    b: Expr | None = None,
    lengths: Expr | None = None,
    h: Expr | None = None,
    c: Expr | None = None,
    p: Expr | None = None,
) -> tuple[Expr, ...]:
    """All outputs of a recurrent node: the sequence of states, the last state, the last cell."""
    told = recurrence(kind, call.attributes)
    gates, hidden = GATES[kind], shape_of(r)[-1]
    # A GRU resets the state that its last gate is multiplied with, or else the product.
    apart = [gates - 1] if kind == "GRU" and not told.linear_before_reset else []
    at = [hidden * gate for gate in apart]

    def products(d: int, bias: Expr | None) -> tuple[Product, list[Product]]:
        of_input, of_state = (
            call.emit(relax.op.permute_dims(_taken(call, m, d), [1, 0])) for m in (w, r)
        )
        both = zip(split(call, of_state, at, -1), split(call, bias, at, 0), strict=True)
        return _product(call, of_input, None), [_product(call, *part) for part in both]

    return _unrolled(kind, call, told, products, hidden, x, b, lengths, h, c, p)


def dynamic_quantize_lstm(
    call: Call,
    x: Expr,
    w: Expr,
    r: Expr,
    b: Expr | None,
    lengths: Expr | None,
    h: Expr | None,
    c: Expr | None,
    p: Expr | None,
    *scales: Expr,
) -> tuple[Expr, ...]:
    """The same of an LSTM with quantized weights; ``scales`` are a scale and a zero point for the
    weights of its input, and two for those of its state.

    Raises:
        ValueError: for several sequences, or parts, whose range onnxruntime takes otherwise.
    """
    if shape_of(x)[1] != 1 or lengths is not None:
        raise ValueError("a quantized LSTM of several sequences, or with their lengths")
    told = recurrence(QUANTIZED, call.attributes)

    def products(d: int, bias: Expr | None) -> tuple[Product, list[Product]]:
        of_input, of_state = (
            [_taken(call, tensor, d) for tensor in tensors]
            for tensors in ((w, *scales[:2]), (r, *scales[2:]))
        )
        return _quantized_product(call, None, *of_input), [
            _quantized_product(call, bias, *of_state)
        ]

    return _unrolled("LSTM", call, told, products, shape_of(r)[1], x, b, lengths, h, c, p)


def _product(call: Call, weights: Expr, bias: Expr | None) -> Product:
    def product(rows: Expr) -> Expr:
        made = relax.op.matmul(rows, weights)
        return made if bias is None else relax.op.add(made, bias)

    return product


def _quantized_product(
    call: Call, bias: Expr | None, weights: Expr, scale: Expr, zero: Expr
) -> Product:
    wide = relax.op.astype(weights, "int32")
    weights = call.emit(relax.op.subtract(wide, relax.op.astype(zero, "int32")))

    def product(rows: Expr) -> Expr:
        steps, step, middle = quantized_dynamically(call, rows)
        sums = relax.op.matmul(call.emit(relax.op.subtract(steps, middle)), weights)
        factor = call.emit(relax.op.multiply(step, scale))
        made = relax.op.multiply(relax.op.astype(call.emit(sums), "float32"), factor)
        return made if bias is None else relax.op.add(made, bias)

    return product


def _unrolled(
    kind: str,
    call: Call,
    told: Recurrence,
    products: Callable[[int, Expr | None], tuple[Product, list[Product]]],
    hidden: int,
    x: Expr,
    b: Expr | None,
    lengths: Expr | None,
    h: Expr | None,
    c: Expr | None,
    p: Expr | None,
) -> tuple[Expr, ...]:
    """All steps of all directions.

    Args:
        products: for a direction and the bias of its state, what makes of inputs and of states
            what they add to gates.
        hidden: the size of a state.

    Raises:
        ValueError: for sequences that are too long to be unrolled.
    """
    if told.batch_first:
        x = call.emit(relax.op.permute_dims(x, [1, 0, 2]))
        h, c = (None if s is None else _swapped(call, s) for s in (h, c))
    steps, batch, width = shape_of(x)
    if not 0 < steps <= MOST_STEPS:
        raise ValueError(f"a sequence of {steps} steps, and it unrolls 1 to {MOST_STEPS}")
    rows = call.emit(relax.op.reshape(x, [steps * batch, width]))
    zeros = call.emit(relax.op.zeros([batch, hidden], dtype_of(x)))
    alive = None if lengths is None else _alive(call, lengths, steps, batch)
    sequences, states, memories = [], [], []
    for d, reverse in enumerate(told.reverse):
        bias, state_bias = (None, None) if b is None else parts(call, _taken(call, b, d), 2, 0)
        of_input, of_state = products(d, state_bias)
        sums = call.emit(of_input(rows))
        sums = sums if bias is None else call.emit(relax.op.add(sums, bias))
        inputs = steps_of(call, call.emit(relax.op.reshape(sums, [steps, batch, -1])))
        peepholes = None if p is None else parts(call, _taken(call, p, d), 3, 0)
        cell = _Cell(call, told, told.activations[d], of_state, peepholes)
        own_h, own_c = (zeros if s is None else _taken(call, s, d) for s in (h, c))
        made: dict[int, Expr] = {}
        for t in range(steps)[:: -1 if reverse else 1]:
            new_h, new_c = _STEPS[kind](cell, inputs[t], own_h, own_c)
            if alive is None:
                made[t], own_h, own_c = new_h, new_h, new_c
            else:
                made[t] = call.emit(relax.op.where(alive[t], new_h, constant(0, new_h)))
                own_h = call.emit(relax.op.where(alive[t], new_h, own_h))
                own_c = call.emit(relax.op.where(alive[t], new_c, own_c))
        sequences.append(stacked(call, [made[t] for t in range(steps)]))
        states.append(own_h)
        memories.append(own_c)
    y = call.emit(relax.op.stack(sequences, 1))
    h, c = (call.emit(relax.op.stack(found, 0)) for found in (states, memories))
    if told.batch_first:
        y = relax.op.permute_dims(y, [2, 0, 1, 3])
        h, c = _swapped(call, h), _swapped(call, c)
    return (y, h, c)


def _alive(call: Call, lengths: Expr, steps: int, batch: int) -> list[Expr]:
    """For each step, which sequences of the batch are not at their end."""
    numbers = relax.const(np.arange(steps, dtype=dtype_of(lengths)).reshape(steps, 1, 1))
    ends = relax.op.reshape(lengths, [1, batch, 1])
    return steps_of(call, call.emit(relax.op.less(numbers, ends)))


def _taken(call: Call, x: Expr, d: int) -> Expr:
    """What belongs to a direction."""
    count, *sizes = shape_of(x)
    return call.emit(relax.op.reshape(parts(call, x, count, 0)[d], sizes))


def _swapped(call: Call, state: Expr) -> Expr:
    return call.emit(relax.op.permute_dims(state, [1, 0, 2]))


def _function(activation: Activation, x: Expr) -> Expr:
    """An activation of a bound tensor."""
    add, multiply = relax.op.add, relax.op.multiply
    one, zero, alpha, beta = (
        constant(number, x) for number in (1.0, 0.0, activation.alpha, activation.beta)
    )
    functions: dict[str, Callable[[], Expr]] = {
        "affine": lambda: add(multiply(alpha, x), beta),
        "elu": lambda: relax.op.where(
            relax.op.greater(x, zero),
            x,
            multiply(alpha, relax.op.subtract(relax.op.exp(x), one)),
        ),
        "hardsigmoid": lambda: relax.op.clip(add(multiply(alpha, x), beta), 0.0, 1.0),
        "leakyrelu": lambda: relax.op.where(relax.op.less(x, zero), multiply(alpha, x), x),
        "relu": lambda: relax.op.where(relax.op.less(x, zero), zero, x),
        "scaledtanh": lambda: multiply(alpha, relax.op.tanh(multiply(beta, x))),
        "sigmoid": lambda: relax.op.sigmoid(x),
        "softplus": lambda: add(
            relax.op.maximum(x, zero),
            relax.op.log(add(one, relax.op.exp(relax.op.negative(relax.op.abs(x))))),
        ),
        "softsign": lambda: relax.op.divide(x, add(one, relax.op.abs(x))),
        "tanh": lambda: relax.op.tanh(x),
        "thresholdedrelu": lambda: relax.op.where(relax.op.greater(x, alpha), x, zero),
    }
    return functions[activation.name]()


RULES: dict[str, Rule] = {
    **{kind: partial(recurrent, kind) for kind in _STEPS},
    QUANTIZED: dynamic_quantize_lstm,
}
