"""The judge on all that holds tensors: NumPy, PyTorch, and PyTorch on a GPU where there is one.

What is imported from here is what :mod:`tapml_nb.judge` has, carried out on each of them; they have
to agree, to rounding, in every figure, and NumPy's is what a test gets.
"""

from __future__ import annotations

import math
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest
import torch

from tapml_nb import judge as judging
from tapml_nb import measured, numerics
from tapml_nb.array_api import moved_to, on_host
from tapml_nb.execute import source
from tapml_nb.judge import Reference, floor, verdict
from tapml_nb.judge.verdict import LIMIT
from tapml_nb.measured import together

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@contextmanager
def looking_costs():
    """PyTorch's tensors are taken as on a GPU, wherever they are: nothing is looked at in between,
    and what is asked together is computed together."""

    def far(array):
        return isinstance(array, torch.Tensor)

    with ExitStack() as stack:
        for module in (measured, numerics, floor, verdict, source):
            stack.enter_context(pytest.MonkeyPatch.context()).setattr(module, "far", far)
        yield


def three_times(asking):
    """What comes of something that is asked three times together."""
    with looking_costs():
        return together([asking() for _ in range(3)])


def held(array, device):
    """An array as PyTorch has it; None as it is."""
    return None if array is None else moved_to(array, torch.empty(0, device=device))


def there(reference, device):
    """A reference whose arrays are PyTorch's."""
    arrays = {k: held(getattr(reference, k), device) for k in ("source", "delta", "beside")}
    return replace(reference, **arrays)


def reference_of(source, exact, length, **options):
    """:func:`tapml_nb.judge.reference_of`, wherever the tensors are."""
    ours = judging.reference_of(source, exact, length, **options)
    beside = options.pop("beside", None)
    for device in DEVICES:
        s, e, b = (held(array, device) for array in (source, exact, beside))
        theirs = judging.reference_of(s, e, length, beside=b, **options)
        same_figures(ours.floor, theirs.floor)
        assert (ours.delta is None) is (theirs.delta is None)
        if ours.delta is not None:
            np.testing.assert_array_equal(on_host(theirs.delta), ours.delta)
        for one in three_times(partial(floor.referring, s, e, length, beside=b, **options)):
            same_figures(ours.floor, one.floor)
            if ours.delta is not None:
                np.testing.assert_array_equal(on_host(one.delta), ours.delta)
    return ours


def statistics(target, reference):
    """:func:`tapml_nb.numerics.statistics`, wherever the tensors are."""
    ours = numerics.statistics(target, reference)
    for device in DEVICES:
        same_figures(ours, numerics.statistics(held(target, device), held(reference, device)))
    return ours


def judge(target, reference: Reference, limit=LIMIT, axes=()):
    """:func:`tapml_nb.judge.judge`, wherever the tensors are."""
    ours = judging.judge(target, reference, limit, axes)
    for device in DEVICES:
        theirs = judging.judge(held(target, device), there(reference, device), limit, axes)
        same_figures(ours, theirs)
        given = held(target, device), there(reference, device), limit, axes
        for one in three_times(partial(verdict.judging, *given)):
            same_figures(ours, one)
    return ours


def same_figures(ours, theirs):
    """Whether two dataclasses agree but for rounding."""
    assert (ours is None) is (theirs is None)
    if ours is not None:
        _same(asdict(ours), asdict(theirs))


def _same(ours, theirs):
    if isinstance(ours, dict):
        for name, figure in ours.items():
            _same(figure, theirs[name])
    elif isinstance(ours, tuple) and ours and isinstance(ours[0], tuple):
        for figure, other in zip(ours, theirs, strict=True):
            _same(figure, other)
    elif isinstance(ours, float) and not math.isfinite(ours):
        np.testing.assert_equal(theirs, ours)
    elif isinstance(ours, float | tuple):
        assert theirs == pytest.approx(ours, rel=1e-9, abs=1e-12)
    else:
        assert theirs == ours
