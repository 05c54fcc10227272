"""ONNX nodes that run graphs of their own: written out step by step, or as the branch that their
inputs decide on."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tapml_nb as tapml
from tapml_nb import Verdict
from tests.frontends.test_onnx_rules import normal

INFO = helper.make_tensor_value_info
FLOAT = TensorProto.FLOAT


def model_of(nodes, inputs, outputs, *, opset=20, constants=()):
    graph = helper.make_graph(
        nodes,
        "subgraphs",
        [INFO(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in dict(constants).items()],
    )
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def body_of(nodes, inputs, outputs, constants=()):
    return helper.make_graph(
        nodes,
        "body",
        [onnx.ValueInfoProto(name=name) for name in inputs],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in dict(constants).items()],
    )


def typed(graph, **types):
    """Types of a body's values, which onnxruntime wants to know."""
    for value in (*graph.input, *graph.output):
        value.CopyFrom(INFO(value.name, types.get(value.name, FLOAT), None))
    return graph


def scan(**told):
    """A running mean of rows, by a weight from outside."""
    nodes = [
        helper.make_node("Mul", ["state", "weight"], ["kept"]),
        helper.make_node("Add", ["kept", "row"], ["next"]),
        helper.make_node("Tanh", ["next"], ["shown"]),
    ]
    body = typed(body_of(nodes, ["state", "row"], ["next", "shown"]))
    return helper.make_node(
        "Scan",
        ["first", "rows"],
        ["last", "all"],
        name="scan",
        body=body,
        num_scan_inputs=1,
        **told,
    )


SCANS = {
    "forward": {},
    "backward": {"scan_input_directions": [1], "scan_output_directions": [1]},
    "by columns": {"scan_input_axes": [1], "scan_output_axes": [1]},
}


def scanned(told):
    inputs = {"first": normal(5), "rows": normal(5, 5), "weight": normal(5)}
    return model_of([scan(**told)], inputs, ["last", "all"]), tuple(inputs.values())


@pytest.mark.parametrize("told", SCANS.values(), ids=SCANS)
def test_a_scan_is_written_out(told):
    with tapml.debug(*scanned(told), target="llvm") as session:
        report = session.run()
        (op,) = session.graph.ops
        assert report.verdict(op.id) is Verdict.PASS, report.introduced[op.id, 0].message
        assert report.conversions[op.id] == "Scan with its body written out for each step"
        assert report.introduced[op.id, 0].floor > 0
        right = [session.tensor(op.id, "source", output=k) for k in (0, 1)]
        wrong = [right[0], np.tanh(right[1])]
        for made, verdict in ((right, Verdict.PASS), (wrong, Verdict.FAIL)):
            session.override(op.id, lambda *_, made=made: tuple(made))
            assert session.run(op.id).verdict(op.id) is verdict


