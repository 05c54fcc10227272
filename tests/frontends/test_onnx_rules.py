"""Our own conversion rules for ONNX against onnxruntime, through a session on llvm."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from onnx import helper
from tvm import relax

import tapml_nb as tapml
from tapml_nb import Verdict
from tapml_nb.frontends.onnx import import_onnx
from tapml_nb.frontends.onnx.model import load
from tapml_nb.frontends.onnx.recurrence import recurrent_exact
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
    "RNN of numbers": recurrent(
        "RNN",
        activations=["Affine", "ThresholdedRelu"],
        activation_alpha=[0.7, 0.3],
        activation_beta=[0.2],
        direction="bidirectional",
    ),
}


def together(cases, opset):
    """Every case in one model, so that one session judges all."""
    nodes, inputs, feeds, results = [], [], [], []
    for scope, case in cases.items():
        scope = scope.replace(" ", "-")
        names = []
        for k, array in enumerate(case.inputs):
            names.append("" if array is None else f"{scope}.{k}")
            if array is not None:
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
    graph = helper.make_graph(nodes, "together", inputs, results)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10), tuple(feeds)


@pytest.fixture(scope="module")
def session():
    with tapml.debug(*together(CASES, 22), target="llvm") as session:
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


@pytest.mark.parametrize("case", CASES)
def test_the_float64_run_is_what_onnxruntime_computes(session, case):
    """It honours every attribute; or a floor would hide what is wrong."""
    op = op_of(session, case)
    program = import_onnx(*together({case: CASES[case]}, 22))
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
    (node,) = load(together({case: CASES[case]}, 22)[0]).nodes
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
    (node,) = load(together({"case": case}, 22)[0]).nodes
    values = {name: case.inputs[int(name[-1])] for name in node.reads}
    module, by = build_module(node, values, {})
    assert "rules of tapml_nb" in by
    found = outputs_of(module, values.values())
    exact = recurrent_exact(node, values)
    turned = {**case.attributes, "layout": 0}
    inputs = [
        a.swapaxes(0, 1) if k in (0, 5, 6) and a is not None else a
        for k, a in enumerate(case.inputs)
    ]
    ort = whole(*together({"case": Case(kind, inputs, turned, case.outputs)}, 22))
    for one, other, (k, third) in zip(found, exact, enumerate(ort), strict=True):
        third = third.transpose(2, 0, 1, 3) if k == 0 else third.swapaxes(0, 1)
        np.testing.assert_allclose(one, third, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(other, third, rtol=1e-5, atol=1e-5)


def outputs_of(module, arrays):
    """What a module computes, by TVM alone."""
    machine = relax.VirtualMachine(tvm.compile(module, "llvm"), tvm.cpu())
    found = machine["main"](*map(tvm.runtime.tensor, arrays))
    return [found[k].numpy() for k in range(len(found))]


def whole(model, feeds):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, feeds, strict=True)))


def test_what_is_too_long_says_so():
    case = recurrent("RNN", steps=1025)
    program = import_onnx(*together({"case": case}, 22))
    values = program.bind(0, {})
    values |= zip(program.graph.ops[0].outputs, program.run("case/RNN", values), strict=True)
    with pytest.raises(Unsupported, match=r"no rule for RNN, and ours .* 1025 steps.*1 to 1024"):
        program.unit("case/RNN", values)


@pytest.mark.parametrize("kind", RULES)
def test_every_rule_is_for_an_operator_that_exists(kind):
    domain, _, name = kind.rpartition(".")
    if domain != "com.microsoft":  # onnxruntime keeps its own to itself
        assert onnx.defs.get_schema(name, onnx.defs.onnx_opset_version(), domain)
