"""Rules of ours for ONNX by family: right on every case, and a kernel that leaves something out is
blamed beside an honest one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper

import tapml_nb as tapml
from tapml_nb import Verdict
from tapml_nb.frontends.onnx import import_onnx
from tapml_nb.frontends.onnx.model import load
from tapml_nb.frontends.onnx.rules import RULES
from tapml_nb.frontends.onnx.rules.call import build
from tapml_nb.frontends.onnx.runtime import Runtime
from tapml_nb.frontends.onnx.stateful import STATEFUL
from tapml_nb.frontends.onnx.units import build_module
from tapml_nb.frontends.program import Unsupported
from tests.frontends.test_onnx_rules import (
    Case,
    attention,
    conv_integer,
    normal,
    number,
    op_of,
    outputs_of,
    qlinear_conv,
    qlinear_matmul,
    together,
    turned,
    whole_numbers,
)

OPSET = 27

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


UNUSUAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, -1e-30, -1e-7, 88.0, -200.0], np.float32)


def narrow(case, dtype):
    """A case in another floating-point dtype."""
    inputs = [
        x.astype(dtype) if x is not None and x.dtype == np.float32 else x for x in case.inputs
    ]
    return replace(case, inputs=inputs)


def masked(**told):
    """Attention of which some queries may look at nothing, at one key, at all."""
    case = attention(mask=bool, **told)
    mask = case.inputs[3]
    mask[0] = False
    mask[1] = False
    mask[1, 2] = True
    return case


def masked_by_numbers(**told):
    case = attention(mask=float, **told)
    case.inputs[3][0, 0, 1] = -np.inf
    case.inputs[3][1, 0, 0, 2:] = -np.inf
    return case


def linear(rule, *, heads=4, per_key=True, past=False, rate_per_head=True, **told):
    """Linear attention of two heads of keys and values."""
    batch, length, shared, width, value_width = 2, 3, 2, 6, 3
    key = normal(batch, length, shared, width)
    inputs = [
        normal(batch, length, heads * width),
        (key / np.linalg.norm(key, axis=-1, keepdims=True)).reshape(batch, length, -1),
        normal(batch, length, shared * value_width),
        normal(batch, shared, width, value_width) if past else None,
        -np.abs(normal(batch, length, shared * (width if per_key else 1)))
        if "gated" in rule
        else None,
        np.abs(normal(batch, length, shared if rate_per_head else 1)).clip(0, 1)
        if "delta" in rule
        else None,
    ]
    while inputs[-1] is None:
        inputs.pop()
    told |= {"update_rule": rule, "q_num_heads": heads, "kv_num_heads": shared}
    return Case("LinearAttention", inputs, told, 2)


def convolved(*, length=6, kernel=4, bias=False, past=False, **told):
    inputs = [
        normal(2, 3, length),
        normal(3, 1, kernel),
        normal(3) if bias else None,
        normal(2, 3, kernel - 1) if past else None,
    ]
    while inputs[-1] is None:
        inputs.pop()
    return Case("CausalConvWithState", inputs, told, 2)


def scattered(places, *, axis=-2, **told):
    update = normal(2, 3, 2, 5) if axis == -2 else normal(2, 2, 6, 5)
    inputs = [normal(2, 3, 6, 5), update]
    if places is not None:
        inputs.append(np.array(places, np.int64))
    return Case("TensorScatter", inputs, {"axis": axis, **told})


def transformed(shape, axis=None, length=None, **told):
    numbers = [None if n is None else np.array(n, np.int64) for n in (length, axis)]
    inputs = [normal(*shape), *numbers]
    while inputs[-1] is None:
        inputs.pop()
    return Case("DFT", inputs, told, constants=(1, 2))


def framed(*, step=5, window=True, length=None, onesided=1):
    inputs = [
        normal(2, 40, 1),
        np.array(step, np.int64),
        np.hanning(16).astype(np.float32) if window else None,
        None if length is None else np.array(length, np.int64),
    ]
    while inputs[-1] is None:
        inputs.pop()
    return Case("STFT", inputs, {"onesided": onesided}, constants=(1, 3))


def deformed(masked=True):
    inputs = [
        normal(2, 4, 7, 8),
        normal(6, 2, 3, 2),
        normal(2, 2 * 6, 4, 6),
        normal(6),
        normal(2, 6, 4, 6) if masked else None,
    ]
    told = {"pads": [1, 0, 1, 0], "strides": [2, 1], "dilations": [1, 2], "group": 2}
    return Case("DeformConv", inputs[: 5 if masked else 4], told)


def normalized(axis, p, zeros=False):
    x = normal(3, 4, 5)
    if zeros:
        x[1] = 0
    return Case("LpNormalization", [x], {"axis": axis, "p": p})


def reversed_(lengths, **told):
    return Case("ReverseSequence", [normal(4, 5, 2), np.array(lengths, np.int64)], told)


CASES: dict[str, Case] = {
    "attention masked": masked(outputs=4, qk_matmul_output_mode=3),
    "attention masked and causal": masked(is_causal=1),
    "attention masked by numbers": masked_by_numbers(outputs=4, qk_matmul_output_mode=2),
    "attention masked in float16": narrow(masked(), np.float16),
    "attention capped": attention(outputs=4, softcap=0.7, qk_matmul_output_mode=1, mask=float),
    "attention in a window": attention(left_window_size=1, right_window_size=2),
    "attention in a window and causal": attention(left_window_size=0, is_causal=1, past=2),
    "attention in a window of lengths": attention(left_window_size=1, lengths=[3, 5]),
    "attention causal of lengths": attention(is_causal=1, lengths=[2, 4]),
    "attention in bfloat16": narrow(attention(is_causal=1), BFLOAT16),
    "attention of a mask in bfloat16": narrow(attention(mask=float, flat=True), BFLOAT16),
    "attention in float64": narrow(attention(is_causal=1), np.float64),
    "attention of a short mask": attention(mask=normal(3, 4)),
    "rotary": turned(interleaved=1, part=4),
    "rotary in float16": narrow(turned(), np.float16),
    "linear attention": linear("linear"),
    "linear attention gated": linear("gated", heads=2, past=True),
    "linear attention delta": linear("delta", rate_per_head=False, scale=0.3),
    "linear attention gated delta": linear("gated_delta", per_key=False, past=True),
    "linear attention in float16": narrow(linear("gated_delta"), np.float16),
    "convolution": convolved(),
    "convolution with a past": convolved(past=True),
    "convolution with all": convolved(bias=True, past=True, activation="silu"),
    "convolution of little": convolved(length=1, activation="swish"),
    "convolution of one": convolved(kernel=1, bias=True),
    "convolution in float16": narrow(convolved(past=True, activation="silu"), np.float16),
    "cache": scattered([1, 4]),
    "cache from its start": scattered(None),
    "cache around": scattered([5, 3], mode="circular"),
    "cache of another axis": scattered([0, 1], axis=1),
    "transform": transformed((2, 7, 3, 1), 1),
    "transform of pairs": transformed((2, 7, 2), inverse=1),
    "transform of one side": transformed((8, 3, 1), 0, onesided=1),
    "transform back": transformed((2, 5, 2), onesided=1, inverse=1),
    "transform back to odd": transformed((2, 5, 2), -2, 9, onesided=1, inverse=1),
    "transform of less": transformed((2, 9, 2), 1, 6),
    "transform of more": transformed((2, 5, 1), 1, 8),
    "frames": framed(),
    "frames of a length": framed(window=False, length=12, onesided=0),
    "ConvInteger": conv_integer(number(11, np.uint8), pads=[1, 0, 2, 1]),
    "QLinearConv": qlinear_conv(0.04, 3, True),
    "QLinearMatMul": qlinear_matmul(np.uint8),
    "DeformConv": deformed(),
    "L1": normalized(1, 1),
    "L2": normalized(-1, 2, zeros=True),
    "L2 in float16": narrow(normalized(0, 2), np.float16),
    "all axes": Case("RMSNormalization", [normal(3, 4), normal(3, 4)], {"axis": 0}),
    "Celu": Case("Celu", [normal(3, 4, scale=3.0)], {"alpha": 0.7}),
    "Celu in float16": narrow(Case("Celu", [normal(3, 4)], {"alpha": 0.7}), np.float16),
    "Celu in bfloat16": narrow(Case("Celu", [normal(3, 4)]), BFLOAT16),
    "Celu of all kinds": Case("Celu", [UNUSUAL], {"alpha": 2.0}),
    "Det": Case("Det", [normal(2, 3, 5, 5)]),
    "Det of one": Case("Det", [normal(1, 1)]),
    "Det of nothing": Case("Det", [np.ones((4, 4), np.float32)]),
    "reversed": reversed_([3, 0, 4, 1, 2], time_axis=0, batch_axis=1),
    "reversed in time": reversed_([5, 1, 2, 3], time_axis=1, batch_axis=0),
}


@dataclass(frozen=True)
class Fault:
    """What a kernel leaves out of account: attributes it takes otherwise (None for not at all), and
    what becomes of inputs, by number."""

    case: str
    told: dict[str, Any] = field(default_factory=dict)
    changed: dict[int, Callable[[np.ndarray], np.ndarray]] = field(default_factory=dict)


FAULTS: dict[str, Fault] = {
    "no window": Fault("attention in a window", {"left_window_size": None}),
    "not causal": Fault("attention causal of lengths", {"is_causal": 0}),
    "all keys": Fault("attention in a window of lengths", changed={6: lambda n: n * 0 + 5}),
    "no mask": Fault("attention masked", changed={3: np.ones_like}),
    "no cap": Fault("attention capped", {"softcap": 0.0}),
    "another scale in bfloat16": Fault("attention in bfloat16", {"scale": 0.5}),
    "halves for pairs": Fault("rotary", {"interleaved": 0}),
    "turned back": Fault("rotary", changed={2: np.negative}),
    "nothing fades": Fault("linear attention gated", changed={4: np.zeros_like}),
    "written without a correction": Fault("linear attention delta", changed={5: np.ones_like}),
    "no past state": Fault("linear attention gated delta", changed={3: np.zeros_like}),
    "no past input": Fault("convolution with a past", changed={3: np.zeros_like}),
    "no activation": Fault("convolution with all", {"activation": "none"}),
    "one place late": Fault("cache", changed={2: lambda at: np.array([2, 3])}),
    "a place that is not taken around": Fault("cache around", changed={2: lambda at: at - 1}),
    "another direction": Fault("transform of pairs", {"inverse": 0}),
    "no window of a frame": Fault("frames", changed={2: np.ones_like}),
    "no zero point": Fault("ConvInteger", changed={2: np.zeros_like}),
    "no zero point of weights": Fault("QLinearConv", changed={5: np.zeros_like}),
    "no bias": Fault("QLinearConv", changed={8: np.zeros_like}),
    "another zero point": Fault("QLinearMatMul", changed={7: np.zeros_like}),
    "nothing moved": Fault("DeformConv", changed={2: np.zeros_like}),
    "no weights of samples": Fault("DeformConv", changed={4: np.ones_like}),
    "another norm": Fault("L1", {"p": 2}),
    "another epsilon": Fault("all axes", {"epsilon": 0.1}),
    "another alpha": Fault("Celu in float16", {"alpha": 1.0}),
    "an exchange without a sign": Fault("Det", changed={0: lambda x: x[..., [1, 0, 2, 3, 4], :]}),
    "a length too short": Fault("reversed in time", changed={1: lambda n: np.maximum(n - 1, 0)}),
}


@pytest.fixture(scope="module")
def session():
    with tapml.debug(*together(CASES, OPSET), target="llvm") as session:
        session.run()
        yield session


@pytest.mark.parametrize("case", CASES)
def test_a_rule_is_right(session, case):
    report, op = session.report, op_of(session, case)
    assert report.verdict(op.id) is Verdict.PASS, report.introduced[op.id, 0].message
    assert report.conversions[op.id] == f"{CASES[case].kind} converted by rules of tapml_nb's"


def kernel_of(fault):
    """The node as the source computes it, but for what the fault leaves out."""
    program = import_onnx(*together({"case": CASES[fault.case]}, OPSET))
    model = load(together({"case": CASES[fault.case]}, OPSET)[0])
    (node,), (op,) = model.nodes, program.graph.ops
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    kept = [a for a in node.proto.attribute if a.name not in fault.told]
    del proto.attribute[:]
    proto.attribute.extend(kept)
    told = {name: value for name, value in fault.told.items() if value is not None}
    proto.attribute.extend(helper.make_attribute(name, value) for name, value in told.items())
    node = replace(node, proto=proto)

    def compute(*arrays):
        values = {**model.constants, **dict(zip(op.inputs, arrays, strict=True))}
        values = {name: values[name] for name in node.reads}
        for k, change in fault.changed.items():
            name = node.proto.input[k]
            values[name] = np.asarray(change(values[name])).astype(values[name].dtype)
        return tuple(Runtime().run(node, values))

    return compute


@pytest.mark.parametrize("name", FAULTS)
def test_a_kernel_that_leaves_something_out_is_blamed_alone(session, name):
    fault = FAULTS[name]
    op = op_of(session, fault.case).id
    for kernel, verdict in (
        (kernel_of(Fault(fault.case)), Verdict.PASS),
        (kernel_of(fault), Verdict.FAIL),
    ):
        session.override(op, kernel)
        report = session.run(op)
        assert report.verdict(op) is verdict
    assert [culprit.op for culprit in report.culprits] == [op]
    session.override(op, None)
    assert session.run(op).ok


@pytest.mark.parametrize("case", [c for c in CASES if CASES[c].kind in STATEFUL])
def test_the_float64_run_is_what_the_source_computes(case):
    """It is our own; or a floor would hide what is wrong."""
    program = import_onnx(*together({"case": CASES[case]}, OPSET))
    (op,) = program.graph.ops
    values = program.bind(0, {})
    tolerance = 2e-2 if "float16" in case else 2e-5
    sources = program.run(op.id, values)
    for exact, source in zip(program.run_exact(op.id, values), sources, strict=True):
        assert exact.dtype == np.float64
        np.testing.assert_allclose(exact, source, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("axis", [0, 1, -1, -3])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_root_mean_squares_of_any_axes(axis, dtype):
    """TVM's own rule stands but where all are meant: ours is asked for alone."""
    x, scale = normal(2, 3, 4).astype(dtype), normal(*(2, 3, 4)[axis:]).astype(dtype)
    case = Case("RMSNormalization", [x, scale], {"axis": axis, "epsilon": 1e-3})
    (node,) = load(together({"case": case}, OPSET)[0]).nodes
    values = dict(zip(node.reads, case.inputs, strict=True))
    (found,) = outputs_of(build(RULES["RMSNormalization"], node, values, {}, {}), case.inputs)
    axes = tuple(range(axis % 3, 3))
    wide = x.astype(np.float64)
    expected = wide / np.sqrt(np.square(wide).mean(axes, keepdims=True) + 1e-3) * scale
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=1e-5 if dtype == np.float32 else 1e-3)


