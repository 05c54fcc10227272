"""Float64 runs hold little of large operands at a time, and give what they did with all of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tapml_nb.frontends.torch import import_torch

PIECE = 1 << 10


class Head(nn.Module):
    """An embedding whose table is a language model's head, too, and a layer with a bias between."""

    def __init__(self):
        super().__init__()
        self.table, self.inner = nn.Embedding(500, 16), nn.Linear(16, 16 * 16)
        self.outer = nn.Linear(16 * 16, 16, bias=False)

    def forward(self, tokens):
        return nn.functional.linear(self.outer(self.inner(self.table(tokens))), self.table.weight)


class Widened(TorchDispatchMode):
    """Sees the largest tensor in float64 that is made."""

    most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.dtype == torch.float64:
            self.most = max(self.most, made.numel())
        return made


class Full(TorchDispatchMode):
    """A device without room for a product."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            raise torch.OutOfMemoryError("full")
        return function(*args, **(kwargs or {}))


@pytest.fixture(params=[torch.float32, torch.bfloat16])
def program(request):
    torch.manual_seed(0)
    program = import_torch(Head().to(request.param).eval(), (torch.tensor([[1, 499, 7]]),))
    values = dict(program.bind(0, {}))
    for op in program.graph.ops:
        values.update(zip(op.outputs, program.run(op.id, values), strict=True))
    return program, values


@pytest.mark.parametrize("run", ["run_exact", "run_squared"])
def test_pieces_give_what_the_whole_gives(program, run, monkeypatch):
    program, values = program
    ops = [op for op in program.graph.ops if not op.host]
    assert [op.kind for op in ops] == ["aten.embedding", *["aten.linear"] * 3]
    whole = [getattr(program, run)(op.id, values) for op in ops]
    monkeypatch.setattr("tapml_nb.frontends.torch.exact._PIECE", PIECE)
    for op, expected in zip(ops, whole, strict=True):
        assert max(values[v].numel() for v in op.inputs) > PIECE
        with Widened() as widened:
            found = getattr(program, run)(op.id, values)
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == torch.float64
            torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)
        results = max(result.numel() for result in expected)
        assert widened.most <= max(results, PIECE), op.id


def test_squares_are_those_of_all_inputs(program):
    program, values = program
    for op in program.graph.ops:
        inputs = program.graph.tensor_inputs(op)
        squares = {
            v: values[v].double() ** 2 if values[v].is_floating_point() else values[v]
            for v in inputs
        }
        expected = program.run_exact(op.id, values | squares)
        for one, other in zip(program.run_squared(op.id, values), expected, strict=True):
            assert torch.equal(one, other)


def test_a_full_device_is_no_lack_of_a_float64_kernel(program):
    program, values = program
    product = next(op for op in program.graph.ops if op.kind == "aten.linear")
    with Full(), pytest.raises(torch.OutOfMemoryError):
        program.run_exact(product.id, values)
