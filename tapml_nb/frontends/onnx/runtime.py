"""Nodes on onnxruntime, one session for all that are alike, and in float64."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator

from tapml_nb.frontends.arrays import widened
from tapml_nb.frontends.onnx.model import OnnxNode
from tapml_nb.frontends.onnx.recurrence import GATES, recurrent_exact

_NARROW = frozenset(("Shrink",))
"""Operators in which onnxruntime computes in float32 though their dtype is float64."""

_NARROW_REFERENCE = frozenset(("DeformConv", "GridSample", "RoiAlign"))
"""Those in which onnx's reference implementation does."""

_OWN: dict[str, Callable[..., np.ndarray]] = {"Erf": np.vectorize(math.erf, otypes=[np.float64])}
"""Those that neither computes in float64."""

_MOST = 1 << 22
"""Elements of an input up to which onnx's reference implementation, in NumPy, is asked."""


class Runtime:
    """Sessions by what they compute.  Graph optimizations are off, so that what is seen node by
    node is what the whole model computes."""

    def __init__(self) -> None:
        self._options = ort.SessionOptions()
        self._options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._options.intra_op_num_threads = 1  # or every session has threads of its own
        self._options.log_severity_level = 4
        self._sessions: dict[bytes, Any] = {}
        self._by_call: dict[tuple[Any, ...], Any] = {}

    def run(self, node: OnnxNode, values: Mapping[str, Any]) -> list[Any]:
        """The node's outputs as arrays, or lists of arrays for sequences.

        Raises:
            Exception: onnxruntime's, if it has no kernel or the node fails.
        """
        dtypes = (getattr(value, "dtype", type(value)) for value in values.values())
        call = (id(node.proto), *dtypes)
        session = self._by_call.get(call)
        if session is None:
            session = self._by_call[call] = self._session(node, values)
        return _run(session, node, values)

    def run_exact(self, node: OnnxNode, values: Mapping[str, Any]) -> list[Any] | None:
        """The same in float64, by onnxruntime where it can, else by onnx's reference
        implementation; None if neither can.

        Outputs that hold no floating-point numbers may have any dtype.
        """
        wide = {name: widened(value) for name, value in values.items()}
        if node.subgraphs or any(isinstance(value, list) for value in wide.values()):
            return None
        kind = node.proto.op_type
        if node.kind in GATES:
            return recurrent_exact(node, wide)
        if kind in _OWN:
            return [_OWN[kind](*wide.values())]
        if kind not in _NARROW:
            with contextlib.suppress(Exception):  # no kernel for float64
                return _run(self._session(node, wide, wide=True), node, wide)
        if kind in _NARROW_REFERENCE or any(np.size(value) > _MOST for value in wide.values()):
            return None
        model = node.alone(wide, {}, shapes=False, wide=True)
        with contextlib.suppress(Exception), np.errstate(all="ignore"):
            return _run(ReferenceEvaluator(model), node, wide)
        return None

    def _session(self, node: OnnxNode, values: Mapping[str, Any], *, wide: bool = False) -> Any:
        model = node.alone(values, {}, shapes=False, wide=wide).SerializeToString()
        if model not in self._sessions:
            self._sessions[model] = ort.InferenceSession(
                model, self._options, providers=["CPUExecutionProvider"]
            )
        return self._sessions[model]


def _run(session: Any, node: OnnxNode, values: Mapping[str, Any]) -> list[Any]:
    names = list(values) if node.subgraphs else [f"p{k}" for k in range(len(values))]
    outputs = session.run(None, dict(zip(names, values.values(), strict=True)))
    return [o if isinstance(o, list) or o is None else np.asarray(o) for o in outputs]
