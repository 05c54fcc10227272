"""Memory that nobody wrote is no result, whatever the dtype makes of its bytes."""

import numpy as np
import pytest
import torch
from torch import nn
from tvm.script import tirx as T

import tapml_nb as tapml
from tapml_nb import Verdict

pytestmark = pytest.mark.compiles


class Positive(nn.Module):
    """All True on the inputs below: what NumPy makes of any byte but 0."""

    def forward(self, x):
        return x > -100


class Last(nn.Module):
    """All -1: what memory filled with 0xFF looks like to an integer."""

    def forward(self, x):
        return torch.minimum(x, torch.full_like(x, -1))


@T.prim_func(s_tir=True)
def positive(x: T.Buffer((4, 8), "float32"), y: T.Buffer((4, 8), "bool")):
    for i, j in T.grid(4, 8):
        y[i, j] = x[i, j] > T.float32(-100)


@T.prim_func(s_tir=True)
def nothing(x: T.Buffer((4, 8), "float32"), y: T.Buffer((4, 8), "bool")):
    for i, j in T.grid(4, 8):
        if x[i, j] < T.float32(-200):
            y[i, j] = x[i, j] > T.float32(-100)


@T.prim_func(s_tir=True)
def three_rows(x: T.Buffer((4, 8), "float32"), y: T.Buffer((4, 8), "bool")):
    for i, j in T.grid(3, 8):
        y[i, j] = x[i, j] > T.float32(-100)


@T.prim_func(s_tir=True)
def three_rows_of_integers(
    x: T.Buffer((4, 8), "int32"), z: T.Buffer((4, 8), "int32"), y: T.Buffer((4, 8), "int32")
):
    for i, j in T.grid(3, 8):
        y[i, j] = T.min(x[i, j], z[i, j])


@T.prim_func(s_tir=True)
def by_chance(x: T.Buffer((4, 8), "float32"), y: T.Buffer((4, 8), "bool")):
    for i, j in T.grid(4, 8):
        y[i, j] = T.call_extern("int32", "rand") % 2 == 0


def judged(model, inputs, kernel):
    with tapml.debug(model.eval(), inputs, target="llvm") as session:
        op = session.graph.ops[-1].id
        session.override(op, kernel)
        return [session.run().introduced[op, 0] for _ in range(2)]


@pytest.mark.parametrize(
    ("kernel", "verdict", "says"),
    [
        (positive, Verdict.PASS, ""),
        (nothing, Verdict.FAIL, "never writes 32 of 32 elements"),
        (three_rows, Verdict.FAIL, "never writes 8 of 32 elements, from [3, 0] on"),
        (by_chance, Verdict.NONDETERMINISTIC, "differs from run to run"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_booleans(kernel, verdict, says):
    for result in judged(Positive(), (torch.randn(4, 8),), kernel):
        assert result.verdict is verdict
        assert says in result.message


def test_integers_that_look_like_the_poison():
    x = torch.arange(32, dtype=torch.int32).reshape(4, 8)
    for result in judged(Last(), (x,), three_rows_of_integers):
        assert result.verdict is Verdict.FAIL
        assert "never writes 8 of 32 elements, from [3, 0] on" in result.message


def test_a_conversion_of_what_no_integer_holds():
    class Cast(nn.Module):
        def forward(self, x):
            return x.to(torch.int32)

    x = torch.tensor([[1.5, -2.5, torch.nan, torch.inf], [3e9, -3e9, 7.0, -1e30]])

    def elsewhere(array):
        found = np.full(array.shape, 77, np.int32)
        inside = np.abs(np.nan_to_num(array, nan=np.inf)) < 2**31
        found[inside] = array[inside].astype(np.int32)
        return found

    with tapml.debug(Cast().eval(), (x,), target="llvm") as session:
        op = session.graph.ops[-1].id
        result = session.run().introduced[op, 0]
        assert result.verdict is Verdict.PASS
        session.override(op, elsewhere)
        result = session.run().introduced[op, 0]
        assert result.verdict is Verdict.PASS
        assert "5 of 8 elements are undefined" in result.message
        session.override(op, lambda array: elsewhere(array) + np.int32(1))
        assert session.run().introduced[op, 0].verdict is Verdict.FAIL
