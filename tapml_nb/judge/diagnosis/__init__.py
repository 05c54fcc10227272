"""Diagnosis: what a wrong tensor looks like, and which kind of bug usually looks so.

A diagnosis is a claim, so every detector asks for strong evidence: it must account for nearly all
wrong elements and leave the right ones right.  Where nothing does, nothing is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from tapml_nb.judge.diagnosis import (
    geometry,
    moves,
    noise,
    nonfinite,
    operands,
    precision,
    scales,
    values,
)
from tapml_nb.judge.diagnosis.case import Case, Known
from tapml_nb.judge.diagnosis.pattern import Diagnosis, Pattern, found
from tapml_nb.judge.floor import Reference
from tapml_nb.numerics import same_type

__all__ = ["Diagnosis", "Known", "Pattern", "diagnose", "everything", "found"]

_DETECTORS: tuple[Callable[[Case], Diagnosis | None], ...] = (
    moves.never_written,
    moves.one_value,
    moves.stale_copy,
    # The right operation on the wrong operands says more than what that makes of the values.
    operands.swapped_operands,
    operands.wrong_contraction,
    operands.concatenation_order,
    operands.wrong_axis,
    operands.narrow_operands,
    operands.narrow_input,
    operands.narrow_terms,
    nonfinite.masked_rows,
    nonfinite.lost_infinity,
    nonfinite.lost_nan,
    nonfinite.special_inputs,
    nonfinite.overflow,
    geometry.one_element,
    precision.narrow_numbers,
    # What happened to each value, for the tensor as a whole.
    values.sign,
    values.rounding,
    values.wrapped,
    values.flushed,
    values.clipped,
    scales.rounded_constant,
    values.stored_towards_zero,
    values.factor,
    values.offset,
    moves.duplicated_lanes,
    moves.reversed_axis,
    moves.swapped_axes,
    moves.shifted,
    noise.cancels,
    noise.grows_along_axis,
    geometry.stripe,
    geometry.tail,
    moves.permuted,
    geometry.slices,
    geometry.few_elements,
    moves.never_written_in_places,
    scales.scaled_slices,
    noise.other_function,
    noise.grows_with_input,
    precision.narrow_sums,
)
"""The most specific first."""


def diagnose(
    op_kind: str,
    target: np.ndarray,
    reference: Reference,
    inputs: Sequence[np.ndarray],
    others: Iterable[tuple[str, np.ndarray]] = (),
    known: Known | None = None,
) -> Diagnosis | None:
    """What a wrong output looks like; None if it looks like nothing known.  The first that
    :func:`everything` finds."""
    return next(everything(op_kind, target, reference, inputs, others, known), None)


def everything(
    op_kind: str,
    target: np.ndarray,
    reference: Reference,
    inputs: Sequence[np.ndarray],
    others: Iterable[tuple[str, np.ndarray]] = (),
    known: Known | None = None,
) -> Iterator[Diagnosis]:
    """All that is true of a wrong output, the most specific first.

    Args:
        op_kind: the operator's kind, e.g. ``aten.sub`` or ``onnx.Sub``.
        target: the target's output.
        reference: the source's output with its floor.
        inputs: the operator's tensor inputs, in order.
        others: other tensors that the output may be a copy of, by what to call them; taken one
            by one, and only while nothing was found.
        known: what else is known.
    """
    if not same_type(target, reference.source) or target.size == 0:
        return
    with np.errstate(all="ignore"):
        case = Case(op_kind, target, reference, inputs, others, known or Known())
    for detect in _DETECTORS:
        with np.errstate(all="ignore"):
            diagnosis = detect(case)
        if diagnosis is not None:
            yield diagnosis
