"""From a file to a flat ONNX graph: functions inlined, constants as arrays, branches
that are sure to be taken in the place of their ``If``, and its nodes.

A node knows what it reads, what people call it, and a model that holds it alone.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.inliner import inline_local_functions
from onnx.shape_inference import InferenceError, infer_shapes

from tapml_nb.frontends.arrays import by_name, to_array
from tapml_nb.frontends.builder import user_line
from tapml_nb.frontends.onnx.subgraphs import Straightened, graphs, reads
from tapml_nb.frontends.program import FrontendError, first_line
from tapml_nb.graph import SourceLine
from tapml_nb.graph.model import Constant

_FIXED: dict[str, tuple[int, ...]] = {
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "CumProd": (1,),
    "CumSum": (1,),
    "DFT": (1, 2),
    "Dropout": (1, 2),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "Loop": (0, 1),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "NonMaxSuppression": (2, 3, 4),
    "OneHot": (1, 2),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "STFT": (1, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "SplitToSequence": (1,),
    "SequenceAt": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
"""Inputs that say what an operator does, not what with: TVM's importer wants their numbers."""

_DTYPES = ("to", "dtype", "output_dtype", "softmax_precision")
"""Attributes that name the dtype of a result, or of what is computed inside."""

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


@dataclass(frozen=True)
class OnnxNode:
    """A node with what its meaning depends on: operator set versions, IR version, and the types of
    values that are no tensors, by name; and what is to be said of where it stood."""

    proto: Any
    opsets: Mapping[str, int]
    ir_version: int
    types: Mapping[str, Any] = field(default_factory=dict)
    words: str = ""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that it has; optional ones may be left out."""
        return tuple(name for name in self.proto.output if name)

    @property
    def kind(self) -> str:
        """Its operator, with the domain where that is another vendor's."""
        domain, kind = str(self.proto.domain), str(self.proto.op_type)
        return kind if domain in ("", "ai.onnx") else f"{domain}.{kind}"

    @property
    def subgraphs(self) -> bool:
        """Whether it runs graphs of its own: ``If``, ``Loop``, ``Scan``."""
        return any(True for _ in graphs(self.proto))

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """Every value that it reads, once: its inputs, and what its subgraphs take from outside."""
        return tuple(dict.fromkeys(reads(self.proto)))

    @property
    def label(self) -> str:
        """What it is called in its scope: by its operation, or by a name people gave it."""
        kind = str(self.proto.op_type)
        if self._listed("name_scopes") or not self.proto.name:
            return kind
        return str(self.proto.name.strip("/").rpartition("/")[2]) or kind

    @property
    def scope_and_class(self) -> tuple[str, str]:
        """Dotted path and class name of the innermost module that it ran in.

        ``torch.onnx.export(dynamo=True)`` writes them into its metadata; older exporters, and
        those of other frameworks, into its name, with slashes.
        """
        scopes = self._listed("name_scopes")
        if scopes:
            classes = self._listed("class_hierarchy")
            # The last one is the call itself.
            module = classes[-2].rpartition(".")[2] if len(classes) > 1 else ""
            return scopes[-2] if len(scopes) > 1 else "", module
        path = self.proto.name.strip("/").rpartition("/")[0]
        return path.replace("/", "."), ""

    @property
    def source(self) -> SourceLine | None:
        """The user's line that it was exported from, where that is known."""
        return user_line(self._metadata("stack_trace"))

    def fixed(self) -> frozenset[str]:
        """The names it reads as numbers that must be known when it is compiled."""
        positions = _FIXED.get(self.proto.op_type, ())
        if self.proto.op_type.startswith("Reduce"):
            positions = (1,)
        return frozenset(self.proto.input[i] for i in positions if i < len(self.proto.input))

    def attributes(self) -> dict[str, Any]:
        """Attributes by name, texts decoded; of those left out, the defaults of its schema."""
        schema = self._schema()
        declared = schema.attributes.values() if schema is not None else ()
        defaults = [attribute.default_value for attribute in declared]
        found = [*(default for default in defaults if default.name), *self.proto.attribute]
        return {attribute.name: _value(attribute) for attribute in found}

    def constants(self, known: Mapping[str, np.ndarray]) -> dict[str, Constant]:
        """Plain numbers by name: attributes (defaults included) and inputs of one element."""
        schema = self._schema()
        declared = schema.attributes.items() if schema is not None else ()
        found = {name: _plain(attribute.default_value) for name, attribute in declared}
        found |= {attribute.name: _plain(attribute) for attribute in self.proto.attribute}
        for position, name in enumerate(self.proto.input):
            array = known.get(name)
            if array is not None and array.size == 1 and array.dtype.kind in "iufb":
                formal = schema.inputs if schema is not None else ()
                label = formal[position].name if position < len(formal) else f"input{position}"
                found[label] = array.reshape(-1)[0].item()
        return {name: value for name, value in found.items() if value is not None}

    def alone(
        self,
        values: Mapping[str, Any],
        baked: Mapping[str, np.ndarray],
        *,
        shapes: bool,
        wide: bool = False,
    ) -> Any:
        """A ``ModelProto`` that holds this node alone.

        Its names tell nothing of where the node stood: inputs are ``p0``, ``p1``, …, outputs
        ``r0``, ``r1``, ….  A node with subgraphs keeps its own, because they read them.

        Args:
            values: what the model takes, by the node's names: arrays, lists of them for sequences,
                None for an optional without a value.
            baked: what it holds as initializers.
            shapes: whether its inputs have these very shapes, or any.
            wide: whether floating-point dtypes that the node names become float64.
        """
        node = onnx.NodeProto()
        node.CopyFrom(self.proto)
        new = {name: f"p{k}" for k, name in enumerate(values)}
        new |= {name: f"c{k}" for k, name in enumerate(baked)}
        new |= {name: f"r{k}" for k, name in enumerate(self.outputs)}
        if self.subgraphs:
            new = {name: name for name in new}
        del node.metadata_props[:]
        node.name = node.doc_string = ""
        node.input[:] = [new.get(name, "") for name in self.proto.input]
        node.output[:] = [new.get(name, "") for name in self.proto.output]
        if wide:
            _widen_all(node)
            if node.op_type == "GroupNormalization":  # it names the dtype of its sums
                kept = [a for a in node.attribute if a.name != "stash_type"]
                del node.attribute[:]
                wide_sums = helper.make_attribute("stash_type", onnx.TensorProto.DOUBLE)
                node.attribute.extend([*kept, wide_sums])
        graph = helper.make_graph(
            [node],
            "operator",
            [self._value_info(name, new[name], value, shapes) for name, value in values.items()],
            [onnx.ValueInfoProto(name=new[name]) for name in self.outputs],
            [numpy_helper.from_array(array, new[name]) for name, array in baked.items()],
        )
        imports = [helper.make_opsetid(domain, number) for domain, number in self.opsets.items()]
        return helper.make_model(graph, opset_imports=imports, ir_version=self.ir_version)

    def _value_info(self, name: str, new: str, value: Any, shapes: bool) -> Any:
        if name in self.types:
            return helper.make_value_info(new, self.types[name])
        if isinstance(value, list):
            element = element_of(value[0] if value else np.float32())
            return helper.make_tensor_sequence_value_info(new, element, None)
        array = np.asarray(value)
        return helper.make_tensor_value_info(
            new, element_of(array), array.shape if shapes else None
        )

    def _metadata(self, key: str) -> str:
        """What PyTorch's exporter wrote under a key; empty if nothing."""
        entries = self.proto.metadata_props
        return next((str(e.value) for e in entries if e.key == f"pkg.torch.onnx.{key}"), "")

    def _listed(self, key: str) -> list[str]:
        """The same of a list of texts; empty if it is damaged."""
        try:
            value = ast.literal_eval(self._metadata(key))
        except (ValueError, SyntaxError):
            return []
        return [str(part) for part in value] if isinstance(value, list) else []

    def _schema(self) -> Any:
        domain = self.proto.domain
        version = self.opsets.get("" if domain == "ai.onnx" else domain, 1)
        try:
            return onnx.defs.get_schema(self.proto.op_type, version, domain)
        except onnx.defs.SchemaError:  # another vendor's operator
            return None


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


