"""What all front ends share: ids, values, and the first run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tapml_nb import FrontendError
from tapml_nb.frontends.arrays import by_name, split_steps
from tapml_nb.frontends.builder import GraphBuilder, trace_first_step
from tapml_nb.frontends.program import Granularity
from tapml_nb.frontends.torch import import_torch
from tapml_nb.graph import TensorSpec
from tests.frontends.test_torch import outputs, run

SPEC = TensorSpec((2,), "float32")


def test_ids_are_numbered_and_never_given_twice():
    builder = GraphBuilder()
    bases = ["a", "a_1", "a", "a", "b"]
    ids = [builder.new_id(base, f"own{k}") for k, base in enumerate(bases)]
    assert ids == ["a", "a_1", "a_1/own2", "a_2", "b"]


def test_values_without_a_spec_stay_on_the_host():
    builder = GraphBuilder()
    builder.add_value("x", "input", SPEC, "the input")
    common: dict[str, Any] = {"scope": "m.0.n", "source": None, "primitives": []}
    builder.add_op("size", kind="k", inputs=["x"], outputs={"n": None}, **common)
    builder.add_op("both", kind="k", inputs=["x", "n"], outputs={"y": SPEC, "z": None}, **common)
    graph = builder.build("model", inputs=["x"], outputs=["z", "y", "unknown"])
    assert "x" in builder
    assert graph.outputs == ("y",)
    assert [op.host for op in graph.ops] == [True, False]
    assert graph.ops[0].layer == "m.0"
    assert [v.name for v in graph.values.values()] == ["the input", "size", "both", "both#1"]
    assert [v.host for v in graph.values.values()] == [False, True, False, True]


class TestFirstStep:
    def trace(self, run):
        ends = {"first": (("x",), ("a", "b")), "second": (("a", "x"), ("y",))}
        values = {"x": 1, "w": 2}
        told = trace_first_step(
            ends, values, run, tell=str, failure=lambda op, error: f"{op}: {error}"
        )
        return told, values

    def test_it_tells_of_every_value_and_keeps_none_that_is_read_no_more(self):
        told, values = self.trace(lambda op, values: [3, 4] if op == "first" else [5])
        assert told == {"x": "1", "w": "2", "a": "3", "b": "4", "y": "5"}
        assert values == {"w": 2, "b": 4, "y": 5}

    def test_an_operator_that_cannot_be_run_is_named(self):
        with pytest.raises(FrontendError, match=r"^first: \S+ .*by zero$"):
            self.trace(lambda op, values: [1 // 0])


def test_steps():
    def is_tensor(value):
        return isinstance(value, int)

    assert split_steps(3, is_tensor) == [(3,)]
    assert split_steps([3, (4,), {"x": 5}], is_tensor) == [(3,), (4,), {"x": 5}]
    assert by_name((4,), ["x"], 1) == by_name({"x": 4}, ["x"], 1) == {"x": 4}
    with pytest.raises(TypeError, match=r"^inputs: step 1 is a str; .* or a dict by name \("):
        split_steps([3, "x"], is_tensor)
    with pytest.raises(ValueError, match=r"^inputs: step 1 has y, the model takes x$"):
        by_name({"y": 4}, ["x"], 1)


class Numbered(nn.Module):
    """A module by the name that a second call of a function gets."""

    def __init__(self) -> None:
        super().__init__()
        self.silu_1 = nn.Tanh()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.silu(self.silu_1(nn.functional.silu(x)))


def test_a_module_that_is_called_as_a_numbered_operator_would_be():
    model, x = Numbered().eval(), torch.ones(2, 4)
    program = import_torch(model, (x,)).at(Granularity("module"), None)
    assert [op.id for op in program.graph.ops] == ["silu", "silu_1", "silu_1/sigmoid_1"]
    (result,) = outputs(program, run(program))
    torch.testing.assert_close(result, model(x))
