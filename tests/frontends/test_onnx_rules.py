"""Our own conversion rules for ONNX against onnxruntime, through a session on llvm."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tvm import relax

import tapml_nb as tapml
from tapml_nb import Verdict
from tapml_nb.frontends.onnx import import_onnx
from tapml_nb.frontends.onnx.model import load
from tapml_nb.frontends.onnx.recurrence import QUANTIZED, recurrent_exact
from tapml_nb.frontends.onnx.rules import RULES
from tapml_nb.frontends.onnx.units import build_module
from tapml_nb.frontends.program import Unsupported

_RANDOM = np.random.default_rng(0)


def normal(*shape, scale=1.0):
    return (scale * _RANDOM.standard_normal(shape)).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """A node: its operator, inputs (None for those left out), attributes and outputs."""

    kind: str
    inputs: list[Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    constants: tuple[int, ...] = ()
    """Which inputs are part of the model."""

    @property
    def op_type(self):
        return self.kind.rpartition(".")[2]

    @property
    def domain(self):
        return self.kind.rpartition(".")[0]


def recurrent(kind, *, steps=3, batch=2, bias=True, lengths=None, states=(), peepholes=False, **a):
    """A recurrent node; ``states`` are the initial ones that it is given."""
    gates, width, hidden = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], 3, 4
    directions = 2 if a.get("direction") == "bidirectional" else 1
    first = (batch, directions) if a.get("layout") else (directions, batch)
    inputs = [
        normal(*((batch, steps) if a.get("layout") else (steps, batch)), width),
        normal(directions, gates * hidden, width),
        normal(directions, gates * hidden, hidden, scale=0.5),
        normal(directions, 2 * gates * hidden) if bias else None,
        None if lengths is None else np.array(lengths, np.int32),
        normal(*first, hidden) if "h" in states else None,
    ]
    if kind == "LSTM":
        inputs.append(normal(*first, hidden) if "c" in states else None)
        inputs.append(normal(directions, 3 * hidden) if peepholes else None)
    outputs = 3 if kind == "LSTM" else 2
    return Case(kind, inputs, {"hidden_size": hidden, **a}, outputs)


def attention(*, batch=2, flat=False, mask=None, past=0, lengths=None, outputs=1, **attributes):
    """Four heads of queries, two of keys and values."""
    (heads, shared), queries, keys, width, value_width = (4, 2), 3, 5, 8, 6
    tensors = [
        normal(batch, heads, queries, width),
        normal(batch, shared, keys, width),
        normal(batch, shared, keys, value_width),
    ]
    if flat:
        tensors = [t.transpose(0, 2, 1, 3).reshape(batch, t.shape[2], -1) for t in tensors]
        attributes |= {"q_num_heads": heads, "kv_num_heads": shared}
    before = [None, None]
    if past:
        before = [normal(batch, shared, past, w) for w in (width, value_width)]
    if mask is bool:
        mask = normal(queries, keys + past) < 0.5
        mask[:, 0] = True
    elif mask is float:
        mask = normal(batch, 1, queries, keys + past)
    lengths = None if lengths is None else np.array(lengths, np.int64)
    inputs = [*tensors, mask, *before, lengths]
    while inputs[-1] is None:
        inputs.pop()
    return Case("Attention", inputs, attributes, outputs)


def turned(*, flat=False, positions=True, width=8, part=0, **attributes):
    """Rotary positions of two heads."""
    x = normal(2, 3, 2 * width) if flat else normal(2, 2, 3, width)
    if flat:
        attributes["num_heads"] = 2
    angles = normal(*((10,) if positions else (2, 3)), (part or width) // 2)
    if part:
        attributes |= {"rotary_embedding_dim": part}
        attributes["num_heads"] = 2
    at = [np.array([[0, 4, 9], [1, 2, 3]], np.int64)] if positions else []
    return Case("RotaryEmbedding", [x, np.cos(angles), np.sin(angles), *at], attributes)


def whole_numbers(dtype, *shape):
    low, high = {np.uint8: (0, 256), np.int8: (-128, 128), np.int32: (-999, 999)}[dtype]
    return _RANDOM.integers(low, high, shape).astype(dtype)


def number(value, dtype=np.float32):
    return np.array(value, dtype)


def conv_integer(*zeros, x=(1, 4, 6, 7), w=(6, 4, 3, 2), **attributes):
    inputs = [whole_numbers(np.uint8, *x), whole_numbers(np.uint8, *w), *zeros]
    return Case("ConvInteger", inputs, attributes, constants=(2, 3))


def qlinear_conv(scale, zero, bias=False, dtype=np.uint8, x=(1, 4, 6, 7), w=(6, 4, 3, 2), **a):
    weights = np.int8 if np.size(scale) > 1 else dtype
    inputs = [
        whole_numbers(dtype, *x),
        number(0.02),
        number(7, dtype),
        whole_numbers(weights, *w),
        np.array(scale, np.float32),
        np.array(zero, weights),
        number(0.9),
        number(20, dtype),
        *([whole_numbers(np.int32, w[0])] if bias else []),
    ]
    return Case("QLinearConv", inputs, a, constants=(1, 2, 4, 5, 6, 7))


def qlinear_matmul(dtype, *batch):
    inputs = [
        whole_numbers(dtype, *batch, 4, 9),
        number(0.03),
        number(5, dtype),
        whole_numbers(dtype, *batch, 9, 3),
        number(0.02),
        number(9, dtype),
        number(0.4),
        number(17, dtype),
    ]
    return Case("QLinearMatMul", inputs, constants=(1, 2, 4, 5, 6, 7))


def quantized_lstm(*, steps=3, direction="forward", lengths=None, states=False):
    width, hidden = 5, 4
    directions, batch = 2 if direction == "bidirectional" else 1, 1
    first = [normal(directions, batch, hidden) if states else None for _ in "hc"]
    inputs = [
        normal(steps, batch, width),
        whole_numbers(np.int8, directions, width, 4 * hidden),
        whole_numbers(np.int8, directions, hidden, 4 * hidden),
        normal(directions, 8 * hidden),
        None if lengths is None else np.array(lengths, np.int32),
        *first,
        None,
        np.full(directions, 0.02, np.float32),
        np.full(directions, 3, np.int8),
        np.full(directions, 0.01, np.float32),
        np.full(directions, -2, np.int8),
    ]
    attributes = {"hidden_size": hidden, "direction": direction}
    return Case(QUANTIZED, inputs, attributes, 3, constants=(8, 9, 10, 11))


OTHERS: dict[str, Case] = {
    "attention": attention(),
    "attention flat": attention(flat=True, scale=0.2),
    "attention causal": attention(is_causal=1),
    "attention of a mask": attention(mask=bool),
    "attention of a bias": attention(mask=float, softcap=2.0),
    "attention with a past": attention(past=2, mask=float, flat=True, outputs=3),
    "attention with a past and causal": attention(past=2, is_causal=1, outputs=3),
    "attention that shows its products": attention(outputs=4),
    "attention that shows its weights": attention(outputs=4, qk_matmul_output_mode=3),
    "attention of lengths": attention(lengths=[3, 5]),
    "rotary": turned(),
    "rotary flat": turned(flat=True),
    "rotary of pairs": turned(interleaved=1),
    "rotary of a part": turned(part=4),
    "rotary without positions": turned(positions=False, flat=True, interleaved=1),
    "ConvInteger": conv_integer(),
    "ConvInteger padded": conv_integer(number(11, np.uint8), pads=[1, 0, 2, 1], strides=[2, 1]),
    "ConvInteger dilated": conv_integer(
        number(11, np.uint8), number(4, np.uint8), dilations=[2, 1], pads=[1, 1, 1, 1]
    ),
    "ConvInteger in groups": conv_integer(number(3, np.uint8), w=(6, 2, 3, 2), group=2),
    "ConvInteger same lower": conv_integer(auto_pad="SAME_LOWER", strides=[2, 2]),
    "ConvInteger same upper": conv_integer(auto_pad="SAME_UPPER", strides=[2, 3]),
    "QLinearConv": qlinear_conv(0.04, 3),
    "QLinearConv by channels": qlinear_conv(
        [0.01, 0.02, 0.03, 0.04, 0.05, 0.06], [0] * 6, True, pads=[1, 1, 1, 1]
    ),
    "QLinearConv in groups": qlinear_conv(0.04, 3, True, w=(4, 1, 3, 3), group=4),
    "QLinearConv of int8": qlinear_conv(0.04, 0, dtype=np.int8),
    "QLinearMatMul": qlinear_matmul(np.uint8),
    "QLinearMatMul of int8": qlinear_matmul(np.int8, 2),
    "OneHot of a list": Case(
        "OneHot",
        [whole_numbers(np.int8, 3, 2).astype(np.int64) % 9 - 4, np.array([4]), number([2.0, 5.0])],
        {"axis": 1},
        constants=(1, 2),
    ),
    "quantized LSTM": quantized_lstm(states=True),
    "quantized LSTM both ways": quantized_lstm(direction="bidirectional"),
}

CASES: dict[str, Case] = {
    **{f"{kind} alone": recurrent(kind, bias=False) for kind in ("LSTM", "GRU", "RNN")},
    **{f"{kind} with all": recurrent(kind, states="hc") for kind in ("LSTM", "GRU", "RNN")},
    **{
        f"{kind} reverse": recurrent(kind, direction="reverse", states="h", clip=0.3)
        for kind in ("LSTM", "GRU", "RNN")
    },
    **{
        f"{kind} both ways": recurrent(
            kind, direction="bidirectional", batch=3, lengths=[2, 3, 1], states="hc"
        )
        for kind in ("LSTM", "GRU", "RNN")
    },
    **{
        f"{kind} of lengths": recurrent(kind, batch=3, lengths=[2, 3, 1])
        for kind in ("LSTM", "GRU", "RNN")
    },
    "LSTM of many steps": recurrent("LSTM", steps=40, batch=1),
    "LSTM with peepholes": recurrent("LSTM", peepholes=True, states="hc"),
    "LSTM with peepholes both ways": recurrent(
        "LSTM", peepholes=True, direction="bidirectional", clip=0.8
    ),
    "LSTM coupled": recurrent("LSTM", input_forget=1, states="hc"),
    "LSTM of one sequence": recurrent("LSTM", batch=1, lengths=[2], states="hc"),
    "GRU linear before reset": recurrent("GRU", linear_before_reset=1, states="h"),
    "GRU linear both ways": recurrent("GRU", linear_before_reset=1, direction="bidirectional"),
    "GRU of other activations": recurrent(
        "GRU",
        activations=["HardSigmoid", "Softsign", "Sigmoid", "LeakyRelu"],
        activation_alpha=[0.3, 0.05],
        activation_beta=[0.4],
        direction="bidirectional",
    ),
    "LSTM of other activations": recurrent(
        "LSTM",
        activations=["Sigmoid", "ScaledTanh", "Elu"],
        activation_alpha=[0.8, 0.5],
        activation_beta=[1.2],
    ),
    "LSTM of more activations": recurrent("LSTM", activations=["Softplus", "LeakyRelu", "Relu"]),
    "GRU of more activations": recurrent("GRU", activations=["Elu", "HardSigmoid"]),
    **OTHERS,
    "RNN of numbers": recurrent(
        "RNN",
        activations=["Affine", "ThresholdedRelu"],
        activation_alpha=[0.7, 0.3],
        activation_beta=[0.2],
        direction="bidirectional",
    ),
}


WITHOUT_FLOAT64 = ("ConvInteger", "QLinearConv", "QLinearMatMul", "OneHot")
"""Operators that yield integers, or select."""


def together(cases, opset):
    """Every case in one model, so that one session judges all."""
    nodes, inputs, feeds, weights, results = [], [], [], [], []
    for scope, case in cases.items():
        scope = scope.replace(" ", "-")
        names = []
        for k, array in enumerate(case.inputs):
            names.append("" if array is None else f"{scope}.{k}")
            if array is not None and k in case.constants:
                weights.append(numpy_helper.from_array(array, names[-1]))
            elif array is not None:
                dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
                inputs.append(helper.make_tensor_value_info(names[-1], dtype, array.shape))
                feeds.append(array)
        outputs = [f"{scope}.out{k}" for k in range(case.outputs)]
        results += [onnx.ValueInfoProto(name=name) for name in outputs]
        nodes.append(
            helper.make_node(
                case.op_type,
                names,
                outputs,
                name=f"/{scope}/{case.op_type}",
                domain=case.domain,
                **case.attributes,
            )
        )
    graph = helper.make_graph(nodes, "together", inputs, results, weights)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10), tuple(feeds)


@pytest.fixture(scope="module")
def session():
    with tapml.debug(*together(CASES, 24), target="llvm") as session:
        session.run()
        yield session


def op_of(session, case):
    (op,) = [op for op in session.graph.ops if op.scope == case.replace(" ", "-")]
    return op


@pytest.mark.parametrize("case", CASES)
def test_a_rule_is_right(session, case):
    report, op = session.report, op_of(session, case)
    assert report.verdict(op.id) is Verdict.PASS, report.introduced[op.id, 0].message
    assert report.conversions[op.id] == f"{CASES[case].kind} converted by rules of tapml_nb's"


@pytest.mark.parametrize("case", [c for c in CASES if CASES[c].kind not in WITHOUT_FLOAT64])
def test_the_float64_run_is_what_onnxruntime_computes(session, case):
    """It honours every attribute; or a floor would hide what is wrong."""
    op = op_of(session, case)
    program = import_onnx(*together({case: CASES[case]}, 24))
    (alone,) = program.graph.ops
    exact = program.run_exact(alone.id, program.bind(0, {}))
    for k, array in enumerate(exact):
        assert array.dtype == np.float64
        source = session.tensor(op.id, "source", output=k)
        np.testing.assert_allclose(array, source, rtol=2e-5, atol=2e-5)


def without(attribute):
    """A recurrent node that leaves an attribute out of account, in float32."""

    def compute(node, arrays):
        kept = [a for a in node.proto.attribute if a.name != attribute]
        proto = onnx.NodeProto()
        proto.CopyFrom(node.proto)
        del proto.attribute[:]
        proto.attribute.extend(kept)
        values = dict(zip([name for name in proto.input if name], arrays, strict=True))
        made = recurrent_exact(replace(node, proto=proto), values)
        return tuple(array.astype(np.float32) for array in made)

    return compute


@pytest.mark.parametrize(
    ("case", "attribute"),
    [
        ("GRU linear before reset", "linear_before_reset"),
        ("LSTM coupled", "input_forget"),
        ("RNN reverse", "clip"),
        ("LSTM reverse", "direction"),
    ],
)
def test_a_kernel_that_leaves_something_out_is_blamed_alone(session, case, attribute):
    op = op_of(session, case).id
    (node,) = load(together({case: CASES[case]}, 24)[0]).nodes
    for left_out, verdict in (("nothing", Verdict.PASS), (attribute, Verdict.FAIL)):
        session.override(op, lambda *arrays, out=left_out: without(out)(node, arrays))
        report = session.run(op)
        assert report.verdict(op) is verdict
    assert [culprit.op for culprit in report.culprits] == [op]
    session.override(op, None)
    assert session.run(op).ok


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_batch_may_come_first(kind):
    """onnxruntime has no kernel for it: a rule is held against the float64 run."""
    case = recurrent(kind, direction="bidirectional", layout=1, states="hc", lengths=[3, 2])
    (node,) = load(together({"case": case}, 24)[0]).nodes
    values = {name: case.inputs[int(name[-1])] for name in node.reads}
    module, by = build_module(node, values, {})
    assert "rules of tapml_nb" in by
    found = outputs_of(module, values.values())
    exact: Any = recurrent_exact(node, values)
    turned = {**case.attributes, "layout": 0}
    inputs = [
        a.swapaxes(0, 1) if k in (0, 5, 6) and a is not None else a
        for k, a in enumerate(case.inputs)
    ]
    ort = whole(*together({"case": Case(kind, inputs, turned, case.outputs)}, 24))
    for one, other, (k, third) in zip(found, exact, enumerate(ort), strict=True):
        third = third.transpose(2, 0, 1, 3) if k == 0 else third.swapaxes(0, 1)
        np.testing.assert_allclose(one, third, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(other, third, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("group", "offset_group", "masked"), [(1, 1, False), (2, 1, True), (1, 2, True)]
)
def test_a_deformable_convolution_is_what_the_standard_says(group, offset_group, masked):
    """onnx's reference implementation computes it."""
    attributes = {"pads": [1, 0, 1, 0], "strides": [2, 1], "dilations": [1, 2]}
    attributes |= {"group": group, "offset_group": offset_group}
    inputs = [
        normal(2, 4, 7, 8),
        normal(6, 4 // group, 3, 2),
        normal(2, 2 * 6 * offset_group, 4, 6),
        normal(6),
        normal(2, 6 * offset_group, 4, 6) if masked else None,
    ]
    model, feeds = together({"case": Case("DeformConv", inputs, attributes)}, 22)
    (node,) = load(model).nodes
    values = dict(zip(node.reads, feeds, strict=True))
    reference: Any = ReferenceEvaluator(model)
    (expected,) = reference.run(None, values)
    module, by = build_module(node, values, {})
    assert "rules of tapml_nb" in by
    (found,) = outputs_of(module, feeds)
    np.testing.assert_allclose(found, np.asarray(expected), rtol=1e-4, atol=1e-4)


def outputs_of(module, arrays):
    """What a module computes, by TVM alone."""
    machine = relax.VirtualMachine(tvm.compile(module, "llvm"), tvm.cpu())
    found = machine["main"](*map(tvm.runtime.tensor, arrays))
    several = isinstance(found, tuple | list | tvm.ir.Array)
    return [one.numpy() for one in (found if several else [found])]


def whole(model, feeds):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, feeds, strict=True)))


