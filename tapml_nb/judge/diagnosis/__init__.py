"""Diagnosis: what a wrong tensor looks like, and which kind of bug usually looks so.

A diagnosis is a claim, so every detector asks for strong evidence: it must account for nearly all
wrong elements and leave the right ones right.  Where nothing does, nothing is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tapml_nb.judge.diagnosis import copies, geometry, moves, noise, nonfinite, operands, values
from tapml_nb.judge.diagnosis.case import Case
from tapml_nb.judge.diagnosis.pattern import Diagnosis, Pattern
from tapml_nb.judge.floor import Reference

__all__ = ["Diagnosis", "Pattern", "diagnose"]

_DETECTORS: tuple[Callable[[Case], Diagnosis | None], ...] = (
    # The right operation on the wrong operands says more than what that makes of the values.
    operands.swapped_operands,
    operands.wrong_contraction,
    operands.concatenation_order,
    operands.wrong_axis,
    nonfinite.masked_rows,
    nonfinite.lost_nonfinite,
    nonfinite.special_inputs,
    nonfinite.overflow,
    geometry.one_element,
    # What happened to each value, for the tensor as a whole.
    values.sign,
    values.rounding,
    values.wrapped,
    values.flushed,
    values.clipped,
    values.factor,
    values.offset,
    moves.duplicated_lanes,
    moves.reversed_axis,
    moves.swapped_axes,
    moves.shifted,
    noise.grows_along_axis,
    geometry.stripe,
    geometry.tail,
    moves.permuted,
    geometry.slices,
    geometry.few_elements,
    values.stored_towards_zero,
    noise.grows_with_input,
    noise.narrower,
)
"""The most specific first."""


def diagnose(
    op_kind: str,
    target: np.ndarray,
    reference: Reference,
    inputs: Sequence[np.ndarray],
    others: Iterable[tuple[str, np.ndarray]] = (),
) -> Diagnosis | None:
    """What a wrong output looks like; None if it looks like nothing known.

    Args:
        op_kind: the operator's kind, e.g. ``aten.sub``.
        target: the target's output.
        reference: the source's output with its floor.
        inputs: the operator's tensor inputs, in order.
        others: other tensors that the output may be a copy of, by what to call them; taken one
            by one, and only while nothing was found.
    """
    source = reference.source
    if target.shape != source.shape or target.dtype != source.dtype or target.size == 0:
        return None
    with np.errstate(all="ignore"):
        case = Case(op_kind, target, reference, inputs)
        result = copies.never_written(case) or copies.stale_copy(case, others)
        for detect in _DETECTORS:
            result = result or detect(case)
    return result
