"""ONNX nodes of which values decide how many elements they yield."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

import tapml_nb as tapml
from tapml_nb import Verdict
from tapml_nb.frontends.arrays import spec_of
from tapml_nb.frontends.onnx.model import load
from tapml_nb.frontends.onnx.rules import DECIDED
from tapml_nb.frontends.onnx.units import build_module
from tests.frontends.test_onnx_rules import Case, normal, number, op_of, outputs_of, together

_RANDOM = np.random.default_rng(2)
_NAN = float("nan")


def boxes(count, batch=1, *, centred=False, flip=False):
    found = np.sort(_RANDOM.random((batch, count, 2, 2)), axis=2).astype(np.float32)
    found = found.reshape(batch, count, 4)
    if centred:
        found[..., 2:] *= 0.5
    return found[..., [2, 1, 0, 3]] if flip else found


def suppressed(found, *, classes=1, most=5, overlap=0.3, least=None, ties=False, **told):
    scores = _RANDOM.random((found.shape[0], classes, found.shape[1])).astype(np.float32)
    if ties:
        scores = (np.round(scores * 3) / 3).astype(np.float32)
    given = [number(most, np.int64), number(overlap), *([] if least is None else [number(least)])]
    numbers = tuple(range(2, 2 + len(given)))
    return Case("NonMaxSuppression", [found, scores, *given], told, constants=numbers)


def different(x, outputs=4, **told):
    return Case("Unique", [np.array(x)], told, outputs)


SMALL = _RANDOM.integers(0, 3, (4, 3))

CASES: dict[str, Case] = {
    "not zero": Case("NonZero", [(normal(3, 4) > 0).astype(np.float32)]),
    "true": Case("NonZero", [normal(2, 3, 2) > 0]),
    "nowhere": Case("NonZero", [np.zeros((2, 3), np.int64)]),
    "compressed": Case("Compress", [normal(3, 5), normal(5) > 0], {"axis": -1}),
    "compressed early": Case(
        "Compress", [normal(4, 2), np.array([True, False, True])], {"axis": 0}
    ),
    "compressed flat": Case("Compress", [SMALL.astype(np.int64), normal(12) > 0]),
    "to nothing": Case("Compress", [normal(2, 3), np.zeros(2, bool)], {"axis": 0}),
    "different": different([3.0, 1, 2, 3, 1], sorted=1),
    "different in order": different(np.array([4, 1, 4, 2, 1], np.int64), sorted=0),
    "different halves": different(np.array([2, 1, 2], np.float16)),
    "different rows": different(SMALL.astype(np.int8), axis=0),
    "different columns": different(SMALL.astype(np.float32), axis=-1, sorted=0),
    "different alone": different([2.0, 2.0], 1),
    "boxes": suppressed(boxes(20), most=4),
    "boxes of classes": suppressed(boxes(12, 2, flip=True), classes=3, most=3, least=0.4),
    "boxes of one score": suppressed(boxes(15), ties=True, overlap=0.1),
    "boxes by their middle": suppressed(boxes(12, centred=True), center_point_box=1),
    "no box": suppressed(boxes(5), least=2.0),
    "no box wanted": suppressed(boxes(5), most=0),
}


@pytest.fixture(scope="module")
def session():
    with tapml.debug(*together(CASES, 24), target="llvm") as session:
        session.run()
        yield session


@pytest.mark.parametrize("case", CASES)
def test_a_rule_finds_as_many_as_the_source(session, case):
    report, op = session.report, op_of(session, case)
    result = report.introduced[op.id, 0]
    assert result.verdict in (Verdict.PASS, Verdict.SKIPPED), result.message
    assert report.conversions[op.id] == f"{CASES[case].kind} converted by rules of tapml_nb's"


def last_first(places):
    return places[::-1].copy()


def one_more(places):
    return places + np.array([[0, 0, 1]])


@pytest.mark.parametrize(
    ("case", "fault"),
    [
        ("boxes", last_first),
        ("boxes of classes", one_more),
        ("compressed", lambda x: x[:, ::-1].copy()),
        ("true", lambda x: x[[1, 0, 2]]),
    ],
)
def test_a_kernel_that_selects_something_else_is_blamed(session, case, fault):
    op = op_of(session, case).id
    right = session.tensor(op, "source")
    for made, verdict in ((right, Verdict.PASS), (fault(right), Verdict.FAIL)):
        session.override(op, lambda *_, made=made: made)
        assert session.run(op).verdict(op) is verdict
    session.override(op, None)
    assert session.run(op).ok


@pytest.mark.parametrize("case", ["boxes", "compressed", "compressed flat", "different", "true"])
@pytest.mark.parametrize("more", [1, -1])
def test_a_kernel_that_finds_another_number_says_so(case, more):
    """The size is all that it is told: it counts by itself, and nothing that it gives is right."""
    node_case = CASES[case]
    (node,) = load(together({"case": node_case}, 24)[0]).nodes
    given = {name: node_case.inputs[int(name[-1])] for name in node.reads}
    baked = {name: given.pop(name) for name in list(given) if int(name[-1]) in node_case.constants}
    axis = {"compressed": 1, "true": 1}.get(case, 0)
    made = right_ones(node_case)
    gives = {name: spec_of(array) for name, array in zip(node.outputs, made, strict=True)}
    found = outputs_of(build_module(node, given, baked, gives)[0], given.values())
    for one, other in zip(found, made, strict=True):
        np.testing.assert_array_equal(one, other)
    sizes = list(made[0].shape)
    sizes[axis] += more
    gives[node.outputs[0]] = spec_of(np.zeros(sizes, made[0].dtype))
    for one in outputs_of(build_module(node, given, baked, gives)[0], given.values()):
        assert np.isnan(one).all() if one.dtype.kind == "f" else (one == -1).all()


def right_ones(case):
    from tapml_nb.frontends.onnx import import_onnx

    program = import_onnx(*together({"case": case}, 24))
    (op,) = program.graph.ops
    return program.run(op.id, program.bind(0, {}))


def test_each_step_may_find_another_number():
    """One operator, a kernel for each size; what reads it is judged, too."""
    inputs = [helper.make_tensor_value_info("x", 1, ["n"])]
    outputs = [helper.make_tensor_value_info("y", 1, None)]
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["mask"]),
        helper.make_node("Compress", ["x", "mask"], ["kept"], axis=0),
        helper.make_node("Exp", ["kept"], ["y"]),
    ]
    zero = helper.make_tensor("zero", 1, [], [0.0])
    graph = helper.make_graph(nodes, "kept", inputs, outputs, [zero])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    steps = [(np.array(x, np.float32),) for x in ([1, -1, 2], [3, -1, -2], [-1, -2, -3])]
    with tapml.debug(model, steps, target="llvm") as session:
        report = session.run()
        assert report.ok, report
        compress = next(op for op in session.graph.ops if op.kind == "onnx.Compress")
        assert session.graph.values[compress.outputs[0]].spec.shape == (-1,)
        judged = [report.introduced[compress.id, step].verdict for step in range(3)]
        assert judged == [Verdict.PASS] * 3 or judged[2] is Verdict.SKIPPED
        session.offload(lambda op: report.verdict(op.id) is Verdict.PASS)
        assert session.hybrid().ok


def test_so_many_cannot_be_compared_with_each_other():
    case = different(normal(4097))
    (node,) = load(together({"case": case}, 24)[0]).nodes
    values = {node.reads[0]: case.inputs[0]}
    gives = {name: spec_of(np.zeros(4097, np.int64)) for name in node.outputs}
    module, by = build_module(node, values, {}, gives)
    assert "ours" not in by  # TVM's, for which there is no kernel
    assert module["main"].params


def test_what_values_decide_is_known_by_name():
    assert {"Compress", "NonMaxSuppression", "NonZero", "Unique"} <= DECIDED
