"""Verdicts on kernels whose honesty is known: every honest one passes, every fault is seen."""

import ml_dtypes
import numpy as np
import pytest

from tapml_nb.judge import Verdict
from tests.judge.holders import judge, reference_of

BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float32), np.dtype(np.float16), BF16]


def matmul(dtype, m=64, k=1024, n=96, seed=0):
    """Inputs, a good source result (float32 sums), and the exact one."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((m, k)).astype(dtype)
    b = rng.standard_normal((k, n)).astype(dtype)
    source = (a.astype(np.float32) @ b.astype(np.float32)).astype(dtype)
    return a, b, reference_of(source, a.astype(np.float64) @ b.astype(np.float64), k)


def in_order(a, b):
    """The sum over k in order, in float32: what a naive kernel does."""
    total = np.zeros((a.shape[0], b.shape[1]), np.float32)
    for k in range(a.shape[1]):
        total += a[:, k : k + 1].astype(np.float32) * b[k].astype(np.float32)
    return total


def blocked(a, b, block=16):
    """Partial sums of blocks, added up in reverse."""
    parts = [in_order(a[:, k : k + block], b[k : k + block]) for k in range(0, a.shape[1], block)]
    return sum(reversed(parts), np.zeros_like(parts[0]))


class TestHonestKernelsPass:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("kernel", [in_order, blocked])
    def test_other_summation_orders(self, dtype, kernel):
        a, b, reference = matmul(dtype)
        judgement = judge(kernel(a, b).astype(dtype), reference)
        assert judgement.verdict is Verdict.PASS, judgement
        assert judgement.ratio < 4

    def test_fused_multiply_add(self):
        rng = np.random.default_rng(1)
        a, b, c = (rng.standard_normal(10_000).astype(np.float32) for _ in range(3))
        exact = a.astype(np.float64) * b + c
        fused = exact.astype(np.float32)
        assert judge(fused, reference_of(a * b + c, exact, 1)).verdict is Verdict.PASS
        assert judge(a * b + c, reference_of(fused, exact, 1)).verdict is Verdict.PASS

    def test_another_libm(self):
        x = np.linspace(-9, 9, 20_001).astype(np.float32)
        exact = np.tanh(x.astype(np.float64))
        e = np.exp(-2 * np.abs(x))
        formula = (np.sign(x) * (1 - e) / (1 + e)).astype(np.float32)  # as TVM's LLVM target does
        assert judge(formula, reference_of(np.tanh(x), exact, 1)).verdict is Verdict.PASS

    def test_flushing_subnormal_numbers(self):
        x = np.array([1e-39, 3e-41, 1.0, -1e-40], np.float32)
        target = np.where(np.abs(x) < 1.2e-38, 0, x).astype(np.float32)
        assert judge(target, reference_of(x, x.astype(np.float64), 1)).verdict is Verdict.PASS

    def test_cancellation_where_the_source_is_noise(self):
        rng = np.random.default_rng(2)
        x = (rng.standard_normal((8, 4096)) + 1000).astype(np.float32)
        wide = x.astype(np.float64)
        exact = (wide**2).mean(-1) - wide.mean(-1) ** 2
        source = (x**2).mean(-1) - x.mean(-1) ** 2
        other = (x[:, ::-1] ** 2).mean(-1) - x[:, ::-1].mean(-1) ** 2
        assert judge(other, reference_of(source, exact, 4096)).verdict is Verdict.PASS

    def test_infinities_and_nan_that_the_source_has_too(self):
        source = np.array([1, np.inf, -np.inf, np.nan, -3.4e38], np.float32)
        target = source.copy()
        target[0] = np.nextafter(np.float32(1), np.float32(2))
        reference = reference_of(source, source.astype(np.float64), 1)
        assert judge(target, reference).verdict is Verdict.PASS

    def test_all_zero(self):
        zero = np.zeros((3, 4), np.float32)
        reference = reference_of(zero, zero.astype(np.float64), 8)
        assert judge(-zero, reference).verdict is Verdict.PASS

    def test_masked_scores(self):
        """Fill values near the dtype's limit must not make a row's scale infinite."""
        scores = np.random.default_rng(3).standard_normal((4, 4)).astype(np.float32)
        source = scores + np.triu(np.full((4, 4), np.finfo(np.float32).min), 1)
        source = source.astype(np.float32)
        reference = reference_of(source, source.astype(np.float64), 1)
        wrong = source.copy()
        wrong[3, 0] *= 1.01
        assert judge(source.copy(), reference).verdict is Verdict.PASS
        assert judge(wrong, reference).verdict is Verdict.FAIL


class TestFaultsAreSeen:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_a_scale_that_is_off_by_a_thousandth(self, dtype):
        a, b, reference = matmul(dtype)
        judgement = judge((in_order(a, b) * np.float32(1.001)).astype(dtype), reference)
        assert judgement.verdict is Verdict.FAIL

    def test_one_element_in_a_million_off_by_a_percent(self):
        rng = np.random.default_rng(4)
        x = rng.standard_normal((1000, 1000)).astype(np.float32)
        reference = reference_of(x, x.astype(np.float64), 1)
        target = x.copy()
        target[123, 456] *= 1.01
        judgement = judge(target, reference)
        assert judgement.verdict is Verdict.FAIL
        assert "1 of 1000000 elements" in judgement.message
        assert "[123, 456]" in judgement.message

    def test_a_stripe(self):
        a, b, reference = matmul(np.dtype(np.float32))
        target = in_order(a, b)
        target[:, 3::4] = target[:, 2::4]
        assert judge(target, reference).verdict is Verdict.FAIL

    def test_sums_in_float16(self):
        a, b, reference = matmul(np.dtype(np.float16))
        total = np.zeros(reference.source.shape, np.float16)
        for k in range(a.shape[1]):
            total += a[:, k : k + 1] * b[k]
        assert judge(total, reference).verdict is Verdict.FAIL

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_nonfinite(self, bad):
        a, b, reference = matmul(np.dtype(np.float32))
        target = in_order(a, b)
        target[5, 7] = bad
        judgement = judge(target, reference)
        assert judgement.verdict is Verdict.NONFINITE
        assert "[5, 7]" in judgement.message

    def test_a_finite_number_where_the_source_is_infinite(self):
        source = np.array([1, np.inf], np.float32)
        target = np.array([1, 7], np.float32)
        reference = reference_of(source, source.astype(np.float64), 1)
        assert judge(target, reference).verdict is Verdict.FAIL

    @pytest.mark.parametrize("special", [np.nan, np.inf])
    def test_a_fault_beside_a_nan_that_the_source_has_too(self, special):
        source = np.random.default_rng(7).standard_normal((8, 64)).astype(np.float32)
        source[2, 5] = special
        reference = reference_of(source, source.astype(np.float64), 1)
        assert np.isfinite(reference.floor.rms)
        assert judge(source.copy(), reference).verdict is Verdict.PASS
        target = source.copy()
        target[2, 6] *= 1.01
        assert judge(target, reference).verdict is Verdict.FAIL
        assert judge(source * np.float32(1 + 3e-6), reference).verdict is Verdict.FAIL

    @pytest.mark.parametrize("exact", [np.nan, np.inf])
    def test_a_float64_run_that_fails_excuses_nothing(self, exact):
        source = np.array([1.0, 2.0, 3.0], np.float32)
        reference = reference_of(source, np.array([1.0, exact, 3.0]), 1)
        assert judge(source * np.array([1, 1.01, 1], np.float32), reference).verdict is Verdict.FAIL
        assert judge(source.copy(), reference).verdict is Verdict.PASS

    def test_integers_compare_exactly(self):
        source = np.arange(10)
        target = source.copy()
        target[3] += 1
        judgement = judge(target, reference_of(source, None, 1))
        assert judgement.verdict is Verdict.FAIL
        assert "compares exactly" in judgement.message

    def test_wrong_shape_and_wrong_dtype(self):
        source = np.zeros((2, 3), np.float32)
        reference = reference_of(source, source.astype(np.float64), 1)
        for target in (source.T, source.astype(np.float64)):
            judgement = judge(target, reference)
            assert judgement.verdict is Verdict.FAIL
            assert "float32[2, 3]" in judgement.message

    def test_noise_everywhere_without_a_single_large_error(self):
        """Float32 storage of a bfloat16-precision kernel: each element is only a little off."""
        a, b, reference = matmul(np.dtype(np.float32), k=16)
        target = in_order(a, b).astype(BF16).astype(np.float32)
        assert judge(target, reference).verdict is Verdict.FAIL


def test_a_tolerance_scales_the_limit():
    x = np.ones(100, np.float32)
    reference = reference_of(x, x.astype(np.float64), 1)
    target = x + np.float32(2e-5)
    assert judge(target, reference).verdict is Verdict.FAIL
    assert judge(target, reference, limit=1e4).verdict is Verdict.PASS


def test_without_a_float64_run_the_lower_bound_holds():
    x = np.random.default_rng(5).standard_normal(100).astype(np.float32)
    reference = reference_of(x, None, 1)
    assert not reference.floor.known
    assert judge(np.nextafter(x, np.float32(9)), reference).verdict is Verdict.PASS
    assert judge(x * np.float32(1.001), reference).verdict is Verdict.FAIL


def test_an_exact_source_does_not_make_rounding_a_fault():
    x = np.random.default_rng(6).standard_normal(1000).astype(np.float32)
    exact = x.astype(np.float64)
    target = np.nextafter(x, np.float32(np.inf))
    assert judge(target, reference_of(x, exact, 1)).verdict is Verdict.PASS
