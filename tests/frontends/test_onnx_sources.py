"""ONNX: what runs a node, and what stays of a model where nothing can, or where a value is no
tensor."""

from typing import Any

import numpy as np
import onnx
import pytest
from ml_dtypes import bfloat16, float8_e4m3fn
from onnx import TensorProto, helper, numpy_helper

import tapml_nb as tapml
from tapml_nb import FrontendError, Verdict
from tapml_nb.frontends.onnx import import_onnx
from tests.frontends.test_onnx import hand_made, whole
from tests.frontends.test_torch import outputs, run

X = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
TAKES_X = {"x": (TensorProto.FLOAT, [2, 3])}


def add_constants(model, *tensors):
    model.graph.initializer.extend(tensors)
    return model


def judged(model, inputs, fault, function):
    """The report of a model, and what is blamed with a wrong function in the place of one of its
    operators; with all that can move on the target, the model is right."""
    with tapml.debug(model, inputs, target="llvm") as session:
        report = session.run()
        session.offload(lambda op: report.verdict(op.id) is Verdict.PASS)
        assert session.hybrid().info.outputs is Verdict.PASS
        session.override(fault, function)
        return report, [culprit.op for culprit in session.run().culprits]


def verdicts(report):
    return {op.id: report.verdict(op.id) for op in report.graph.ops}


def messages(report):
    return {result.op: result.message for result in report.missing}


class TestNarrow:
    def test_onnxruntime_runs_what_its_binding_to_numpy_does_not_take(self):
        nodes = [
            ("Cast", ["x"], ["b"], {"to": TensorProto.BFLOAT16}),
            ("Cast", ["b"], ["y"], {"to": TensorProto.FLOAT, "name": "back"}),
        ]
        model = hand_made(nodes, TAKES_X)
        values = run(import_onnx(model, (X,)))
        assert values["b"].dtype == bfloat16
        assert np.array_equal(values["y"], whole(model, {"x": X})[0])
        report, blamed = judged(model, (X,), "Cast", lambda x: (x * 1.1).astype(bfloat16))
        assert set(verdicts(report).values()) == {Verdict.PASS}
        assert blamed == ["Cast"]

    def test_what_it_has_no_kernel_for_onnx_itself_runs(self):
        """A product in bfloat16: NumPy's is wider, and rounded."""
        rng = np.random.default_rng(0)
        x = rng.standard_normal((3, 16)).astype(bfloat16)
        w = rng.standard_normal((16, 4)).astype(bfloat16)
        model = hand_made([("MatMul", ["x", "w"], ["y"], {})], {"x": (16, [3, 16])}, {"w": w})
        (y,) = outputs(program := import_onnx(model, (x,)), run(program))
        assert y.dtype == bfloat16
        exact = x.astype(np.float64) @ w.astype(np.float64)
        assert np.abs(y.astype(np.float64) - exact).max() < np.abs(exact).max() / 128
        (exactly,) = program.run_exact("MatMul", program.bind(0, {}))
        np.testing.assert_allclose(exactly, exact, rtol=1e-12)

        def wrong(x, w):
            return (x.astype(np.float32) @ w.astype(np.float32) * 1.1).astype(bfloat16)

        report, blamed = judged(model, (x,), "MatMul", wrong)
        assert report.verdict("MatMul") is Verdict.PASS
        assert blamed == ["MatMul"]

    def test_a_float8_result_is_one(self):
        node = ("Cast", ["x"], ["y"], {"to": TensorProto.FLOAT8E4M3FN})
        model = hand_made([node], TAKES_X)

        def wrong(x):
            return (2 * x).astype(float8_e4m3fn)

        report, blamed = judged(model, (X,), "Cast", wrong)
        assert report.verdict("Cast") is Verdict.PASS
        assert blamed == ["Cast"]

    @pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.UINT4])
    def test_weights_of_4_bits(self, kind):
        """As of quantized language models."""
        nodes: list[Any] = [
            ("DequantizeLinear", ["w", "s"], ["d"], {}),
            ("Add", ["x", "d"], ["y"], {}),
        ]
        model = hand_made(nodes, TAKES_X, {"s": np.array(0.5, np.float32)}, opset=21)
        numbers = [1, 2, 3, 4, 5, 6 if kind == TensorProto.UINT4 else -6]
        add_constants(model, helper.make_tensor("w", kind, [2, 3], numbers))
        values = run(import_onnx(model, (X,)))
        assert np.array_equal(values["d"], np.reshape(numbers, (2, 3)) / np.float32(2))
        report, blamed = judged(model, (X,), "Add", lambda x, d: x - d)
        assert verdicts(report) == dict.fromkeys(("DequantizeLinear", "Add"), Verdict.PASS)
        assert blamed == ["Add"]

    def test_float8_between_two_nodes(self):
        """Between them they cross as codes."""
        nodes: list[Any] = [
            ("QuantizeLinear", ["x", "s", "z"], ["q"], {}),
            ("DequantizeLinear", ["q", "s", "z"], ["d"], {}),
            ("Exp", ["d"], ["y"], {}),
        ]
        model = hand_made(nodes, TAKES_X, {"s": np.array(0.5, np.float32)})
        add_constants(model, helper.make_tensor("z", TensorProto.FLOAT8E4M3FN, [], [0.0]))
        report, blamed = judged(model, (X,), "Exp", lambda d: np.exp(d) * np.float32(1.01))
        assert set(verdicts(report).values()) == {Verdict.PASS}
        assert blamed == ["Exp"]


