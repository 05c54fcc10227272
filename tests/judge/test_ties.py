"""Ties may be broken in any way; a wrong choice is still wrong."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import tapml_nb as tapml
from tapml_nb import Verdict
from tapml_nb.graph import Op
from tapml_nb.judge.leeway import chooses, same_choice


def make(kind, **constants):
    return Op("x", kind, "", "", "", ("i",), ("a", "b"), None, (), constants=constants)


X = np.array([[3.0, 1.0, 3.0, 2.0], [5.0, 5.0, 5.0, 0.0]])


@pytest.mark.parametrize(
    ("kind", "constants", "target", "source", "same"),
    [
        ("aten.argmax", {"dim": -1, "keepdim": False}, [2, 1], [0, 0], True),
        ("aten.argmax", {"dim": -1, "keepdim": False}, [3, 1], [0, 0], False),
        ("aten.argmax", {"dim": 1, "keepdim": True}, [[2], [2]], [[0], [0]], True),
        ("aten.argmax", {"dim": None, "keepdim": False}, 5, 4, True),
        ("aten.argmax", {"dim": None, "keepdim": False}, 0, 4, False),
        ("aten.topk", {"dim": -1}, [[2, 0], [1, 2]], [[0, 2], [0, 1]], True),
        ("aten.topk", {"dim": -1}, [[2, 2], [1, 2]], [[0, 2], [0, 1]], False),
        ("aten.topk", {"dim": -1}, [[2, 9], [1, 2]], [[0, 2], [0, 1]], False),
        ("aten.sort", {"dim": 1}, [[1, 3, 2, 0], [3, 2, 0, 1]], [[1, 3, 0, 2], [3, 0, 1, 2]], True),
        ("aten.sort", {"dim": 1, "stable": False}, [[1, 3, 2, 0]] * 2, [[1, 3, 0, 2]] * 2, True),
        (
            "aten.sort",
            {"dim": 1, "stable": True},
            [[1, 3, 2, 0], [3, 2, 0, 1]],
            [[1, 3, 0, 2], [3, 0, 1, 2]],
            False,
        ),
        ("aten.kthvalue", {"dim": 1, "keepdim": False}, [2, 1], [0, 0], True),
        ("aten.kthvalue", {"dim": 1, "keepdim": False}, [3, 1], [0, 0], False),
        ("aten.median", {"dim": -1, "keepdim": True}, [[3], [2]], [[3], [0]], True),
        ("aten.nanmedian", {"dim": -1, "keepdim": True}, [[1], [2]], [[3], [0]], False),
        ("aten.mode", {"dim": -1, "keepdim": False}, [2, 2], [0, 1], True),
        ("aten.mode", {"dim": -1, "keepdim": False}, [2, 3], [0, 1], False),
        (
            "aten.sort",
            {"dim": 1},
            [[3, 1, 2, 0], [3, 2, 0, 1]],
            [[1, 3, 0, 2], [3, 0, 1, 2]],
            False,
        ),
    ],
)
def test_choices(kind, constants, target, source, same):
    assert same_choice(make(kind, **constants), X, np.array(target), np.array(source)) is same


def test_only_the_index_output_chooses():
    found = np.zeros((2, 2), np.int64)
    two = [chooses(make("aten.topk"), k, X, a) for k, a in enumerate((X[:, :2], found))]
    assert two == [False, True]
    assert [chooses(make("aten.argmax"), k, X, found) for k in (0, 1)] == [True, False]
    assert not chooses(make("aten.add"), 0, X, X)


def test_an_output_that_nobody_reads_is_not_counted():
    alone = replace(make("aten.topk"), outputs=("b",))
    assert chooses(alone, 0, X, np.zeros((2, 2), np.int64))
    assert not chooses(alone, 0, X, X[:, :2])
    whole = np.array([[-3, -3, 7, 1]])
    assert chooses(alone, 0, whole, np.array([[2, 3]]))
    assert not chooses(alone, 0, whole, np.array([[7, 1]]))


class Sorts(nn.Module):
    def forward(self, x):
        return torch.sort(x, dim=-1)


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("order", "verdict"),
    [
        (lambda x: np.argsort(-x[..., ::-1], axis=-1, kind="stable"), Verdict.FAIL),
        (lambda x: x.shape[-1] - 1 - np.argsort(x[..., ::-1], -1, kind="stable"), Verdict.PASS),
        (lambda x: np.argsort(x, axis=-1, kind="stable"), Verdict.PASS),
    ],
    ids=["wrong", "ties reversed", "stable"],
)
def test_in_a_session(order, verdict):
    x = torch.tensor([[2, 1, 2, 1, 0, 2]])
    with tapml.debug(Sorts().eval(), (x,)) as session:
        session.override("sort", lambda x: (np.sort(x, axis=-1), order(x)))
        report = session.run()
        assert report.verdict("sort") is verdict


class Chooses(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def _reversed(x):
    """Places in the order of the elements, equal ones from the last to the first."""
    return x.shape[-1] - 1 - np.argsort(x[..., ::-1], -1, kind="stable")


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("function", "place"),
    [
        (lambda x: torch.kthvalue(x, 2), 1),
        (lambda x: torch.median(x, -1), 2),
        (lambda x: torch.nanmedian(x, -1), 2),
        (torch.mode, 0),
    ],
    ids=["kthvalue", "median", "nanmedian", "mode"],
)
def test_one_of_several_equal_elements_in_a_session(function, place):
    x = torch.tensor([[2, 0, 0, 1, 1, 2], [5, 0, 0, 7, 7, 8]]).float()
    with tapml.debug(Chooses(function).eval(), (x,)) as session:
        (op,) = session.graph.ops
        assert session.run().verdict(op.id) is Verdict.PASS
        for wrong, verdict in ((0, Verdict.PASS), (3, Verdict.FAIL)):

            def kernel(x, wrong=wrong):
                places = _reversed(x)[..., place]
                found = np.take_along_axis(x, places[..., None], -1)[..., 0]
                return found, (places + wrong) % x.shape[-1] if wrong else places

            session.override(op.id, kernel)
            assert session.run().verdict(op.id) is verdict


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("stable", "verdict"), [(True, Verdict.FAIL), (False, Verdict.PASS), (None, Verdict.PASS)]
)
def test_a_stable_sort_leaves_equal_elements_in_order(stable, verdict):
    x = torch.tensor([[2, 1, 2, 1, 0, 2]])
    options = {} if stable is None else {"stable": stable}
    with tapml.debug(Chooses(lambda x: torch.sort(x, dim=-1, **options)).eval(), (x,)) as session:
        assert session.run().verdict("sort") is Verdict.PASS
        session.override("sort", lambda x: (np.sort(x, axis=-1), _reversed(x)))
        assert session.run().verdict("sort") is verdict


class Unsorted(nn.Module):
    def forward(self, x):
        return torch.topk(x, 2, sorted=False)


TOP = torch.tensor([[3.0, 1.0, 2.0, 5.0], [0.0, 7.0, 9.0, 8.0]])


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("indices", "elements", "verdict"),
    [
        ([[0, 3], [2, 3]], None, Verdict.PASS),
        ([[3, 0], [3, 2]], None, Verdict.PASS),
        ([[3, 2], [3, 2]], None, Verdict.FAIL),
        ([[3, 3], [3, 2]], None, Verdict.FAIL),
        ([[3, 0], [3, 2]], [[3.0, 5.0], [8.0, 9.0]], Verdict.FAIL),
    ],
    ids=["one order", "another", "not the largest", "one twice", "elements of another order"],
)
def test_an_unsorted_selection(indices, elements, verdict):
    places = np.array(indices)

    def kernel(x):
        found = np.take_along_axis(x, places, -1)
        return found if elements is None else np.array(elements, np.float32), places

    with tapml.debug(Unsorted().eval(), (TOP,)) as session:
        session.override("topk", kernel)
        assert session.run().verdict("topk") is verdict
