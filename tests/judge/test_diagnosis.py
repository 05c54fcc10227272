"""Diagnoses: every fault is named, and by no other name; what fits nothing gets no name."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tapml_nb as tapml
from tapml_nb.judge import Reference, Verdict, judge, reference_of
from tapml_nb.judge.diagnosis import Diagnosis, Known, Pattern, diagnose, everything
from tapml_nb.judge.diagnosis.pattern import CAUSES
from tapml_nb.targets.wire.calls import PATTERNS
from tests import kernels
from tests.models import two_layers

F32, F16, BF16 = np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)
DTYPES = [F32, F16, BF16]


@dataclass
class Work:
    """An operator's honest run: its inputs, the source's result, the exact one."""

    kind: str
    inputs: list[np.ndarray]
    reference: Reference
    others: list[tuple[str, np.ndarray]] = field(default_factory=list)
    known: Known = field(default_factory=Known)

    @property
    def exact(self) -> np.ndarray:
        return self.reference.exact()


def work(kind, exact, inputs: Sequence[np.ndarray], dtype=F32, length=1) -> Work:
    with np.errstate(all="ignore"):
        source = np.asarray(exact).astype(dtype)
    return Work(kind, list(inputs), reference_of(source, np.asarray(exact), length))


def honest(w: Work, seed=0) -> np.ndarray:
    """What another honest kernel gives: within a floor or two."""
    rng = np.random.default_rng([seed, 1])
    source = w.reference.source
    if source.dtype.kind in "iub":
        return source.copy()
    noise = rng.standard_normal(source.shape) * 2 * 2.0 ** -(24 if source.dtype == F32 else 12)
    with np.errstate(all="ignore"):
        return (w.exact * (1 + noise)).astype(source.dtype)


def normal(shape, dtype=F32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def silu(shape, dtype=F32):
    x = normal(shape, dtype)
    wide = x.astype(np.float64)
    return work("aten.silu", wide / (1 + np.exp(-wide)), [x], dtype)


def linear(m=48, k=256, n=96, dtype=F32):
    x, w = normal((m, k), dtype, 1), normal((n, k), dtype, 2)
    return work("aten.linear", x.astype(float) @ w.astype(float).T, [x, w], dtype, k)


def heads(dtype=F32):
    """Attention values: batch, heads, tokens, channels."""
    return silu((2, 8, 12, 20), dtype)


def diagnosis_of(w: Work, target: np.ndarray) -> Diagnosis | None:
    """The diagnosis, asked for as the product does: of what fails, without any warning."""
    target = np.asarray(target).astype(w.reference.source.dtype)
    assert judge(target, w.reference).verdict in (Verdict.FAIL, Verdict.NONFINITE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return diagnose(w.kind, target, w.reference, w.inputs, w.others, w.known)


def pattern_of(w: Work, target: np.ndarray) -> Pattern | None:
    found = diagnosis_of(w, target)
    if found is not None:
        assert found.words
        assert found.evidence
        assert found.usual_cause.startswith("usually ")
    return None if found is None else found.pattern


# -- faults of any floating-point tensor ----------------------------------------------------------


def silu_of_rows(dtype=F32):
    return silu((3, 16, 24), dtype)


def linear_of(dtype=F32):
    return linear(dtype=dtype)


def spread(y):
    return y.astype(float).std().astype(y.dtype)


def element(y):
    y.reshape(-1)[y.size // 3] += 3


def handful(y):
    y.reshape(-1)[np.random.default_rng(5).choice(y.size, 5, replace=False)] += 3


def lane(y):
    y[..., 3::4] = y[..., 3::4] * 1.5 + spread(y)


def two_lanes(y):
    y[..., 2::8] += 2 * spread(y)
    y[..., 5::8] -= 2 * spread(y)


def pairs(y):
    y[..., 1::2] = y[..., 0 : y.shape[-1] // 2 * 2 : 2]


def lane_of_its_neighbour(y):
    y[..., 3::4] = y[..., 2::4]


def reverse_first(y):
    y[:] = y[::-1].copy()


def reverse_last(y):
    y[:] = y[..., ::-1].copy()


def transpose(y):
    y[:] = y.swapaxes(-1, -2).copy().reshape(y.shape)


def shift(y):
    y[..., 1:] = y[..., :-1].copy()


def shift_back(y):
    y[:-1] = y[1:].copy()


def roll(y):
    y[:] = np.roll(y, 5, axis=-2)


def permute(y):
    y[:] = y.take(np.random.default_rng(3).permutation(y.shape[-2]), axis=-2)


def head_from_another_group(y):
    y[:, 1::2] = y[:, 0::2]


def one_head(y):
    y[:, 5] = 0


def one_row(y):
    y[..., 7, :] *= 3


def one_column(y):
    y[..., 7] += 4 * spread(y)


def every_other_head(y):
    y[:, 1::2] = normal(y[:, 1::2].shape, y.dtype, 9)


def a_block(y):
    y[..., 4:8, 8:16] = 0


def sign(y):
    y *= -1


def absolute(y):
    y[:] = np.abs(y)


def double(y):
    y *= 2


def by_root(y):
    y /= np.sqrt(y.shape[-1])


def plus(y):
    y += 0.75 * spread(y)


def zero(y):
    y[:] = 0


def one_value(y):
    y[:] = y.reshape(-1)[0]


def clip(y):
    np.clip(y, -0.6 * spread(y), 0.6 * spread(y), out=y)


def relu(y):
    np.maximum(y, 0, out=y)


def nan_in_a_head(y):
    y[:, 2] = np.nan


def poison(byte):
    def fill(y):
        y.view(np.uint8)[:] = byte

    return fill


ANY = [  # on the last two axes at least
    (element, Pattern.ONE_ELEMENT),
    (handful, Pattern.FEW_ELEMENTS),
    (lane, Pattern.LANE_STRIPE),
    (two_lanes, Pattern.LANE_STRIPE),
    (pairs, Pattern.DUPLICATED_LANES),
    (lane_of_its_neighbour, Pattern.DUPLICATED_LANES),
    (reverse_first, Pattern.REVERSED),
    (reverse_last, Pattern.REVERSED),
    (transpose, Pattern.SWAPPED_AXES),
    (shift, Pattern.SHIFTED),
    (roll, Pattern.PERMUTED),
    (permute, Pattern.PERMUTED),
    (one_row, Pattern.ONE_SLICE),
    (one_column, Pattern.ONE_SLICE),
    (a_block, Pattern.BLOCK),
    (sign, Pattern.SIGN),
    (absolute, Pattern.ABSOLUTE),
    (double, Pattern.FACTOR),
    (by_root, Pattern.FACTOR),
    (plus, Pattern.OFFSET),
    (zero, Pattern.ONE_VALUE),
    (one_value, Pattern.ONE_VALUE),
    (clip, Pattern.CLIPPED),
    (relu, Pattern.CLIPPED),
    (poison(PATTERNS[0]), Pattern.ONE_VALUE),  # one run alone does not tell who wrote it
    (poison(PATTERNS[1]), Pattern.ONE_VALUE),
]
OF_HEADS = [
    (shift_back, Pattern.REVERSED),  # a batch of two
    (head_from_another_group, Pattern.PERMUTED),
    (one_head, Pattern.ONE_SLICE),
    (every_other_head, Pattern.SEVERAL_SLICES),
    (nan_in_a_head, Pattern.ONE_SLICE),
]


def tables():
    for dtype in DTYPES:
        for make in (silu_of_rows, linear_of, heads):
            for fault, expected in ANY:
                if not (make is heads and fault is two_lanes):  # 20 channels: too few groups of 8
                    yield make, dtype, fault, expected
        for fault, expected in OF_HEADS[1:]:
            yield heads, dtype, fault, expected


@pytest.mark.parametrize(("make", "dtype", "fault", "expected"), list(tables()))
def test_a_fault_of_any_tensor(make, dtype, fault: Callable[..., None], expected):
    w = make(dtype)
    target = honest(w)
    fault(target)
    assert pattern_of(w, target) is expected, diagnosis_of(w, target)


# -- faults of certain operators ------------------------------------------------------------------


def case(expected):
    """A function that gives an operator's work and the target's output is a row of the table."""

    def register(make):
        CASES.append((make, expected))
        return make

    return register


CASES: list[tuple[Callable[..., Any], Pattern]] = []


def changed(w: Work, fault, seed=0):
    target = honest(w, seed)
    fault(target)
    return w, target


@case(Pattern.NEVER_WRITTEN)
def memory_that_two_runs_left_alone():
    w = silu((3, 16, 24))
    w.known = Known(unwritten=np.ones((3, 16, 24), bool))
    return changed(w, poison(PATTERNS[1]))


@case(Pattern.TAIL)
def past_the_last_tile_of_columns():
    w = linear(n=100)
    return changed(w, lambda y: y.__setitem__((..., slice(96, None)), 7))


@case(Pattern.TAIL)
def past_the_last_tile_of_rows():
    w = silu((3, 50, 24))
    return changed(w, lambda y: y.__setitem__((slice(None), slice(48, None)), np.nan))


@case(Pattern.TAIL)
def past_the_last_vector_of_a_vector():
    w = silu((1003,))
    return changed(w, lambda y: y.__setitem__(slice(1000, None), 3))


@case(Pattern.TAIL)
def past_the_last_vector_in_memory():
    w = silu((7, 43))
    return changed(w, lambda y: y.reshape(-1).__setitem__(slice(296, None), 3))


@case(Pattern.SEVERAL_SLICES)
def half_of_the_rows():
    w = silu((64, 24))
    return changed(w, lambda y: y.__setitem__(slice(32, None), 3))


@case(Pattern.SEVERAL_SLICES)
def three_rows():
    w = silu((64, 24))
    return changed(w, lambda y: y.__setitem__([3, 17, 50], 3))


@case(Pattern.LANE_STRIPE)
def a_stripe_in_memory():
    w = silu((63, 21))
    return changed(w, lambda y: y.reshape(-1).__setitem__(slice(3, None, 8), 3))


@case(Pattern.ONE_ELEMENT)
def one_nan():
    w = linear()
    return changed(w, lambda y: y.__setitem__((5, 7), np.nan))


@case(Pattern.SWAPPED_OPERANDS)
def subtraction():
    a, b = normal((16, 24)), normal((16, 24), seed=1)
    w = work("aten.sub", a.astype(float) - b, [a, b])
    return w, b - a


@case(Pattern.SWAPPED_OPERANDS)
def power():
    a, b = np.abs(normal((16, 24))) + 0.5, np.abs(normal((24,), seed=1)) + 0.5
    w = work("aten.pow", a.astype(float) ** b, [a, b])
    return w, b**a


@case(Pattern.SWAPPED_OPERANDS)
def comparison():
    a, b = normal((16, 24)), normal((16, 24), seed=1)
    return work("aten.lt", a < b, [a, b], np.dtype(bool)), b < a


@case(Pattern.SWAPPED_OPERANDS)
def square_product():
    a, b = normal((64, 64)), normal((64, 64), seed=1)
    w = work("aten.mm", a.astype(float) @ b, [a, b], length=64)
    return w, b @ a


@case(Pattern.TRANSPOSED_OPERAND)
def square_weight():
    x, a, b = normal((2, 24, 64)), normal((64, 64), seed=1), normal((64,), seed=2)
    w = work("aten.linear", x.astype(float) @ a.T + b, [a, b, x], length=64)  # as exported
    return w, x @ a + b


@case(Pattern.WRONG_AXIS)
def sum_of_a_square():
    x = normal((3, 40, 40))
    return work("aten.sum", x.astype(float).sum(1), [x], length=40), x.sum(2)


@case(Pattern.WRONG_AXIS)
def softmax_over_rows():
    x = normal((12, 40))

    def softmax(axis):
        e = np.exp(x.astype(float))
        return e / e.sum(axis=axis, keepdims=True)

    return work("aten.softmax", softmax(1), [x], length=40), softmax(0)


@case(Pattern.WRONG_AXIS)
def argmax_of_a_square():
    x = normal((40, 40))
    return work("aten.argmax", x.argmax(0), [x], np.dtype(np.int64)), x.argmax(1)


@case(Pattern.CONCATENATION_ORDER)
def concatenation():
    parts = [normal((4, n, 8), seed=n) for n in (3, 5, 4)]
    w = work("aten.cat", np.concatenate(parts, 1), parts)
    return w, np.concatenate([parts[k] for k in (0, 2, 1)], 1)


@case(Pattern.NAN_NEGATIVE_INPUT)
def square_by_logarithm():
    x = normal((16, 24))
    w = work("aten.pow", x.astype(float) ** 2, [x])
    with np.errstate(invalid="ignore"):
        return w, np.exp(2 * np.log(x.astype(float)))


@case(Pattern.NAN_MASKED_ROW)
def softmax_of_masked_rows():
    x = normal((2, 4, 12, 12))
    x[1, :, 8:] = np.finfo(np.float32).min
    e = np.exp(x - x.max(-1, keepdims=True), dtype=float)
    w = work("aten.softmax", e / e.sum(-1, keepdims=True), [x], length=12)
    return changed(w, lambda y: y.__setitem__((1, slice(None), slice(8, None)), np.nan))


@case(Pattern.NAN_MASKED_ROW)
def attention_with_a_mask():
    q = normal((2, 4, 12, 8))
    mask = np.ones((2, 1, 12, 12), bool)
    mask[0, 0, :3] = False
    exact = q.astype(float)
    exact[0, :, :3] = 0
    w = work("aten.scaled_dot_product_attention", exact, [q, q, q, mask], length=12)
    return changed(w, lambda y: y.__setitem__((0, slice(None), slice(3)), np.nan))


@case(Pattern.INFINITY_LOST)
def a_number_in_place_of_infinity():
    x = normal((12, 12))
    exact = np.where(np.triu(np.ones((12, 12), bool), 1), -np.inf, x.astype(float))
    w = work("aten.masked_fill", exact, [x])
    return w, np.maximum(w.reference.source, -10_000)


@case(Pattern.NAN_LOST)
def a_maximum_that_drops_nan():
    x = normal((12, 12))
    x[::5, ::3] = np.nan
    w = work("aten.relu", np.maximum(x, 0).astype(float), [x])
    return w, np.fmax(x, 0)


@case(Pattern.NAN_INFINITE_INPUT)
def exponential_of_infinity():
    x = np.where(np.triu(np.ones((12, 12), bool), 1), -np.inf, normal((12, 12)))
    x = x.astype(np.float32)
    w = work("aten.exp", np.exp(x.astype(float)), [x])
    return changed(w, lambda y: y.__setitem__(np.isinf(x), np.nan))


@case(Pattern.OVERFLOW)
def squares_in_float16():
    x = normal((16, 24)) * np.float32(200)
    w = work("aten.square", x.astype(float) ** 2, [x])
    return changed(w, lambda y: y.__setitem__(y > 65504, np.inf))


@case(Pattern.OVERFLOW)
def a_norm_of_large_rows():
    x = normal((32, 64))
    x[[3, 9, 20]] *= 1000
    rms = np.sqrt((x.astype(float) ** 2).mean(-1, keepdims=True))
    w = work("aten.rms_norm", x / rms, [x], length=64)
    return changed(w, lambda y: y.__setitem__([3, 9, 20], np.nan))


@case(Pattern.CLIPPED)
def the_largest_float16():
    x = normal((16, 64)) * np.float32(300)
    w = work("aten.square", x.astype(float) ** 2, [x])
    return changed(w, lambda y: np.minimum(y, 65504, out=y))


@case(Pattern.CLIPPED)
def a_range_of_int8():
    x = np.random.default_rng(0).integers(-400, 400, (16, 24))
    return work("aten.add", x, [x], np.dtype(np.int32)), np.clip(x, -128, 127)


@case(Pattern.WRAPPED)
def eight_bits():
    x = np.random.default_rng(0).integers(-400, 400, (16, 24))
    return work("aten.mul", x, [x], np.dtype(np.int32)), x.astype(np.int8)


@case(Pattern.WRAPPED)
def thirty_two_bits():
    x = np.random.default_rng(0).integers(0, 1 << 34, (16, 24))
    return work("aten.mul", x, [x // 7], np.dtype(np.int64)), x.astype(np.int32)


@case(Pattern.FLUSHED)
def subnormal_float16():
    x = (10.0 ** np.random.default_rng(0).uniform(-6, -3, (4, 2000))).astype(np.float16)
    w = work("aten.exp", x.astype(float), [normal(x.shape)], F16)
    return changed(w, lambda y: y.__setitem__(y < 6e-5, 0))


@case(Pattern.HALVES)
def half_away_from_zero():
    x = (np.random.default_rng(0).integers(-20, 20, (16, 24)) / 2).astype(np.float32)
    w = work("aten.round", np.rint(x.astype(float)), [x])
    return w, np.sign(x) * np.floor(np.abs(x) + 0.5)


@case(Pattern.TRUNCATED)
def a_floor_that_truncates():
    x = normal((16, 24)) * np.float32(5)
    return work("aten.floor", np.floor(x.astype(float)), [x]), np.trunc(x)


@case(Pattern.TRUNCATED)
def division_of_negative_numbers():
    a = np.random.default_rng(0).integers(-50, 50, (16, 24))
    b = np.array(7)
    w = work("aten.floor_divide", a // b, [a, b], np.dtype(np.int64))
    return w, np.trunc(a / b)


@case(Pattern.TRUNCATED)
def remainder_of_negative_numbers():
    a = normal((16, 24)) * np.float32(9)
    return work("aten.remainder", np.mod(a.astype(float), 2.5), [a]), np.fmod(a, 2.5)


@case(Pattern.TRUNCATED)
def bfloat16_cut_off():
    w = linear(dtype=BF16)
    bits = w.exact.astype(np.float32).view(np.uint32) >> 16
    return w, bits.astype(np.uint16).view(BF16)


@case(Pattern.ROUNDING_MODE)
def nearest_in_place_of_floor():
    x = normal((16, 24)) * np.float32(5)
    return work("aten.floor", np.floor(x.astype(float)), [x]), np.rint(x)


@case(Pattern.STALE_COPY)
def an_activation_left_out():
    w = silu((3, 16, 24))
    return w, w.inputs[0]


@case(Pattern.STALE_COPY)
def a_transpose_left_out():
    x = normal((6, 8, 10))
    w = work("aten.transpose", x.swapaxes(0, 2), [x])
    return w, x.reshape(10, 8, 6)


@case(Pattern.STALE_COPY)
def another_operators_result():
    w = linear()
    w.others = [(f"layer{k}/linear", normal((48, 96), seed=k)) for k in range(20)]
    return w, w.others[13][1]


@case(Pattern.FACTOR)
def a_thousandth_in_bfloat16():
    w = linear(dtype=BF16)
    return w, w.exact * 1.001


@case(Pattern.FACTOR)
def bessels_correction():
    x = normal((40, 33))
    w = work("aten.var", x.astype(float).var(-1, ddof=1), [x], length=33)
    return w, x.var(-1)


@case(Pattern.GROWS_ALONG_AXIS)
def angles_of_position_in_float32():
    position = np.arange(2048)[:, None]
    frequency = 10000.0 ** (-np.arange(32) / 32)
    w = work("aten.cos", np.cos(position * frequency), [])
    return w, np.cos(position * (frequency * (1 + 3e-6 * normal(32).astype(float))))


@case(Pattern.GROWS_ALONG_AXIS)
def a_running_sum_in_bfloat16():
    x = normal((64, 1024))
    total = np.zeros(64, np.float32)
    target = np.empty_like(x)
    for k in range(1024):
        total = (total + x[:, k]).astype(BF16).astype(np.float32)
        target[:, k] = total * np.float32(1.0001)
    return work("aten.cumsum", x.astype(float).cumsum(-1), [x], length=1024), target


@case(Pattern.GROWS_WITH_INPUT)
def variance_by_squares():
    offset = np.linspace(0, 200, 400)[np.random.default_rng(1).permutation(400), None]
    x = (normal((400, 256)) + offset).astype(np.float32)
    w = work("aten.var", x.astype(float).var(-1, ddof=1), [x], length=256)
    return w, ((x * x).mean(-1) - x.mean(-1) ** 2) * np.float32(256 / 255)


@case(Pattern.GROWS_WITH_INPUT)
def sine_of_large_angles():
    x = (10.0 ** np.random.default_rng(0).uniform(-1, 5, (64, 128))).astype(np.float32)
    w = work("aten.sin", np.sin(x.astype(float)), [x])
    two_pi = np.float32(2 * np.pi)
    return w, np.sin(x - np.rint(x / two_pi) * two_pi)


@case(Pattern.NARROWER)
def stored_in_bfloat16():
    w = silu((16, 64))
    return w, w.exact.astype(BF16)


@case(Pattern.NARROWER)
def stored_in_float16():
    w = linear()
    return w, w.exact.astype(F16)


@case(Pattern.NARROWER)
def operands_in_tf32():
    w = linear()
    x, a = ((v.view(np.uint32) & 0xFFFFE000).view(np.float32) for v in w.inputs)
    return w, x.astype(float) @ a.astype(float).T


@case(Pattern.NARROWER)
def operands_in_bfloat16():
    w = linear()
    x, a = (v.astype(BF16).astype(float) for v in w.inputs)
    return w, x @ a.T


@case(Pattern.NARROWER)
def angles_in_bfloat16():
    x = (np.arange(512)[:, None] * 10000.0 ** (-np.arange(16) / 16)).astype(np.float32)
    w = work("aten.cos", np.cos(x.astype(float)), [x])
    return w, np.cos(x.astype(BF16).astype(float))


@case(Pattern.GROWS_WITH_INPUT)
def variance_by_squares_of_sorted_rows():
    x = (normal((400, 256)) + np.linspace(0, 200, 400)[:, None]).astype(np.float32)
    w = work("aten.var", x.astype(float).var(-1, ddof=1), [x], length=256)
    return w, ((x * x).mean(-1) - x.mean(-1) ** 2) * np.float32(256 / 255)


@case(Pattern.NARROWER)
def sums_in_float16():
    w = linear(k=1024, dtype=F16)
    x, a = w.inputs
    total = np.zeros((48, 96), np.float16)
    for k in range(1024):
        total += x[:, k : k + 1] * a[:, k]
    return w, total


@case(Pattern.REVERSED)
def a_running_sum_from_the_end():
    w = work("aten.arange", np.arange(64.0), [])
    return w, w.exact[::-1]


@case(Pattern.SHIFTED)
def integers_off_by_one_index():
    x = np.random.default_rng(0).integers(0, 1000, (16, 24))
    target = np.roll(x, 1, 1)
    return work("aten.gather", x, [], np.dtype(np.int64)), target


@case(Pattern.PERMUTED)
def the_wrong_rows_of_a_table():
    table = normal((50, 16))
    index = np.random.default_rng(0).permutation(50)[:20]
    w = work("aten.embedding", table[index].astype(float), [table, index])
    return w, w.exact[np.roll(np.arange(20), 7)]


@case(Pattern.ONE_ELEMENT)
def one_boolean():
    x = normal((16, 24))
    w = work("aten.gt", x > 0, [x], np.dtype(bool))
    return changed(w, lambda y: y.__setitem__((3, 3), not y[3, 3]))


@case(Pattern.OTHER_FUNCTION)
def gelu_by_tanh():
    x = normal((64, 96)) * np.float32(2)
    wide = x.astype(float)
    erf = np.vectorize(math.erf)
    w = work("aten.gelu", wide / 2 * (1 + erf(wide / math.sqrt(2))), [x])
    return w, wide / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))


@pytest.mark.parametrize(("make", "expected"), CASES, ids=[m.__name__ for m, _ in CASES])
def test_a_fault_of_its_operator(make, expected):
    w, target = make()
    assert pattern_of(w, target) is expected, diagnosis_of(w, target)


def test_every_pattern_has_a_fault():
    assert {p for _, p in (*ANY, *OF_HEADS, *CASES)} == set(Pattern)


def test_the_manual_lists_every_pattern():
    manual = (Path(__file__).parents[2] / "docs" / "verdicts.md").read_text()
    for pattern in Pattern:
        (line,) = [text for text in manual.splitlines() if text.startswith(f"| {pattern} |")]
        assert line.endswith(f" {CAUSES[pattern].removeprefix('usually ')} |")


# -- no detector but those that say the same, less precisely --------------------------------------

SLICES = {Pattern.SEVERAL_SLICES, Pattern.ONE_SLICE, Pattern.BLOCK}
ALSO = {
    Pattern.NAN_MASKED_ROW: {*SLICES, Pattern.OVERFLOW},
    Pattern.OVERFLOW: SLICES,
    Pattern.CLIPPED: {Pattern.GROWS_WITH_INPUT, Pattern.OTHER_FUNCTION},
    Pattern.CONCATENATION_ORDER: {*SLICES, Pattern.PERMUTED},
    Pattern.PERMUTED: SLICES,
    Pattern.LANE_STRIPE: SLICES,
    Pattern.DUPLICATED_LANES: {*SLICES, Pattern.PERMUTED},
    Pattern.TAIL: {*SLICES, Pattern.FEW_ELEMENTS},
    Pattern.REVERSED: {Pattern.PERMUTED},
    Pattern.SHIFTED: {Pattern.PERMUTED},
    Pattern.SIGN: {Pattern.FACTOR, Pattern.OTHER_FUNCTION},
    Pattern.SWAPPED_OPERANDS: {Pattern.SIGN, Pattern.FACTOR},
    Pattern.STALE_COPY: {Pattern.SWAPPED_AXES, Pattern.OTHER_FUNCTION},
    Pattern.TRUNCATED: {Pattern.FACTOR},
    Pattern.GROWS_WITH_INPUT: {Pattern.GROWS_ALONG_AXIS},
    Pattern.NARROWER: {Pattern.GROWS_ALONG_AXIS, Pattern.GROWS_WITH_INPUT},
    Pattern.ABSOLUTE: {Pattern.OTHER_FUNCTION},
    Pattern.FACTOR: {Pattern.OTHER_FUNCTION},
    Pattern.NEVER_WRITTEN: {Pattern.ONE_VALUE, Pattern.OTHER_FUNCTION},
    Pattern.ONE_VALUE: {Pattern.OTHER_FUNCTION},
    Pattern.OFFSET: {Pattern.OTHER_FUNCTION},
}
"""Less precise things that are true of a pattern as well."""


def check_all(w, target, expected):
    target = np.asarray(target).astype(w.reference.source.dtype)
    told = everything(w.kind, target, w.reference, w.inputs, w.others, w.known)
    found = [d.pattern for d in told]
    assert found[0] is expected
    assert set(found) - {expected} <= ALSO.get(expected, set())


@pytest.mark.parametrize(("make", "dtype", "fault", "expected"), list(tables()))
def test_no_other_detector_fires_on_a_fault_of_any_tensor(make, dtype, fault, expected):
    w = make(dtype)
    target = honest(w)
    fault(target)
    check_all(w, target, expected)


@pytest.mark.parametrize(("make", "expected"), CASES, ids=[m.__name__ for m, _ in CASES])
def test_no_other_detector_fires_on_a_fault_of_its_operator(make, expected):
    w, target = make()
    check_all(w, target, expected)


# -- what looks like nothing known ----------------------------------------------------------------


def garbage(y, rng):
    y[:] = (rng.standard_normal(y.shape) * float(spread(y))).astype(y.dtype)


def scattered(y, rng):
    wrong = rng.random(y.shape) < 0.3
    y[wrong] = rng.standard_normal(int(wrong.sum())) * 3 * float(spread(y))


def a_tenth_of_noise(y, rng):
    y[:] = y.astype(float) * (1 + 0.1 * rng.standard_normal(y.shape))


def nan_here_and_there(y, rng):
    y[rng.random(y.shape) < 0.1] = np.nan


def factors_by_row(y, rng):
    y[:] = y.astype(float) * (1 + rng.random((y.shape[-2], 1)))


def mixed_with_its_mirror(y, rng):
    y[:] = (y.astype(float) + y.astype(float)[..., ::-1]) / 2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("make", [silu_of_rows, linear_of, heads], ids=["silu", "linear", "heads"])
@pytest.mark.parametrize(
    "fault",
    [
        garbage,
        scattered,
        a_tenth_of_noise,
        nan_here_and_there,
        factors_by_row,
        mixed_with_its_mirror,
    ],
)
@pytest.mark.parametrize("seed", [100, 101, 102])
def test_no_name_for_what_fits_nothing(dtype, make, fault, seed):
    w = make(dtype)
    target = honest(w, seed)
    fault(target, np.random.default_rng(seed + 50))
    assert pattern_of(w, target) is None, diagnosis_of(w, target)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("make", [silu_of_rows, linear_of, heads], ids=["silu", "linear", "heads"])
def test_honest_kernels_have_no_diagnosis(dtype, make):
    w = make(dtype)
    for target in (honest(w), w.reference.source):
        assert diagnose(w.kind, target, w.reference, w.inputs) is None


# -- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lane, "every 4th element of the last axis is wrong, starting at 3"),
        (two_lanes, "lanes 2, 5 of every 8 of the last axis are wrong"),
        (pairs, "each group of 2 lanes holds the value of its lane 0"),
        (lane_of_its_neighbour, "it holds the value of lane 2"),
        (reverse_last, "axis 1 (size 96) is reversed"),
        (shift, "each element holds the value of the previous index along axis 1"),
        (roll, "along axis 0 (size 48) the slices are rolled by 5"),
        (by_root, "1/√96"),
        (double, "the whole tensor is scaled by 2"),
        (zero, "the whole output is 0"),
        (one_row, "everything at index 7 of axis 0 (size 48) is wrong"),
        (a_block, "indices 4 to 7 of axis 0, indices 8 to 15 of axis 1"),
        (poison(PATTERNS[0]), "the whole output is nan"),
    ],
)
def test_words(fault, words):
    w, target = changed(linear(), fault)
    assert words in diagnosis_of(w, target).words


def test_evidence_says_what_stands_there():
    w = heads()
    texts = {
        fault: diagnosis_of(*changed(w, fault)).evidence
        for fault in (one_head, one_row, nan_in_a_head)
    }
    assert "480 of 3840 elements are wrong" in texts[one_head]
    assert "all of them hold 0" in texts[one_head]
    assert "they are 3 times what they should be" in texts[one_row]
    assert "they are NaN" in texts[nan_in_a_head]


def test_names_of_factors():
    assert "Bessel's correction" in diagnosis_of(*bessels_correction()).words
    assert "float16's largest number" in diagnosis_of(*the_largest_float16()).words


# -- any tensor at all ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2,), (3, 0, 2), (1, 1, 1), (2, 1, 3, 1, 2)])
@pytest.mark.parametrize("dtype", [*DTYPES, np.float64, np.int8, np.int64, np.uint8, np.bool_])
def test_any_shape_and_dtype(shape, dtype):
    rng = np.random.default_rng(0)
    source = (rng.standard_normal(shape) * 3).astype(dtype)
    w = work("aten.add", source, [source, source], np.dtype(dtype))
    for target in (np.zeros(shape, dtype), np.ones(shape, dtype), (source * 2).astype(dtype)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            diagnose(w.kind, target, w.reference, w.inputs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_and_infinities_anywhere(dtype):
    rng = np.random.default_rng(0)
    for seed in range(20):
        x, y = (normal((6, 40), dtype, seed + k) for k in (0, 100))
        for array in (x, y):
            special = rng.random(x.shape) < 0.2
            array[special] = rng.choice([np.nan, np.inf, -np.inf], int(special.sum()))
        w = work("aten.sub", x.astype(float), [x, y], dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert diagnose(w.kind, y, w.reference, [x]) is None


def test_another_shape_or_dtype_is_told_by_the_verdict_alone():
    w = silu((4, 6))
    assert diagnose(w.kind, w.inputs[0].T, w.reference, w.inputs) is None
    assert diagnose(w.kind, w.inputs[0].astype(F16), w.reference, w.inputs) is None


@pytest.mark.parametrize("shape", [(2048, 2048), (4, 16, 512, 128)])
def test_no_sample_of_a_large_tensor_of_noise_looks_like_a_pattern(shape):
    w = silu(shape)
    assert diagnose(w.kind, normal(shape, seed=9), w.reference, w.inputs) is None


# -- in a session ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def session():
    with tapml.debug(*two_layers(), target="llvm") as opened:
        yield opened


def culprit(session, op, kernel):
    session.override(op, kernel)
    (found,) = session.run(op).culprits
    row = session.report.frame().set_index("op").loc[found.op]
    session.override(op, None)
    assert row["diagnosis"] == found.pattern
    return found


@pytest.mark.compiles
def test_a_stripe_in_a_session(session):
    def shared_lane(x):
        y = x / (1 + np.exp(-x))
        y[:, 3::4] = y[:, 2::4]
        return y

    found = culprit(session, "act", shared_lane)
    assert found.pattern == Pattern.DUPLICATED_LANES
    assert "every 4th element of the last axis is wrong" in found.diagnosis
    assert "usually a vectorised loop" in found.diagnosis
    assert "noise floors" in found.diagnosis
    assert "12 of 48 elements are wrong" in found.evidence


@pytest.mark.compiles
def test_an_operator_that_hands_its_input_on(session):
    found = culprit(session, "act", lambda x: x)
    assert found.pattern == Pattern.STALE_COPY
    assert "equals input 0 unchanged" in found.diagnosis


@pytest.mark.compiles
def test_memory_that_is_never_written(session):
    found = culprit(session, "act", kernels.forgets_a_row)
    assert found.pattern == Pattern.ONE_SLICE
    assert "never writes 16 of 48 elements" in found.diagnosis
    found = culprit(session, "act", kernels.forgets_here_and_there)
    assert found.pattern == Pattern.NEVER_WRITTEN
    assert "elements are never written" in found.diagnosis


@pytest.mark.compiles
def test_a_result_of_the_step_before():
    model, (x,) = two_layers()
    earlier = []

    def late(x):
        earlier.append(x / (1 + np.exp(-x)))
        return earlier[0]

    with tapml.debug(model, [(x,), (3 * x,)]) as session:
        session.override("act", late)
        session.run("act")
        (found,) = session.report.culprits
    assert found.step == 1
    assert "equals its own result of step 0" in found.diagnosis


@pytest.mark.compiles
def test_a_scale_in_a_session(session):
    found = culprit(session, "second", lambda x, w, b: 2 * (x @ w.T + b))
    assert found.pattern == Pattern.FACTOR
    assert "scaled by 2" in found.diagnosis


@pytest.mark.compiles
def test_what_fits_nothing_says_so(session):
    found = culprit(session, "act", lambda x: normal(x.shape, seed=7))
    assert found.pattern == ""
    assert "noise floors" in found.diagnosis
    assert "usually" not in found.diagnosis


@pytest.mark.compiles
def test_a_replayed_bundle_has_the_same_diagnosis(tmp_path):
    with tapml.debug(*two_layers()) as session:
        session.override("act", kernels.returns_nan)
        (before,) = session.run().culprits
        bundle = session.carve(tmp_path / "broken.tapml")
    (after,) = bundle.replay().culprits
    assert before.pattern
    assert (after.pattern, after.diagnosis) == (before.pattern, before.diagnosis)