class TestNoKernel:
    def model(self):
        """Between what can be judged, an operator that nobody knows; beside it, what can."""
        nodes = [
            ("Exp", ["x"], ["e"], {}),
            ("Strange", ["e"], ["s"], {"domain": "mine"}),
            ("Mul", ["s", "s"], ["y"], {}),
            ("Neg", ["e"], ["z"], {}),
        ]
        model = hand_made(nodes, TAKES_X, results=("y", "z"))
        model.opset_import.append(helper.make_opsetid("mine", 1))
        return model

    def test_what_does_not_need_it_is_judged(self):
        report, blamed = judged(self.model(), (X,), "Neg", lambda e: e)
        assert verdicts(report) == {
            "Exp": Verdict.PASS,
            "Strange": Verdict.UNSUPPORTED,
            "Mul": Verdict.UNSUPPORTED,
            "Neg": Verdict.PASS,
        }
        told = messages(report)
        assert told["Strange"].startswith("the source has no kernel for it: ")
        assert "mine" in told["Strange"]
        assert told["Mul"] == "it reads s, which the source cannot compute"
        assert blamed == ["Neg"]

    def test_a_bundle_says_the_same(self, tmp_path):
        with tapml.debug(self.model(), (X,), target="llvm") as session:
            session.run()
            bundle = session.carve(tmp_path / "strange.tapml", ["Exp", "Neg"])
        assert tapml.Bundle.open(bundle.path).replay("llvm").ok

    def test_where_nothing_is_left_the_model_is_refused(self):
        model = hand_made([("Strange", ["x"], ["y"], {"domain": "mine"})], TAKES_X)
        model.opset_import.append(helper.make_opsetid("mine", 1))
        with pytest.raises(FrontendError, match="onnxruntime cannot run Strange"):
            import_onnx(model, (X,))

    def test_inputs_that_do_not_fit_are_no_lack_of_a_kernel(self):
        model = hand_made([("Add", ["x", "c"], ["y"], {})], TAKES_X, {"c": np.ones(5, np.float32)})
        with pytest.raises(FrontendError, match="cannot run Add"):
            import_onnx(model, (X,))


