"""From a file to a flat ONNX graph: functions inlined, constants as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.inliner import inline_local_functions
from onnx.reference import ReferenceEvaluator

from tapml_nb.frontends.onnx.nodes import OnnxNode
from tapml_nb.frontends.program import FrontendError


@dataclass(frozen=True)
class OnnxModel:
    """What is left of a ``ModelProto``.

    Attributes:
        name: of the graph, or of the file.
        inputs: what a user gives: ``ValueInfoProto`` by name, in order.
        constants: initializers and the values of ``Constant`` nodes, by name.
        nodes: all others, in executable order.
        outputs: names.
    """

    name: str
    inputs: dict[str, Any]
    constants: dict[str, np.ndarray]
    nodes: tuple[OnnxNode, ...]
    outputs: tuple[str, ...]


def load(model: Any) -> OnnxModel:
    """Read a model.

    Args:
        model: a path, or a ``ModelProto`` that holds its weights.

    Raises:
        ValueError: if there is no such file, or it holds no ONNX model.
        FrontendError: if a node reads what nothing before it defines.
    """
    name = ""
    if isinstance(model, str | Path):
        name = Path(model).stem
        model = _read(Path(model))
    graph = model.graph
    if model.functions:
        graph = inline_local_functions(model, convert_version=True).graph
    opsets = {entry.domain.removeprefix("ai.onnx"): entry.version for entry in model.opset_import}
    constants = {tensor.name: _array(tensor) for tensor in graph.initializer}
    nodes: list[OnnxNode] = []
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            constants[node.output[0]] = _value(node, opsets)
        else:
            nodes.append(OnnxNode(node, opsets, model.ir_version))
    inputs = {value.name: value for value in graph.input if value.name not in constants}
    known = {*inputs, *constants}
    for node in nodes:
        for read in node.reads:
            if read not in known:
                raise FrontendError(
                    f"the ONNX model is damaged: {node.proto.op_type} "
                    f"{node.proto.name or node.proto.output[0]!r} reads {read!r}, which nothing "
                    f"before it defines"
                )
        known.update(node.proto.output)
    outputs = tuple(value.name for value in graph.output if value.name in known)
    return OnnxModel(name or graph.name or "model", inputs, constants, tuple(nodes), outputs)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"model: there is no file {path}")
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's, onnx's, or the system's
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"model: {path} cannot be read as an ONNX model: {why[:200]}") from None
    if not model.graph.node:
        raise ValueError(f"model: {path} holds no ONNX graph; is it an ONNX file?")
    return model


def _array(tensor: Any) -> np.ndarray:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ValueError(
            f"model: the weight {tensor.name!r} is in another file; give the model's path"
        )
    return np.asarray(numpy_helper.to_array(tensor), order="C")


def _value(node: Any, opsets: dict[str, int]) -> np.ndarray:
    imports = [onnx.helper.make_opsetid(domain, number) for domain, number in opsets.items()]
    output = onnx.ValueInfoProto(name=node.output[0])
    graph = onnx.helper.make_graph([node], "constant", [], [output])
    model = onnx.helper.make_model(graph, opset_imports=imports)
    (value,) = ReferenceEvaluator(model).run([node.output[0]], {})
    return np.asarray(value)
