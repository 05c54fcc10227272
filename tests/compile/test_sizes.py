"""Kernels that leave sizes open: plain data that becomes numbers when shapes are known."""

from __future__ import annotations

import json

import pytest
import tvm
from tvm import relax, tirx

from tapml_nb.compile.kernel import BufferSpec, Kernel, Launch, SizeMisfit, bind, evaluate
from tapml_nb.compile.lowering import UnsupportedLowering, lower
from tapml_nb.compile.primfunc import SizeNames, UnknownSize
from tapml_nb.frontends.program import leaves_sizes_open, with_sizes
from tests.compile.test_properties import symbols_in

LLVM = tvm.target.Target("llvm")


def joined(told: bool = True):
    """Two tensors of any length in a row, of that the first k, and the numbers up to k."""
    n, m, k = (tirx.Var(name, "int64") for name in "nmk")
    x = relax.Var("p0", relax.TensorType([n, 8], "float32"))
    y = relax.Var("p1", relax.TensorType([m, 8], "float32"))
    params = [x, y, relax.Var("sizes", relax.ShapeType([k]))] if told else [x, y]
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            both = builder.emit(relax.op.concat([x, y], 0))
            flat = builder.emit(relax.op.reshape(both, [n * 8 + m * 8]))
            if told:
                head = builder.emit(relax.op.strided_slice(both, [0], [0], [k]))
                count = builder.emit(relax.op.arange(0, k, 1, "int64"))
                flat = relax.Tuple([flat, head, count])
            result = builder.emit_output(flat)
        builder.emit_func_output(result)
    return builder.get()


@pytest.fixture(scope="module")
def kernel():
    return lower(joined(), LLVM, "k" * 64).kernel


@pytest.mark.parametrize(
    ("size", "number"),
    [
        (7, 7),
        ("n", 5),
        (("+", "n", 1), 6),
        (("-", "n", "m"), 2),
        (("*", 2, ("+", "n", "m")), 16),
        (("//", "n", 2), 2),
        (("%", "n", 3), 2),
        (("min", "n", "m"), 3),
        (("max", "n", "m"), 5),
        (("select", ("<", "n", "m"), "n", ("select", ("!=", "m", 3), 8, 9)), 9),
        (("select", ("and", ("==", "n", 5), ("not", ("<=", "n", "m"))), 1, 0), 1),
        (("or", ("<", "n", 0), ("<", "m", 9)), 1),
    ],
)
def test_arithmetic(size, number):
    assert evaluate(size, {"n": 5, "m": 3}) == number
    assert symbols_in(size) <= {"n", "m"}


@pytest.mark.parametrize(
    ("expression", "size"),
    [
        (lambda n: n * 2 + 1, ("+", ("*", "n0", 2), 1)),
        (lambda n: tirx.floordiv(n + 3, 4), ("//", ("+", "n0", 3), 4)),
        (lambda n: tirx.if_then_else(n > 4, n, 4), ("select", ("<", 4, "n0"), "n0", 4)),
        (
            lambda n: tirx.Select(n >= 4, n, tirx.IntImm("int64", 4)),
            ("select", ("<=", 4, "n0"), "n0", 4),
        ),
    ],
)
def test_what_tvm_says_of_sizes(expression, size):
    n = tirx.Var("n", "int64")
    names = SizeNames()
    names.declare([[n]])
    for number in (1, 4, 5, 100):  # however TVM simplifies it
        assert evaluate(names.size(expression(n)), {"n0": number}) == evaluate(size, {"n0": number})
    with pytest.raises(UnknownSize, match="no parameter tells other"):
        names.size(n + tirx.Var("other", "int64"))


def test_symbols_are_known_from_axes():
    assert bind([["n", 8], ["m", ("+", "n", "m")]], [[3, 8], [2, 5]], {}) == {"n": 3, "m": 2}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[3, 9], [2, 5]], r"axis 1 of \[3, 9\] is to be 8"),
        ([[3, 8], [2, 4]], r"axis 1 of \[2, 4\] is to be 5"),
        ([[3, 8, 1], [2, 5]], r"3 axes \[3, 8, 1\], it takes 2"),
    ],
)
def test_other_shapes_are_refused(given, message):
    with pytest.raises(SizeMisfit, match=message):
        bind([["n", 8], ["m", ("+", "n", "m")]], given, {})


def test_a_lowered_kernel_leaves_sizes_open(kernel):
    assert kernel.is_open
    assert len(kernel.numbers) == 1
    assert [spec.shape for spec in kernel.buffers[:2]] == [("n0", 8), ("n1", 8)]
    known = kernel.at([(3, 8), (2, 8)], [4])
    assert not known.is_open
    assert [known.buffers[r].shape for r in known.results] == [(40,), (4, 8), (4,)]
    assert all(isinstance(size, int) for launch in known.launches for _, size in launch.sizes)
    assert known.views == kernel.views, "what is a view is one for all sizes"
    assert len(known.views) == 1
    with pytest.raises(SizeMisfit):
        kernel.at([(3, 8), (2, 9)], [4])


def test_a_kernel_is_json(kernel):
    assert Kernel.from_json(json.loads(json.dumps(kernel.to_json()))) == kernel


def test_a_kernel_of_known_sizes_is_itself():
    spec = BufferSpec((4,), "float32")
    plain = Kernel("k", (spec, spec), 1, (), (Launch("f", (0, 1)),), (), (1,))
    assert plain.at([(4,)]) is plain


def test_sizes_that_values_decide_have_no_kernel():
    x = relax.Var("p0", relax.TensorType([8], "bool"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(relax.op.nonzero(x))
        builder.emit_func_output(result)
    with pytest.raises(UnsupportedLowering):
        lower(builder.get(), LLVM, "k" * 64)


def test_open_units_can_be_closed():
    assert leaves_sizes_open(joined())
    closed = with_sizes(joined(), [(3, 8), (2, 8)], [4])
    assert not leaves_sizes_open(closed)
    assert len(closed["main"].params) == 2
    kernel = lower(closed, LLVM, "k" * 64).kernel
    assert not kernel.is_open
    assert [kernel.buffers[r].shape for r in kernel.results] == [(40,), (4, 8), (4,)]
    assert leaves_sizes_open(joined(told=False))
