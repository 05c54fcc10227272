"""Numbers of eight bits and fewer: conversions of every code, quantization, and how they cross."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import tapml_nb as tapml
from tapml_nb import Bundle, Verdict
from tapml_nb.array_api import np_dtype
from tapml_nb.frontends.arrays import spec_of
from tapml_nb.frontends.onnx import import_onnx
from tapml_nb.frontends.onnx.carriers import CODES, INTEGERS, carried, restored
from tapml_nb.frontends.onnx.model import load
from tapml_nb.frontends.onnx.rules.call import build
from tapml_nb.frontends.onnx.rules.formats import RULES
from tests.frontends.test_onnx_rules import Case, normal, op_of, outputs_of, together

_RANDOM = np.random.default_rng(3)
OPSET = 25

FLOATS = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float4_e2m1fn")
BITS = {"float4_e2m1fn": 4}


def every_code(dtype):
    return np.arange(1 << BITS.get(dtype, 8), dtype=np.uint8).view(np_dtype(dtype))


def singles():
    """Numbers of float32 of all magnitudes, ties between codes, and what is none."""
    ends = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 3.4e38, 447.9, 448.0, 464.0, 480.0]
    halves = (np.arange(-64, 64) / 32).astype(np.float32)
    spread = _RANDOM.standard_normal(400) * np.exp2(_RANDOM.integers(-22, 20, 400))
    return np.concatenate([np.array(ends), halves, spread]).astype(np.float32)


def to(dtype):
    return {"to": helper.np_dtype_to_tensor_dtype(np_dtype(dtype))}


def rule_of(case):
    """What a rule of ours makes of a node, as it crosses to a target, and what the source does."""
    model, feeds = together({"case": case}, OPSET)
    program = import_onnx(model, feeds)
    values = program.bind(0, {})
    (op,) = program.graph.ops
    made = program.run(op.id, values)
    (node,) = load(model).nodes
    inputs = {name: values[name] for name in op.inputs}
    baked = {name: case.inputs[k] for k, name in enumerate(node.proto.input) if name not in inputs}
    gives = {name: spec_of(array) for name, array in zip(op.outputs, made, strict=True)}
    module = build(RULES[case.kind], node, inputs, baked, gives)
    (found,) = outputs_of(module, [carried(array) for array in inputs.values()])
    return found, made[0]


@pytest.mark.parametrize("dtype", [*FLOATS, "float8_e8m0fnu"])
@pytest.mark.parametrize("wide", ["float32", "float16"])
def test_every_code_is_the_number_that_it_stands_for(dtype, wide):
    codes = every_code(dtype)
    found, made = rule_of(Case("Cast", [codes], to(wide)))
    with np.errstate(over="ignore"):
        expected = codes.astype(np.float32).astype(wide)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("saturate", [0, 1])
def test_numbers_get_the_code_that_the_source_gives_them(dtype, saturate):
    case = Case("Cast", [singles()], to(dtype) | {"saturate": saturate})
    if dtype in ("float8_e4m3fn", "float8_e5m2") and not saturate:
        with pytest.raises(ValueError, match="do not become its largest"):
            rule_of(case)
        return
    found, made = rule_of(case)
    nan = np.isnan(made.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(found.view(made.dtype).astype(np.float32)), nan)
    codes = [a.view(np.uint8)[~nan] for a in (found, made)]
    np.testing.assert_array_equal(*codes)


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
def test_powers_of_two_are_rounded_as_the_node_says(mode):
    numbers = np.abs(singles())
    told = to("float8_e8m0fnu") | {"round_mode": mode}
    found, made = rule_of(Case("Cast", [numbers], told))
    np.testing.assert_array_equal(found, made.view(np.uint8))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_fractions_become_integers_as_the_source_rounds_them(dtype):
    numbers = np.array([-1.5, -0.5, 0.49999997, 0.5, 1.5, 2.5, 0.7, 9.4], np.float32)
    found, made = rule_of(Case("Cast", [numbers], to(dtype)))
    np.testing.assert_array_equal(found, made.astype(found.dtype))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_keep_their_low_bits(dtype):
    numbers = np.arange(-20, 21, dtype=np.int32)
    found, made = rule_of(Case("Cast", [numbers], to(dtype)))
    np.testing.assert_array_equal(found, made.astype(found.dtype))
    back, source = rule_of(Case("Cast", [made], to("float32")))
    np.testing.assert_array_equal(back, source)


@pytest.mark.parametrize("dtype", [*CODES, *INTEGERS])
def test_what_has_crossed_is_what_it_was(dtype):
    array = np.arange(4).astype(np_dtype(dtype)).reshape(2, 2)
    there = carried(array)
    assert there.dtype.name in ("int8", "uint8")
    back = restored(there, array.dtype)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(carried(back), there)


def quantized(x, scale, zero=None, **told):
    return Case("QuantizeLinear", [x, np.array(scale, np.float32), zero], told)


def dequantized(x, scale, zero=None, dtype=np.float32, **told):
    return Case("DequantizeLinear", [x, np.array(scale, dtype), zero], told)


def small(values, dtype):
    return np.array(values).astype(np_dtype(dtype))


CASES: dict[str, Case] = {
    "to int4": Case("Cast", [normal(5, 4, scale=3)], to("int4")),
    "from uint2": Case("Cast", [small([[0, 1], [2, 3]], "uint2")], to("float16")),
    "like a float4": Case("CastLike", [normal(3, 4), small([1], "float4_e2m1fn")]),
    "from a float8": Case("Cast", [every_code("float8_e4m3fnuz")[:120]], to("float32")),
    "quantized to int4": quantized(
        normal(3, 8, scale=4), [1, 0.5, 2], small([1, 0, -2], "int4"), axis=0
    ),
    "quantized to a float4": quantized(normal(3, 4), 0.5, small([0], "float4_e2m1fn")),
    "quantized to a float8": quantized(normal(3, 4, scale=99), 0.5, small([0], "float8_e4m3fn")),
    "quantized by blocks": quantized(
        normal(2, 5, scale=9),
        np.abs(normal(2, 3)) + 0.1,
        np.arange(6, dtype=np.uint8).reshape(2, 3),
        axis=1,
        block_size=2,
    ),
    "numbers of int4": dequantized(
        small(_RANDOM.integers(-8, 8, (4, 6)), "int4"), np.abs(normal(4, 2)), axis=1, block_size=3
    ),
    "numbers of uint2": dequantized(small([[0, 1, 3]], "uint2"), [2.0], small([1], "uint2")),
    "numbers of a float8": dequantized(every_code("float8_e5m2")[:100], 0.25),
    "numbers of a float8 as halves": dequantized(
        every_code("float8_e4m3fn")[:100], 0.25, dtype=np.float16
    ),
    "numbers of a float4": dequantized(every_code("float4_e2m1fn"), [3.0]),
}


@pytest.fixture(scope="module")
def session():
    with tapml.debug(*together(CASES, OPSET), target="llvm") as session:
        session.run()
        yield session


@pytest.mark.parametrize("case", CASES)
def test_a_rule_is_right(session, case):
    report, op = session.report, op_of(session, case)
    result = report.introduced[op.id, 0]
    assert result.verdict is Verdict.PASS, result.message
    assert report.conversions[op.id] == f"{CASES[case].kind} converted by rules of tapml_nb's"


@pytest.mark.parametrize(
    "case", ["to int4", "like a float4", "quantized to a float4", "numbers of int4"]
)
def test_a_kernel_that_rounds_otherwise_is_blamed_alone(session, case):
    op = op_of(session, case).id
    right = session.tensor(op, "source")
    wrong = right.copy()
    wrong.reshape(-1)[1] += 1
    for made, verdict in ((right, Verdict.PASS), (wrong, Verdict.FAIL)):
        session.override(op, lambda *_, made=made: made)
        assert session.run(op).verdict(op) is verdict
    assert [culprit.op for culprit in session.report.culprits] == [op]
    session.override(op, None)
    assert session.run(op).ok


def test_a_model_runs_on_the_target_with_what_carries_its_weights(tmp_path):
    """Weights of four bits: their operator is offloaded, and stands in a bundle."""
    weights = small(_RANDOM.integers(-8, 8, (6, 4)), "int4")
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["wide"], axis=1),
        helper.make_node("MatMul", ["x", "wide"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 6])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 4])]
    held = [
        numpy_helper.from_array(weights, "w"),
        numpy_helper.from_array(np.abs(normal(4)), "scale"),
    ]
    graph = helper.make_graph(nodes, "four bits", inputs, outputs, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    with tapml.debug(model, (normal(3, 6),), target="llvm") as session:
        report = session.run()
        assert report.ok, report
        session.offload(lambda op: True)
        assert session.hybrid().ok
        assert session.tensor(session.graph.ops[0].id, "target").dtype == np.float32
        session.carve(tmp_path / "four.tapml")
    assert Bundle.open(tmp_path / "four.tapml").replay().ok


def test_what_no_rule_knows_stays_on_the_source():
    case = Case("Transpose", [small([[1, 2], [3, 4]], "int4")])
    with tapml.debug(*together({"case": case}, OPSET), target="llvm") as session:
        report = session.run()
        (op,) = session.graph.ops
        assert report.verdict(op.id) is Verdict.UNSUPPORTED
        assert (
            "it reads int4 (case.0), which no target takes" in report.introduced[op.id, 0].message
        )


def test_what_would_be_rounded_twice_has_no_rule():
    case = Case("Cast", [normal(3).astype(np.float64)], to("float8_e4m3fnuz"))
    with pytest.raises(ValueError, match="rounded twice"):
        rule_of(case)
