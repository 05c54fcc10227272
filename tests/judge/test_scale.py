"""What an element's error is measured by: its own operands, and nobody else's.

Each case is an operator on inputs of PyTorch's own, honest results of another way to compute it,
and faults that a scale shared by elements which share nothing would hide.
"""

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tapml_nb.execute.events import EventStream
from tapml_nb.execute.source import SourceRun
from tapml_nb.frontends.torch import import_torch
from tapml_nb.graph import Op
from tapml_nb.judge import Verdict
from tapml_nb.judge.references import References
from tapml_nb.judge.scale import beside
from tests.judge.holders import judge

BF16 = np.dtype(ml_dtypes.bfloat16)


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def reference(function, *inputs):
    """The reference of the last operator of a function, on these inputs."""
    program = import_torch(Call(function).eval(), inputs)
    source = SourceRun(program, EventStream())
    source.complete()
    return References(source).local(program.graph.ops[-1], 0)[0]


def verdict(target, known, **options):
    return judge(np.ascontiguousarray(target, known.source.dtype), known, **options).verdict


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def in_order(terms, axis=-1):
    """A sum in order, in float32."""
    total = np.zeros(np.delete(terms.shape, axis), np.float32)
    for k in range(terms.shape[axis]):
        total = total + np.take(terms, k, axis)
    return total


class TestMassiveTokensAndChannels:
    """One row or column a thousand times as large as the others."""

    def massive_token(self):
        x = randn(16, 256)
        x[3] *= 1000
        return x

    def test_rms_norm_of_a_massive_token(self):
        x, weight = self.massive_token(), randn(256, seed=1)
        known = reference(lambda x, w: F.rms_norm(x, (256,), w, 1e-6), x, weight)
        a, w = x.numpy(), weight.numpy()
        mean = (in_order(a * a) / np.float32(256))[:, None]
        honest = a * (1 / np.sqrt(mean + np.float32(1e-6))) * w
        assert verdict(honest, known) is Verdict.PASS
        lost = honest.copy()
        lost[np.arange(16) != 3] *= 1.01
        assert verdict(lost, known) is Verdict.FAIL

    def test_linear_beside_a_massive_token(self):
        x, weight = self.massive_token(), randn(64, 256, seed=1)
        known = reference(F.linear, x, weight)
        terms = x.numpy()[:, None, :] * weight.numpy()[None]
        assert verdict(in_order(terms), known) is Verdict.PASS
        assert verdict(in_order(terms[..., :-1]), known) is Verdict.FAIL
        others = in_order(terms)
        others[5] += terms[5, :, 7]
        assert verdict(others, known) is Verdict.FAIL

    @pytest.mark.parametrize("wrong", [0.0, -1.0], ids=["zeroed", "sign changed"])
    def test_massive_channels_in_bfloat16(self, wrong):
        x = randn(64, 128)
        x[:, 5] *= 2000
        x = x.to(torch.bfloat16)
        gate = randn(64, 128, seed=1).to(torch.bfloat16)
        known = reference(torch.mul, x, gate)
        honest = known.source.astype(np.float32)
        assert verdict(honest.astype(BF16), known) is Verdict.PASS
        small = np.where(np.abs(honest) < 0.05, honest * wrong, honest)
        assert verdict(small.astype(BF16), known) is Verdict.FAIL

    def test_exp_over_a_wide_range(self):
        x = torch.linspace(-60, 20, 4096).reshape(8, 512)
        known = reference(torch.exp, x)
        two = (np.exp2(x.numpy() * np.float32(np.log2(np.e)))).astype(np.float32)
        assert verdict(two, known) is Verdict.PASS
        off = np.where(x.numpy() < -20, two * np.float32(1.1), two)
        assert verdict(off, known) is Verdict.FAIL


