"""Products of uint8 with int8 as products of uint8, which onnxruntime computes exactly everywhere.

On x86 processors without VNNI it adds their products in pairs into 16 bits, which saturate: a
source whose numbers depend on the processor is none.  ``w`` less its zero point stays the same
when both are 128 more.
See https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html, "When and why do
I need to try U8U8", and ``session.x64quantprecision``, which does the same to constants, as one of
the optimizations that are off here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import onnx

from tapml_nb.frontends.onnx.model import OnnxNode

_Values = Mapping[str, Any]


class _Operand(NamedTuple):
    """Positions of a node's inputs: an operand of its product that may be either, its zero point,
    and the other operand, if that is not quantized within."""

    at: int
    zero: int
    other: int | None


_QUANTIZED: dict[str, tuple[_Operand, ...]] = {
    "ConvInteger": (_Operand(0, 2, 1), _Operand(1, 3, 0)),
    "MatMulInteger": (_Operand(0, 2, 1), _Operand(1, 3, 0)),
    "QLinearConv": (_Operand(3, 5, 0),),
    "QLinearMatMul": (_Operand(3, 5, 0),),
    "com.microsoft.DynamicQuantizeLSTM": (_Operand(1, 9, None), _Operand(2, 11, None)),
    "com.microsoft.DynamicQuantizeMatMul": (_Operand(1, 3, None),),
    "com.microsoft.MatMulIntegerToFloat": (_Operand(0, 4, 1), _Operand(1, 5, 0)),
    "com.microsoft.QAttention": (_Operand(1, 7, 0),),
    "com.microsoft.QGemm": (_Operand(3, 5, 0),),
}

_MIDDLE = "zero point in the middle"
"""The name of a zero point that a node goes without."""


def unsigned(node: OnnxNode, values: _Values) -> tuple[OnnxNode, Callable[[_Values], _Values]]:
    """The node whose products are of uint8 alone, and what makes its values of the node's own;
    both as they are where nothing is to be done.

    Args:
        values: by name, such as it will be given: dtypes decide.
    """
    signed = list(_signed(node, values))
    if not signed:
        return node, lambda values: values
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    moved = {proto.input[operand.at] for operand in signed}
    for operand in signed:
        proto.input.extend([""] * (operand.zero + 1 - len(proto.input)))
        moved.add(proto.input[operand.zero])
        proto.input[operand.zero] = proto.input[operand.zero] or _MIDDLE
    without = {_MIDDLE: np.array(128, np.uint8)} if "" in moved else {}

    def values_of(values: _Values) -> _Values:
        return {name: _up(v) if name in moved else v for name, v in values.items()} | without

    return replace(node, proto=proto), values_of


def _signed(node: OnnxNode, values: _Values) -> Iterator[_Operand]:
    inputs = node.proto.input

    def is_signed(at: int) -> bool:
        return bool(values[inputs[at]].dtype == np.int8)

    for operand in _QUANTIZED.get(node.kind, ()):
        if is_signed(operand.at) and (operand.other is None or not is_signed(operand.other)):
            yield operand


def _up(array: np.ndarray) -> np.ndarray:
    """128 more."""
    return np.asarray(array.view(np.uint8) ^ np.uint8(128))
