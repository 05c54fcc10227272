"""Who is right, apart from the judge: how far a kernel is from the exact result, in its own terms.

The judge is what is measured here, so nothing of its floors, scales or lengths is used.  An
element's *noise* is found by experiment instead.  The operator's floating-point inputs are moved,
each by a few roundings up or down at random, eight times; the source computes the operator on them
in float64 and in the model's own precision.  Three things follow, for every element alone:

- how far the exact result moves: ``u`` times the root of the sum of squares of what each operand
  contributes (for a sum of products √Σ(ab)², for exp(x) ``|x|`` times the result, for a copied
  value itself), whatever the operator is, and without a thought about rows and columns;
- how far the source's own result is from the exact one each time: what its intermediate roundings
  cost there;
- the result's own rounding, ``u`` times its magnitude.

    noise = u·|exact| + u·spread/step + rms(source - exact)

and at least the smallest normal number (float32, bfloat16) or half the smallest number (float16).
A result's *distance* is the largest error of an element over its noise; infinite where it is not
finite and the source is, or the other way round, where integers or booleans differ (as bytes: a
boolean that nobody wrote is none), and where NaN or the sign of an infinity differs.

With ``d₀ = max(1, distance of the operator's own kernel)``, a mutant is

- **equivalent** if it gives the same bits as that kernel, with memory poisoned in two ways;
- **clear** if its distance is at least 100 d₀;
- **benign** if it is at most 3 d₀;
- **unclear** in between, and where indices are chosen among equals (``argmax`` and the like).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from ml_dtypes import bfloat16

from tapml_nb.graph import Op

CLEAR, BENIGN = 100.0, 3.0
"""Times the distance of the operator's own kernel."""

_TRIALS = 8
_STEPS = {torch.float32: 2.0**-19, torch.float16: 2.0**-8, torch.bfloat16: 2.0**-5}
"""How far inputs are moved: 32 roundings, or 8 where there are few digits."""
_ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8, "float64": 2.0**-53}
_LEAST = {"float32": 2.0**-126, "float16": 2.0**-25, "bfloat16": 2.0**-126, "float64": 2.0**-1022}
_SELECTS = ("argmax", "argmin", "topk", "sort", "argsort")


class Truth(StrEnum):
    """What a mutant is, whatever the judge says."""

    EQUIVALENT = "equivalent"
    BENIGN = "benign"
    UNCLEAR = "unclear"
    CLEAR = "clear"


@dataclass(frozen=True)
class Ground:
    """What an operator's outputs have to be: an output's source, its exact values, its noise.

    The last two are None where the output is not of floating point, or cannot be computed so.
    """

    source: np.ndarray
    exact: np.ndarray | None
    noise: np.ndarray | None

    def distance(self, output: np.ndarray) -> float:
        """Of a result: its largest error over the noise there."""
        source = self.source
        if output.shape != source.shape or output.dtype != source.dtype:
            return math.inf
        if self.exact is None or self.noise is None:
            return 0.0 if output.tobytes() == source.tobytes() else math.inf
        ours, theirs = output.astype(np.float64), source.astype(np.float64)
        finite = np.isfinite(theirs)
        if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=True):
            return math.inf
        if not np.isfinite(ours[finite]).all():
            return math.inf
        known = finite & np.isfinite(self.exact)
        error = np.abs(ours[known] - self.exact[known])
        return float((error / self.noise[known]).max()) if error.size else 0.0


def grounds(program: Any, op: Op, values: Any) -> list[Ground] | None:
    """What an operator's outputs have to be; None where a float64 run is due and cannot be made."""
    sources = [program.to_numpy(t).copy() for t in program.run(op.id, values)]
    if not any(_dtype(s) in _ROUNDOFF for s in sources):
        return [Ground(s, None, None) for s in sources]
    exact = program.run_exact(op.id, values)
    if exact is None:
        return None
    exacts = [_wide(program, t) for t in exact]
    if any(e.shape != s.shape for e, s in zip(exacts, sources, strict=True)):
        return None
    moved = [np.zeros(s.shape) for s in sources]
    rounded = [np.zeros(s.shape) for s in sources]
    generator = torch.Generator().manual_seed(len(op.id))
    steps = [_STEPS[t.dtype] for v in op.inputs if (t := values[v], True)[1] and _moves(t)]
    step = max(steps, default=1.0)
    for _ in range(_TRIALS if steps else 0):
        nearby = {**values, **{v: _moved(values[v], step, generator) for v in op.inputs}}
        again = program.run_exact(op.id, nearby)
        if again is None:
            return None
        ours = [program.to_numpy(t).astype(np.float64) for t in program.run(op.id, nearby)]
        for k, (e, s) in enumerate(zip([_wide(program, t) for t in again], ours, strict=True)):
            if e.shape == exacts[k].shape == s.shape:
                with np.errstate(all="ignore"):
                    moved[k] += _finite(e - exacts[k]) ** 2
                    rounded[k] += _finite(s - e) ** 2
    return [
        _ground(source, e, m, r, step)
        for source, e, m, r in zip(sources, exacts, moved, rounded, strict=True)
    ]


def _ground(
    source: np.ndarray, exact: np.ndarray, moved: np.ndarray, rounded: np.ndarray, step: float
) -> Ground:
    name = _dtype(source)
    if name not in _ROUNDOFF:
        return Ground(source, None, None)
    unit = _ROUNDOFF[name]
    noise = unit * np.abs(_finite(exact)) + unit * np.sqrt(moved / _TRIALS) / step
    noise += np.sqrt(rounded / _TRIALS)
    return Ground(source, exact, np.maximum(noise, _LEAST[name]))


def truth(
    op: Op,
    grounds: Sequence[Ground],
    own: Sequence[np.ndarray],
    runs: Sequence[Sequence[np.ndarray]],
) -> tuple[Truth, float]:
    """What a mutant is, and its distance over that of the operator's own kernel.

    Args:
        op: the operator.
        grounds: of its outputs.
        own: what its own kernel gives.
        runs: what the mutant gives, each time it was run.
    """
    if all(a.tobytes() == b.tobytes() for run in runs for a, b in zip(run, own, strict=True)):
        return Truth.EQUIVALENT, 0.0
    with np.errstate(all="ignore"):
        least = max([1.0, *(g.distance(a) for g, a in zip(grounds, own, strict=True))])
        farthest = max(g.distance(a) for run in runs for g, a in zip(grounds, run, strict=True))
    times = farthest / least
    if op.kind.rpartition(".")[2] in _SELECTS and times == math.inf:
        return Truth.UNCLEAR, times
    if times >= CLEAR:
        return Truth.CLEAR, times
    return (Truth.BENIGN if times <= BENIGN else Truth.UNCLEAR), times


def _moves(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype in _STEPS


def _moved(value: Any, step: float, generator: torch.Generator) -> Any:
    """A tensor with every element moved up or down by so much of itself; others as they are."""
    if not _moves(value):
        return value
    sign = torch.randint(0, 2, value.shape, generator=generator) * 2.0 - 1.0
    wide = value.detach().double() * (1 + step * sign)
    large = ~(wide.abs() < torch.finfo(value.dtype).max / 4)
    return torch.where(large, value.detach(), wide.to(value.dtype))


def _wide(program: Any, tensor: Any) -> np.ndarray:
    array = program.to_numpy(tensor)
    return array if array.dtype.kind in "iub" and array.dtype != bfloat16 else array.astype(float)


def _finite(array: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(array), array, 0.0)


def _dtype(array: np.ndarray) -> str:
    return str(array.dtype)
