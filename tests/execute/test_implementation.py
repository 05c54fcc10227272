"""What computes an operator, of each kind, without a target."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tapml_nb.compile.cache import Compiled, Failure
from tapml_nb.compile.kernel import BufferSpec, Kernel
from tapml_nb.execute.caller import Argument, Operands
from tapml_nb.execute.implementation import NumpyOverride, implementation_of
from tapml_nb.graph import TensorSpec

X = np.arange(6, dtype=np.float32)


def folded():
    """Its outputs: a view of a view of its input, and a constant."""
    shapes = [(6,), (2,), (2, 3), (3, 2), (2, 1)]
    buffers = tuple(BufferSpec(shape, "float32") for shape in shapes)
    kernel = Kernel("key", buffers, 1, ("digest",), (), ((2, 0), (3, 2), (4, 1)), (3, 4))
    return Compiled(kernel, Path(), None, {"digest": np.array([7, 8], np.float32)})


def operands(outputs=2):
    argument = Argument(lambda: "x", lambda: X, lambda: X)
    keys = [f"y{k}" for k in range(outputs)]
    return Operands([argument], keys, [TensorSpec((6,), "float32")] * outputs)


@pytest.fixture
def caller():
    return SimpleNamespace(session=SimpleNamespace(target=SimpleNamespace(timeout=10)))


def test_views_are_resolved_to_where_the_memory_is():
    kernel = folded().kernel
    assert [kernel.root(n) for n in range(5)] == [0, 1, 0, 0, 1]


def test_what_launches_nothing(caller):
    made_by = implementation_of(folded())
    assert not made_by.computes
    assert made_by.on_target
    assert made_by.description == "a constant, folded by the compiler"
    view, constant = made_by.run(caller, operands()).outputs()
    np.testing.assert_array_equal(view, X.reshape(3, 2))
    np.testing.assert_array_equal(constant, [[7], [8]])
    calls = made_by.chained(["there"], ["y0", "y1"])
    assert [(c.kernel, c.inputs, c.outputs, c.shape) for c in calls] == [
        (None, ("there",), ("y0",), (3, 2)),
        (None, ("digest",), ("y1",), (2, 1)),
    ]


@pytest.mark.parametrize(
    ("reason", "kind"),
    [("unsupported", "refused"), ("error", "uncompiled"), ("crash", "uncompiled")],
)
def test_nothing_has_a_reason(caller, reason, kind):
    made_by = implementation_of(Failure(reason, "why"))
    assert (made_by.version, made_by.label) == ("none", "")
    outcome = made_by.run(caller, operands())
    assert outcome.outputs() == []
    assert (outcome.failure.kind, outcome.failure.message) == (kind, "why")


class TestFunctions:
    def test_two_runs_that_differ(self, caller):
        drawn = iter([1.0, 2.0])
        outcome = NumpyOverride(lambda x: x * next(drawn), 1).run(caller, operands(1))
        assert outcome.result.deterministic == (False,)
        np.testing.assert_array_equal(outcome.read(0, True), X)
        np.testing.assert_array_equal(outcome.outputs()[0], X * 2)

    def test_results_have_the_operators_dtypes(self, caller):
        (output,) = (
            NumpyOverride(lambda x: x.astype(np.float64), 1).run(caller, operands(1)).outputs()
        )
        assert output.dtype == np.float32

    @pytest.mark.parametrize(
        ("function", "words"),
        [
            (lambda x: 1 / 0, "raised ZeroDivisionError: division by zero"),
            (lambda x: (x, x), "raised ValueError: it returned 2 arrays, 1 are expected"),
            (lambda x: x.fill(0), "raised ValueError: assignment destination is read-only"),
        ],
        ids=["raises", "too many", "writes to its input"],
    )
    def test_one_that_fails(self, caller, function, words):
        outcome = NumpyOverride(function, 1).run(caller, operands(1))
        assert outcome.failure.kind == "crash"
        assert outcome.failure.message == f"override <lambda> {words}"
