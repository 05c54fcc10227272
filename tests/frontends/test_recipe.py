"""Equal calls share a unit, and it is the one that each would have had."""

from __future__ import annotations

import pytest
import torch
import tvm_ffi
from torch import nn

from benchmarks.zoo.architectures import ARCHITECTURES
from tapml_nb.execute.events import EventStream
from tapml_nb.execute.source import SourceRun
from tapml_nb.frontends.program import Unsupported
from tapml_nb.frontends.torch import import_torch


def unit(program, op, values):
    """An operator's unit, or why there is none."""
    try:
        return program.unit(op, values)
    except Unsupported as reason:
        return str(reason)


def compared(program, step=0):
    """How many operators a program has, and how many units were made for them; each is what it
    would have been alone."""
    source = SourceRun(program, EventStream())
    source.complete()
    values, made = source.values(step), set()
    ops = [op for op in program.graph.ops if not op.host]
    for op in ops:
        shared = unit(program, op.id, values)
        known = dict(program._built)
        program._built.clear()
        alone = unit(program, op.id, values)
        program._built.clear()
        program._built.update(known)
        if isinstance(shared, str):
            assert alone == shared
        else:
            assert tvm_ffi.structural_equal(shared.module, alone.module), op.id
            assert (shared.inputs, shared.outputs) == (alone.inputs, alone.outputs)
            assert shared.conversion == alone.conversion
            made.add(id(shared.module))
    return len(ops), len(made)


@pytest.mark.parametrize(
    "name", ["Llama", "BERT", "T5", "Whisper", "MobileNet v2", "Mixtral", "Swin"]
)
def test_units_of_architectures(name):
    model, inputs = ARCHITECTURES[name].build()
    ops, made = compared(import_torch(model, inputs, workarounds=["product_dtype"]))
    assert made < ops


class Different(nn.Module):
    """Calls that differ in one thing alone."""

    def forward(self, x, y):
        a = torch.cumsum(x, 0), torch.cumsum(x, 1), torch.cumsum(x, -1)
        b = x * 2, x * 2.0, x * 3, y * 2, x.double() * 2
        c = x.t().contiguous(), torch.max(x, 1).values, torch.max(x, 1).indices, *torch.max(x, 1)
        d = x.clamp(0.0, 1.0), x.clamp(-0.0, 1.0), x.clamp(max=1.0), x[1:], x[:-1], x[:, 1:]
        return *a, *b, *c, *d


def test_calls_that_differ_share_nothing():
    compared(import_torch(Different().eval(), (torch.randn(4, 4), torch.randn(4, 1))))


def test_equal_layers_are_converted_once():
    layers = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.GELU()) for _ in range(10)))
    assert compared(import_torch(layers.eval(), (torch.randn(3, 8),))) == (20, 2)
