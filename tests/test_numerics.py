"""Error statistics against straightforward formulas, and the dtypes models use."""

import math

import ml_dtypes
import numpy as np
import pytest
import torch

from tapml_nb.array_api import np_dtype
from tapml_nb.numerics import bitwise_equal, digest
from tests.judge.holders import statistics


@pytest.mark.parametrize("shape", [(7,), (300, 500), (1,), ()])
def test_formulas(shape):
    rng = np.random.default_rng(0)
    reference = rng.standard_normal(shape).astype(np.float32)
    target = (reference + 1e-3 * rng.standard_normal(shape)).astype(np.float32)
    stats = statistics(target, reference)
    t, r = target.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    assert stats.elements == r.size
    assert stats.max_abs == pytest.approx(np.abs(t - r).max())
    assert stats.max_rel == pytest.approx((np.abs(t - r) / np.abs(r)).max())
    assert stats.rmse == pytest.approx(math.sqrt(((t - r) ** 2).mean()))
    assert stats.cosine == pytest.approx(t @ r / np.linalg.norm(t) / np.linalg.norm(r))
    assert stats.snr_db == pytest.approx(10 * math.log10((r @ r) / ((t - r) @ (t - r))))
    assert stats.mismatched == np.count_nonzero(t != r)
    assert stats.worst == np.abs(t - r).argmax()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_ulp_counts_representable_numbers(dtype):
    dtype = np_dtype(dtype)
    bits = np.dtype(f"u{dtype.itemsize}")
    one = np.ones(4, dtype)
    steps = np.array([0, 1, 5, 100], bits)
    target = (one.view(bits) + steps).view(dtype)
    assert statistics(target, one).max_ulp == 100
    assert statistics(-target, -one).max_ulp == 100


def test_ulp_crosses_zero():
    tiny = np.array([np.finfo(np.float32).smallest_subnormal], np.float32)
    assert statistics(tiny, -tiny).max_ulp == 2


def test_nonfinite_elements_are_counted_and_left_out():
    reference = np.array([1, 2, np.nan, np.inf, -np.inf, 6], np.float32)
    target = np.array([np.nan, np.inf, np.nan, np.inf, np.inf, 6.5], np.float32)
    stats = statistics(target, reference)
    assert (stats.nan, stats.inf, stats.mismatched) == (1, 1, 4)
    assert stats.max_abs == 0.5
    assert stats.worst in (0, 1, 4)


def test_integers_and_booleans():
    stats = statistics(np.array([1, 2, 3]), np.array([1, 2, 5]))
    assert (stats.mismatched, stats.max_abs, stats.max_ulp) == (1, 2.0, 0.0)
    assert statistics(np.array([True, False]), np.array([True, True])).mismatched == 1


def test_neighbouring_int64_beyond_float64_differ():
    big = np.array([2**60], np.int64)
    assert statistics(big + 1, big).mismatched == 1


def test_identical_and_empty():
    a = np.array([1.0, np.nan], np.float32)
    assert statistics(a, a.copy()).snr_db == math.inf
    assert statistics(np.empty((0, 3)), np.empty((0, 3))).elements == 0


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        statistics(np.zeros(2), np.zeros(3))


def test_bitwise_equality_is_stricter_than_equality():
    assert not bitwise_equal(np.array([0.0]), np.array([-0.0]))
    assert bitwise_equal(np.array([np.nan]), np.array([np.nan]))
    assert not bitwise_equal(np.zeros(2, np.float32), np.zeros(2, np.int32))
    assert not bitwise_equal(np.zeros((2, 1)), np.zeros((1, 2)))


def test_a_digest_knows_dtype_shape_and_bytes():
    a = np.zeros((2, 3), np.float32)
    different = [a, a.T, a.astype(np.int32), a.astype(ml_dtypes.bfloat16), a + 1, a[:0]]
    assert len({digest(x) for x in different}) == len(different)
    assert digest(np.arange(6).reshape(2, 3).T) == digest(np.arange(6).reshape(2, 3).T.copy())


class TestTheDigestOfWhatNumPyDoesNotHold:
    def test_tells_tensors_apart(self):
        base = torch.arange(40_000, dtype=torch.float32)
        others = [base.clone() for _ in range(4)]
        others[0][39_999] += 1  # the last element
        others[1][:2] = base[:2].flip(0)  # two in another order
        others[2][0] = -0.0
        others[3] = base.reshape(200, 200)
        kinds = [base.view(torch.int32), base.to(torch.bfloat16), base.bool()]
        found = [digest(tensor) for tensor in (base, *others, *kinds)]
        assert len(set(found)) == len(found)
        assert digest(base.clone()) == found[0]

    @pytest.mark.parametrize("count", [1, 3, 7, 8, 9, 1001])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8, torch.float32])
    def test_wherever_its_bytes_begin_and_end(self, dtype, count):
        tensor = torch.arange(1, count + 1).to(dtype)
        shifted = torch.cat([torch.zeros(1, dtype=dtype), tensor])[1:]
        assert digest(shifted) == digest(tensor)
        shifted[-1] = 0
        assert digest(shifted) != digest(tensor)

    def test_in_blocks(self, monkeypatch):
        base = torch.randn(1000, generator=torch.Generator().manual_seed(0))
        whole = digest(base)
        monkeypatch.setattr("tapml_nb.array_api._IN_CACHE", 64)
        assert digest(base) == whole
