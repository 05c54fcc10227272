"""Derived inputs: what they change, and what they leave alone."""

from __future__ import annotations

import numpy as np
import pytest

from tapml_nb.judge.derived import Magnitudes, derived_shapes, derived_values

X = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
MASK = np.where(np.tri(5, dtype=bool), 0, np.finfo(np.float32).min).astype(np.float32)
WEIGHT = np.ones((8, 8), np.float32)
IDS = np.arange(5)


def values(arrays, activations):
    found = derived_values(arrays, activations, Magnitudes(largest=100.0, smallest=0.01))
    return {d.variant: d.arrays for d in found}


def test_what_the_values_become():
    found = {variant: arrays[0] for variant, arrays in values([X], [True]).items()}
    assert {a.dtype for a in found.values()} == {X.dtype}
    assert {a.shape for a in found.values()} == {X.shape}
    assert np.abs(found["largest magnitude"]).max() == pytest.approx(100)
    assert np.abs(found["smallest magnitude"]).max() == pytest.approx(0.01)
    assert np.array_equal(found["negated"], -X)
    assert len(np.unique(found["exact ties"])) <= 9
    assert (found["equal rows"] == X[0, 0]).all()
    assert not found["zeros"].any()
    assert np.array_equal(found["reversed"].reshape(-1), X.reshape(-1)[::-1])


def test_weights_and_masks_stay():
    for variant, (x, weight, mask) in values([X, WEIGHT, MASK], [True, False, True]).items():
        assert not np.array_equal(x, X)
        assert weight is WEIGHT
        assert np.array_equal(mask, MASK), variant


def test_indices_are_only_turned_round():
    assert [*values([IDS], [True])] == ["reversed"]
    assert values([WEIGHT], [False]) == {}


def test_float16_stays_in_its_range():
    half = X.astype(np.float16)
    found = derived_values([half], [True], Magnitudes(largest=1e6, smallest=1.0))
    assert all(np.isfinite(d.arrays[0]).all() for d in found)


def test_shapes_change_together():
    y = X + 1
    found = {d.variant: d.arrays for d in derived_shapes([X, y, WEIGHT], [True, True, False])}
    assert {variant: [a.shape for a in arrays] for variant, arrays in found.items()} == {
        f"axis {axis} of size {n}": [
            (2, n, 8) if axis == 1 else (2, 5, n),
            (2, n, 8) if axis == 1 else (2, 5, n),
            (8, 8),
        ]
        for axis, sizes in ((1, (1, 4, 6)), (2, (1, 7, 9)))
        for n in sizes
    }
    assert np.array_equal(found["axis 1 of size 6"][0][:, 5], X[:, 0])


def test_the_magnitudes_of_a_model():
    found = Magnitudes.of(iter([X * 0, MASK, IDS, X, X * 7]))
    top = float(np.abs(X).max())
    assert found.largest == pytest.approx(7 * top)
    assert found.smallest == pytest.approx(top)
    assert Magnitudes.of(iter([])) == Magnitudes(1.0, 1.0)
