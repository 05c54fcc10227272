"""Tensors on a screen: nothing large or odd may vanish in pooling."""

from __future__ import annotations

import numpy as np
import pytest

from tapml_nb.report.tensors import BINS, BLOCKS, MOST, blocks, picture, summarize


def test_a_small_tensor_is_shown_as_it_is():
    tensor = np.arange(12, dtype=np.float32).reshape(3, 4)
    shown = picture(tensor)
    assert shown.values.tolist() == tensor.tolist()
    assert (shown.axes, shown.window, shown.note) == ((0, 1), (0, 3, 0, 4), "")


@pytest.mark.parametrize("shape", [(), (5,)])
def test_fewer_axes_count_as_ones_in_front(shape):
    shown = picture(np.full(shape, 2.0))
    assert shown.values.shape == (1, *(shape or (1,)))
    assert (shown.values == 2).all()


@pytest.mark.parametrize("size", [MOST + 1, 1000, 4096])
def test_one_wrong_element_survives_pooling(size):
    tensor = np.zeros((size, size), np.float32)
    tensor[size - 1, 7] = -3.0
    shown = picture(tensor)
    assert shown.values.shape == (MOST, MOST)
    cell = max(k for k in range(MOST) if k * size // MOST <= 7)
    assert np.argwhere(shown.values).tolist() == [[MOST - 1, cell]]
    assert shown.values.min() == -3.0


def test_pooled_cells_are_the_elements_that_the_page_says():
    """The page names the elements of cell k: begin + k * size // cells up to the next one's."""
    size = 1300
    tensor = np.tile(np.arange(size, dtype=np.float32), (2, 1))
    shown = picture(tensor)
    ends = [(k + 1) * size // MOST for k in range(MOST)]
    assert shown.values[0].tolist() == [end - 1 for end in ends]


def test_nan_and_infinity_survive():
    tensor = np.zeros((2000, 3), np.float32)
    tensor[1000, 0], tensor[5, 1] = np.nan, -np.inf
    values = picture(tensor).values
    assert np.isnan(values[:, 0]).sum() == 1
    assert np.isneginf(values[:, 1]).sum() == 1


def test_other_axes_show_their_largest_or_a_slice():
    tensor = np.zeros((2, 3, 4), np.float32)
    tensor[1, 2, 3] = 5
    assert picture(tensor).values[2, 3] == 5
    assert picture(tensor).note == "; largest over axis 0"
    assert picture(tensor, fixed={0: 0}).values.max() == 0
    assert picture(tensor, fixed={0: 1}).note == "; axis 0 at 1"
    turned = picture(tensor, axes=(2, 0))
    assert turned.values.shape == (4, 2)
    assert turned.values[3, 1] == 5


def test_a_window_shows_a_part_in_full():
    tensor = np.arange(2000 * 10, dtype=np.float32).reshape(2000, 10)
    shown = picture(tensor, window=(100, 110, 2, 5))
    assert shown.values.tolist() == tensor[100:110, 2:5].tolist()
    assert picture(tensor, window=(-5, 99_999, 0, 10)).window == (0, 2000, 0, 10)


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.float16, np.float64])
def test_every_dtype(dtype):
    assert picture(np.ones((2, 2), dtype)).values.dtype == np.float32


def test_arguments_that_do_not_fit():
    with pytest.raises(ValueError, match=r"axes: \(1, 1\)"):
        picture(np.zeros((2, 2)), axes=(1, 1))
    with pytest.raises(ValueError, match="axes 0 to 1"):
        picture(np.zeros((2, 2)), axes=(0, 2))
    with pytest.raises(ValueError, match=r"window: \(1, 1, 0, 2\)"):
        picture(np.zeros((2, 2)), window=(1, 1, 0, 2))


def test_a_summary():
    found = summarize(np.array([0.0, 1.0, 2.0, 4.0, np.nan, np.inf, -np.inf]))
    assert (found.low, found.high, found.mean) == (0.0, 4.0, 1.75)
    assert (found.zeros, found.nan, found.inf) == (1, 1, 2)
    assert found.bins.sum() == 4
    assert found.bins[0] == found.bins[-1] == 1
    assert len(found.bins) == BINS


def test_a_summary_of_nothing_and_of_one_value():
    assert np.isnan(summarize(np.zeros(0)).mean)
    assert summarize(np.zeros(0)).bins.sum() == 0
    assert summarize(np.full(9, 3)).bins.sum() == 9
    assert summarize(np.array([True, False])).mean == 0.5


def test_what_is_beyond_the_limit_survives_pooling():
    tensor = np.zeros((2, 1300, 1300), np.float32)
    marks = np.zeros(tensor.shape, bool)
    marks[0, 700, 3] = marks[1, 10:12, 900:950] = True
    shown = picture(tensor, marks=marks)
    assert shown.beyond is not None
    cell = max(k for k in range(MOST) if k * 1300 // MOST <= 700)
    assert shown.beyond[cell, 1]
    assert shown.blocks == ((10, 12, 900, 950), (700, 701, 3, 4))
    assert picture(tensor, fixed={0: 0}, marks=marks).blocks == ((700, 701, 3, 4),)
    near = picture(tensor, window=(700, 704, 0, 8), marks=marks)
    assert near.beyond is not None
    assert np.argwhere(near.beyond).tolist() == [[0, 3]]
    assert near.blocks == shown.blocks, "blocks are of the whole, wherever one looks"
    turned = picture(tensor, axes=(2, 1), marks=marks)
    assert (900, 950, 10, 12) in turned.blocks


def test_blocks_are_connected_and_bounded():
    marks = np.zeros((64, 64), bool)
    marks[0, :] = marks[:, 63] = True
    assert blocks(marks) == [(0, 64, 0, 64)]
    assert len(blocks(np.indices((64, 64)).sum(axis=0) % 2 == 0)) == BLOCKS
    assert blocks(np.zeros((3, 5), bool)) == []
