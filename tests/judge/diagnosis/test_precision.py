"""Errors of a narrower dtype's size are its rounding only if they look like it."""

from __future__ import annotations

import numpy as np
import pytest

from tapml_nb.judge.diagnosis import Pattern
from tests.judge.test_diagnosis import BF16, DTYPES, F16, F32, normal, pattern_of, work


def rounded(x, dtype):
    return np.asarray(x).astype(dtype).astype(float)


def tf32(x):
    return (np.asarray(x, np.float32).view(np.uint32) + 0x1000 & 0xFFFFE000).view(np.float32)


class Linear:
    """A linear layer whose faults are as small as bfloat16's rounding."""

    def __init__(self, dtype, m=48, k=1024, n=96):
        self.x, self.w, self.b = (
            v.astype(float)
            for v in (normal((m, k), dtype), normal((n, k), dtype, 1), normal(n, dtype, 2))
        )
        self.exact = self.x @ self.w.T + self.b
        inputs = [self.x.astype(dtype), self.w.astype(dtype), self.b.astype(dtype)]
        self.work = work("aten.linear", self.exact, inputs, dtype, k)

    def term(self, k):
        return self.x[:, k : k + 1] * self.w[:, k]

    def sums(self, dtype):
        total = np.zeros(self.exact.shape, dtype)
        for k in range(self.x.shape[1]):
            total = (total.astype(np.float32) + self.term(k).astype(np.float32)).astype(dtype)
        return total.astype(float) + self.b


NOT_ROUNDING = {
    "the last term lost": lambda p: p.exact - p.term(1023),
    "a term doubled": lambda p: p.exact + p.term(0),
    "three terms lost": lambda p: p.exact - sum(p.term(k) for k in (5, 6, 7)),
    "a term's sign": lambda p: p.exact - 2 * p.term(9),
    "a weight read twice": lambda p: p.exact + p.x[:, 3:4] * (p.w[:, 4] - p.w[:, 3]),
    "the bias lost": lambda p: p.exact - p.b,
    "the bias's sign": lambda p: p.exact - 2 * p.b,
    "the bias rolled": lambda p: p.exact + np.roll(p.b, 1) - p.b,
    "a wave": lambda p: p.exact + 1.5 * np.sin(np.arange(96) / 7),
    "factors of columns": lambda p: p.exact * (1 + 0.02 * normal(96, seed=5)),
    "factors of rows": lambda p: p.exact * (1 + 0.02 * normal((48, 1), seed=5)),
    "noise that no sum makes": lambda p: (
        p.exact + np.random.default_rng(0).uniform(-2, 2, p.exact.shape)
    ),
}


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def linear(request):
    return Linear(request.param)


@pytest.mark.parametrize("fault", NOT_ROUNDING.values(), ids=NOT_ROUNDING)
def test_as_small_as_rounding_but_none(linear, fault):
    target = fault(linear).astype(linear.work.reference.source.dtype)
    assert pattern_of(linear.work, target) is not Pattern.NARROWER


def test_a_wrong_divisor_is_no_precision():
    x = normal((40, 30, 512)) + np.float32(0.5)
    exact = x.astype(float).mean(-1)
    w = work("aten.mean", exact, [x], length=512)
    assert pattern_of(w, exact * 512 / 513) is Pattern.FACTOR
    assert pattern_of(w, exact - x[..., -1] / 512) is not Pattern.NARROWER


@pytest.mark.parametrize(("dtype", "sums"), [(F16, F16), (F32, F16), (F32, BF16), (BF16, BF16)])
def test_sums_in_a_narrower_dtype(dtype, sums):
    p = Linear(dtype, k=512 if sums == F16 else 128)
    assert pattern_of(p.work, p.sums(sums)) is Pattern.NARROWER


@pytest.mark.parametrize(
    "narrow",
    [lambda x: rounded(x, BF16), lambda x: rounded(x, F16), tf32],
    ids=["bf16", "f16", "tf32"],
)
def test_operands_products_and_values(narrow):
    p = Linear(F32, k=256)
    x, w, b = p.x, p.w, p.b
    products = sum(narrow(p.term(k)) for k in range(256))
    for target in (
        narrow(x) @ narrow(w).T + b,
        x @ narrow(w).T + b,
        narrow(x) @ w.T + b,
        products + b,
        narrow(p.exact),
    ):
        assert pattern_of(p.work, target) is Pattern.NARROWER


@pytest.mark.parametrize("kind", ["add", "mul", "sub"])
@pytest.mark.parametrize("which", [(0,), (1,), (0, 1)])
def test_inputs_rounded_are_no_growth(kind, which):
    a = normal((40, 64)) * np.exp(2 * normal((40, 64), seed=3))
    b = normal((40, 64), seed=1)
    function = {"add": np.add, "mul": np.multiply, "sub": np.subtract}[kind]
    w = work(f"aten.{kind}", function(a.astype(float), b), [a, b])
    for narrow in (tf32, lambda x: rounded(x, BF16)):
        given = [narrow(x) if k in which else x for k, x in enumerate((a, b))]
        assert pattern_of(w, function(given[0].astype(float), given[1])) is Pattern.NARROWER
