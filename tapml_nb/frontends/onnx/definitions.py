"""Operators that ONNX itself defines by others: what stands for one that TVM's importer does not
know."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.inliner import inline_selected_functions
from onnx.reference import ReferenceEvaluator
from onnx.shape_inference import infer_shapes

_DTYPES = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}
"""Attributes of ``Constant`` that are plain numbers, of which TVM's importer knows none."""


def defined(model: Any, kinds: Collection[str]) -> Any | None:
    """A model in which ONNX's definitions stand in the place of the nodes of some kinds; None if it
    has none of one of them.

    A definition may depend on the types of what the node reads, so the model is to tell these.
    """
    wanted = {(node.domain, node.op_type) for node in model.graph.node if node.op_type in kinds}
    with contextlib.suppress(RuntimeError):  # where the inliner meets a type that nobody tells
        model = _with_defaults(model, kinds)
        model = inline_selected_functions(model, sorted(wanted), inline_schema_functions=True)
        left = {(node.domain, node.op_type) for node in model.graph.node}
        return None if left & wanted else _with_known_sizes(_with_tensors(model))
    return None


def _with_defaults(model: Any, kinds: Collection[str]) -> Any:
    """A model whose nodes of some kinds have all their attributes: the inliner leaves out of a
    definition what refers to one that a node has only by default."""
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    filled = onnx.ModelProto()
    filled.CopyFrom(model)
    for node in filled.graph.node:
        if node.op_type not in kinds:
            continue
        with contextlib.suppress(onnx.defs.SchemaError):  # another vendor's operator
            schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
            told = {attribute.name for attribute in node.attribute}
            defaults = (declared.default_value for declared in schema.attributes.values())
            node.attribute.extend(d for d in defaults if d.name and d.name not in told)
    return filled


def _with_tensors(model: Any) -> Any:
    """A model whose constants are all tensors."""
    for node in model.graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name in _DTYPES:
                number = helper.get_attribute_value(attribute)
                array = np.array(number, _DTYPES[attribute.name])
                node.attribute[0].CopyFrom(
                    helper.make_attribute("value", numpy_helper.from_array(array))
                )
    return model


def _with_known_sizes(model: Any) -> Any:
    """A model in which whole numbers that follow from shapes alone are constants: the importer has
    objects of another kind for them, of which it computes little.  What is computed of values, and
    what yields other numbers, stays."""
    sizes = _sizes(model)
    known: dict[str, np.ndarray] = {}
    nodes = list(model.graph.node)
    for k, node in enumerate(nodes):
        if node.op_type == "Shape" and node.input[0] in sizes:
            given = {node.input[0]: np.empty(sizes[node.input[0]], bool)}
        elif all(name in known for name in node.input if name):
            given = {name: known[name] for name in node.input if name}
        else:
            continue
        made = _computed(node, given, model.opset_import)
        if made is not None and made.dtype.kind in "iu":
            (name,) = node.output
            known[name] = made
            value = numpy_helper.from_array(made)
            nodes[k] = helper.make_node("Constant", [], [name], value=value)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _sizes(model: Any) -> dict[str, tuple[int, ...]]:
    """The shapes that are known, by the values' names."""
    graph = infer_shapes(model, data_prop=True).graph
    found = {}
    for value in (*graph.input, *graph.value_info):
        told = value.type.tensor_type
        if told.HasField("shape") and all(dim.HasField("dim_value") for dim in told.shape.dim):
            found[value.name] = tuple(dim.dim_value for dim in told.shape.dim)
    return found


def _computed(node: Any, given: dict[str, np.ndarray], opsets: Any) -> np.ndarray | None:
    """What a node yields of these arrays; None if it has several outputs, or cannot be run."""
    if len(node.output) != 1:
        return None
    ends = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in given.items()
    ]
    graph = helper.make_graph([node], "sizes", ends, [onnx.ValueInfoProto(name=node.output[0])])
    with contextlib.suppress(Exception):  # whatever it says of what it cannot do
        evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets))
        made: Any = evaluator.run(None, given)
        return np.asarray(made[0])
    return None
