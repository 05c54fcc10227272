"""One ONNX node as a standalone Relax function, converted by TVM's own importer.

The importer sees a model of one node: tensors are its inputs, numbers its initializers.
Whatever it produces is what will be judged: a wrong rule is a finding.  Our own rules stand in
where the importer cannot convert a node at all.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from tvm import relax
from tvm.error import OpNotImplemented
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter, _get_convert_map

from tapml_nb.frontends.onnx.definitions import defined
from tapml_nb.frontends.onnx.model import OnnxNode
from tapml_nb.frontends.onnx.rules import RULES
from tapml_nb.frontends.onnx.rules.call import build
from tapml_nb.frontends.onnx.subgraphs import graphs
from tapml_nb.frontends.program import Unsupported, last_line


def build_module(
    node: OnnxNode, inputs: Mapping[str, np.ndarray], baked: Mapping[str, np.ndarray]
) -> tuple[Any, str]:
    """An ``IRModule`` whose ``main`` computes the node's outputs, and in words by what it was
    converted where that is not the importer's rule for it.

    Where the importer has none, or it fails, a rule of ours is taken; where there is neither, the
    definition that ONNX has of the operator.  Its parameters are the ``inputs``, of which shapes
    and dtypes count; ``baked`` are the numbers that are part of it.

    Raises:
        Unsupported: if neither the importer nor we can convert the node.
    """
    kind = node.kind
    model = node.alone(inputs, baked, shapes=True)
    if kind not in RULES:
        model, conversion = _in_known_ones(model, node)
        return _imported(model, node), conversion
    try:
        return _imported(model, node), ""
    except Unsupported as reason:
        try:
            module = build(RULES[kind], node, inputs, baked)
        except Exception as error:
            raise Unsupported(
                f"{reason}, and ours does not take this node: {last_line(error)}"
            ) from error
    return module, f"{kind} converted by rules of tapml_nb's"


def _in_known_ones(model: Any, node: OnnxNode) -> tuple[Any, str]:
    """A model of operators that the importer has rules for, and in words whether it is another one.

    Raises:
        Unsupported: if ONNX defines one that the importer lacks by no others, or a subgraph is
            left: some definitions have a node's subgraph in its place, once.
    """
    conversion = ""
    while missing := {n.op_type for n in model.graph.node} - _known():
        inlined = defined(model, missing)
        if inlined is None:
            break
        model, conversion = inlined, f"{node.kind} as ONNX defines it by other operators"
    if any(True for inner in model.graph.node for _ in graphs(inner)) and node.subgraphs:
        raise Unsupported(
            f"{node.kind} runs subgraphs: which and how often is known only at run time"
        )
    if missing:
        raise Unsupported(f"TVM's ONNX importer has no rule for {node.kind}")
    return model, conversion


def _imported(model: Any, node: OnnxNode) -> Any:
    """What TVM's importer makes of a model that stands for a node.

    Raises:
        Unsupported: if it has no rule for the node, or its rule fails.
    """
    importer = _Importer({}, {}, sanitize=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importer.from_onnx(model.graph, node.opsets.get("", 1))
    except OpNotImplemented as error:
        raise Unsupported(f"TVM's ONNX importer has no rule for {node.kind}") from error
    except (_Failed, Exception) as failed:
        reason = failed.error if isinstance(failed, _Failed) else failed
        raise Unsupported(
            f"TVM's ONNX importer fails on {node.kind}: {last_line(reason)}"
        ) from reason
    result = module["main"].ret_ty
    for ty in result.fields if isinstance(result, relax.TupleType) else [result]:
        if not isinstance(ty, relax.TensorType):
            raise Unsupported(f"TVM's ONNX importer makes a {ty} of {node.kind}, and no tensor")
    return module


@cache
def _known() -> frozenset[str]:
    """The operators that TVM's importer has a rule for."""
    return frozenset(_get_convert_map()) | {"Constant"}


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
