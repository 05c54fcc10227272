"""Operators on derived inputs, through a real session."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import tapml_nb as tapml
from tapml_nb.judge.verdict import Verdict
from tests import models

pytestmark = pytest.mark.compiles


class Partial(nn.Module):
    """Operators that are not defined everywhere."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        positive = x.abs() + 1
        return positive.log(), positive.rsqrt(), (positive * 3).to(torch.int32), positive.exp()


def tries(report, op):
    return {t.variant: t.result for t in report.augmented if t.result.op == op}


def test_honest_kernels_pass_on_whatever_is_defined():
    with tapml.debug(Partial().eval(), (torch.randn(4, 9) * 10,)) as session:
        session.run()
        before = session.engine.pool.first.held()
        report = session.run(augment=True)
        assert session.engine.pool.first.held() <= before
        assert {t.result.verdict for t in report.augmented} == {Verdict.PASS}
        assert "negated" not in tries(report, "log")
        assert "zeros" not in tries(report, "rsqrt")
        assert {"equal rows", "axis 1 of size 8", "axis 0 of size 5"} <= tries(report, "log").keys()
        assert session.ops["kernel"].nunique() == report.info.kernels
        assert session.run().augmented == report.augmented


def test_a_whole_llama_passes():
    model, inputs = models.llama(1)
    with tapml.debug(model, inputs) as session:
        report = session.run(augment=True)
        frame = report.augmented_frame()
        assert len(frame) > 300
        assert set(frame["verdict"]) == {"PASS"}
        assert "derived inputs: " in report.summary()
        assert ", 0 fail" in report.summary()


@pytest.mark.parametrize(
    ("broken", "variant"),
    [
        (lambda x: np.where(np.abs(x) > 30, 0, x / (1 + np.exp(-x))), "largest magnitude"),
        (lambda x: np.where((x == 0).all(), np.float32(1), x / (1 + np.exp(-x))), "zeros"),
        (lambda x: x / (1 + np.exp(-x)) + (x.shape[0] % 3 != 0), "axis 0 of size 4"),
    ],
)
def test_a_fault_that_real_inputs_do_not_meet(broken, variant):
    model, (x,) = models.two_layers()
    with tapml.debug(model, (torch.cat([x[:2], 60 * x[:1]]),)) as session:
        real, honest = session.inputs("act")[0], session.tensor("act")
        session.override("act", lambda x: honest if np.array_equal(x, real) else broken(x))
        report = session.run(augment=True)
        assert report.verdict("act/silu") is Verdict.PASS
        assert report.culprits == []
        assert report.ok
        found = tries(report, "act/silu")
        assert found[variant].verdict is Verdict.FAIL
        assert report.augmented_frame().iloc[0]["verdict"] == "FAIL"
        assert f"act/silu, {variant}: FAIL" in report.summary()
        session.override("act", None)
        assert tries(session.report, "act/silu") == {}


def test_a_primfunc_is_tried_at_its_own_shape_alone():
    from tests import kernels

    model, inputs = models.two_layers()
    with tapml.debug(model, inputs) as session:
        session.override("act", kernels.honest)
        found = tries(session.run(augment=True), "act/silu")
        assert found
        assert not any(variant.startswith("axis") for variant in found)
