"""Workarounds: each fault of TVM's importer is seen without its workaround, and gone with it."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tapml_nb as tapml
from tapml_nb import Bundle, Verdict
from tapml_nb.frontends.torch.workarounds import WORKAROUNDS

_RANDOM = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(shape, generator=_RANDOM)


def whole(high, *shape):
    return torch.randint(0, high, shape, generator=_RANDOM)


CASES = {
    "select from the end": ("negative_index", lambda x: x.select(1, -1), normal(4, 5)),
    "index from the end": (
        "negative_index",
        lambda x, i: x[i],
        normal(5, 4),
        torch.tensor([-1, -5, 2]),
    ),
    "index of some axes": (
        "negative_index",
        lambda x, i, j: x[:, i, j],
        normal(2, 5, 4),
        whole(5, 3),
        whole(4, 3),
    ),
    "index_put with a gap": (
        "index_put",
        lambda x, i, j, v: torch.ops.aten.index_put(x, [i, None, j], v),
        normal(4, 2, 5),
        torch.tensor([0, 1, 2]),
        torch.tensor([3, 4, 0]),
        normal(3, 2),
    ),
    "index_put behind axes of one size": (
        "index_put",
        lambda x, i, v: torch.ops.aten.index_put(x, [None, None, i, i], v),
        normal(3, 3, 5, 5),
        torch.arange(5),
        normal(3, 3, 5),
    ),
    "cumsum of int32": (
        "integer_cumsum",
        lambda x: torch.ops.aten.cumsum(x, 1),
        whole(9, 4, 5).to(torch.int32),
    ),
    "cumsum of booleans": (
        "integer_cumsum",
        lambda x: torch.ops.aten.cumsum(x, 1),
        normal(4, 5) > 0,
    ),
    "a scaled sum": ("alpha", lambda x, y: torch.add(x, y, alpha=3), normal(4, 5), normal(4, 5)),
    "a number minus a scaled tensor": (
        "alpha",
        lambda x: torch.rsub(x, 1.5, alpha=2),
        whole(9, 4, 5),
    ),
    "division of integers": ("integer_promotion", lambda x: x / 4, whole(19, 4, 5)),
    "integers times a number": ("integer_promotion", lambda x: x * 0.5, whole(19, 4, 5)),
    "a number minus integers": ("integer_promotion", lambda x: 0.5 - x, whole(19, 4, 5)),
    "a power of integers": ("integer_promotion", lambda x: 2.0**x, whole(5, 4, 5)),
    "reciprocals of integers": (
        "integer_promotion",
        torch.reciprocal,
        whole(9, 4, 5) + 1,
    ),
    "atan2 of integers": ("integer_promotion", torch.atan2, whole(9, 4, 5), whole(9, 4, 5)),
    "integers beside a fraction": ("integer_promotion", lambda x: x < 0.5, whole(3, 4, 5) - 1),
    "integers to the power of integers": (
        "integer_power",
        lambda x, y: x**y,
        whole(9, 4, 5) - 4,
        whole(90, 3, 1, 5) - 4,
    ),
    "a number to the power of integers": (
        "integer_power",
        lambda y: 3**y,
        whole(19, 4, 5).to(torch.int32),
    ),
    "a sum of booleans": ("booleans", torch.add, normal(4, 5) > 0, normal(4, 5) > 0),
    "a scaled sum of booleans": (
        "alpha",
        lambda x, y: torch.add(x, y, alpha=False),
        normal(4, 5) > 0,
        normal(4, 5) > 0,
    ),
    "booleans times a number": ("booleans", lambda x: x * 3, normal(4, 5) > 0),
    "a square of booleans": ("booleans", torch.square, normal(4, 5) > 0),
    "a comparison of booleans": ("booleans", torch.ge, normal(4, 5) > 0, normal(4, 5) > 0),
    "the larger of booleans": ("booleans", torch.maximum, normal(4, 5) > 0, normal(4, 5) > 0),
    "the largest of booleans": ("booleans", lambda x: torch.max(x, 1), normal(4, 5) > 0),
    "booleans in order": ("booleans", lambda x: torch.argsort(x, 1), normal(4, 5) > 0),
    "signs of booleans": ("booleans", torch.sgn, normal(4, 5) > 0),
    "infinite booleans": ("booleans", torch.isinf, normal(4, 5) > 0),
    "finite float16": ("booleans", torch.isfinite, normal(4, 5).half() / 0.01),
    "index_put of booleans with a gap": (
        "index_put",
        lambda x, i, j, v: torch.ops.aten.index_put(x, [i, None, j], v, True),
        normal(4, 2, 5) > 0,
        torch.tensor([0, 1, 2]),
        torch.tensor([3, 4, 0]),
        normal(3, 2) > 0,
    ),
    "cumsum of a number": ("degenerate_shapes", lambda x: torch.cumsum(x, 0), whole(9)),
    "cumprod of a number": ("degenerate_shapes", lambda x: torch.cumprod(x, 0), normal().half()),
    "bucketize of nothing": (
        "degenerate_shapes",
        torch.bucketize,
        normal(3, 0, 2),
        torch.arange(4.0),
    ),
    "var of nothing": ("degenerate_shapes", lambda x: x.var(0), normal(0, 5).half()),
    "batch_norm by the batch": (
        "batch_statistics",
        lambda x, m, v, w: torch.native_batch_norm(x, w, w, m, v, True, 0.25, 1e-3),
        3 + normal(6, 4, 5),
        normal(4),
        normal(4).abs(),
        normal(4),
    ),
    "batch_norm by the batch in bfloat16": (
        "batch_statistics",
        lambda x: torch.native_batch_norm(x, None, None, None, None, True, 0.0, 1e-3),
        normal(6, 4, 5).bfloat16(),
    ),
    "mm in float16": ("product_dtype", torch.mm, normal(4, 64).half(), normal(64, 3).half()),
    "bmm in bfloat16": (
        "product_dtype",
        torch.bmm,
        normal(2, 4, 64).bfloat16(),
        normal(2, 64, 3).bfloat16(),
    ),
    "convolution in float16": (
        "product_dtype",
        F.conv2d,
        normal(2, 4, 5, 5).half(),
        normal(6, 4, 3, 3).half(),
    ),
    "batch_norm in float16": (
        "product_dtype",
        lambda x, mean, variance: F.batch_norm(x, mean, variance),
        normal(3, 4, 5).half(),
        normal(4).half(),
        normal(4).half().abs(),
    ),
    "batch_norm in bfloat16": (
        "product_dtype",
        F.batch_norm,
        normal(3, 4, 5).bfloat16(),
        normal(4).bfloat16(),
        normal(4).abs().bfloat16(),
        normal(4).bfloat16(),
        normal(4).bfloat16(),
    ),
    "a number beside bfloat16": ("narrow_numbers", lambda x: x * 0.1, normal(64, 64).bfloat16()),
    "a number beside float16": (
        "narrow_numbers",
        lambda x: x * 0.1,
        normal(64, 64).half(),
    ),
    "layer_norm in bfloat16": (
        "narrow_floats",
        lambda x, w, b: F.layer_norm(x, (8,), w, b),
        normal(4, 8).bfloat16(),
        normal(8).bfloat16(),
        normal(8).bfloat16(),
    ),
    "a power in bfloat16": ("narrow_floats", lambda x: x**3, normal(4, 8).bfloat16()),
    "a norm in bfloat16": (
        "narrow_floats",
        lambda x: torch.linalg.vector_norm(x, dim=-1),
        normal(4, 8).bfloat16(),
    ),
    "isnan in bfloat16": ("narrow_floats", torch.isnan, normal(4, 8).bfloat16()),
    "argmax in bfloat16": ("narrow_floats", lambda x: torch.argmax(x, 1), normal(4, 8).bfloat16()),
    "topk in bfloat16": ("narrow_floats", lambda x: torch.topk(x, 2), normal(64, 8).bfloat16()),
    "the largest in bfloat16": (
        "narrow_floats",
        lambda x: torch.max(x, 1),
        normal(64, 8).bfloat16(),
    ),
    "sinh in float16": ("narrow_floats", torch.sinh, normal(4, 8).half()),
    "a variance in float16": ("narrow_floats", lambda x: x.var(0), (normal(4096, 4) + 1).half()),
    "a sum into float16": (
        "narrow_floats",
        lambda x: torch.sum(x, 0, dtype=torch.float16),
        normal(4096, 4) + 1,
    ),
    "fmod in bfloat16": (
        "narrow_floats",
        torch.fmod,
        8 * normal(4, 8).bfloat16(),
        3 + normal(4, 8).abs().bfloat16(),
    ),
    "argsort in bfloat16": ("narrow_floats", torch.argsort, whole(10**6, 64).bfloat16()),
    "atan2 in float16": ("narrow_floats", torch.atan2, normal(4, 8).half(), normal(4, 8).half()),
    "softmax in float16": (
        "narrow_floats",
        lambda x: x.softmax(-1),
        normal(16, 200).half(),
    ),
    "leaky_relu in float16": ("narrow_numbers", F.leaky_relu, normal(64, 256).half()),
    "a sum in float16": ("narrow_floats", lambda x: x.sum(0), (normal(4096, 4) + 1).half()),
    "bilinear by a scale": (
        "resize",
        lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"),
        normal(1, 2, 4, 4),
    ),
    "nearest by a scale": (
        "resize",
        lambda x: F.interpolate(x, scale_factor=0.6),
        normal(1, 2, 4, 4),
    ),
    "antialiased": (
        "resize",
        lambda x: F.interpolate(x, (3, 3), mode="bilinear", antialias=True),
        normal(1, 2, 8, 8),
    ),
    "grid_sample": (
        "grid_sample",
        lambda x, g: F.grid_sample(x, g, mode="bicubic", align_corners=False),
        normal(1, 3, 5, 5),
        normal(1, 7, 4, 2),
    ),
    "any of numbers": ("any_dtype", lambda x: torch.any(x, 1), normal(4, 7)),
    "selu": ("elu", F.selu, normal(4, 5)),
    "selu in bfloat16": ("elu", F.selu, normal(64, 5).bfloat16()),
    "places of max_pool1d": (
        "pool_indices",
        partial(F.max_pool1d, kernel_size=3, stride=2, ceil_mode=True, return_indices=True),
        normal(2, 3, 8),
    ),
    "places of max_pool2d": (
        "pool_indices",
        partial(F.max_pool2d, kernel_size=3, stride=2, padding=1, dilation=2, return_indices=True),
        normal(2, 3, 9, 8).half(),
    ),
    "places of max_pool3d of integers": (
        "pool_indices",
        partial(F.max_pool3d, kernel_size=2, stride=2, padding=1, return_indices=True),
        whole(9**4, 1, 2, 5, 4, 6),
    ),
    "isfinite": (
        "booleans",
        torch.isfinite,
        torch.tensor([1.5, math.inf, math.nan, -math.inf, 0.0]),
    ),
    "booleans that are true": ("booleans", torch.count_nonzero, whole(2, 4, 5).bool()),
    "logaddexp": ("booleans", torch.logaddexp, normal(4, 5), normal(4, 5)),
}
BAD = {
    *(Verdict.FAIL, Verdict.NONFINITE, Verdict.NONDETERMINISTIC),
    *(Verdict.COMPILE_ERROR, Verdict.CRASH),
}


class Together(nn.Module):
    def __init__(self):
        super().__init__()
        for name, (_, function, *_rest) in CASES.items():
            self.add_module(name.replace(" ", "-"), Case(function))

    def forward(self, *tensors):
        rest, results = list(tensors), []
        for case, (_, _, *inputs) in zip(self.children(), CASES.values(), strict=True):
            results.append(case(*rest[: len(inputs)]))
            del rest[: len(inputs)]
        return tuple(results)


class Case(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *tensors):
        return self.function(*tensors)


def judged(workarounds, folder=None):
    tensors = tuple(tensor for _, _, *inputs in CASES.values() for tensor in inputs)
    with tapml.debug(Together().eval(), tensors, workarounds=workarounds) as session:
        report = session.run()
        if folder:
            session.carve(folder / "mended.tapml")
    return report


@pytest.fixture(scope="module")
def as_it_is():
    return judged([])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mended")


@pytest.fixture(scope="module")
def mended(folder):
    return judged([workaround.name for workaround in WORKAROUNDS], folder)


def verdict_in(report, case):
    (op,) = [op.id for op in report.graph.ops if op.scope == case.replace(" ", "-")]
    return op, report.verdict(op)


@pytest.mark.parametrize("case", CASES)
def test_without_it_is_a_finding_and_with_it_right(as_it_is, mended, case):
    op, before = verdict_in(as_it_is, case)
    assert before in BAD, as_it_is.introduced[op, 0]
    assert op not in as_it_is.conversions
    op, after = verdict_in(mended, case)
    # Where no kernel is left, values are compared all the same.
    right = Verdict.SKIPPED if CASES[case][0] == "degenerate_shapes" else Verdict.PASS
    assert after is right, mended.introduced[op, 0]
    assert mended.conversions[op] == f"workaround {CASES[case][0]}"


def _powers(base, exponent, of_negative=0.0):
    with np.errstate(all="ignore"):
        powers = np.power(base, np.maximum(exponent, 0))
    odd = np.where(exponent % 2, base, 1)
    small = np.where(np.abs(base) == 1, odd, np.int64(of_negative))
    return np.where(exponent < 0, small, powers)


def _normalized(x, mean, variance, correction=1):
    x = x.astype(np.float64)
    axes, n = (0, 2), x.shape[0] * x.shape[2]
    own, spread = x.mean(axes), x.var(axes)
    inverse = 1 / np.sqrt(spread + 1e-3)
    running = 0.75 * variance + 0.25 * spread * n / (n - correction)
    centred = (x - own[:, None]) * inverse[:, None]
    found = (centred, own, inverse, 0.75 * mean + 0.25 * own, running)
    return tuple(array.astype(np.float32) for array in found)


def _located(x, larger=np.argmax):
    pairs = x.reshape(1, 1, 4, 2)
    return pairs.max(-1), larger(pairs, -1) + np.arange(0, 8, 2)


@pytest.mark.parametrize(
    ("workaround", "function", "inputs", "honest", "faulty"),
    [
        (
            "integer_power",
            lambda x, y: x**y,
            (torch.arange(-4, 5), torch.arange(-3, 6)[:, None]),
            _powers,
            partial(_powers, of_negative=1),
        ),
        (
            "batch_statistics",
            lambda x, m, v: torch.ops.aten._native_batch_norm_legit_functional(
                x, None, None, m, v, True, 0.25, 1e-3
            ),
            (3 + normal(6, 4, 5), normal(4), normal(4).abs()),
            _normalized,
            partial(_normalized, correction=0),
        ),
        (
            "pool_indices",
            partial(F.max_pool1d, kernel_size=2, return_indices=True),
            (torch.tensor([[[3.0, 1, 4, 1, 5, 9, 2, 6]]]),),
            _located,
            partial(_located, larger=np.argmin),
        ),
    ],
)
def test_a_fault_of_what_they_convert_is_seen(workaround, function, inputs, honest, faulty):
    with tapml.debug(Case(function).eval(), inputs, workarounds=[workaround]) as session:
        report = session.run()
        (op,) = [op.id for op in report.graph.ops]
        assert report.verdict(op) is Verdict.PASS, report.introduced[op, 0]
        session.override(op, honest)
        assert session.run().verdict(op) is Verdict.PASS
        session.override(op, faulty)
        assert session.run().verdict(op) is Verdict.FAIL


def test_every_workaround_has_a_case():
    assert {workaround.name for workaround in WORKAROUNDS} == {case[0] for case in CASES.values()}


def test_the_report_shows_them(as_it_is, mended):
    assert "workarounds: negative_index, index_put" in mended.summary()
    assert "workarounds:" not in as_it_is.summary()
    op, _ = verdict_in(mended, "select from the end")
    message = mended.frame().set_index("op").loc[op, "message"]
    assert message == "workaround negative_index"


def test_a_bundle_remembers_them(mended, folder):
    op, _ = verdict_in(mended, "mm in float16")
    replayed = Bundle.open(folder / "mended.tapml").replay()
    assert replayed.verdict(op) is Verdict.PASS
    assert replayed.conversions[op] == "workaround product_dtype"


def test_an_unknown_one_is_refused_with_the_known():
    with pytest.raises(ValueError, match=r"none called 'negativ'.*negative_index, index_put"):
        tapml.debug(Case(torch.relu).eval(), (normal(2),), workarounds=["negativ"])


def test_gelu_in_float16_compiles_in_time():
    """Without it LLVM works beyond the deadline, which nobody wants to wait for here."""
    model = Case(torch.nn.functional.gelu).eval()
    with tapml.debug(model, (normal(1, 24, 256).half(),), workarounds=["narrow_floats"]) as session:
        report = session.run()
    (op,) = (op.id for op in report.graph.ops)
    assert report.verdict(op) is Verdict.PASS
    assert report.conversions[op] == "workaround narrow_floats"