class TestFunctions:
    def test_an_operator_that_runs_by_its_definition_alone(self):
        """onnxruntime has no kernel, and opens the definition where it knows the shapes."""
        looks = {"x": (TensorProto.FLOAT, [1, 2, 5]), "w": (TensorProto.FLOAT, [2, 1, 3])}
        node: Any = ("CausalConvWithState", ["x", "w"], ["y", "state"], {})
        model = hand_made([node], looks, results=("y", "state"), opset=27)
        rng = np.random.default_rng(0)
        x, w = (rng.standard_normal(look[1]).astype(np.float32) for look in looks.values())
        values = run(import_onnx(model, (x, w)))
        padded = np.pad(x, ((0, 0), (0, 0), (2, 0)))
        expected = sum(padded[..., k : k + 5] * w[:, 0, k, None] for k in range(3))
        np.testing.assert_allclose(values["y"], expected, rtol=1e-5, atol=1e-6)

    def test_it_is_converted_by_its_definition(self):
        """TVM's importer knows no Swish, but all that ONNX defines it by; alpha is 1 by default."""
        model = hand_made([("Swish", ["x"], ["y"], {})], TAKES_X, opset=24)
        report, blamed = judged(model, (X,), "Swish", lambda x: np.maximum(x, 0))
        assert report.verdict("Swish") is Verdict.PASS
        assert blamed == ["Swish"]
        program = import_onnx(model, (X,))
        unit = program.unit("Swish", run(program))
        assert unit.conversion == "Swish as ONNX defines it by other operators"

    def test_sizes_in_a_definition_are_numbers(self):
        """An attention of its own shapes, with a subgraph that stands in it once."""
        looks = {name: (TensorProto.FLOAT, [1, 2, 3, 4]) for name in "qkv"}
        body = helper.make_graph(
            [helper.make_node("Tanh", ["scores"], ["bounded"])],
            "score_mod",
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 2, 3, 3])],
            [helper.make_tensor_value_info("bounded", TensorProto.FLOAT, [1, 2, 3, 3])],
        )
        domain = "ai.onnx.preview"
        node = helper.make_node(
            "FlexAttention", list("qkv"), ["y"], domain=domain, score_mod=body, name="attention"
        )
        model = hand_made([], looks, opset=26)
        model.graph.node.append(node)
        model.opset_import.append(helper.make_opsetid(domain, 1))
        inputs = tuple(np.random.default_rng(0).standard_normal((3, 1, 2, 3, 4), np.float32))
        report, blamed = judged(model, inputs, "attention", lambda q, k, v: v)
        assert report.verdict("attention") is Verdict.PASS
        assert blamed == ["attention"]
        assert "as ONNX defines it" in report.conversions["attention"]

    def test_a_window_is_a_constant(self):
        """All that it is made of is a number: nothing runs, and its values are compared."""
        looks: dict[str, Any] = {"size": (TensorProto.INT64, [])}
        model = hand_made([("HannWindow", ["size"], ["y"], {})], looks, opset=17)
        with tapml.debug(model, (np.array(9, np.int64),), target="llvm") as session:
            assert session.run().verdict("HannWindow") is Verdict.SKIPPED

    def test_a_scan_whose_outputs_have_no_shape(self):
        """onnxruntime makes no session of it unless the shapes of what it reads are known."""
        body = helper.make_graph(
            [helper.make_node("Add", ["sum", "row"], ["next"])],
            "body",
            [onnx.ValueInfoProto(name=name) for name in ("sum", "row")],
            [onnx.ValueInfoProto(name=name) for name in ("next",)],
        )
        node = ("Scan", ["start", "x"], ["y"], {"body": body, "num_scan_inputs": 1})
        model = hand_made([node], TAKES_X, {"start": np.zeros(3, np.float32)})
        values = run(import_onnx(model, (X,)))
        np.testing.assert_allclose(values["y"], X[0] + X[1], rtol=1e-6)


class TestRandomHostValues:
    def test_drawn_sizes_and_sequences_end_no_run(self):
        """They are compared to see whether the source draws others the next time."""
        nodes = [
            ("Bernoulli", ["half"], ["drawn"], {"dtype": TensorProto.INT64}),
            ("Mul", ["drawn", "zero"], ["nothing"], {}),
            ("Add", ["nothing", "sizes"], ["shape"], {}),
            ("Reshape", ["x", "shape"], ["r"], {}),
            ("Exp", ["r"], ["y"], {}),
        ]
        half = np.full(2, 0.5, np.float32)
        constants = {"half": half, "zero": np.zeros(2, np.int64), "sizes": np.array([3, 2])}
        model = hand_made(nodes, TAKES_X, constants)
        report, blamed = judged(model, (X,), "Exp", lambda r: r)
        assert report.verdict("Exp") is Verdict.PASS
        assert blamed == ["Exp"]


def takes(**kinds):
    """What ``hand_made`` cannot: inputs of any type."""
    return [helper.make_value_info(name, kind) for name, kind in kinds.items()]


