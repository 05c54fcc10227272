"""The floating-point state of a kernel ends with it."""

import shutil

import numpy as np
import pytest

from tapml_nb.compile.kernel import Kernel, Launch
from tests.targets.conftest import X
from tests.targets.kernels import f32

TINY = np.full(8, 2.0**-130, np.float32)
"""Subnormal numbers, and so are their halves."""

SMALL = np.full(8, 2.0**-30, np.float32)
"""Added to 1 they are lost, unless sums are rounded up."""


def halves(session):
    session.put("tiny", TINY)
    session.call("halve", ["tiny"], ["z"])
    return session.fetch("z")


def sums(session):
    session.put("small", SMALL)
    session.call("add_one", ["small"], ["z"])
    return session.fetch("z")


@pytest.mark.parametrize(
    ("kernel", "note"),
    [
        ("add_one", None),
        ("inexact", None),  # which raises a flag, as most kernels do, and changes no control
        ("flush_to_zero", "flush-to-zero"),
        ("flush_everywhere", "flush-to-zero"),
        ("round_up", "the rounding mode"),
    ],
)
def test_later_kernels_compute_as_before(session, kernel, note):
    for _ in range(2):
        result = session.call(kernel, ["x"], ["y"])
        assert result.deterministic == (True,)
        put_back = f"it changed {note} of its process, which was put back"
        assert result.notes == (() if note is None else (put_back,))
        assert np.array_equal(session.fetch("y"), X + (kernel == "add_one"))
        assert np.array_equal(halves(session), TINY / 2)
        assert np.array_equal(sums(session), np.ones(8, np.float32))
    assert session.restarts == 0


def test_without_that_they_would_not(session, library, tmp_path):
    """The kernels do what they are said to: between two launches of one kernel nothing is put
    back, for there it is the kernel's own."""
    copy = tmp_path / "copy.so"
    shutil.copy(library, copy)
    session.load(copy, [both("flush_everywhere", "halve"), both("round_up", "add_one")])
    session.put("tiny", TINY)
    session.put("small", SMALL)
    session.call("flush_everywhere, halve", ["tiny"], ["z"])
    assert np.array_equal(session.fetch("z"), np.zeros(8, np.float32))
    session.call("round_up, add_one", ["small"], ["z"])
    assert np.all(session.fetch("z") > 1)


def both(first, second):
    launches = (Launch(first, (0, 1)), Launch(second, (0, 2)))
    return Kernel(f"{first}, {second}", (f32(8), f32(8), f32(8)), 1, (), launches, (), (2,))