class TestSumsThatCancel:
    """Honest sums in order pass, however little is left of them; a lost term does not."""

    def test_means_of_centred_values(self):
        x = randn(32, 4096)
        x = x - x.mean(-1, keepdim=True)
        known = reference(lambda x: x.mean(-1), x)
        assert verdict(in_order(x.numpy()) / np.float32(4096), known) is Verdict.PASS
        lost = in_order(x.numpy()[:, :-1]) / np.float32(4096)
        assert verdict(lost, known) is Verdict.FAIL

    def test_differences_of_what_is_nearly_equal(self):
        x = randn(16, 512) * 1e-3 + 30
        mean = x.mean(-1, keepdim=True)
        known = reference(torch.sub, x, mean)
        assert verdict(x.numpy() - mean.numpy(), known) is Verdict.PASS
        assert verdict((x.numpy() - mean.numpy()) * 1.01, known) is Verdict.FAIL

    def test_pooling_after_an_instance_norm(self):
        x = F.instance_norm(randn(2, 8, 32, 32) * 3 + 5)
        known = reference(lambda x: F.adaptive_avg_pool2d(x, 1), x)
        flat = x.numpy().reshape(2, 8, -1)
        honest = (in_order(flat) / np.float32(1024)).reshape(2, 8, 1, 1)
        assert verdict(honest, known) is Verdict.PASS
        assert verdict(honest + np.float32(1e-4), known) is Verdict.FAIL

    def test_a_long_linear_layer_of_a_large_mean(self):
        x, weight = randn(4, 4096) + 20, randn(16, 4096, seed=1) / 64
        weight = weight - weight.mean(-1, keepdim=True)
        known = reference(F.linear, x, weight)
        terms = x.numpy()[:, None, :] * weight.numpy()[None]
        found = judge(in_order(terms), known)
        assert found.verdict is Verdict.PASS
        assert found.ratio < 2
        assert verdict(in_order(terms) + np.float32(0.1), known) is Verdict.FAIL

    def test_a_layer_norm_of_a_large_mean(self):
        x = randn(8, 768) + 30
        known = reference(lambda x: F.layer_norm(x, (768,)), x)
        a = x.numpy()
        mean = (in_order(a) / np.float32(768))[:, None]
        variance = (in_order((a - mean) ** 2) / np.float32(768))[:, None]
        found = judge(((a - mean) / np.sqrt(variance + np.float32(1e-5))), known)
        assert found.verdict is Verdict.PASS
        assert found.ratio < 4
        squares = (in_order(a * a) / np.float32(768))[:, None] - mean * mean
        assert verdict((a - mean) / np.sqrt(squares + np.float32(1e-5)), known) is Verdict.FAIL


MOVES = {
    "cat": lambda x: torch.cat([x, x.flip(0)], 1),
    "slice": lambda x: x[1:, ::2],
    "transpose": lambda x: x.transpose(0, 1).contiguous(),
    "gather": lambda x: x.gather(1, torch.zeros(16, 4, dtype=torch.int64)),
    "where": lambda x: torch.where(x > 0, x, torch.zeros(())),
    "max_pool": lambda x: F.max_pool2d(x[None, None], 2),
    "relu": lambda x: torch.relu(x),
}


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_only_moves_compares_exactly(name, dtype):
    known = reference(MOVES[name], randn(16, 64).to(dtype))
    source = known.source
    assert known.floor.exact
    assert verdict(source.copy(), known) is Verdict.PASS
    wide = source.astype(np.float32).reshape(-1)
    place = int(np.flatnonzero(wide)[0])
    up = np.nextafter(source.reshape(-1)[place], np.asarray(np.inf, source.dtype))
    changed = source.copy()
    changed.reshape(-1)[place] = up
    found = judge(changed, known)
    assert found.verdict is Verdict.FAIL
    assert "compare exactly" in found.message


def test_a_move_keeps_nan_and_infinities():
    x = randn(4, 8)
    x[0, 0], x[1, 1] = torch.nan, torch.inf
    known = reference(lambda x: x.t().contiguous(), x)
    assert verdict(known.source.copy(), known) is Verdict.PASS
    lost = np.nan_to_num(known.source, nan=0.0, posinf=np.inf)
    assert verdict(lost, known) is Verdict.FAIL


def test_what_is_exact_for_many_values_compares_exactly():
    x = torch.arange(256.0).reshape(16, 16).to(torch.bfloat16)
    known = reference(torch.add, x, torch.ones((), dtype=torch.bfloat16) * 0)
    assert known.floor.exact
    off = known.source.copy()
    off[15, 15] = np.nextafter(off[15, 15], BF16.type(0))
    assert verdict(off, known) is Verdict.FAIL


def test_a_few_exact_values_prove_nothing():
    known = reference(torch.add, torch.ones(64), torch.ones(64))
    assert not known.floor.exact
    assert verdict(np.nextafter(known.source, np.float32(9)), known) is Verdict.PASS


