"""Inputs of a wrong dtype are found by ``debug()``, before any work."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tapml_nb as tapml
from tests.models import TwoLayers


class Cast(nn.Module):
    """Takes any dtype, and says so."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.inner(pixels.to(torch.float32) * 2)


WRONG = {
    "linear": (TwoLayers, (3, 8), "x"),
    "later": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 4)), (3, 2, 4), "input"),
    "layer norm": (lambda: nn.LayerNorm(8), (3, 8), "input"),
    "batch norm": (lambda: nn.BatchNorm2d(8), (3, 8, 2, 2), "input"),
    "convolution": (lambda: nn.Conv2d(3, 4, 2), (1, 3, 4, 4), "input"),
    "recurrent": (lambda: nn.LSTM(8, 4), (3, 1, 8), "input"),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64], ids=str)
@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_dtype(kind, dtype):
    make, shape, name = WRONG[kind]
    found = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=rf"(?s)inputs: .*{name} is {found}.*float32"):
        tapml.debug(make().eval(), (torch.ones(shape, dtype=dtype),))


def test_of_a_later_step_and_of_an_exported_program():
    x = torch.ones(3, 8)
    expected = r"step 1: x is float64\[3, 8\], the model was exported for float32\[3, 8\]; convert"
    with pytest.raises(ValueError, match=expected):
        tapml.debug(TwoLayers().eval(), [(x,), (x.double(),)])
    exported = torch.export.export(TwoLayers().eval(), (x,))
    with pytest.raises(ValueError, match=r"x is int64\[3, 8\], .* float32\[3, 8\]"):
        tapml.debug(exported, (x.long(),))


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.float16], ids=str)
def test_a_model_that_takes_it(dtype):
    with tapml.debug(Cast().eval(), (torch.ones((3, 8), dtype=dtype),)) as session:
        assert len(session.graph) > 2
    with tapml.debug(TwoLayers().eval().to(torch.float64), (torch.ones(3, 8).double(),)) as session:
        assert session.tensor("act/silu").dtype == "float64"


def test_a_narrow_input_of_a_norm():
    """PyTorch takes float32 weights there, and so does the session."""
    with tapml.debug(nn.LayerNorm(8).eval(), (torch.ones(3, 8).half(),)) as session:
        session.tensor("layer_norm")
