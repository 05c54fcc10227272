"""Never written is what two runs left with two fillings; what was written, however odd, is not."""

from __future__ import annotations

import numpy as np
import pytest
from tvm.script import tirx as T

import tapml_nb as tapml
from tapml_nb.judge.diagnosis import Known, Pattern, diagnose
from tapml_nb.targets.wire.calls import PATTERNS
from tests.judge.test_diagnosis import silu, work
from tests.models import two_layers

pytestmark = pytest.mark.compiles


@T.prim_func(s_tir=True)
def writes_zeros(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    for i, j in T.grid(3, 16):
        y[i, j] = x[i, j] * T.float32(0)


@T.prim_func(s_tir=True)
def writes_nothing(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    for i, j in T.grid(3, 16):
        if x[i, j] > T.float32(1e30):
            y[i, j] = x[i, j]


@T.prim_func(s_tir=True)
def writes_the_poison(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    for i, j in T.grid(3, 16):
        y[i, j] = T.reinterpret("float32", T.uint32(0x5A5A5A5A)) + x[i, j] * T.float32(0)


@pytest.fixture(scope="module")
def session():
    with tapml.debug(*two_layers(), target="llvm") as opened:
        yield opened


@pytest.mark.parametrize(
    ("kernel", "pattern", "words"),
    [
        (writes_nothing, Pattern.NEVER_WRITTEN, "what memory was filled with"),
        (writes_zeros, Pattern.ONE_VALUE, "the whole output is 0"),
        (writes_the_poison, Pattern.ONE_VALUE, "the whole output is 1.53"),
    ],
)
def test_in_a_session(session, kernel, pattern, words):
    session.override("act", kernel)
    (found,) = session.run("act").culprits
    assert found.pattern == pattern
    assert words in found.diagnosis
    assert ("never writes" in found.diagnosis) == (kernel is writes_nothing)


def filled(dtype, pattern):
    w = work("aten.add", np.random.default_rng(0).integers(0, 2, (4, 30)), [], np.dtype(dtype))
    target = np.full(120 * np.dtype(dtype).itemsize, PATTERNS[pattern], np.uint8)
    return w, target.view(dtype).reshape(4, 30)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.int64, np.uint8, np.bool_])
@pytest.mark.parametrize("pattern", [0, 1])
def test_any_dtype(dtype, pattern):
    w, target = filled(dtype, pattern)
    known = Known(unwritten=np.ones(target.shape, bool))
    found = diagnose(w.kind, target, w.reference, [], known=known)
    assert found.pattern is Pattern.NEVER_WRITTEN
    alone = diagnose(w.kind, target, w.reference, [])
    assert alone is None or alone.pattern is Pattern.ONE_VALUE


def test_holes_in_no_order_and_in_a_tail():
    w = silu((16, 50))
    for holes, pattern in (
        (np.random.default_rng(0).random((16, 50)) < 0.3, Pattern.NEVER_WRITTEN),
        (np.broadcast_to(np.arange(50) >= 48, (16, 50)), Pattern.TAIL),
    ):
        target = np.where(holes, np.float32(np.nan), w.reference.source)
        known = Known(unwritten=holes)
        found = diagnose(w.kind, target, w.reference, w.inputs, known=known)
        assert found.pattern is pattern
        assert "never written" in found.words + found.evidence
        other = diagnose(w.kind, target, w.reference, w.inputs)
        assert "never written" not in (other.words + other.evidence if other else "")