class TestTheEdgeOfTheRange:
    """A mask is no overflow."""

    def test_a_mask_that_becomes_infinite(self):
        for dtype, lowest in ((torch.float32, -3.4028235e38), (torch.float16, -65504.0)):
            mask = torch.zeros(8, 8, dtype=dtype).masked_fill(
                torch.ones(8, 8).triu(1).bool(), torch.finfo(dtype).min
            )
            known = reference(torch.add, randn(8, 8).to(dtype) * 0, mask)
            infinite = np.where(known.source == lowest, -np.inf, known.source)
            assert verdict(known.source.copy(), known) is Verdict.PASS
            assert verdict(infinite, known) is Verdict.NONFINITE

    def test_an_infinite_mask_that_becomes_the_lowest_number(self):
        mask = torch.zeros(8, 8).masked_fill(torch.ones(8, 8).triu(1).bool(), -torch.inf)
        known = reference(torch.add, randn(8, 8), mask)
        lowest = np.where(np.isinf(known.source), np.finfo(np.float32).min, known.source)
        assert verdict(lowest, known) is Verdict.FAIL

    def test_what_rounds_to_infinity_on_one_side_alone(self):
        a = torch.full((64,), 65504.0, dtype=torch.float16)
        b = torch.full((64,), 15.0, dtype=torch.float16)  # 65519: 65520 rounds to infinity
        known = reference(torch.add, a, b)
        assert verdict(np.full(64, np.inf), known) is Verdict.PASS
        known = reference(torch.add, a, b + 1)
        assert np.isinf(known.source).all()
        assert verdict(np.full(64, 65504.0), known) is Verdict.PASS
        known = reference(torch.add, a, b + 1000)
        assert verdict(np.full(64, 65504.0), known) is Verdict.FAIL


def test_functions_of_order_one_are_good_to_a_rounding_of_one():
    x = torch.linspace(-9, 9, 20_001)
    known = reference(torch.tanh, x)
    e = np.exp(-2 * np.abs(x.numpy()))
    formula = np.sign(x.numpy()) * (1 - e) / (1 + e)
    assert verdict(formula, known) is Verdict.PASS
    assert verdict(formula + np.float32(3e-6), known) is Verdict.FAIL


def test_a_function_that_compares_is_judged_by_element_all_the_same():
    """``softplus`` chooses between two formulas: that makes its elements share nothing."""
    x = torch.linspace(-16, 2, 500)
    known = reference(F.softplus, x)
    a = x.numpy()
    assert verdict(np.log1p(np.exp(a)), known) is Verdict.PASS
    assert verdict(np.log(1 + np.exp(a)), known) is Verdict.FAIL


def test_a_float16_result_that_is_subnormal():
    x = torch.linspace(-20, -8, 1024, dtype=torch.float16)
    known = reference(torch.exp, x)
    honest = np.exp(x.numpy().astype(np.float32)).astype(np.float16)
    steps = honest.copy()
    steps[::9] = np.nextafter(honest[::9], np.float16(1))
    assert verdict(honest, known) is Verdict.PASS
    assert verdict(steps, known) is Verdict.PASS
    assert verdict(honest * np.float16(1.1), known) is Verdict.FAIL


def test_what_jumps_excuses_nothing():
    """Roundings move these numbers from bin to bin; a count that is off by one is wrong all the
    same, also where an operator is known by nothing."""
    x = torch.arange(64.0).repeat(4)
    known = reference(lambda x: torch.histc(x, 64, 0.0, 64.0), x)
    assert known.floor.exact
    assert verdict(known.source + np.eye(64, dtype=np.float32)[3], known) is Verdict.FAIL
    op = Op("x", "k", "", "", "", ("i",), ("o",), None, ("somebody.counts",))
    values = x.numpy()

    def count(given):
        return [np.histogram(given.get(0, values), 64, (0.0, 64.0))[0].astype(np.float64)]

    exact = count({})
    (found,) = beside(op, [values], [values.dtype], exact, count)
    assert found.max() <= np.sqrt(np.mean(np.square(exact[0]))) * 1.001


@pytest.mark.parametrize("dtype", [bool, np.int64, np.float32])
def test_a_transform_that_cancels_has_terms(dtype):
    """Of ones all but one bin is 0 in exact arithmetic, and of the order of a rounding in any
    other."""
    op = Op("x", "aten.fft_fft", "", "", "", ("i",), ("o",), None, ("aten._fft_r2c.default",))
    x = np.ones((3, 32), dtype)
    x[1:] = 0

    def run(given):
        bins = np.fft.fft(given.get(0, x))
        return [np.stack([bins.real, bins.imag], -1)]

    given = np.dtype(np.float32)
    (found,) = beside(op, [x], [given], run({}), run, (False,), (True,))
    terms = np.sqrt(32)
    assert (found[0] > terms / 2).all()
    assert (found[0, 1:] < terms * 2).all()
    assert not found[1:].any()


def test_integers_have_no_scale():
    op = Op("x", "aten.sum", "", "", "", ("i",), ("o",), None, ("aten.sum.dim_IntList",))
    integers = np.arange(4)
    assert beside(op, [integers], [integers.dtype], [integers], lambda given: None) == [None]
