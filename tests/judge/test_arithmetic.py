"""What kind of arithmetic an operator is, whatever front end names it."""

import pytest

from tapml_nb.judge.arithmetic import Arithmetic, arithmetic, bare

MOVES, ROUNDED, ADDED = Arithmetic.MOVES, Arithmetic.ROUNDED, Arithmetic.ADDED
FUNCTION, SUMMED, ROWS = Arithmetic.FUNCTION, Arithmetic.SUMMED, Arithmetic.ROWS


@pytest.mark.parametrize(
    ("primitives", "kind"),
    [
        (["aten.cat.default"], MOVES),
        (["aten.split_with_sizes.default", "<built-in function getitem>"], MOVES),
        (["aten.scalar_tensor.default", "aten.where.self"], MOVES),
        (["onnx.Transpose"], MOVES),
        (["relax.permute_dims"], MOVES),
        (["aten.mul.Tensor"], ROUNDED),
        (["aten._to_copy.default"], ROUNDED),
        (["onnx.Cast"], ROUNDED),
        (["aten.sub.Tensor"], ADDED),
        (["aten.add.Tensor", "aten.view.default"], ADDED),
        (["onnx.Add"], ADDED),
        (["aten.tanh.default"], FUNCTION),
        (["aten.sigmoid.default", "aten.mul.Tensor"], FUNCTION),
        (["relax.nn.gelu"], FUNCTION),
        (["aten.exp.default", "aten.log1p.default", "aten.gt.Scalar", "aten.where.self"], FUNCTION),
        (["aten.view.default", "aten.permute.default", "aten.addmm.default"], SUMMED),
        (["aten.bmm.default", "aten.add.Tensor"], SUMMED),
        (["aten.mean.dim"], SUMMED),
        (["onnx.GlobalAveragePool"], SUMMED),
        (["relax.nn.conv2d"], SUMMED),
        (["aten._softmax.default"], ROWS),
        (["aten.native_layer_norm.default", "<built-in function getitem>"], ROWS),
        (["aten.pow.Tensor_Scalar", "aten.mean.dim", "aten.rsqrt.default"], ROWS),
        (["aten.bmm.default", "aten.mul.Tensor"], ROWS),
        (["somebody.else.entirely"], ROWS),
    ],
    ids=str,
)
def test_kinds(primitives, kind):
    assert arithmetic(primitives) is kind


def test_several_calls_are_no_one_kind_unless_all_only_move():
    assert arithmetic(["aten.mul.Tensor"], several=True) is ROWS
    assert arithmetic(["aten.cat.default", "aten.view.default"], several=True) is MOVES


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("aten._to_copy.default", "to_copy"),
        ("onnx.MatMul", "matmul"),
        ("relax.nn.conv2d", "conv2d"),
        ("transformers.grouped_mm_fallback.default", "grouped_mm_fallback"),
        ("aten.add_", "add"),
    ],
)
def test_names_without_their_library(name, plain):
    assert bare(name) == plain
