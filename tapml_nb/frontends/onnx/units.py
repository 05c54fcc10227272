"""One ONNX node as a standalone Relax function, converted by TVM's own importer.

The importer sees a model of one node: tensors are its inputs, numbers its initializers.
Whatever it produces is what will be judged: a wrong rule is a finding.  Our own rules stand in
where the importer cannot convert a node at all.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from tvm import relax
from tvm.error import OpNotImplemented
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter

from tapml_nb.frontends.onnx.model import OnnxNode
from tapml_nb.frontends.onnx.rules import RULES
from tapml_nb.frontends.onnx.rules.call import build
from tapml_nb.frontends.program import Unsupported, last_line


def build_module(
    node: OnnxNode, inputs: Mapping[str, np.ndarray], baked: Mapping[str, np.ndarray]
) -> tuple[Any, str]:
    """An ``IRModule`` whose ``main`` computes the node's outputs, and in words by what it was
    converted, where not by the importer.

    Its parameters are the ``inputs``, of which shapes and dtypes count; ``baked`` are the numbers
    that are part of it.

    Raises:
        Unsupported: if neither the importer nor we can convert the node.
    """
    kind = node.kind
    if node.subgraphs:
        raise Unsupported(f"{kind} runs subgraphs: which and how often is known only at run time")
    try:
        return _imported(node, inputs, baked), ""
    except Unsupported as reason:
        if kind not in RULES:
            raise
        try:
            module = build(RULES[kind], node, inputs, baked)
        except Exception as error:
            raise Unsupported(
                f"{reason}, and ours does not take this node: {last_line(error)}"
            ) from error
    return module, f"{kind} converted by rules of tapml_nb's"


def _imported(
    node: OnnxNode, inputs: Mapping[str, np.ndarray], baked: Mapping[str, np.ndarray]
) -> Any:
    """What TVM's importer makes of a node.

    Raises:
        Unsupported: if it has no rule for the node, or its rule fails.
    """
    kind = node.kind
    model = node.alone(inputs, baked, shapes=True)
    importer = _Importer({}, {}, sanitize=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importer.from_onnx(model.graph, node.opsets.get("", 1))
    except OpNotImplemented as error:
        raise Unsupported(f"TVM's ONNX importer has no rule for {kind}") from error
    except (_Failed, Exception) as failed:
        reason = failed.error if isinstance(failed, _Failed) else failed
        raise Unsupported(f"TVM's ONNX importer fails on {kind}: {last_line(reason)}") from reason
    result = module["main"].ret_ty
    for ty in result.fields if isinstance(result, relax.TupleType) else [result]:
        if not isinstance(ty, relax.TensorType):
            raise Unsupported(f"TVM's ONNX importer makes a {ty} of {kind}, and no tensor")
    return module


class _Failed(BaseException):
    """A rule's error, as what the importer does not catch: it would print on the notebook."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Importer(ONNXGraphImporter):  # type: ignore[misc]
    def _convert_operator(self, *args: Any) -> Any:
        try:
            return super()._convert_operator(*args)
        except Exception as error:
            raise _Failed(error) from error