class TestOtherTypes:
    ROW = helper.make_tensor_type_proto(TensorProto.FLOAT, [2, 3])

    def model(self, nodes, inputs, opset=17):
        model = hand_made(nodes, {}, opset=opset)
        model.graph.input.extend(inputs)
        return model

    def optional(self):
        nodes = [
            ("OptionalHasElement", ["x"], ["has"], {}),
            ("Cast", ["has"], ["y"], {"to": TensorProto.FLOAT}),
        ]
        return self.model(nodes, takes(x=helper.make_optional_type_proto(self.ROW)))

    @pytest.mark.parametrize("given", [X, None])
    def test_an_optional_with_and_without_a_value(self, given):
        with tapml.debug(self.optional(), (given,), target="llvm") as session:
            report = session.run()
            assert session.tensor("Cast", "source") == (given is not None)
            assert report.verdict("OptionalHasElement") is Verdict.SKIPPED  # folded, and compared
            assert report.verdict("Cast") is Verdict.PASS
            session.override("Cast", lambda has: np.array(7, np.float32))
            assert [c.op for c in session.run().culprits] == ["Cast"]

    @pytest.mark.parametrize(
        ("given", "error", "message"),
        [
            (
                X[:1],
                ValueError,
                r"x is float32\[1, 3\], the model takes nothing or float32\[2, 3\]",
            ),
            (2, TypeError, "x is a int; give a NumPy array"),
        ],
    )
    def test_what_is_no_such_optional(self, given, error, message):
        with pytest.raises(error, match=message):
            import_onnx(self.optional(), (given,))

    def sequence(self):
        kind = helper.make_tensor_type_proto(TensorProto.FLOAT, [None, 3])
        nodes = [
            ("ConcatFromSequence", ["x"], ["c"], {"axis": 0}),
            ("Exp", ["c"], ["y"], {}),
        ]
        return self.model(nodes, takes(x=helper.make_sequence_type_proto(kind)))

    def test_a_sequence_as_an_input(self):
        report, blamed = judged(self.sequence(), ([X, X[:1]],), "Exp", lambda c: c)
        assert verdicts(report) == {"ConcatFromSequence": Verdict.UNSUPPORTED, "Exp": Verdict.PASS}
        assert "reads a sequence (x)" in messages(report)["ConcatFromSequence"]
        assert blamed == ["Exp"]

    @pytest.mark.parametrize(
        ("given", "error", "message"),
        [
            (X, TypeError, r"x is a ndarray, the model takes a sequence of float32\[\?, 3\]"),
            ([X, 1], TypeError, r"x\[1\] is a int"),
            ([X[:, :2]], ValueError, r"x is a sequence of float32\[2, 2\], the model takes"),
        ],
    )
    def test_what_is_no_such_sequence(self, given, error, message):
        with pytest.raises(error, match=message):
            import_onnx(self.sequence(), (given,))

    def test_an_empty_sequence_keeps_its_type(self):
        nodes = [
            ("SequenceEmpty", [], ["none"], {"dtype": TensorProto.INT64}),
            ("SequenceInsert", ["none", "x"], ["one"], {}),
            ("SequenceAt", ["one", "zero"], ["y"], {}),
        ]
        looks = {"x": (TensorProto.INT64, [2])}
        model = hand_made(nodes, looks, {"zero": np.array(0)})
        x = np.array([3, 4])
        program = import_onnx(model, (x,))
        assert outputs(program, run(program))[0].tolist() == [3, 4]

    def test_what_only_yields_a_sequence_or_text_is_unsupported(self):
        nodes = [
            ("Cast", ["x"], ["whole"], {"to": TensorProto.INT64}),
            ("SplitToSequence", ["whole"], ["parts"], {"axis": 0}),
            ("Cast", ["x"], ["text"], {"to": TensorProto.STRING, "name": "print"}),
            ("Exp", ["x"], ["y"], {}),
        ]
        model = hand_made(nodes, TAKES_X, results=("y", "parts", "text"))
        report, blamed = judged(model, (X,), "Cast", lambda x: x.astype(np.int64) + 1)
        assert report.verdict("Cast") is Verdict.PASS  # it leads to no size, but to a sequence
        assert messages(report) == {
            "SplitToSequence": "it yields a sequence (parts), which no target takes",
            "print": "it yields text (text), which no target takes",
        }
        assert blamed == ["Cast"]


class TestSizes:
    def test_sizes_are_the_hosts_whoever_reads_them(self):
        nodes = [
            ("Size", ["x"], ["n"], {}),
            ("Cast", ["n"], ["count"], {"to": TensorProto.FLOAT}),
            ("ReduceSum", ["x"], ["sum"], {"keepdims": 0}),
            ("Div", ["sum", "count"], ["y"], {}),
            ("Shape", ["x"], ["shape"], {}),
        ]
        model = hand_made(nodes, TAKES_X, results=("y", "shape"))
        report, blamed = judged(model, (X,), "Div", lambda s, n: s * n)
        assert report.missing == []
        assert {op.kind for op in report.graph.ops if op.host} == {"onnx.Size", "onnx.Shape"}
        assert report.verdict("Div") is Verdict.PASS
        assert blamed == ["Div"]


