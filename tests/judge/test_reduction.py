"""Reduction lengths of the operators that matter."""

import pytest

from tapml_nb.graph import TensorSpec
from tapml_nb.judge.reduction import reduction_length


def f32(*shape):
    return TensorSpec(shape, "float32")


@pytest.mark.parametrize(
    ("ops", "inputs", "outputs", "least", "most"),
    [
        (["aten.mm.default"], [f32(512, 1024), f32(1, 16, 1024)], [f32(1, 16, 512)], 1024, 1024),
        (
            ["aten._weight_int8pack_mm.default"],
            [f32(4, 1024), TensorSpec((512, 1024), "int8"), f32(512)],
            [f32(4, 512)],
            1024,
            1024,
        ),
        (["aten.lgamma.default"], [f32(4, 64), f32(4, 64)], [f32(4, 4)], 1, 1),
        (["aten.bmm.default"], [f32(8, 16, 64), f32(8, 64, 16)], [f32(8, 16, 16)], 64, 256),
        (
            ["aten.convolution.default"],
            [f32(2, 32, 28, 28), f32(64, 32, 3, 3)],
            [f32(2, 64, 28, 28)],
            90,
            300,
        ),
        (["aten.mean.dim"], [f32(4, 16, 256)], [f32(4, 16, 1)], 256, 256),
        (["aten._softmax.default"], [f32(4, 8, 16, 77)], [f32(4, 8, 16, 77)], 77, 77),
        (["aten.native_layer_norm.default"], [f32(2, 3, 768)], [f32(2, 3, 768)], 768, 768),
        (["aten.cumsum.default"], [f32(1, 500)], [f32(1, 500)], 500, 500),
        (["aten.mul.Tensor"], [f32(4, 4096)], [f32(4, 4096)], 1, 1),
        (["aten.slice.Tensor"], [f32(4, 4096)], [f32(4, 1)], 1, 1),
        (["aten.embedding.default"], [f32(32000, 64), f32(1, 4)], [f32(1, 4, 64)], 1, 1),
        (["aten.full.default"], [], [f32(4)], 1, 1),
        (["onnx.MatMul"], [f32(16, 1024), f32(1024, 512)], [f32(16, 512)], 1024, 1024),
        (["onnx.Gemm"], [f32(16, 64), f32(32, 64)], [f32(16, 32)], 64, 64),
        (["onnx.ReduceMean"], [f32(4, 256)], [f32(4, 1)], 256, 256),
        (["onnx.LayerNormalization"], [f32(2, 768)], [f32(2, 768)], 768, 768),
        (["onnx.Relu"], [f32(4, 4096)], [f32(4, 4096)], 1, 1),
        (["relax.nn.conv2d"], [f32(1, 32, 9, 9), f32(64, 32, 3, 3)], [f32(1, 64, 9, 9)], 90, 300),
        (["relax.nn.softmax"], [f32(8, 77)], [f32(8, 77)], 77, 77),
        (["function.fused", "relax.matmul"], [f32(4, 64), f32(64, 4)], [f32(4, 4)], 64, 64),
        (["tir.mine", "relax.sum"], [f32(4, 64), f32(64, 4)], [f32(4, 4)], 64, 64),
    ],
)
def test_lengths(ops, inputs, outputs, least, most):
    assert least <= reduction_length(ops, inputs, outputs) <= most
