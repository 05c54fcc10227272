"""A constant that was rounded to a narrow dtype is named, with what became of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import tapml_nb as tapml
from tapml_nb.judge.diagnosis import Known, Pattern
from tests.judge.test_diagnosis import BF16, F16, F32, diagnosis_of, normal, work

_CUBIC, _SCALE = 0.044715, math.sqrt(2 / math.pi)


def gelu(x, cubic=_CUBIC, scale=_SCALE):
    return 0.5 * x * (1 + np.tanh(scale * (x + cubic * x**3)))


@pytest.mark.parametrize(("dtype", "narrow"), [(F32, F16), (F32, BF16), (F16, BF16)])
def test_of_a_gelu(dtype, narrow):
    x = normal((96, 256), dtype) * dtype.type(2)
    w = work("aten.gelu", gelu(x.astype(float)), [x], dtype)
    w.known = Known({"approximate": "tanh"})
    target = gelu(x.astype(float), float(narrow.type(_CUBIC)), float(narrow.type(_SCALE)))
    target = target.astype(dtype)
    found = diagnosis_of(w, target)
    assert found.pattern is Pattern.FACTOR
    assert f"rounded to {narrow.name}: 0.044715 became" in found.words
    assert "constants" in found.usual_cause


@pytest.mark.parametrize(("value", "dtype"), [(_CUBIC, F16), (0.7978845608, BF16)])
def test_of_a_product(value, dtype):
    x = normal((96, 256), dtype)
    exact = x.astype(float) * value
    w = work("aten.mul", exact, [x], dtype)
    w.known = Known({"other": value})
    became = float(dtype.type(value))
    found = diagnosis_of(w, x.astype(float) * became)
    assert found.pattern is Pattern.FACTOR
    assert f"{value:.6g} became {became:.6g}" in found.words
    other = diagnosis_of(w, exact * (2 - became / value))  # as far off, to the other side
    assert other.pattern is Pattern.FACTOR
    assert "became" not in other.words


@pytest.mark.compiles
def test_in_a_session():
    class Scaled(torch.nn.Module):
        def forward(self, x):
            return x * 0.044715

    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)).half()
    with tapml.debug(Scaled().eval(), (x,)) as session:
        constant = np.float16(0.044715)
        session.override("mul", lambda x: x * constant)
        (found,) = session.run("mul").culprits
        assert found.pattern == Pattern.FACTOR
        assert "0.044715 became 0.0447083" in found.diagnosis
