"""What runs a node: onnxruntime, one session for all that are alike, else onnx's reference
implementation; and the same in float64."""

from __future__ import annotations

import contextlib
import ctypes
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.shape_inference import InferenceError, infer_shapes

from tapml_nb.frontends.arrays import widened
from tapml_nb.frontends.onnx.model import OnnxNode
from tapml_nb.frontends.onnx.recurrence import GATES, recurrent_exact
from tapml_nb.frontends.onnx.stateful import STATEFUL, stateful_exact
from tapml_nb.frontends.onnx.unsigned import unsigned
from tapml_nb.frontends.program import first_line
from tapml_nb.numerics import is_float

_NARROW = frozenset(("Attention", "Shrink"))
"""Operators in which onnxruntime computes in float32 though their dtype is float64."""

_NARROW_REFERENCE = frozenset(("DeformConv", "GridSample", "RoiAlign"))
"""Those in which onnx's reference implementation does."""


_REPEATED = ("Scan",)
"""Operators with subgraphs that onnx's reference implementation runs in float64; of a ``Loop``
without a condition it runs nothing."""


def _sigmoid(x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x < 0, small, 1.0) / (1.0 + small))


_OWN: dict[str, Callable[..., np.ndarray]] = {
    "Erf": np.vectorize(math.erf, otypes=[np.float64]),
    "Sigmoid": _sigmoid,
}
"""Those that neither computes in float64; onnxruntime's sigmoid of float64 has seven digits, and is
0 below -36."""

_MOST = 1 << 22
"""Elements of an input up to which onnx's reference implementation, in NumPy, is asked for a
float64 run."""

_UNKNOWN_TO_NUMPY = re.compile(r"tensor\((bfloat16|float[468]\w+|u?int[24])\)")
"""Tensors that onnxruntime's binding does not exchange with NumPy."""

_Source = Callable[[Mapping[str, Any]], list[Any]]
"""What runs a node on its values by name."""


class NoKernel(Exception):
    """Nothing can run a node; the message tells what onnxruntime says."""


class Runtime:
    """Sessions by what they compute.  Graph optimizations are off, so that what is seen node by
    node is what the whole model computes."""

    def __init__(self) -> None:
        self._options = ort.SessionOptions()
        self._options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._options.intra_op_num_threads = 1  # or every session has threads of its own
        self._options.log_severity_level = 4
        self._sessions: dict[bytes, Any] = {}
        self._by_call: dict[tuple[Any, ...], _Source] = {}

    def run(self, node: OnnxNode, values: Mapping[str, Any]) -> list[Any]:
        """The node's outputs as arrays, or lists of arrays for sequences.

        What runs it is found out once for each kind of values, by trying.

        Raises:
            NoKernel: if there is none for it.
            Exception: onnxruntime's, if the node fails on these values.
        """
        call = (id(node.proto), *map(_look, values.values()))
        if call in self._by_call:
            return self._by_call[call](values)
        lacks: list[Exception] = []
        fails: list[Exception] = []
        # Operators that are functions, and subgraphs, may need to know shapes.
        finders: tuple[Callable[..., _Source], ...] = (self._open, self._for_shapes, _reference)
        if node.kind in _NARROW and any(_look(v)[0] == np.float64 for v in values.values()):
            finders = finders[::-1]  # whoever computes in float64 in truth is not wrong for it
        for find in finders:
            source: _Source | None = None
            try:
                source = find(node, values)
                results = source(values)
            except Exception as error:  # whatever they say of what they cannot do
                # With a session there is a kernel, which does not take these values.
                (fails if source and find is not _reference else lacks).append(error)
                continue
            self._by_call[call] = source
            return results
        if fails:
            raise fails[0]
        raise NoKernel(first_line(lacks[0]))

    def run_exact(self, node: OnnxNode, values: Mapping[str, Any]) -> list[Any] | None:
        """The same in float64, by onnxruntime where it can, else by onnx's reference
        implementation; None if neither can.

        Outputs that hold no floating-point numbers may have any dtype.
        """
        wide = {name: widened(value) for name, value in values.items()}
        kind = node.proto.op_type
        if not all(isinstance(value, np.ndarray) for value in wide.values()):
            return None
        if node.subgraphs and (kind not in _REPEATED or node.opsets.get("", 1) < 9):
            return None  # in operator set 8 a scan is of batches
        if node.kind in GATES:
            return recurrent_exact(node, wide)
        if node.kind in STATEFUL:
            return stateful_exact(node, wide)
        if kind in _OWN:
            return [_OWN[kind](*wide.values())]
        if kind == "BitCast":  # the bits of a number are those of no wider one
            return [widened(result) for result in self.run(node, values)]
        if kind not in _NARROW and not node.subgraphs:
            for find in (self._open, self._for_shapes):
                with contextlib.suppress(Exception):  # no kernel for float64
                    return find(node, wide, wide=True)(wide)
        if kind in _NARROW_REFERENCE or any(np.size(value) > _MOST for value in wide.values()):
            return None
        with contextlib.suppress(Exception):
            return _reference(node, wide, wide=True)(wide)
        return None

    def _open(self, node: OnnxNode, values: Mapping[str, Any], *, wide: bool = False) -> _Source:
        return self._session(node, values, shapes=False, wide=wide)

    def _for_shapes(
        self, node: OnnxNode, values: Mapping[str, Any], *, wide: bool = False
    ) -> _Source:
        return self._session(node, values, shapes=True, wide=wide)

    def _session(
        self, node: OnnxNode, values: Mapping[str, Any], *, shapes: bool, wide: bool
    ) -> _Source:
        node, values_of = unsigned(node, values)
        key = node.alone(values_of(values), {}, shapes=shapes, wide=wide).SerializeToString()
        if key not in self._sessions:
            self._sessions[key] = ort.InferenceSession(
                key, self._options, providers=["CPUExecutionProvider"]
            )
        session = self._sessions[key]
        return lambda values: _on_onnxruntime(session, node, values_of(values))


