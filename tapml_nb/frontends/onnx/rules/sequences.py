"""A sequence in parts: what unrolls it takes it apart by kernels that all steps share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax

from tapml_nb.frontends.onnx.rules.call import Call, Expr, shape_of

MOST_STEPS = 1024
"""Steps of the longest sequence that is unrolled."""

_PART = 32
"""Tensors that one kernel takes or yields at most."""


def steps_of(call: Call, x: Expr) -> list[Expr]:
    """A sequence step by step, taken apart by kernels that are the same for all its parts."""
    count = shape_of(x)[0]
    starts = list(range(0, count, _PART))
    found: list[Expr] = []
    for part in split(call, x, starts[1:], 0):
        sizes = shape_of(part)
        found += [
            call.emit(relax.op.reshape(step, sizes[1:])) for step in parts(call, part, sizes[0], 0)
        ]
    return found


def stacked(call: Call, steps: Sequence[Expr]) -> Expr:
    """The inverse of :func:`steps_of`."""
    made = [
        call.emit(relax.op.stack(list(steps[k : k + _PART]), 0))
        for k in range(0, len(steps), _PART)
    ]
    return made[0] if len(made) == 1 else call.emit(relax.op.concat(made, 0))


def parts(call: Call, x: Expr, count: int, axis: int) -> list[Expr]:
    """A tensor in equal parts along an axis."""
    size = shape_of(x)[axis] // count
    return split(call, x, [size * k for k in range(1, count)], axis)


def split(call: Call, x: Expr | None, at: Sequence[int], axis: int) -> list[Any]:
    """Parts of a tensor that begin at these indices, and at 0; of None, as many times None."""
    if x is None or not at:
        return [x] * (len(at) + 1)
    made = call.emit(relax.op.split(x, list(at), axis))
    return [call.emit(made[k]) for k in range(len(at) + 1)]
