"""What onnxruntime's products of uint8 and int8 are on a processor that saturates them.

qemu plays one (x86-64 with AVX2 and without VNNI): this file runs in it as a program.
"""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from onnx import helper

from tapml_nb.frontends.onnx.model import OnnxNode
from tapml_nb.frontends.onnx.runtime import Runtime

_ROOT = Path(__file__).parents[2]
_RANDOM = np.random.default_rng(5)


def extreme(dtype, *shape):
    """Numbers whose products do not fit 16 bits two by two."""
    info = np.iinfo(dtype)
    return _RANDOM.choice([info.max, info.max, info.max, info.min], shape).astype(dtype)


def number(value, dtype=np.float32):
    return np.array(value, dtype)


def product(a, b, a_zero=0, b_zero=0):
    return (a.astype(np.int64) - a_zero) @ (b.astype(np.int64) - b_zero)


def convolution(x, w, x_zero=0, w_zero=0):
    windows = sliding_window_view(x.astype(np.int64) - x_zero, w.shape[2:], axis=(2, 3))
    return np.einsum("bchwij,ocij->bohw", windows, w.astype(np.int64) - w_zero)


def quantized(x, scale, zero=0):
    return np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8)


def softmax(x):
    raised = np.exp(x - x.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def cases():
    """By name: operator, domain, inputs, attributes, and what NumPy makes of them."""
    for one, other in ((np.uint8, np.int8), (np.int8, np.uint8), (np.int8, np.int8)):
        name = f"of {one.__name__} and {other.__name__}"
        a, b = extreme(one, 4, 32), extreme(other, 32, 8)
        yield f"MatMulInteger {name}", "MatMulInteger", "", [a, b], {}, product(a, b)
        x, w = extreme(one, 1, 8, 5, 5), extreme(other, 4, 8, 3, 3)
        yield f"ConvInteger {name}", "ConvInteger", "", [x, w], {}, convolution(x, w)
    a, b, zero = extreme(np.uint8, 4, 32), extreme(np.int8, 32, 8), number(-3, np.int8)
    inputs = [a, b, number(9, np.uint8), zero]
    yield "MatMulInteger with zero points", "MatMulInteger", "", inputs, {}, product(a, b, 9, -3)
    sums = product(a, b, 9, -3)
    scales = [number(0.5), number(9, np.uint8)], [number(0.25), zero]
    after = [number(40.0), number(100, np.uint8)]
    inputs = [a, *scales[0], b, *scales[1], *after]
    yield "QLinearMatMul", "QLinearMatMul", "", inputs, {}, quantized(sums / 8, 40, 100)
    inputs = [a, *scales[0], b, *scales[1], None, *after]
    yield "QGemm", "QGemm", "com.microsoft", inputs, {}, quantized(sums / 8, 40, 100)
    inputs = [a, b, number(0.5), number(0.25)]
    float_of = np.float32(product(a, b) / 8)
    yield "MatMulIntegerToFloat", "MatMulIntegerToFloat", "com.microsoft", inputs, {}, float_of
    x, w = extreme(np.uint8, 1, 8, 5, 5), extreme(np.int8, 4, 8, 3, 3)
    per_channel = [np.full(4, 0.25, np.float32), np.full(4, -3, np.int8)]
    inputs = [x, *scales[0], w, *per_channel, number(90.0), after[1]]
    made = quantized(convolution(x, w, 9, -3) / 8, 90, 100)
    yield "QLinearConv by channels", "QLinearConv", "", inputs, {}, made
    whole = a.astype(np.float32)  # of 0 to 255, so its own quantization is 1
    inputs = [whole, b, number(0.25)]
    made = np.float32(product(a, b) / 4)
    yield "DynamicQuantizeMatMul", "DynamicQuantizeMatMul", "com.microsoft", inputs, {}, made
    x, w = extreme(np.uint8, 1, 3, 32), extreme(np.int8, 32, 24)
    q, k, v = np.split(product(x[0], w) / 1024, 3, axis=1)
    made = (softmax(q @ k.T / np.sqrt(8)) @ v).astype(np.float32)[None]
    inputs = [x, w, np.zeros(24, np.float32), number(1 / 32), number(1 / 32)]
    yield "QAttention", "QAttention", "com.microsoft", inputs, {"num_heads": 1}, made


def run(op_type, domain, inputs, attributes):
    names = ["" if array is None else f"in{k}" for k, array in enumerate(inputs)]
    proto = helper.make_node(op_type, names, ["out"], domain=domain, **attributes)
    node = OnnxNode(proto, {"": 21, "com.microsoft": 1}, ir_version=10)
    values = {n: array for n, array in zip(names, inputs, strict=True) if array is not None}
    (result,) = Runtime().run(node, values)
    assert list(proto.input) == names
    return result


def wrong():
    for name, op_type, domain, inputs, attributes, expected in cases():
        result = run(op_type, domain, inputs, attributes)
        assert result.shape == expected.shape, name
        if not np.allclose(result, expected, rtol=1e-5, atol=1e-4):
            yield name


def saturated():
    """What onnxruntime makes of one case when it is asked directly."""
    import onnxruntime as ort

    _, op_type, domain, inputs, attributes, expected = next(iter(cases()))
    node = helper.make_node(op_type, ["a", "b"], ["out"], domain=domain, **attributes)
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for n, x in zip("ab", inputs, strict=True)
    ]
    graph = helper.make_graph([node], "one", infos, [onnx.ValueInfoProto(name="out")])
    imports = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, dict(zip("ab", inputs, strict=True)))
    return bool((result != expected).any())


def test_products_of_eight_bits_are_exact():
    assert list(wrong()) == []


@pytest.mark.skipif(platform.machine() != "x86_64", reason="it runs this Python in qemu")
def test_products_of_eight_bits_are_exact_where_onnxruntime_saturates():
    """The first line is a control: there, such products are not what they should be."""
    qemu = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
    assert qemu, "this test needs Debian's qemu-user-static"
    told = subprocess.run(
        [qemu, "-cpu", "Haswell", sys.executable, __file__],
        cwd=_ROOT,
        env={"PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert told.stdout.split("\n") == ["saturated True", "wrong []", ""]


if __name__ == "__main__":
    print("saturated", saturated())
    print("wrong", list(wrong()))
