"""Masks that are lost or changed are no wrap-around, no clamp, no shift."""

from __future__ import annotations

import numpy as np
import pytest

from tapml_nb.judge.diagnosis import Pattern
from tests.judge.test_diagnosis import F16, F32, normal, pattern_of, work

_MASKED = np.triu(np.ones((32, 32), bool), 1)


def scores(dtype, value):
    x = normal((4, 32, 32), dtype)
    exact = np.where(_MASKED, value, x.astype(float))
    return x.astype(float), work("aten.masked_fill", exact, [x, _MASKED], dtype)


LOWEST = [(F32, float(np.finfo(np.float32).min)), (F16, -65504.0), (F32, -1e9), (F32, -np.inf)]


@pytest.mark.parametrize(("dtype", "value"), LOWEST)
@pytest.mark.parametrize("other", [0.0, -1e4, -3e4])
def test_another_number_in_a_masks_place(dtype, value, other):
    x, w = scores(dtype, value)
    found = pattern_of(w, np.where(_MASKED, other, x))
    assert found not in (Pattern.WRAPPED, Pattern.CLIPPED, Pattern.PERMUTED)


@pytest.mark.parametrize("value", [float(np.finfo(np.float32).min), -1e9])
def test_an_added_mask_of_another_size_is_no_other_function(value):
    x = normal((4, 32, 32))
    mask = np.broadcast_to(np.where(_MASKED, np.float32(value), np.float32(0)), x.shape)
    w = work("aten.add", x.astype(float) + mask, [x, mask])
    for other in (0.0, -1e4, value / 2):
        assert pattern_of(w, np.where(_MASKED, other, x)) is not Pattern.OTHER_FUNCTION


@pytest.mark.parametrize(("dtype", "value"), LOWEST[:3])
def test_a_mask_that_begins_too_late_is_no_shift_of_the_scores(dtype, value):
    x, w = scores(dtype, value)
    late = np.triu(np.ones((32, 32), bool), 2)
    assert pattern_of(w, np.where(late, value, x)) is not Pattern.SHIFTED


def test_added_masks_that_become_nan_are_no_logarithm():
    x = normal((4, 32, 32))
    mask = np.where(_MASKED, np.finfo(np.float32).min, np.float32(0))
    w = work("aten.add", x.astype(float) + mask, [x, mask])
    assert pattern_of(w, np.where(_MASKED, np.nan, x)) is not Pattern.NAN_NEGATIVE_INPUT


def test_integers_that_wrap_and_one_integer_that_is_lost():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 1000, (16, 24))
    w = work("aten.mul", counts, [], np.dtype(np.int64))
    assert pattern_of(w, counts.astype(np.int8)) is Pattern.WRAPPED
    sentinel = np.where(rng.random((16, 24)) < 0.3, 1 << 31, counts)
    w = work("aten.where", sentinel, [], np.dtype(np.int64))
    assert pattern_of(w, np.where(sentinel == 1 << 31, 0, sentinel)) is not Pattern.WRAPPED


def test_a_clamp_and_one_value_in_most_places():
    x = normal((16, 64)) * np.float32(300)
    w = work("aten.square", x.astype(float) ** 2, [x])
    assert pattern_of(w, np.minimum(w.exact, 65504)) is Pattern.CLIPPED
    y = np.abs(normal((16, 64))) + np.float32(0.1)
    w = work("aten.abs", y.astype(float), [y])
    for value in (0.0, -0.0, float(y.min()), float(y.max()), 0.5):
        assert pattern_of(w, np.full_like(y, value)) is Pattern.ONE_VALUE
    signed = work("aten.mul", normal((16, 64)).astype(float), [])
    assert pattern_of(signed, signed.exact * 0) is Pattern.ONE_VALUE  # some of it is -0
