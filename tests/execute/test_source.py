"""The source run: once, content-addressed, and interruptible."""

import numpy as np
import pytest

from tapml_nb.execute.events import EventStream
from tapml_nb.execute.given import ModelChanged
from tapml_nb.execute.source import SourceRun, Stopped
from tapml_nb.frontends.torch import import_torch
from tapml_nb.numerics import digest
from tests.models import two_layers


@pytest.fixture
def program():
    model, (x,) = two_layers()
    return import_torch(model, [(x,), (2 * x,)])


def test_every_value_of_every_step(program):
    source = SourceRun(program, EventStream())
    source.complete()
    first, second = (source.array("x", step) for step in (0, 1))
    np.testing.assert_array_equal(second, 2 * first)
    op = program.graph["second/linear"]
    exact = source.exact(op.id, 0)
    np.testing.assert_allclose(source.array(op.outputs[0], 0), exact[0], rtol=1e-5, atol=1e-6)
    assert exact[0].dtype == np.float64
    assert source.ms(op.id, 0) > 0


def test_keys_are_content(program, monkeypatch):
    hashed = []
    for module in ("given", "source"):
        monkeypatch.setattr(
            f"tapml_nb.execute.{module}.digest",
            lambda array: hashed.append(digest(array)) or hashed[-1],
        )
    source = SourceRun(program, EventStream())
    source.complete()
    weight = next(v.id for v in program.graph.values.values() if v.role == "parameter")
    assert source.key(weight, 0) == source.key(weight, 1) == digest(source.array(weight, 0))
    source.outgoing(weight, 1)
    source.complete()
    assert hashed.count(source.key(weight, 0)) == 1, "a parameter is hashed once for all steps"
    assert source.key("x", 0) != source.key("x", 1)


def test_nothing_runs_twice(program, monkeypatch):
    calls = []
    run = program.run
    monkeypatch.setattr(program, "run", lambda op, values: calls.append(op) or run(op, values))
    source = SourceRun(program, EventStream())
    source.complete()
    source.complete()
    assert len(calls) == 2 * len(program.graph)


def test_stopping_and_going_on(program):
    source = SourceRun(program, EventStream())
    with pytest.raises(Stopped):
        source.complete(lambda: True)
    source.complete()
    assert source.array("x", 1).shape == (3, 8)


def test_inputs_may_change_until_their_step_has_run():
    model, (x,) = two_layers()
    later = 2 * x
    source = SourceRun(import_torch(model, [(x,), (later,)]), EventStream())
    asked = iter(range(100))
    with pytest.raises(Stopped):  # in the second step, whose inputs are known by then
        source.complete(lambda: next(asked) > len(source.program.graph))
    later.mul_(3)
    source.complete()
    np.testing.assert_array_equal(source.array("x", 1), later)
    assert source.key("x", 1) == digest(later.numpy())
    later.mul_(3)
    with pytest.raises(ModelChanged, match="input x of step 1"):
        source.complete()
