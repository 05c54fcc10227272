"""Kernels as text: NumPy functions, PrimFuncs, and what is neither."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from tapml_nb.compile.primfunc import is_primfunc
from tapml_nb.widgets.kernel_text import kernel_from_text, primfunc_text

PRIMFUNC = """
@T.prim_func(s_tir=True)
def silu(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    for i, j in T.grid(3, 16):
        y[i, j] = x[i, j] / (T.float32(1) + T.exp(-x[i, j]))
"""


def test_the_last_function_counts():
    text = "import numpy as np\ndef half(x):\n    return x / 2\ndef kernel(x):\n    return half(x)"
    kernel = kernel_from_text(text)
    assert kernel(np.array([4.0])) == [2.0]
    assert kernel.__name__ == "kernel"
    assert "return half(x)" in inspect.getsource(kernel)


def test_an_imported_function_does_not_count():
    with pytest.raises(ValueError, match="defines no function"):
        kernel_from_text("from math import sqrt\nfrom os.path import join")


@pytest.mark.parametrize(
    ("text", "message"), [("def f(:", "SyntaxError"), ("1 / 0", "ZeroDivisionError")]
)
def test_text_that_cannot_be_run(text, message):
    with pytest.raises(ValueError, match=message):
        kernel_from_text(text)


def test_a_primfunc():
    assert is_primfunc(kernel_from_text(PRIMFUNC))


def test_a_module_of_one_primfunc():
    import tvm

    module = tvm.IRModule({"silu": kernel_from_text(PRIMFUNC)})
    assert is_primfunc(kernel_from_text(module.script(show_meta=False)))


def test_no_tvmscript():
    with pytest.raises(ValueError, match="no TVMScript"):
        kernel_from_text("@T.prim_func\ndef f(x: int):\n    return nothing")


def test_a_kernel_of_two_primfuncs_is_no_template():
    assert primfunc_text(PRIMFUNC) == PRIMFUNC
    with pytest.raises(ValueError, match="2 PrimFuncs"):
        primfunc_text(PRIMFUNC * 2)
