"""Ties may be broken in any way; a wrong choice is still wrong."""

import numpy as np
import pytest
import torch
from torch import nn

import tapml_nb as tapml
from tapml_nb import Verdict
from tapml_nb.graph import Op
from tapml_nb.judge.ties import chooses, same_choice


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
    assert [chooses(make("aten.topk"), k) for k in (0, 1)] == [False, True]
    assert [chooses(make("aten.argmax"), k) for k in (0, 1)] == [True, False]
    assert not chooses(make("aten.add"), 0)


class Sorts(nn.Module):
    def forward(self, x):
        return torch.sort(x, dim=-1)


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
