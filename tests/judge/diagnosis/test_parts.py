"""What is said of a whole, or of a place, is true of its parts, and of the rest."""

from __future__ import annotations

import numpy as np
import pytest

from tapml_nb.judge.diagnosis import Pattern
from tests.judge.test_diagnosis import (
    BF16,
    DTYPES,
    F16,
    diagnosis_of,
    honest,
    linear,
    normal,
    pattern_of,
    silu,
    work,
)

PLACES = {
    Pattern.ONE_SLICE,
    Pattern.SEVERAL_SLICES,
    Pattern.BLOCK,
    Pattern.ONE_ELEMENT,
    Pattern.FEW_ELEMENTS,
    Pattern.TAIL,
    Pattern.LANE_STRIPE,
}


def scaled(exact, factor, where):
    return np.where(where, factor * exact, exact)


@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
def test_some_slices_scaled_are_not_the_whole(dtype):
    w = linear(m=64, n=128, dtype=dtype)
    column = np.arange(128)
    for where, pattern, words in (
        (column < 64, Pattern.SEVERAL_SLICES, "indices 0 to 63 of axis 1 (size 128)"),
        (column % 4 == 1, Pattern.SEVERAL_SLICES, "in steps of 4"),
    ):
        found = diagnosis_of(w, scaled(w.exact, 1.008, where))
        assert found.pattern is pattern
        assert words in found.words
        assert "scaled by 1.00" in found.words
    assert pattern_of(w, 1.008 * w.exact) is Pattern.FACTOR


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("factor", [1.004, 1.02, 1.3])
def test_large_values_scaled_are_not_the_whole(dtype, factor):
    w = linear(m=64, n=128, dtype=dtype)
    large = np.abs(w.exact) > w.exact.std()
    assert pattern_of(w, scaled(w.exact, factor, large)) is not Pattern.FACTOR
    assert pattern_of(w, factor * w.exact) is Pattern.FACTOR


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_terms_of_columns_are_not_one_term(dtype):
    w = linear(m=64, n=128, dtype=dtype)
    terms = 0.05 * w.exact.std() * (1 + normal(128, seed=4))
    assert pattern_of(w, w.exact + terms) is not Pattern.OFFSET
    assert pattern_of(w, w.exact + 0.05 * w.exact.std()) is Pattern.OFFSET


def test_a_block_in_a_tensor_that_is_wrong_all_over():
    w = silu((64, 96), BF16)
    block = np.zeros((64, 96), bool)
    block[8:24, 16:48] = True
    wrong = np.where(block, 1.0 + w.exact, w.exact)
    assert pattern_of(w, wrong) is Pattern.BLOCK
    rest = w.exact + 0.02 * normal((64, 96), seed=5)  # 2 to 3 of the 8 floors
    assert pattern_of(w, np.where(block, wrong, rest)) not in PLACES
    rest = w.exact + 0.02 * np.sign(normal(96, seed=6))  # off by columns
    assert pattern_of(w, np.where(block, wrong, rest)) not in PLACES


def test_a_few_elements_that_are_the_largest_of_many():
    w = linear(m=64, n=128, dtype=BF16)
    noise = w.exact.std() * 0.025 * normal(w.exact.shape, seed=5)
    assert pattern_of(w, w.exact + noise) not in PLACES
    target = honest(w)
    target[[3, 20, 41], [5, 100, 71]] += 60
    assert pattern_of(w, target) is Pattern.FEW_ELEMENTS


def test_a_block_whose_wrong_elements_are_right_by_chance_here_and_there():
    w = silu((64, 96), BF16)
    target = honest(w)
    target[8:24, 16:48] = normal((16, 32), BF16, 9)
    assert pattern_of(w, target) is Pattern.BLOCK


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_growth_along_an_axis_is_of_small_errors_of_either_sign(dtype):
    x = normal((64, 256), dtype)
    exact = x.astype(float)
    w = work("aten.mul", exact, [], dtype)
    place = np.arange(256) / 256
    noise = normal((64, 256), seed=3)
    step = 0.2 if dtype == BF16 else 0.02
    for error in (2 * place * noise, place * exact, place + 0 * exact, 0.5 * place * exact):
        assert pattern_of(w, exact + error) is not Pattern.GROWS_ALONG_AXIS
    assert pattern_of(w, exact + step * place * noise) is Pattern.GROWS_ALONG_AXIS


def test_bias_and_large_values_are_no_growth_with_an_input():
    x, a, b = normal((1, 512)), normal((300, 512), seed=1), normal(300, seed=2)
    exact = x.astype(float) @ a.T + b
    w = work("aten.linear", exact, [x, a, b], length=512)
    for target in (exact - b, exact - 2 * b, exact + b):
        assert pattern_of(w, target) is not Pattern.GROWS_WITH_INPUT


def test_the_factor_of_a_scaled_result_is_no_truncation():
    x = normal((32, 128), BF16) * np.exp(normal((32, 1), seed=9)).astype(BF16)
    wide = x.astype(float)
    mean = (wide**2).mean(-1, keepdims=True)
    w = work("aten.rms_norm", wide / np.sqrt(mean), [x], BF16, 128)
    assert pattern_of(w, wide / np.sqrt(mean * 128 / 127)) is not Pattern.TRUNCATED
