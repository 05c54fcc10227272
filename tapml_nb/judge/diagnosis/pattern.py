"""What a wrong tensor can look like, and what each pattern usually means."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Pattern(StrEnum):
    """What an error looks like."""

    # nothing was computed, or something else was handed on
    NEVER_WRITTEN = "never written"
    ONE_VALUE = "one value everywhere"
    STALE_COPY = "copy of another tensor"
    # the right values in the wrong places
    REVERSED = "axis reversed"
    SWAPPED_AXES = "axes swapped"
    SHIFTED = "shifted by one"
    PERMUTED = "slices permuted"
    DUPLICATED_LANES = "duplicated lanes"
    # the right operation on the wrong operands
    SWAPPED_OPERANDS = "operands swapped"
    TRANSPOSED_OPERAND = "operand transposed"
    WRONG_AXIS = "wrong axis"
    CONCATENATION_ORDER = "concatenation order"
    # NaN and infinities
    NAN_NEGATIVE_INPUT = "NaN where the input is negative"
    NAN_MASKED_ROW = "NaN in fully masked rows"
    INFINITY_LOST = "infinity lost"
    NAN_LOST = "NaN lost"
    NAN_INFINITE_INPUT = "NaN where the input is infinite"
    OVERFLOW = "overflow where values are large"
    # a wrong function of the right value
    SIGN = "sign flipped"
    ABSOLUTE = "negative lost"
    FACTOR = "constant factor"
    OFFSET = "constant added"
    CLIPPED = "saturated"
    WRAPPED = "integer wrap-around"
    FLUSHED = "small values flushed to zero"
    HALVES = "halves rounded the other way"
    ROUNDING_MODE = "another rounding"
    TRUNCATED = "truncated towards zero"
    # how precise it is
    GROWS_ALONG_AXIS = "grows along an axis"
    GROWS_WITH_INPUT = "grows with the input"
    OTHER_FUNCTION = "another function of the input"
    NARROWER = "precision of a narrower dtype"
    # where it is wrong
    ONE_ELEMENT = "one element"
    FEW_ELEMENTS = "a few elements"
    LANE_STRIPE = "lane stripe"
    TAIL = "tail past a tile"
    ONE_SLICE = "one slice"
    SEVERAL_SLICES = "several slices"
    BLOCK = "one block"


CAUSES = {
    Pattern.NEVER_WRITTEN: "usually a kernel that never stores its result, or stores it elsewhere",
    Pattern.ONE_VALUE: "usually an index that is the same for all elements, or a result that is"
    " lost (0) or spoiled (NaN) as a whole",
    Pattern.STALE_COPY: "usually a buffer that was reused too early, or an operator optimised away",
    Pattern.REVERSED: "usually a stride, a loop or a flip with the wrong sign",
    Pattern.SWAPPED_AXES: "usually a layout: a buffer written in one order and read in another",
    Pattern.SHIFTED: "usually an index that is off by one",
    Pattern.PERMUTED: "usually a wrong gather index, or heads assigned to the wrong group",
    Pattern.DUPLICATED_LANES: "usually a vectorised loop whose lanes share a value",
    Pattern.SWAPPED_OPERANDS: "usually arguments bound in the wrong order",
    Pattern.TRANSPOSED_OPERAND: "usually a transpose that the layout of a weight makes twice or not"
    " at all",
    Pattern.WRONG_AXIS: "usually an axis counted from the wrong end, or not moved with a layout",
    Pattern.CONCATENATION_ORDER: "usually offsets or arguments in the wrong order",
    Pattern.NAN_NEGATIVE_INPUT: "usually fast-math: pow, sqrt or log by way of a logarithm",
    Pattern.NAN_MASKED_ROW: "usually a softmax that subtracts -inf from -inf, or divides by a sum"
    " of 0",
    Pattern.INFINITY_LOST: "usually fast-math, which assumes finite values, or -inf replaced by the"
    " dtype's lowest number",
    Pattern.NAN_LOST: "usually a minimum, maximum or comparison that drops NaN",
    Pattern.NAN_INFINITE_INPUT: "usually fast-math, which assumes finite values",
    Pattern.OVERFLOW: "usually an intermediate result in a dtype with too small a range (float16)",
    Pattern.SIGN: "usually a subtraction or a negation the wrong way round",
    Pattern.ABSOLUTE: "usually a sign that is lost: an unsigned conversion, or even symmetry",
    Pattern.FACTOR: "usually a scale that is missing, applied twice, or of another size",
    Pattern.OFFSET: "usually a bias, a zero point or an epsilon that is missing or applied twice",
    Pattern.CLIPPED: "usually a clamp or a saturating conversion to a narrower type",
    Pattern.WRAPPED: "usually an integer type that is too narrow",
    Pattern.FLUSHED: "usually subnormal numbers flushed to zero, or an underflow in a narrower"
    " dtype",
    Pattern.HALVES: "usually half-away-from-zero rounding in place of half-to-even",
    Pattern.ROUNDING_MODE: "usually a conversion that truncates in place of rounding",
    Pattern.TRUNCATED: "usually C's integer division or a plain cast, which round towards zero",
    Pattern.GROWS_ALONG_AXIS: "usually rounding that adds up (a running sum), or angles of position"
    " in too little precision",
    Pattern.GROWS_WITH_INPUT: "usually cancellation (a variance as E[x²]-E[x]²), or a range"
    " reduction that is too short",
    Pattern.OTHER_FUNCTION: "usually an approximation (tanh for erf, a short polynomial), another"
    " variant of the function, or a term that is missing",
    Pattern.NARROWER: "usually operands or sums kept in a narrower dtype",
    Pattern.ONE_ELEMENT: "usually an edge case of the index, or one special value",
    Pattern.FEW_ELEMENTS: "usually special values, or a race",
    Pattern.LANE_STRIPE: "usually one lane of a vectorised or unrolled loop",
    Pattern.TAIL: "usually the last, incomplete tile: a bound that is not checked, or a remainder"
    " loop that is missing",
    Pattern.ONE_SLICE: "usually the offset of one head, channel or row",
    Pattern.SEVERAL_SLICES: "usually one thread, block or group of heads in a regular grid",
    Pattern.BLOCK: "usually one tile of a tiled loop, or a race within it",
}
"""What is usually behind a pattern."""


@dataclass(frozen=True)
class Diagnosis:
    """A claim about a wrong tensor, with its grounds.

    Attributes:
        pattern: what the error looks like.
        words: the same in a sentence, with figures.
        evidence: what was counted or fitted.
        usual_cause: the kind of bug that usually looks so.
    """

    pattern: Pattern
    words: str
    evidence: str
    usual_cause: str


def found(pattern: Pattern, words: str, evidence: str, cause: str = "") -> Diagnosis:
    """A diagnosis with the pattern's usual cause, unless a nearer one is known."""
    return Diagnosis(pattern, words, evidence, cause or CAUSES[pattern])