def branches(condition, *, then, otherwise=None, constants=(), opset=20):
    """A model of ``If`` alone, whose branches are (nodes, what they yield, initializers)."""
    otherwise = otherwise or ([("Neg", ["x"], ["n"], {})], "n", {})

    def graph(nodes, result, inside):
        made = [helper.make_node(*node[:3], **node[3]) for node in nodes]
        tensors = [numpy_helper.from_array(array, name) for name, array in inside.items()]
        return helper.make_graph(made, "b", [], [onnx.ValueInfoProto(name=result)], tensors)

    options = {"then_branch": graph(*then), "else_branch": graph(*otherwise), "name": "which"}
    node = ("If", [condition], ["y"], options)
    return hand_made([node], TAKES_X, dict(constants), opset=opset)


class TestBranches:
    EXP: Any = (
        [("Exp", ["x"], ["e"], {}), ("Mul", ["e", "two"], ["m"], {})],
        "m",
        {"two": np.float32(2)},
    )

    def check(self, model, kinds):
        program = import_onnx(model, (X,))
        assert [op.kind for op in program.graph.ops] == [f"onnx.{kind}" for kind in kinds]
        assert np.array_equal(outputs(program, run(program))[0], whole(model, {"x": X})[0])
        return program.graph

    @pytest.mark.parametrize(("taken", "kinds"), [(True, ["Exp", "Mul"]), (False, ["Neg"])])
    def test_the_one_that_is_taken_stands_in_its_place(self, taken, kinds):
        then = (self.EXP[0], self.EXP[1], {"two": np.array(2, np.float32)})
        model = branches("c", then=then, constants={"c": np.array(taken)})
        graph = self.check(model, kinds)
        assert graph.outputs == ("y",)
        if taken:
            assert "which/e" in graph.values  # no other value may have its name

    def test_it_is_judged(self):
        then = (self.EXP[0], self.EXP[1], {"two": np.array(2, np.float32)})
        model = branches("c", then=then, constants={"c": np.array(True)})
        report, blamed = judged(model, (X,), "Mul", lambda e: e * np.float32(2.1))
        assert set(verdicts(report).values()) == {Verdict.PASS}
        assert blamed == ["Mul"]

    def test_what_a_branch_takes_from_outside_it_may_yield(self):
        """ONNX allows it, onnxruntime does not."""
        model = branches("c", then=([], "x", {}), constants={"c": np.array(True)})
        program = import_onnx(model, (X,))
        assert [op.kind for op in program.graph.ops] == ["onnx.Identity"]
        assert np.array_equal(outputs(program, run(program))[0], X)

    def test_a_condition_computed_from_constants_is_known(self):
        model = branches("c", then=([("Exp", ["x"], ["e"], {})], "e", {}))
        first = [
            helper.make_node("Equal", ["a", "b"], ["s"]),
            helper.make_node("Not", ["s"], ["c"]),
        ]
        model.graph.node.insert(0, first[1])
        model.graph.node.insert(0, first[0])
        add_constants(model, *(numpy_helper.from_array(np.array(1), name) for name in "ab"))
        self.check(model, ["Equal", "Not", "Neg"])

    def test_one_that_depends_on_an_input_is_not(self):
        model = branches("c", then=([("Exp", ["x"], ["e"], {})], "e", {}))
        model.graph.node.insert(0, helper.make_node("Cast", ["first"], ["c"], to=TensorProto.BOOL))
        model.graph.node.insert(0, helper.make_node("ReduceMax", ["x"], ["first"], keepdims=0))
        self.check(model, ["ReduceMax", "Cast", "If"])

    def test_branches_inside_and_loops_that_read_what_a_branch_makes(self):
        def infos(**kinds):
            return [helper.make_tensor_value_info(n, *look) for n, look in kinds.items()]

        body = helper.make_graph(
            [helper.make_node("Mul", ["carried", "e"], ["next"])],
            "body",
            infos(i=(7, []), go=(9, []), carried=(1, [2, 3])),
            infos(go=(9, []), next=(1, [2, 3])),
        )
        deep = helper.make_graph(
            [helper.make_node("Loop", ["n", "", "x"], ["l"], body=body)],
            "deep",
            [],
            [onnx.ValueInfoProto(name="l")],
            [numpy_helper.from_array(np.array(2), "n")],
        )
        nodes = [
            ("Exp", ["x"], ["e"], {}),
            ("If", ["c"], ["r"], {"then_branch": deep, "else_branch": deep, "name": "inner"}),
        ]
        model = branches("c", then=(nodes, "r", {}), constants={"c": np.array(True)})
        self.check(model, ["Exp", "Loop"])
