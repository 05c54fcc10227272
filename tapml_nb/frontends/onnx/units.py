"""One ONNX node as a standalone Relax function, converted by TVM's own importer.

The importer sees a model of one node: tensors are its inputs, numbers its initializers.
Whatever it produces is what will be judged: a wrong rule is a finding.  Our own rules stand in
where the importer cannot convert a node at all.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from tvm import relax
from tvm.error import OpNotImplemented
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter, _get_convert_map

from tapml_nb.frontends.onnx.carriers import carrier
from tapml_nb.frontends.onnx.definitions import defined
from tapml_nb.frontends.onnx.model import OnnxNode
from tapml_nb.frontends.onnx.rules import LEGALIZED, RULES
from tapml_nb.frontends.onnx.rules.call import build
from tapml_nb.frontends.onnx.subgraphs import graphs
from tapml_nb.frontends.onnx.unrolling import unrolled
from tapml_nb.frontends.program import Unsupported, last_line
from tapml_nb.graph import TensorSpec

_KERNELS = ("", "relax.call_tir", "relax.reshape", "relax.memory.view")
"""What legalization leaves of calls that become kernels; "" is no call of an operator."""


def build_module(
    node: OnnxNode,
    inputs: Mapping[str, np.ndarray],
    baked: Mapping[str, np.ndarray],
    gives: Mapping[str, TensorSpec] | None = None,
) -> tuple[Any, str]:
    """An ``IRModule`` whose ``main`` computes the node's outputs, and in words by what it was
    converted where that is not the importer's rule for it.

    Where the importer has none, or it fails, a rule of ours is taken; where there is neither, the
    definition that ONNX has of the operator.  Its parameters are the ``inputs``, of which shapes
    and dtypes count; ``baked`` are the numbers that are part of it; ``gives`` says what the source
    has made here, of which the sizes count that values decide.

    Raises:
        Unsupported: if neither the importer nor we can convert the node.
    """
    kind = node.kind
    if node.subgraphs:
        straight = defined(node.alone(inputs, baked, shapes=True), {str(node.proto.op_type)})
        if straight is None or any(True for n in straight.graph.node for _ in graphs(n)):
            words = f"{kind} with its body written out for each step"
            return _written_out(node, inputs, baked), words
    if kind not in RULES:
        model, conversion = _in_known_ones(node.alone(inputs, baked, shapes=True), kind)
        return _imported(model, node), conversion
    module: Any = None
    try:
        module = _theirs(node, inputs, baked, gives or {})
        if kind in LEGALIZED:
            _legalize(module, node)
        return module, ""
    except Unsupported as reason:
        try:
            ours = build(RULES[kind], node, inputs, baked, gives or {})
        except Exception as error:
            if module is not None:
                return module, ""
            raise Unsupported(
                f"{reason}, and ours does not take this node: {last_line(error)}"
            ) from error
    return ours, f"{kind} converted by rules of tapml_nb's"


def _written_out(
    node: OnnxNode, inputs: Mapping[str, np.ndarray], baked: Mapping[str, np.ndarray]
) -> Any:
    """What TVM's importer makes of a node that runs a graph of its own, step by step.

    Raises:
        Unsupported: if it is not known how often that runs, or the importer fails.
    """
    try:
        model = unrolled(node, inputs, baked)
    except Exception as error:  # also what onnx's reference implementation lacks
        raise Unsupported(
            f"{node.kind} runs subgraphs: which and how often is known only at run time "
            f"({last_line(error)})"
        ) from error
    return relax.transform.DeadCodeElimination()(_imported(model, node))


def _theirs(
    node: OnnxNode,
    inputs: Mapping[str, np.ndarray],
    baked: Mapping[str, np.ndarray],
    gives: Mapping[str, TensorSpec],
) -> Any:
    """What TVM's importer makes of a node.

    Raises:
        Unsupported: if it has no rule for the node, or its rule fails.
    """
    read = {array.dtype.name for array in (*inputs.values(), *baked.values()) if array is not None}
    foreign = [
        name for name in sorted(read | {s.dtype for s in gives.values()}) if carrier(name) != name
    ]
    if foreign:
        raise Unsupported(f"TVM's ONNX importer knows no tensors of {foreign[0]}")
    if any(array is None for array in baked.values()):
        raise Unsupported("TVM's ONNX importer knows no optionals without a value")
    # An optional that is there is a tensor like any other.
    plain = replace(node, types={})
    return _imported(plain.alone(inputs, baked, shapes=True), node)


def _legalize(module: Any, node: OnnxNode) -> None:
    """Do with a module what TVM's pipeline will do with its calls.

    Raises:
        Unsupported: if that fails, or leaves calls of which no kernel can be made.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lowered = relax.transform.LegalizeOps()(module)
    except Exception as error:
        raise Unsupported(f"TVM cannot legalize {node.kind}: {last_line(error)}") from error
    for block in lowered["main"].body.blocks:
        for binding in block.bindings:
            call = getattr(binding, "value", None)
            name = getattr(getattr(call, "op", None), "name", "")
            if isinstance(binding, relax.MatchCast) or name not in _KERNELS:
                raise Unsupported(f"TVM has no kernel for {node.kind} of sizes that values decide")


def _in_known_ones(model: Any, kind: str) -> tuple[Any, str]:
    """A model of operators that the importer has rules for, and in words whether it is another one.

    Raises:
        Unsupported: if ONNX defines one that the importer lacks by no others.
    """
    conversion = ""
    while missing := {n.op_type for n in model.graph.node} - _known():
        model = defined(model, missing)
        if model is None:
            raise Unsupported(f"TVM's ONNX importer has no rule for {kind}")
        conversion = f"{kind} as ONNX defines it by other operators"
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
