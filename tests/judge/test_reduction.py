"""Reduction lengths of the operators that matter."""

import pytest

from tapml_nb.judge.arithmetic import reduction_length


@pytest.mark.parametrize(
    ("ops", "inputs", "outputs", "least", "most"),
    [
        (["aten.mm.default"], [(512, 1024), (1, 16, 1024)], [(1, 16, 512)], 1024, 1024),
        (
            ["aten._weight_int8pack_mm.default"],
            [(4, 1024), (512, 1024), (512,)],
            [(4, 512)],
            1024,
            1024,
        ),
        (["aten.lgamma.default"], [(4, 64), (4, 64)], [(4, 4)], 1, 1),
        (["aten.bmm.default"], [(8, 16, 64), (8, 64, 16)], [(8, 16, 16)], 64, 256),
        (
            ["aten.convolution.default"],
            [(2, 32, 28, 28), (64, 32, 3, 3)],
            [(2, 64, 28, 28)],
            90,
            300,
        ),
        (["aten.mean.dim"], [(4, 16, 256)], [(4, 16, 1)], 256, 256),
        (["aten._softmax.default"], [(4, 8, 16, 77)], [(4, 8, 16, 77)], 77, 77),
        (["aten.native_layer_norm.default"], [(2, 3, 768)], [(2, 3, 768)], 768, 768),
        (["aten.cumsum.default"], [(1, 500)], [(1, 500)], 500, 500),
        (["aten.mul.Tensor"], [(4, 4096)], [(4, 4096)], 1, 1),
        (["aten.slice.Tensor"], [(4, 4096)], [(4, 1)], 1, 1),
        (["aten.embedding.default"], [(32000, 64), (1, 4)], [(1, 4, 64)], 1, 1),
        (["aten.full.default"], [], [(4,)], 1, 1),
        (["aten.sum.dim_IntList"], [(-1, 64)], [(-1,)], 64, 64),
        (["onnx.MatMul"], [(16, 1024), (1024, 512)], [(16, 512)], 1024, 1024),
        (["onnx.Gemm"], [(16, 64), (32, 64)], [(16, 32)], 64, 64),
        (["onnx.ReduceMean"], [(4, 256)], [(4, 1)], 256, 256),
        (["onnx.LayerNormalization"], [(2, 768)], [(2, 768)], 768, 768),
        (["onnx.Relu"], [(4, 4096)], [(4, 4096)], 1, 1),
        (["relax.nn.conv2d"], [(1, 32, 9, 9), (64, 32, 3, 3)], [(1, 64, 9, 9)], 90, 300),
        (["relax.nn.softmax"], [(8, 77)], [(8, 77)], 77, 77),
        (["function.fused", "relax.matmul"], [(4, 64), (64, 4)], [(4, 4)], 64, 64),
        (["tir.mine", "relax.sum"], [(4, 64), (64, 4)], [(4, 4)], 64, 64),
    ],
)
def test_lengths(ops, inputs, outputs, least, most):
    assert least <= reduction_length(ops, inputs, outputs) <= most