def load(model: Any, steps: Sequence[Any] = ()) -> OnnxModel:
    """Read a model: a path, or a ``ModelProto`` that holds its weights.

    What is given in each of the ``steps``, a tuple or by name, may decide which branches stand in
    the place of their ``If``.

    Raises:
        ValueError: if there is no such file, or it holds no ONNX model.
        FrontendError: if a node reads what nothing before it defines.
    """
    name = ""
    if isinstance(model, str | Path):
        name = Path(model).stem
        model = _from_file(Path(model))
    graph = model.graph
    if model.functions:
        graph = inline_local_functions(model, convert_version=True).graph
    opsets = {
        "" if entry.domain == "ai.onnx" else entry.domain: entry.version
        for entry in model.opset_import
    }
    initial = {tensor.name for tensor in graph.initializer}
    names = [value.name for value in graph.input if value.name not in initial]
    straight = Straightened(graph, opsets, [_arrays(step, names) for step in steps])
    constants = straight.constants
    inputs = {value.name: value for value in graph.input if value.name not in constants}
    types = _types(graph, straight, inputs, opsets)
    words = straight.decided
    nodes = [
        OnnxNode(
            node, opsets, model.ir_version, types, words.get(next(filter(None, node.output)), "")
        )
        for node in straight.nodes
    ]
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


