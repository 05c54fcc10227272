"""Which axis holds a step's tokens, and how far off a tensor is along it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tapml_nb.execute.events import EventStream
from tapml_nb.execute.source import SourceRun
from tapml_nb.frontends.torch import import_torch
from tapml_nb.judge.floor import reference_of
from tapml_nb.judge.tokens import TokenAxes
from tapml_nb.judge.verdict import deviation
from tests.judge.holders import judge


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (2, 300, 3, 200)])
def test_ratios_along_an_axis(shape, axis):
    rng = np.random.default_rng(0)
    exact = rng.standard_normal(shape)
    reference = reference_of(exact.astype(np.float32), exact, 1)
    target = reference.source + rng.standard_normal(shape).astype(np.float32) * 1e-6
    allowed = deviation(target, reference).allowed
    error = np.abs(target - reference.exact())
    error = np.minimum(error, np.abs(target.astype(np.float64) - reference.source))
    others = tuple(a for a in range(4) if a != axis)
    (positions,) = judge(target, reference, axes=[axis]).along
    np.testing.assert_allclose(positions, (error / allowed).max(others), rtol=1e-6)


def test_ratios_along_two_axes_are_those_along_each():
    rng = np.random.default_rng(0)
    exact = rng.standard_normal((3, 4, 5, 6))
    reference = reference_of(exact.astype(np.float32), exact, 1)
    target = reference.source + rng.standard_normal(exact.shape).astype(np.float32) * 1e-6
    for axes in ((0, 3), (2, 1), (3, 3)):
        alone = [judge(target, reference, axes=[axis]).along[0] for axis in axes]
        assert judge(target, reference, axes=axes).along == tuple(alone)


def test_what_is_equal_is_nowhere_off_and_a_nan_is_where_it_is():
    source = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    reference = reference_of(source, source.astype(np.float64), 1)
    assert judge(source.copy(), reference, axes=[1]).along == ((0.0, 0.0, 0.0),)
    target = source.copy()
    target[1, 2, 0] = np.nan
    assert judge(target, reference, axes=[1]).along == ((0.0, 0.0, np.inf),)
    assert judge(target, reference).along == ()


class Square(torch.nn.Module):
    """Scores of every token for every token."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(10, 8)

    def forward(self, tokens):
        x = self.embedding(tokens)
        return torch.tanh(x @ x.transpose(1, 2)), x + 1, tokens.sum()


def axes(lengths, dynamic_shapes=None):
    """The token axes of ``Square``'s outputs in steps of these lengths, and of its weight."""
    steps = [(torch.arange(n)[None],) for n in lengths]
    program = import_torch(Square().eval(), steps, dynamic_shapes=dynamic_shapes)
    run = SourceRun(program, EventStream())
    run.complete()
    found = TokenAxes(run)
    weight = next(v.id for v in program.graph.values.values() if v.role == "parameter")
    return [found.axis(value, 0) for value in (*program.graph.outputs, weight)]


def test_the_axis_that_is_as_long_as_the_tokens():
    scores, embedded, total, weight = axes([5])
    assert scores is None, "both of its axes are"
    assert (embedded, total, weight) == (1, None, None)


def test_a_chance_is_no_axis():
    assert axes([8])[1] is None  # as long as the embedding is wide


def test_steps_tell_axes_apart():
    lengths = [8, 3]
    shapes = ({1: torch.export.Dim("tokens", min=2, max=9)},)
    assert axes(lengths, shapes)[1] == 1
