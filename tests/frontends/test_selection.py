"""What yields as many elements as its values say, and copies of views, against PyTorch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tapml_nb as tapml
from tapml_nb import Verdict

_RANDOM = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=_RANDOM)


def whole(high, *shape):
    return torch.randint(0, high, shape, generator=_RANDOM)


GAPS = torch.tensor([[1.0, 0, -0.0], [0, 3, math.nan], [math.inf, 3, math.nan]])
SOME = torch.tensor([True, False, True])
ALL = {"return_inverse": True, "return_counts": True}
aten = torch.ops.aten

SELECTIONS = {
    "nonzero": (torch.nonzero, GAPS),
    "nonzero of integers": (torch.nonzero, whole(3, 2, 3, 2)),
    "nonzero in bfloat16": (lambda x: torch.nonzero(x) + 1, GAPS.bfloat16()),
    "nonzero of all": (torch.nonzero, SOME | True),
    "nonzero of none": (torch.nonzero, SOME & False),
    "nonzero of a number": (torch.nonzero, torch.tensor(2.0)),
    "so many rows": (lambda x: torch.nonzero_static(x, size=9, fill_value=-7), GAPS),
    "fewer rows": (lambda x: torch.nonzero_static(x, size=2), GAPS),
    "argwhere": (torch.argwhere, GAPS),
    "masked_select": (torch.masked_select, GAPS, SOME),
    "masked_select of more": (torch.masked_select, normal(3), whole(2, 4, 2, 3).bool()),
    "masked_select of booleans": (torch.masked_select, GAPS > 0, SOME),
    "masked_select of numbers": (torch.masked_select, torch.tensor(2.0), torch.tensor(True)),
    "a mask as index": (lambda x: x[x > 0] * 2, normal(4, 5)),
    "a mask of an inner axis": (lambda x, m: x[:, m], GAPS, SOME),
    "a mask of two axes": (lambda x, m: x[m], normal(3, 4, 2), whole(2, 3, 4).bool()),
    "a mask and a place": (lambda x, m, i: x[i, :, m], normal(3, 4, 3), SOME, torch.tensor([1])),
    "written by a mask": (
        lambda x, m, v: torch.index_put(x, [m], v),
        GAPS,
        GAPS > 0,
        torch.arange(4.0),
    ),
    "added by a mask": (
        lambda x, m, v: torch.index_put(x, [m], v, accumulate=True),
        normal(3, 4),
        SOME,
        normal(2, 4),
    ),
    "bincount": (torch.bincount, whole(9, 50)),
    "bincount of weights": (lambda x, w: torch.bincount(x, w, 12), whole(9, 50), normal(50)),
    "bincount of nothing": (torch.bincount, whole(9, 0)),
    "repeats": (lambda x, n: x.repeat_interleave(n, 0), GAPS, torch.tensor([2, 0, 3])),
    "unique": (lambda x: torch.unique(x, **ALL), GAPS),
    "unique in float16": (lambda x: torch.unique(x, **ALL), whole(9, 50).half()),
    "unique booleans": (lambda x: torch.unique(x, **ALL), GAPS > 0),
    "unique of a number": (lambda x: torch.unique(x, **ALL), torch.tensor(3)),
    "unique of nothing": (lambda x: torch.unique(x, **ALL), normal(0, 3)),
    "unique values alone": (torch.unique, whole(5, 30)),
    "unique rows": (lambda x: torch.unique(x, dim=0, **ALL), whole(2, 9, 3)),
    "unique columns": (lambda x: torch.unique(x, dim=1, **ALL), whole(2, 2, 9, 2).float()),
    "unique rows of booleans": (lambda x: torch.unique(x, dim=-2), whole(2, 9, 3).bool()),
    "unique neighbours": (lambda x: torch.unique_consecutive(x, **ALL), whole(2, 4, 5)),
    "neighbours with NaN": (lambda x: torch.unique_consecutive(x, **ALL), GAPS),
    "neighbouring rows": (
        lambda x: torch.unique_consecutive(x, dim=-2, **ALL),
        whole(2, 2, 9, 1).bool(),
    ),
}

X = normal(4, 6)
VIEWS = {
    "view_copy": (lambda x: aten.view_copy(x, [3, 8]), X),
    "permute_copy": (lambda x: aten.permute_copy(x, [1, 0]), X),
    "slice_copy": (lambda x: aten.slice_copy(x, 1, 1, -1, 2), X),
    "select_copy": (lambda x: aten.select_copy(x, 1, -2), X),
    "narrow_copy": (lambda x: torch.narrow_copy(x, 1, -4, 2), X),
    "detach_copy": (aten.detach_copy, X),
    "unbind_copy": (lambda x: tuple(aten.unbind_copy(x, -1)), X),
    "split_copy": (lambda x: tuple(aten.split_copy(x, 4, -1)), X),
    "as_strided": (lambda x: aten.as_strided(x, [3, 2], [2, 5], 4), X),
    "as_strided of one place": (lambda x: aten.as_strided(x, [3, 2], [0, 1], 4), X),
    "as_strided to a number": (lambda x: aten.as_strided(x, [], [], 4), X),
    "as_strided to nothing": (lambda x: aten.as_strided_copy(x, [0, 2], [2, 1], 4), X),
    "as_strided_scatter": (
        lambda x, y: aten.as_strided_scatter(x, y, [3, 2], [2, 5], 1),
        X,
        normal(3, 2),
    ),
    "resize": (lambda x: aten.resize(x, [3, 2]), X),
    "pools without a batch": (
        lambda x: (F.adaptive_avg_pool1d(x, 4), F.avg_pool1d(x, 2)),
        X,
    ),
    "conj_physical": (torch.fft.ihfft2, X),
}


_RIGHT = (Verdict.PASS, Verdict.SKIPPED)


class Case(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


class Cases(nn.Module):
    """All at once: compilers and targets are started once."""

    def __init__(self, functions):
        super().__init__()
        self.cases = nn.ModuleDict({name: Case(f) for name, f in functions.items()})

    def forward(self, inputs):
        return [case(*given) for case, given in zip(self.cases.values(), inputs, strict=True)]


@pytest.mark.parametrize("cases", [SELECTIONS, VIEWS], ids=["selections", "views"])
def test_rules_against_pytorch(cases):
    model = Cases({name.replace(".", " "): case[0] for name, case in cases.items()})
    with tapml.debug(model.eval(), ([case[1:] for case in cases.values()],)) as session:
        report = session.run()
        wrong = {
            op.id: report.introduced[op.id, 0].message
            for op in session.graph.ops
            if not op.host and report.verdict(op.id) not in (Verdict.PASS, Verdict.SKIPPED)
        }
        assert wrong == {}


@pytest.mark.parametrize(
    ("function", "inputs", "wrong"),
    [
        (torch.nonzero, (GAPS,), lambda x: np.argwhere(x.T)),
        (torch.masked_select, (X, X > 0), lambda x, m: np.sort(x[m])),
        (lambda x: x[x > 0], (X,), lambda x, m: -x[m]),
        (torch.unique, (whole(9, 50),), lambda x: np.unique(x)[::-1]),
        (lambda x: aten.as_strided_copy(x, [3, 2], [2, 5], 4), (X,), lambda x: x[:3, :2]),
        (lambda x: torch.narrow_copy(x, 1, 1, 2), (X,), lambda x: x[:, :2]),
    ],
    ids=["nonzero", "masked_select", "mask", "unique", "strides", "a copy"],
)
def test_a_wrong_kernel_in_a_rules_place_is_blamed(function, inputs, wrong):
    with tapml.debug(Case(function).eval(), inputs) as session:
        *_, op = (op.id for op in session.graph.ops if op.outputs and not op.host)
        assert session.run().verdict(op) is Verdict.PASS
        session.override(op, wrong)
        assert session.run().verdict(op) is Verdict.FAIL


def test_weights_that_are_counted_in_another_order_are_no_fault():
    inputs = whole(9, 900), normal(900)
    with tapml.debug(Case(torch.bincount).eval(), inputs) as session:
        assert session.run().verdict("bincount") is Verdict.PASS
        session.override("bincount", lambda x, w: np.bincount(x[::-1], w[::-1]))
        assert session.run().verdict("bincount") is Verdict.PASS
        session.override("bincount", lambda x, w: np.bincount(x[1:], w[1:]))
        assert session.run().verdict("bincount") is Verdict.FAIL


def test_a_kernel_that_counts_otherwise_gives_no_right_element():
    """A hybrid run in which a wrong operator before it changes how many there are."""

    class Select(nn.Module):
        def forward(self, x):
            mask = x > 0
            return torch.nonzero(mask), torch.masked_select(x, mask)

    with tapml.debug(Select().eval(), (X,)) as session:
        assert session.run().verdict("gt") is Verdict.PASS
        session.override("gt", lambda x: x > -0.5)  # more of them, the first ones among them
        session.offload(["nonzero", "masked_select", "gt"])
        session.hybrid()
        found, chosen = (session.engine.hybrid.array(v, 0) for v in session.graph.outputs)
        assert (found < 0).all()
        assert np.isnan(chosen).all()


def test_more_than_one_operator_with_such_sizes():
    """Other granularities, sizes that are open beside them, inputs made of the real ones, and a
    bundle."""

    class Model(nn.Module):
        def forward(self, x):
            chosen = x[x[:, 0] > 0]
            return torch.softmax(chosen, 1), (x > 0).nonzero() + 1, torch.unique(x.round()) * 3

    inputs, rows = (normal(12, 4),), torch.export.Dim.DYNAMIC
    for granularity in ("operator", "module", "fused"):
        with tapml.debug(Model().eval(), inputs, granularity=granularity) as session:
            report = session.run(augment=granularity == "operator")
            assert set(report.counts) <= {Verdict.PASS, Verdict.SKIPPED}
            assert all(found.result.verdict in _RIGHT for found in report.augmented)
    steps = [inputs, (normal(9, 4),)]
    with tapml.debug(Model().eval(), steps, dynamic_shapes=({0: rows},)) as session:
        report = session.run()
        assert set(report.counts) <= {Verdict.PASS, Verdict.SKIPPED}
        assert "the values of what it reads decide" in report.conversions["index"]


def test_memory_around_a_tensor_is_not_read():
    with tapml.debug(Case(lambda x: aten.as_strided_copy(x[1:], [3], [2])).eval(), (X,)) as session:
        result = session.run().introduced["as_strided_copy", 0]
        assert result.verdict is Verdict.UNSUPPORTED
        assert "memory around the tensor" in result.message


def test_many_numbers_added_up_in_float16_fail_and_a_few_do_not():
    class Pool(nn.Module):
        def forward(self, few, many):
            return F.adaptive_avg_pool2d(few, 2) + F.adaptive_avg_pool2d(many, 2)

    torch.manual_seed(0)
    inputs = torch.rand(2, 16, 4, 4).half(), torch.rand(2, 16, 64, 64).half()
    with tapml.debug(Pool().eval(), inputs) as session:
        report = session.run()
        few, many = (op.id for op in session.graph.ops if "pool" in op.kind)
        assert (report.verdict(few), report.verdict(many)) == (Verdict.PASS, Verdict.FAIL)