@pytest.mark.parametrize("rows", [False, True])
def test_products_of_integers_with_zero_points(rows):
    """TVM's own rule stands: ours is a part of others, and is asked for alone."""
    inputs = [
        whole_numbers(np.uint8, 4, 9),
        whole_numbers(np.int8, 9, 3),
        whole_numbers(np.uint8, 4) if rows else number(7, np.uint8),
        whole_numbers(np.int8, 3),
    ]
    node, values = alone(Case("MatMulInteger", inputs))
    (found,) = outputs_of(build(RULES["MatMulInteger"], node, values, {}, {}), inputs)
    a, b, a_zero, b_zero = (x.astype(np.int32) for x in inputs)
    expected = (a - (a_zero[:, None] if rows else a_zero)) @ (b - b_zero)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)


def alone(case, opset=OPSET):
    """A case's node, with all its inputs as numbers of its own."""
    (node,) = load(together({"case": case}, opset)[0]).nodes
    return node, dict(zip(node.reads, [x for x in case.inputs if x is not None], strict=True))


@pytest.mark.parametrize("k", [0, 1, -2])
def test_an_eye_of_another_dtype(k):
    case = Case("EyeLike", [np.zeros((3, 4), np.int32)], {"dtype": onnx.TensorProto.FLOAT, "k": k})
    node, values = alone(case)
    module, by = build_module(node, values, {})
    assert "rules of tapml_nb" in by
    (found,) = outputs_of(module, case.inputs)
    np.testing.assert_array_equal(found, np.eye(3, 4, k, np.float32))


@pytest.mark.parametrize("edges", [(0.0, 4000.0), (300.0, 2000.0)])
def test_mel_weights(edges):
    numbers = [np.array(n, np.int32) for n in (8, 64, 16000)]
    case = Case("MelWeightMatrix", [*numbers, *(number(edge) for edge in edges)])
    node, values = alone(case)
    (expected,) = Runtime().run(node, values)
    module, by = build_module(node, {}, values)
    assert "rules of tapml_nb" in by
    (found,) = outputs_of(module, [])
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_magnitudes_that_the_source_leaves_out_are_not_judged():
    node, values = alone(narrow(normalized(1, 1), np.float16))
    with pytest.raises(Unsupported, match="ours does not take this node: magnitudes of float16"):
        build_module(node, values, {})


def test_what_is_known_only_at_run_time_says_so():
    node, values = alone(transformed((2, 5, 1), 1, 8))
    with pytest.raises(Unsupported, match="known only at run time"):
        build_module(node, values, {})
