"""NaN that is dropped is NaN lost, in all places or in some, whatever order they stand in."""

from __future__ import annotations

import numpy as np
import pytest

from tapml_nb.judge.diagnosis import Pattern
from tests.judge.test_diagnosis import diagnosis_of, honest, normal, pattern_of, silu, work


def with_nan(where, seed):
    x = normal((16, 32), seed=seed)
    x[where] = np.nan
    return x


LANES = np.s_[:, [0, 6, 8, 14, 16, 22, 24, 30]]
ROW = np.s_[5:6]


@pytest.mark.parametrize("where", [LANES, ROW])
def test_an_input_whose_nan_is_dropped(where):
    a, b = with_nan(where, 1), with_nan(np.s_[:, 3::8], 2)
    exact = np.maximum(a, b).astype(float)
    w = work("aten.maximum", exact, [a, b])
    for dropped, kept, k in ((a, b, 0), (b, a, 1)):
        found = diagnosis_of(w, np.where(np.isnan(dropped), kept, exact))
        assert found.pattern is Pattern.NAN_LOST
        assert f"input {k} is NaN there" in found.words
    assert pattern_of(w, np.fmax(a, b)) is Pattern.NAN_LOST


@pytest.mark.parametrize("value", [0.0, 1.0, np.inf])
def test_what_stands_in_its_place(value):
    a = with_nan(LANES, 1)
    exact = np.maximum(a, 0).astype(float)
    w = work("aten.relu", exact, [a])
    assert pattern_of(w, np.where(np.isnan(a), value, exact)) is Pattern.NAN_LOST
    some = np.isnan(a) & (np.arange(32) % 4 < 2)
    found = diagnosis_of(w, np.where(some, value, exact))
    assert found.pattern is Pattern.NAN_LOST
    assert "in 64 of 128 places" in found.words


def test_lanes_that_are_wrong_are_lanes():
    w = silu((16, 32))
    target = honest(w)
    target[LANES] = np.nan
    assert pattern_of(w, target) is Pattern.LANE_STRIPE
