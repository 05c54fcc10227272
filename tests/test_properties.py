"""Statistics, digests and tensor files of any arrays."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tapml_nb import array_api, numerics, tensorfile
from tapml_nb.numerics import bitwise_equal, digest, statistics

FLOATS = st.sampled_from(["float16", "float32", "float64"])
DTYPES = FLOATS | st.sampled_from(["bool", "uint8", "int32", "int64"])
SHAPES = arrays.array_shapes(min_side=0, max_side=4)


def tensors(dtypes: st.SearchStrategy[str] = DTYPES) -> st.SearchStrategy[np.ndarray]:
    made = dtypes.flatmap(lambda dtype: arrays.arrays(dtype, SHAPES))
    return made | made.map(np.transpose)


@st.composite
def pairs(draw: st.DrawFn, within: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Two of one shape, equal in many elements; if wanted, with NaN for all beyond a bound."""
    a = draw(tensors(FLOATS))
    b = draw(arrays.arrays(a.dtype, a.shape))
    if within:
        small, low = np.abs(a.astype(float)) < within, np.abs(b.astype(float)) < within
        a, b = np.where(small, a, np.nan), np.where(low, b, np.nan)
    return a, np.where(draw(arrays.arrays(bool, a.shape)), a, b)


@given(tensors(), tensors())
def test_digests_tell_what_differs(a, b):
    assert (digest(a) == digest(b)) is bitwise_equal(a, b)
    assert bitwise_equal(a, a.copy())


@given(tensors())
def test_what_is_equal_has_no_error(a):
    found = statistics(a, a.copy())
    assert found == numerics.identical_statistics(a)


@given(pairs())
def test_counts_are_those_of_a_loop(pair):
    target, reference = pair
    found = statistics(target, reference)
    both = list(zip(target.ravel().tolist(), reference.ravel().tolist(), strict=True))
    assert found.elements == len(both)
    assert found.nan == sum(math.isnan(t) and not math.isnan(r) for t, r in both)
    assert found.inf == sum(math.isinf(t) and not math.isinf(r) for t, r in both)
    wrong = [t != r and not (math.isnan(t) and math.isnan(r)) for t, r in both]
    assert found.mismatched == sum(wrong)
    finite = [abs(t - r) for t, r in both if math.isfinite(t) and math.isfinite(r)]
    assert found.max_abs == max(finite, default=0.0)
    if found.worst >= 0:
        assert wrong[found.worst]
    else:
        assert not any(wrong)


@pytest.mark.parametrize("size", [1e155, 1e-170])
def test_squares_beyond_float64_are_no_error(size):
    assert statistics(np.array([size, 1.0]), np.array([1.0, size])).mismatched == 2
    assert statistics(np.array([1e155]), np.array([1.0])).snr_db == -math.inf


@given(pairs(1e100), st.integers(1, 7))
def test_blocks_change_nothing(pair, block):
    whole = statistics(*pair)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(array_api, "_IN_CACHE", block)
        found = statistics(*pair)
    for name, value in vars(whole).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-12, nan_ok=True), name


@given(pairs(1e100))
def test_distances_are_the_same_from_either_side(pair):
    a, b = pair
    one, other = statistics(a, b), statistics(b, a)
    for name in ("max_abs", "max_ulp", "mismatched", "rmse", "cosine"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), nan_ok=True), name


@given(st.data(), FLOATS, st.integers(1, 1000))
def test_ulp_are_steps_to_the_next_number(data, dtype, steps):
    dtype = np.dtype(dtype)
    start = data.draw(arrays.arrays(dtype, 1, elements=st.floats(-3e4, 3e4, width=16)))
    there = start
    for _ in range(steps):
        there = np.nextafter(there, dtype.type(np.inf))
    if np.isfinite(there).all():
        assert statistics(there, start).max_ulp == steps


@given(st.dictionaries(st.text(), tensors(), max_size=3))
def test_tensor_files_come_back(given_arrays):
    back = tensorfile.parse(tensorfile.dump(given_arrays))
    assert list(back) == list(given_arrays)
    assert all(bitwise_equal(back[name], array) for name, array in given_arrays.items())


@given(st.data(), st.binary(max_size=6))
def test_a_damaged_tensor_file_is_refused_or_holds_arrays(data, new):
    """Nothing else happens: what is in it has no checksum of its own."""
    good = tensorfile.dump({"a": np.arange(3.0), "b": np.array([True, False])})
    place = data.draw(st.integers(0, len(good)))
    changed = good[:place] + new + good[place + data.draw(st.integers(0, 8)) :]
    with contextlib.suppress(ValueError):  # one that is refused
        found = tensorfile.parse(changed)
        assert sum(array.nbytes for array in found.values()) <= 2 * len(changed)
