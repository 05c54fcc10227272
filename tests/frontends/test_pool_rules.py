"""Our own rules for pools, resizing, sampling and reductions of parts of an axis."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tapml_nb import Verdict
from tests.frontends.together import by_torch, ops_of, session_of

aten = torch.ops.aten
_RANDOM = torch.Generator().manual_seed(2)


def normal(*shape):
    return torch.randn(shape, generator=_RANDOM)


def whole(high, *shape):
    return torch.randint(0, high, shape, generator=_RANDOM)


def _with_gaps(tensor):
    tensor[0, 0, 2, 2:4] = math.nan
    return tensor


IMAGE = _with_gaps(whole(9, 2, 3, 9, 8).float())
VOLUME = normal(2, 3, 6, 7, 8)
ROWS, BAGS = torch.tensor([2, 4, 2, 0, 1, 8, 3, 5, 2, 6]), torch.tensor([0, 3, 3, 7])
GAPS = normal(4, 5)
GAPS[1, 2], GAPS[2] = math.nan, 0.0


def _backward(gradient, x, places):
    return aten.max_pool2d_with_indices_backward(
        gradient, x, [3, 3], [2, 2], [1, 1], [1, 1], False, places
    )


def _norms(x, w, b, mean, variance):
    return aten._batch_norm_with_update_functional(x, w, b, mean, variance, 0.3, 1e-3)


CASES = {
    "max_pool without a stride": (
        lambda x: F.max_pool2d(x, 3, [], 1, (1, 2), True, True),
        IMAGE,
    ),
    "max_pool backward": (
        _backward,
        normal(2, 3, 5, 4),
        IMAGE,
        F.max_pool2d(IMAGE, 3, 2, 1, return_indices=True)[1],
    ),
    "adaptive_max_pool": (lambda x: F.adaptive_max_pool2d(x, (3, 5), True), IMAGE),
    "fractional_max_pool2d": (
        lambda x, s: aten.fractional_max_pool2d(x, [2, 3], [4, 5], s),
        normal(2, 3, 9, 8),
        torch.rand(2, 3, 2, generator=_RANDOM),
    ),
    "fractional_max_pool2d of one": (
        lambda x, s: aten.fractional_max_pool2d(x, [2, 3], [1, 4], s),
        normal(3, 9, 8).half(),
        torch.rand(1, 3, 2, generator=_RANDOM).half(),
    ),
    "fractional_max_pool3d": (
        lambda x, s: aten.fractional_max_pool3d(x, [2, 3, 2], [4, 2, 5], s),
        VOLUME,
        torch.rand(2, 3, 3, generator=_RANDOM),
    ),
    "avg_pool1d": (lambda x: F.avg_pool1d(x, 2), normal(3, 6)),
    "index_reduce": (
        lambda x, i, s: torch.index_reduce(x, 1, i, s, "mean", include_self=False),
        normal(5, 4, 3),
        whole(4, 9),
        normal(5, 9, 3),
    ),
    "index_reduce of a number": (
        lambda x, i, s: torch.index_reduce(x, 0, i, s, "prod"),
        normal(),
        torch.tensor([0]),
        normal(),
    ),
    "index_reduce amax": (
        lambda x, i, s: torch.index_reduce(x, -2, i, s, "amax"),
        normal(5, 4).bfloat16(),
        whole(5, 7),
        normal(7, 4).bfloat16(),
    ),
    "segment_reduce": (
        lambda x, n: torch.segment_reduce(x, "mean", lengths=n),
        normal(9, 4),
        torch.tensor([3, 0, 4, 2]),
    ),
    "segment_reduce by offsets": (
        lambda x, n: torch.segment_reduce(x, "max", offsets=n, axis=1, initial=0.5),
        normal(2, 9),
        torch.tensor([[0, 3, 3, 9], [0, 1, 8, 9]]),
    ),
    "bilinear": (F.bilinear, normal(2, 3, 3), normal(2, 3, 4), normal(5, 3, 4), normal(5)),
    "pdist": (torch.pdist, normal(5, 7)),
    "pdist by the largest": (lambda x: torch.pdist(x, math.inf), normal(5, 7)),
    "vector_norm": (lambda x: torch.linalg.vector_norm(x, 0, -1), GAPS),
    "batch_norm with update": (
        _norms,
        normal(5, 4, 3) + 2,
        normal(4),
        normal(4),
        normal(4),
        normal(4).abs(),
    ),
    "rrelu": (F.rrelu, GAPS),
    "embedding_renorm": (
        lambda w, i: aten.embedding_renorm(w, i, 1.0, 2.0),
        normal(6, 5),
        torch.tensor([[1, 2], [2, 5]]),
    ),
    "argmax of a number": (torch.argmax, torch.tensor(1.5)),
    "clamp of integers": (lambda x: x.clamp(min=1), whole(19, 4, 5)),
    "clamp_max of integers": (lambda x: x.clamp_max(1), whole(19, 4, 5).to(torch.int32)),
    "clamp of integers by a tensor": (
        lambda x, low: x.clamp_min(low),
        whole(19, 4, 5),
        whole(19, 5),
    ),
    "interpolate": (lambda x: F.interpolate(x, 5, mode="linear"), normal(1, 2, 7)),
    "resize": (
        lambda x: F.interpolate(x, (3, 9), mode="bicubic", antialias=True),
        normal(1, 2, 5, 4),
    ),
    "resize trilinear": (
        lambda x: aten.upsample_trilinear3d(x, [3, 9, 8], True),
        normal(1, 2, 5, 4, 3),
    ),
    **{
        f"resize nearest exact {axes}d": (
            lambda x, axes=axes: getattr(aten, f"_upsample_nearest_exact{axes}d")(
                x, [3, 9, 8][:axes]
            ),
            normal(1, 2, *[5, 4, 3][:axes]),
        )
        for axes in (1, 2, 3)
    },
    **{
        f"resize nearest {axes}d": (
            lambda x, axes=axes: getattr(aten, f"upsample_nearest{axes}d")(x, [3, 9, 8][:axes]),
            normal(1, 2, *[5, 4, 3][:axes]),
        )
        for axes in (1, 2, 3)
    },
    "grid_sample": (
        lambda x, g: F.grid_sample(x, g, align_corners=False),
        VOLUME,
        normal(2, 3, 4, 2, 3),
    ),
    "conv_transpose3d": (
        lambda x, w: F.conv_transpose3d(x, w, stride=2, padding=1, output_padding=(1, 1, 0)),
        VOLUME,
        normal(3, 2, 2, 3, 2),
    ),
    "embedding_bag": (
        lambda i, w, o: F.embedding_bag(i, w, o, mode="mean", padding_idx=2),
        ROWS,
        normal(9, 4),
        BAGS,
    ),
}


@pytest.fixture(scope="module")
def report():
    with session_of(CASES) as session:
        return session.run()


@pytest.mark.parametrize("case", CASES)
def test_a_rule_is_right(report, case):
    found = {op: report.introduced[op, 0] for op in ops_of(report, case)}
    assert found
    assert {one.verdict for one in found.values()} <= {Verdict.PASS, Verdict.SKIPPED}, found
    assert any(op in report.conversions for op in found)


def _to_the_least(gradient, x, _):
    return _backward(gradient, x, F.max_pool2d(-x, 3, 2, 1, return_indices=True)[1])


FAULTS = {
    "max_pool without a stride": by_torch(
        lambda x: F.max_pool2d(x.nan_to_num(-1e9), 3, [], 1, (1, 2), True, True)
    ),
    "max_pool backward": by_torch(_to_the_least),
    "adaptive_max_pool": by_torch(
        lambda x: (F.adaptive_max_pool2d(x, (3, 5)), F.adaptive_max_pool2d(x, (3, 5), True)[1] + 1)
    ),
    "fractional_max_pool2d": by_torch(
        lambda x, s: aten.fractional_max_pool2d(x, [2, 3], [4, 5], s.flip(-1))
    ),
    "fractional_max_pool3d": by_torch(
        lambda x, s: aten.fractional_max_pool3d(x, [2, 3, 2], [4, 2, 5], s * 0)
    ),
    "index_reduce": by_torch(lambda x, i, s: torch.index_reduce(x, 1, i, s, "mean")),
    "segment_reduce": by_torch(lambda x, n: torch.segment_reduce(x, "sum", lengths=n)),
    "bilinear": by_torch(lambda a, b, w, c: F.bilinear(a, b, w)),
    "pdist": by_torch(lambda x: torch.pdist(x.flip(0))),
    "vector_norm": lambda x: np.count_nonzero(np.nan_to_num(x), -1).astype(np.float32),
    "batch_norm with update": by_torch(
        lambda x, w, b, m, v: (*(found := _norms(x, w, b, m, v))[:5], found[5] * 14 / 15)
    ),
    "rrelu": by_torch(lambda x: F.leaky_relu(x, 1 / 8)),
    "embedding_renorm": by_torch(lambda w, i: aten.embedding_renorm(w, torch.arange(6), 1.0, 2.0)),
    "clamp of integers": lambda x: x,
    "interpolate": by_torch(lambda x: F.interpolate(x, 5, mode="linear", align_corners=True)),
    "resize": by_torch(lambda x: F.interpolate(x, (3, 9), mode="bicubic")),
    "resize trilinear": by_torch(lambda x: aten.upsample_trilinear3d(x, [3, 9, 8], False)),
    "resize nearest exact 2d": by_torch(lambda x: F.interpolate(x, (3, 9))),
    "resize nearest 3d": by_torch(lambda x: F.interpolate(x, (3, 9, 8), mode="nearest-exact")),
    "grid_sample": by_torch(lambda x, g: F.grid_sample(x, g, align_corners=True)),
    "conv_transpose3d": by_torch(
        lambda x, w: F.conv_transpose3d(
            x, w.flip(-1), stride=2, padding=1, output_padding=(1, 1, 0)
        )
    ),
    "embedding_bag": by_torch(lambda i, w, o: F.embedding_bag(i, w, o, mode="mean")),
}
"""What is wrong beside each honest rule, of which the report above is the control."""


@pytest.fixture(scope="module")
def faults():
    with session_of({name: CASES[name] for name in FAULTS}) as session:
        for name, wrong in FAULTS.items():
            session.override(ops_of(session, name)[-1], wrong)
        return session.run()


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_in_its_place_is_blamed(faults, case):
    op = ops_of(faults, case)[-1]
    verdict = faults.verdict(op)
    assert verdict in (Verdict.FAIL, Verdict.NONFINITE), faults.introduced[op, 0]