def _arrays(step: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The tensors among a step's inputs by name; what is wrong with them is said elsewhere."""
    found = {}
    with contextlib.suppress(ValueError):
        for name, value in by_name(step, names, 0).items():
            with contextlib.suppress(TypeError):
                found[name] = to_array(value, name)
    return found


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"model: there is no file {path}")
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's, onnx's, or the system's
        why = first_line(error)[:200]
        raise ValueError(f"model: {path} cannot be read as an ONNX model: {why}") from None
    if not model.graph.node:
        raise ValueError(f"model: {path} holds no ONNX graph; is it an ONNX file?")
    return model


def _types(
    graph: Any, straight: Straightened, inputs: Mapping[str, Any], opsets: Mapping[str, int]
) -> dict[str, Any]:
    """The types of values that are no tensors, as far as the model and its operators tell them; an
    empty sequence does not tell its own."""
    kinds = {value.type.WhichOneof("value") for value in inputs.values()}
    if kinds <= {"tensor_type"} and not any(
        "Sequence" in node.op_type or "Optional" in node.op_type for node in straight.nodes
    ):
        return {}
    constants = [
        helper.make_tensor_value_info(name, element_of(array), array.shape)
        for name, array in straight.constants.items()
    ]
    ends = [*inputs.values(), *constants]
    whole = helper.make_graph(straight.nodes, "types", ends, graph.output)
    imports = [helper.make_opsetid(domain, number) for domain, number in opsets.items()]
    with contextlib.suppress(InferenceError):
        whole = infer_shapes(helper.make_model(whole, opset_imports=imports)).graph
    known = (*whole.input, *whole.value_info, *whole.output)
    return {
        v.name: v.type for v in known if v.type.WhichOneof("value") not in (None, "tensor_type")
    }


def _value(attribute: Any) -> Any:
    value = helper.get_attribute_value(attribute)
    texts = value if isinstance(value, list) else [value]
    decoded = [t.decode("utf-8", "replace") if isinstance(t, bytes) else t for t in texts]
    return decoded if isinstance(value, list) else decoded[0]


def _plain(attribute: Any) -> Constant:
    kind = attribute.type
    if kind == onnx.AttributeProto.INT:
        return int(attribute.i)
    if kind == onnx.AttributeProto.FLOAT:
        return float(attribute.f)
    if kind == onnx.AttributeProto.STRING:
        return str(attribute.s.decode("utf-8", "replace"))
    return None


def _widen_all(node: Any) -> None:
    for attribute in node.attribute:
        _widen(attribute)
    for graph in graphs(node):
        for inner in graph.node:
            _widen_all(inner)


def _widen(attribute: Any) -> None:
    if attribute.name in _DTYPES and attribute.i in _FLOATS:
        attribute.i = onnx.TensorProto.DOUBLE
    elif attribute.HasField("t") and attribute.t.data_type in _FLOATS:
        wide = numpy_helper.to_array(attribute.t).astype(np.float64)
        attribute.t.CopyFrom(numpy_helper.from_array(wide))


def element_of(array: Any) -> int:
    """What ONNX calls an array's dtype."""
    dtype = np.asarray(array).dtype
    if dtype.kind in "OUS":
        return int(onnx.TensorProto.STRING)
    return int(helper.np_dtype_to_tensor_dtype(dtype))
