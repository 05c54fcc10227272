"""Elements that a specification leaves undefined are no fault; the others are judged."""

import numpy as np
import pytest

from tapml_nb.graph import Member, Op
from tapml_nb.judge.leeway import undefined


def make(*primitives, members=()):
    return Op("x", "k", "", "", "", ("i",), ("o",), None, primitives, members=members)


@pytest.mark.parametrize("name", ["aten._to_copy.default", "onnx.Cast", "relax.astype"])
def test_conversions_beyond_the_range(name):
    x = np.array([1.5, -1.5, 127.9, 128.0, -128.9, -129.0, np.nan, np.inf], np.float32)
    source = np.zeros(8, np.int8)
    mask = undefined(make(name), [x], source)
    assert mask.tolist() == [False, False, False, True, False, True, True, True]
    assert undefined(make(name), [x[:3]], source[:3]) is None
    assert undefined(make(name), [x], source.astype(np.float32)) is None


def test_the_largest_integers_of_64_bits():
    x = np.array([2.0**63, np.nextafter(2.0**63, 0), -(2.0**63)])
    mask = undefined(make("onnx.Cast"), [x], np.zeros(3, np.int64))
    assert mask.tolist() == [True, False, False]


@pytest.mark.parametrize("name", ["aten.div.Tensor_mode", "onnx.Mod", "relax.floor_divide"])
def test_integers_divided_by_zero(name):
    a, b = np.array([[1, 2], [3, 4]]), np.array([0, 2])
    mask = undefined(make(name), [a, b], a)
    assert mask.tolist() == [[True, False], [True, False]]
    assert undefined(make(name), [a, b + 1], a) is None
    assert undefined(make(name), [a * 1.0, b * 1.0], a * 1.0) is None


@pytest.mark.parametrize("name", ["aten.bitwise_left_shift.Tensor", "onnx.BitShift"])
def test_shifts_beyond_the_width(name):
    a, b = np.ones(4, np.uint8), np.array([0, 7, 8, 200], np.uint8)
    assert undefined(make(name), [a, b], a).tolist() == [False, False, True, True]


def test_what_else_is_done_does_not_hide_behind_it():
    a, b = np.array([1, 2]), np.array([0, 2])
    assert undefined(make("aten.div.Tensor_mode", "aten.add.Tensor"), [a, b], a) is None
    members = (Member("a", (), (), ()), Member("b", (), (), ()))
    assert undefined(make("aten.div.Tensor_mode", members=members), [a, b], a) is None