def looped(*, trips, condition="goes", cond=True):
    """Powers of two of a number, by doubling; ``condition`` is what the body goes on by."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["twice"]),
        helper.make_node("Cast", ["number"], ["place"], to=FLOAT),
        helper.make_node("Mul", ["twice", "place"], ["shown"]),
        helper.make_node("Less", ["sum", "limit"], ["small"]),
        helper.make_node("Identity", ["again"], ["goes"]),
    ]
    nodes.insert(3, helper.make_node("ReduceSum", ["twice"], ["sum"], keepdims=0))
    body = body_of(
        nodes, ["number", "again", "x"], [condition, "twice", "shown"], {"limit": np.float32(1e9)}
    )
    typed(body, number=TensorProto.INT64, again=TensorProto.BOOL, **{condition: TensorProto.BOOL})
    node = helper.make_node(
        "Loop", ["trips", "cond", "x0"], ["last", "all"], name="loop", body=body
    )
    x = normal(4)
    constants = {"trips": np.array(trips, np.int64), "cond": np.array(cond)}
    return model_of([node], {"x0": x}, ["last", "all"], constants=constants), (x,)


def test_a_loop_of_known_length_is_written_out():
    with tapml.debug(*looped(trips=4), target="llvm") as session:
        report = session.run()
        (op,) = session.graph.ops
        assert report.verdict(op.id) is Verdict.PASS, report.introduced[op.id, 0].message


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"trips": 4, "condition": "small"}, "values decide when it ends"),
        ({"trips": 2000}, "more than 1024 operators"),
    ],
)
def test_a_loop_that_cannot_be_written_out_says_why(told, reason):
    with tapml.debug(*looped(**told), target="llvm") as session:
        report = session.run()
        (op,) = session.graph.ops
        assert report.verdict(op.id) is Verdict.UNSUPPORTED
        assert reason in report.introduced[op.id, 0].message


def branching(condition, inputs, nodes=()):
    """``Exp`` or ``Tanh`` of ``x``, each behind an addition."""
    branches = {}
    for name, kind in (("then_branch", "Exp"), ("else_branch", "Tanh")):
        inner = [
            helper.make_node("Add", ["x", "x"], ["sum"]),
            helper.make_node(kind, ["sum"], ["made"]),
        ]
        branches[name] = typed(body_of(inner, [], ["made"]))
    node = helper.make_node("If", [condition], ["y"], name="choice", **branches)
    constants = {"rate": np.array(16000, np.int64), "zero": np.array(0, np.int64)}
    return model_of([*nodes, node], inputs, ["y"], constants=constants)


EQUAL = [helper.make_node("Equal", ["sr", "rate"], ["fast"])]
LONG = [
    helper.make_node("Shape", ["x"], ["shape"]),
    helper.make_node("Gather", ["shape", "zero"], ["size"]),
    helper.make_node("Greater", ["size", "zero"], ["fast"]),
]


@pytest.mark.parametrize("rate", [16000, 8000])
def test_an_input_decides_on_a_branch(rate):
    inputs = {"x": normal(3), "sr": np.array(rate, np.int64)}
    model = branching("fast", inputs, EQUAL)
    with tapml.debug(model, tuple(inputs.values()), target="llvm") as session:
        report = session.run()
        kinds = [op.kind for op in session.graph.ops]
        assert kinds == ["onnx.Equal", "onnx.Add", "onnx.Exp" if rate == 16000 else "onnx.Tanh"]
        assert report.ok, report
        words = "in the branch of choice that these inputs decide on"
        assert [report.conversions.get(op.id, "") for op in session.graph.ops] == ["", words, words]
        assert "y" in {value for op in session.graph.ops for value in op.outputs}
        last = session.graph.ops[-1].id
        right = session.tensor(last, "source")
        for made, verdict in ((right, Verdict.PASS), (right + 0.5, Verdict.FAIL)):
            session.override(last, lambda *_, made=made: made)
            assert session.run(last).verdict(last) is verdict


def test_a_truth_and_a_shape_decide_on_a_branch():
    x = normal(3)
    for model, inputs in (
        (branching("b", {"x": x, "b": np.array(False)}), (x, np.array(False))),
        (branching("fast", {"x": x}, LONG), (x,)),
    ):
        with tapml.debug(model, inputs, target="llvm") as session:
            assert "onnx.If" not in {op.kind for op in session.graph.ops}


def test_steps_that_decide_on_different_branches_keep_the_node():
    x = normal(3)
    steps = [(x, np.array(rate, np.int64)) for rate in (16000, 8000)]
    model = branching("fast", {"x": x, "sr": steps[0][1]}, EQUAL)
    with tapml.debug(model, steps, target="llvm") as session:
        report = session.run()
        choice = session.graph.ops[-1]
        assert choice.kind == "onnx.If"
        assert report.verdict(choice.id) is Verdict.UNSUPPORTED


def test_floating_point_numbers_decide_on_no_branch():
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["zero"], ["none"], to=FLOAT),
        helper.make_node("Greater", ["sum", "none"], ["fast"]),
    ]
    x = normal(3)
    with tapml.debug(branching("fast", {"x": x}, nodes), (x,), target="llvm") as session:
        assert session.graph.ops[-1].kind == "onnx.If"
