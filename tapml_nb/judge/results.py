"""Results of a run, one per operator and step: what a report is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tapml_nb.graph import OpId
from tapml_nb.judge.diagnosis import Diagnosis
from tapml_nb.judge.verdict import Verdict
from tapml_nb.numerics import Statistics


@dataclass(frozen=True)
class OpResult:
    """The introduced error of one operator in one step.

    Attributes:
        op: the operator.
        step: the step, from 0.
        verdict: the worst over its outputs.
        ratio: distance from the exact result over the noise floor, of the worst output.
        floor: the noise floor where that output is worst, in the tensor's own unit.
        statistics: target against source, of the worst output; None where nothing ran.
        output: which output is the worst.
        source_ms: milliseconds on the source.
        target_ms: milliseconds of the kernel on the target, fastest run; NaN if none.
        sent_bytes: bytes sent to the target for this call.
        message: why the verdict, in words.
        kernel: key of the kernel, or what stood in its place.
        diagnosis: what the error of the worst output looks like; None if like nothing known.
        positions: that output's largest ratio at each token of the step; empty where it has no
            axis that runs along the tokens, or nothing was compared.
        heads: the same at each head of the attention, where it is known which axis they are on.
        device: which of the target's devices judged it, in words.
    """

    op: OpId
    step: int
    verdict: Verdict
    ratio: float = math.nan
    floor: float = math.nan
    statistics: Statistics | None = None
    output: int = 0
    source_ms: float = math.nan
    target_ms: float = math.nan
    sent_bytes: int = 0
    message: str = ""
    kernel: str = ""
    diagnosis: Diagnosis | None = None
    positions: tuple[float, ...] = ()
    heads: tuple[float, ...] = ()
    device: str = field(default="", compare=False)


@dataclass(frozen=True)
class AugmentedResult:
    """A kernel's verdict on derived inputs.

    Attributes:
        variant: in what the inputs differ from the real ones.
        shapes: shapes of the tensor inputs.
        result: the verdict; ``result.step`` is the step whose inputs were changed.
    """

    variant: str
    shapes: tuple[tuple[int, ...], ...]
    result: OpResult


@dataclass(frozen=True)
class OutputResult:
    """The one of the model's outputs that is furthest off in a hybrid run.

    Attributes:
        name: ``"logits"``, or ``"output 1"`` (from 0) where there are several; empty for the only
            one.
        step: the step in which it is, from 0.
        ratio: distance from the float64 run of the whole model, over the source's own.
        verdict: ``PASS`` while it is within the noise floor of the pure source run.
    """

    name: str
    step: int
    ratio: float
    verdict: Verdict

    @property
    def badness(self) -> tuple[bool, float]:
        """Sorts the worst last: what is beyond the floor, and of it what has no ratio."""
        broken = self.verdict is not Verdict.PASS
        return broken, (math.inf if broken else -1.0) if math.isnan(self.ratio) else self.ratio


@dataclass(frozen=True)
class AccumulatedResult:
    """The accumulated error of one operator in a hybrid run.

    Attributes:
        op: the operator.
        step: the step, from 0.
        placement: where it was computed.
        ratio: distance from the float64 run of the whole model, over the source's own.
        max_abs: largest absolute difference to the pure source run.
        snr_db: signal to noise against the pure source run, in decibels.
        relative: root mean square difference over root mean square of the source's value.
        gain: ``relative`` over the largest ``relative`` among its inputs; NaN if those are 0.
        verdict: ``PASS`` while the value is within the noise floor of the pure source run.
        message: why not, in words.
    """

    op: OpId
    step: int
    placement: str
    ratio: float
    max_abs: float
    snr_db: float
    relative: float
    gain: float
    verdict: Verdict
    message: str = ""