def test_a_quantized_lstm_of_lengths_is_not_judged():
    """onnxruntime quantizes it otherwise: there is neither a rule nor a float64 run."""
    case = quantized_lstm(lengths=[2])
    (node,) = load(together({"case": case}, 22)[0]).nodes
    weights = dict(zip(node.reads, [a for a in case.inputs if a is not None], strict=True))
    with pytest.raises(Unsupported, match=r"ours does not take this node: .*their lengths"):
        build_module(node, weights, {})
    assert recurrent_exact(node, weights) is None


def test_what_is_too_long_says_so():
    case = recurrent("RNN", steps=1025)
    program = import_onnx(*together({"case": case}, 24))
    values = program.bind(0, {})
    values |= zip(program.graph.ops[0].outputs, program.run("case/RNN", values), strict=True)
    with pytest.raises(Unsupported, match=r"no rule for RNN, and ours .* 1025 steps.*1 to 1024"):
        program.unit("case/RNN", values)


@pytest.mark.parametrize("kind", RULES)
def test_every_rule_is_for_an_operator_that_exists(kind):
    domain, _, name = kind.rpartition(".")
    if domain != "com.microsoft":  # onnxruntime keeps its own to itself
        assert onnx.defs.get_schema(name, onnx.defs.onnx_opset_version(), domain)
