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