def _on_onnxruntime(session: Any, node: OnnxNode, values: Mapping[str, Any]) -> list[Any]:
    feeds = _feeds(node, values)
    ends = (*session.get_inputs(), *session.get_outputs())
    if any(_UNKNOWN_TO_NUMPY.fullmatch(end.type) for end in ends):
        given = {name: _given(value) for name, value in feeds.items()}
        return [_taken(value) for value in session.run_with_ort_values(None, given)]
    return [_as(result) for result in session.run(None, feeds)]


def _given(array: np.ndarray) -> Any:
    """An array as onnxruntime takes it, whatever its dtype; packed where that is less than a
    byte."""
    buffer = np.zeros_like(array, order="C")
    raw = np.frombuffer(numpy_helper.from_array(array).raw_data, np.uint8)
    buffer.reshape(-1).view(np.uint8)[: raw.size] = raw
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(buffer, kind)


def _taken(value: Any) -> np.ndarray:
    """The array that onnxruntime gives out, whatever its dtype."""
    data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    tensor = onnx.TensorProto(data_type=value.element_type(), dims=value.shape(), raw_data=data)
    return np.asarray(numpy_helper.to_array(tensor))


def _reference(node: OnnxNode, values: Mapping[str, Any], *, wide: bool = False) -> _Source:
    """The node by onnx's reference implementation."""
    model = node.alone(values, {}, shapes=False, wide=wide)
    evaluator = ReferenceEvaluator(model)
    with contextlib.suppress(InferenceError):
        model = infer_shapes(model)
    dtypes = [_declared_dtype(output) for output in model.graph.output]

    def run(values: Mapping[str, Any]) -> list[Any]:
        with np.errstate(all="ignore"):
            results = evaluator.run(None, _feeds(node, values))
        return [_as(result, dtype) for result, dtype in zip(results, dtypes, strict=True)]

    return run


def _declared_dtype(output: Any) -> np.dtype | None:
    """What ONNX says that an output is; None if it says nothing."""
    kind = output.type.tensor_type.elem_type
    return np.dtype(helper.tensor_dtype_to_np_dtype(kind)) if kind else None


def _as(result: Any, dtype: np.dtype | None = None) -> Any:
    """A result as it is, a tensor as an array of that dtype: where NumPy has no product of a narrow
    one, the reference implementation leaves it in a wider one.

    Raises:
        TypeError: if it is another one that is no matter of width.
    """
    if result is None or isinstance(result, list):
        return result
    array = np.asarray(result)
    if dtype is None or array.dtype.kind in "OUS" or array.dtype == dtype:
        return array
    if is_float(array.dtype) and is_float(dtype):
        return array.astype(dtype)
    raise TypeError(f"onnx's reference implementation gives {array.dtype}, and not {dtype}")


def _feeds(node: OnnxNode, values: Mapping[str, Any]) -> dict[str, Any]:
    names = list(values) if node.subgraphs else [f"p{k}" for k in range(len(values))]
    return dict(zip(names, values.values(), strict=True))


def _look(value: Any) -> tuple[Any, ...]:
    """What of a value may decide what can run a node."""
    return (value.dtype, value.shape) if isinstance(value, np.ndarray) else (type(value),)
