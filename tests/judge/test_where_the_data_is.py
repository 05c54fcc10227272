"""A session whose tensors are judged where they are says the same as one on the host.

A GPU's tensors are PyTorch's; so are, here, the processor's, as if it were one.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import tapml_nb as tapml
from tapml_nb.frontends.torch.program import TorchProgram
from tapml_nb.frontends.torch.tensors import plain
from tests.judge.holders import looking_costs


class Mixed(nn.Module):
    """Every kind of arithmetic that a scale is made for, integers, choices and complex numbers."""

    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(32), nn.Linear(32, 32)
        self.conv = nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x, tokens):
        y = self.conv(self.norm(x))
        y = torch.tanh(self.linear(y)) + x
        y = y.softmax(-1) * y.mean(-1, keepdim=True)
        order = torch.argsort(y, dim=-1)
        spectrum = torch.fft.rfft(y)
        return y[:, :2], order, tokens // 3, (y * 1e6).int(), spectrum * 2


def inputs(dtype=torch.float32):
    torch.manual_seed(0)
    return torch.randn(1, 4, 32).to(dtype), torch.arange(12)


def judged(model, given, wrong=None):
    with tapml.debug(model, given, workarounds=["product_dtype"]) as session:
        if wrong:
            session.override(wrong, lambda x, *_: np.tanh(x.astype(np.float32) * 1.01))
        report = session.run()
        session.offload([op.id for op in session.graph.ops if report.verdict(op.id) == "PASS"])
        return report, session.hybrid()


def figures(report):
    frame = report.frame()
    return frame[
        [
            "op",
            "verdict",
            "ratio",
            "floor",
            "max_abs",
            "snr_db",
            "acc_ratio",
            "message",
            "diagnosis",
        ]
    ]


@pytest.mark.parametrize("wrong", [None, "tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_verdicts_are_the_same(monkeypatch, dtype, wrong):
    torch.manual_seed(1)
    model, given = Mixed().eval().to(dtype), inputs(dtype)
    if dtype is torch.bfloat16:
        monkeypatch.setattr(model, "forward", lambda x, _: model.linear(x).tanh().softmax(-1) + x)
    (ours, ours_hybrid), asked = judged(model, given, wrong), []

    def there(tensor):
        asked.append(tensor)
        return plain(tensor)

    monkeypatch.setattr(TorchProgram, "array_of", staticmethod(there))
    theirs, theirs_hybrid = judged(model, given, wrong)
    assert asked
    pd.testing.assert_frame_equal(figures(ours), figures(theirs), rtol=1e-6)
    pd.testing.assert_frame_equal(figures(ours_hybrid), figures(theirs_hybrid), rtol=1e-6)
    assert (ours.verdict("tanh") == "FAIL") is (wrong is not None)


class Layers(nn.Module):
    """Equal layers, whose tensors are measured together where it costs to look at one."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16), nn.Tanh()) for _ in range(6))
        )

    def forward(self, x):
        return self.layers(x).softmax(-1)


@pytest.mark.parametrize("wrong", [None, "layers.3.2/tanh"])
def test_what_is_measured_together_is_what_each_is_alone(monkeypatch, wrong):
    torch.manual_seed(1)
    model, given = Layers().eval(), (torch.randn(4, 16),)
    ours, ours_hybrid = judged(model, given, wrong)
    monkeypatch.setattr(TorchProgram, "array_of", staticmethod(plain))
    with looking_costs():
        theirs, theirs_hybrid = judged(model, given, wrong)
    pd.testing.assert_frame_equal(figures(ours), figures(theirs), rtol=1e-6)
    pd.testing.assert_frame_equal(figures(ours_hybrid), figures(theirs_hybrid), rtol=1e-6)
    assert (ours.culprits == []) is (wrong is None)
