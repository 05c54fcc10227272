"""ONNX models → graphs that compute what onnxruntime computes, each node a unit of its own."""

import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import tapml_nb as tapml
from tapml_nb import Bundle, FrontendError, Verdict
from tapml_nb.frontends.onnx import import_onnx
from tapml_nb.frontends.program import Unsupported
from tests.frontends.test_torch import outputs, run
from tests.models import llama


class ConvNet(nn.Module):
    """What image models are made of."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.Hardswish(),
            nn.MaxPool2d(2),
            nn.AvgPool2d(2),
        )
        self.up = nn.Upsample(scale_factor=2, mode="bilinear")
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.up(self.block(self.stem(x))).mean((2, 3)))


class Attention(nn.Module):
    """Attention whose sizes are computed from its input's."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, 4, 4).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) / 2, dim=-1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))


def exported(model, inputs, **options):
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"dynamo": True, "verbose": False} | options
        return torch.onnx.export(model, inputs, **options).model_proto


def hand_made(nodes, inputs, constants=(), results=("y",), opset=20):
    """A model of a few nodes; ``inputs`` maps names to (dtype, shape)."""
    graph = helper.make_graph(
        [helper.make_node(*node[:3], **node[3]) for node in nodes],
        "hand_made",
        [helper.make_tensor_value_info(n, *look) for n, look in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in results],
        [numpy_helper.from_array(array, name) for name, array in dict(constants).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def whole(model, feeds):
    """The model in one piece, without graph optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, feeds)


@pytest.fixture(scope="module")
def transformer():
    model, inputs = llama()
    return exported(model, inputs), inputs


@pytest.fixture(scope="module")
def conv_net():
    torch.manual_seed(0)
    inputs = (torch.randn(1, 3, 32, 32),)
    return exported(ConvNet().eval(), inputs), inputs


@pytest.fixture(scope="module")
def dynamic():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 16)
    sizes = {"x": {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}}
    return exported(Attention().eval(), (x,), dynamic_shapes=sizes)


@pytest.fixture(scope="module")
def session(transformer):
    with tapml.debug(*transformer, target="llvm") as session:
        session.run()
        yield session


class TestGraph:
    def test_node_by_node_is_bit_for_bit_the_whole_model(self, transformer):
        model, (ids,) = transformer
        program = import_onnx(model, (ids,))
        (logits,) = outputs(program, run(program))
        assert np.array_equal(logits, whole(model, {"input_ids": ids.numpy()})[0])

    def test_every_node_is_an_operator_with_its_scope_class_and_line(self, transformer):
        model, inputs = transformer
        graph = import_onnx(model, inputs).graph
        assert len(graph) == len(model.graph.node)
        op = graph["model.layers.1.mlp.gate_proj/MatMul"]
        assert (op.kind, op.module, op.layer) == ("onnx.MatMul", "Linear", "model.layers.1")
        line = graph["model.layers.0.mlp.act_fn/Sigmoid"].source
        assert line.file.endswith("activations.py")
        assert line.text == "return nn.functional.silu(input)"

    def test_weights_are_parameters_and_numbers_are_part_of_their_operators(self, transformer):
        graph = import_onnx(*transformer).graph
        assert graph.values["model.embed_tokens.weight"].role == "parameter"
        power = graph["model.layers.0.input_layernorm/Pow"]
        assert len(power.inputs) == 1
        assert power.constants["Y"] == 2.0
        assert graph["model.layers.0.self_attn/Softmax"].constants["axis"] == -1

    def test_names_with_slashes_are_scopes(self):
        node = ("Relu", ["x"], ["y"], {"name": "/layers.0/act/Relu"})
        model = hand_made([node], {"x": (TensorProto.FLOAT, [2])})
        op = import_onnx(model, (np.ones(2, np.float32),)).graph.ops[0]
        assert (op.id, op.scope, op.layer) == ("layers.0.act/Relu", "layers.0.act", "layers.0")

    def test_every_node_has_an_id_of_its_own(self):
        names = ["a", "a", "a_1", ""]
        nodes = [("Relu", [f"v{k}"], [f"v{k + 1}"], {"name": n}) for k, n in enumerate(names)]
        model = hand_made(nodes, {"v0": (TensorProto.FLOAT, [2])}, results=["v4"])
        graph = import_onnx(model, (np.ones(2, np.float32),)).graph
        assert len({op.id for op in graph.ops}) == len(graph) == 4

    def test_functions_of_the_model_are_opened(self):
        body = [helper.make_node("Mul", ["a", "a"], ["b"])]
        square = helper.make_function(
            "mine", "Square", ["a"], ["b"], body, [helper.make_opsetid("", 20)]
        )
        graph = helper.make_graph(
            [helper.make_node("Square", ["x"], ["y"], domain="mine")],
            "main",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
            [onnx.ValueInfoProto(name="y")],
        )
        imports = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
        model = helper.make_model(graph, functions=[square], opset_imports=imports, ir_version=10)
        program = import_onnx(model, (np.array([2, 3], np.float32),))
        assert [op.kind for op in program.graph.ops] == ["onnx.Mul"]
        assert outputs(program, run(program))[0].tolist() == [4.0, 9.0]


class TestFloat64:
    def test_every_operator_of_both_models_has_a_float64_run(self, transformer, conv_net):
        for model, inputs in (transformer, conv_net):
            program = import_onnx(model, inputs)
            values = run(program)
            for op in program.graph.ops:
                for exact, value in zip(program.run_exact(op.id, values), op.outputs, strict=True):
                    if values[value].dtype == np.float32:
                        assert exact.dtype == np.float64, op.id
                        np.testing.assert_allclose(exact, values[value], rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        "op_type", ["Softmax", "LayerNormalization", "Erf", "GridSample", "Mish", "Sigmoid"]
    )
    def test_it_really_is_float64(self, op_type):
        """By onnxruntime, by onnx's reference (Mish), or by what is ours (Erf, Sigmoid)."""
        rng = np.random.default_rng(0)
        arrays = {
            "LayerNormalization": [rng.standard_normal((4, 64)), np.ones(64)],
            "GridSample": [rng.standard_normal((1, 2, 8, 8)), rng.uniform(-1, 1, (1, 4, 4, 2))],
        }.get(op_type, [rng.standard_normal((4, 64))])
        arrays = [a.astype(np.float32) for a in arrays]
        names = [f"x{i}" for i in range(len(arrays))]
        looks = {n: (TensorProto.FLOAT, list(a.shape)) for n, a in zip(names, arrays, strict=True)}
        program = import_onnx(hand_made([(op_type, names, ["y"], {})], looks), tuple(arrays))
        (exact,) = program.run_exact(op_type, program.bind(0, {}))
        wide = [torch.from_numpy(a).double() for a in arrays]
        expected = {
            "Softmax": lambda: torch.softmax(wide[0], -1),
            "LayerNormalization": lambda: nn.functional.layer_norm(wide[0], (64,)),
            "Erf": lambda: torch.erf(wide[0]),
            "Sigmoid": lambda: torch.sigmoid(wide[0]),
            "Mish": lambda: nn.functional.mish(wide[0]),
            "GridSample": lambda: nn.functional.grid_sample(wide[0], wide[1], align_corners=False),
        }[op_type]()
        np.testing.assert_allclose(exact, expected.numpy(), rtol=1e-12, atol=1e-12)

    def test_a_target_that_knows_small_sigmoids_is_not_blamed(self):
        """onnxruntime's are 0, in float64 as well: the float64 run must know better."""
        x = np.random.default_rng(0).standard_normal((4, 1024)).astype(np.float32)
        x[0, :3] = -25, -37, -60
        model = hand_made([("Sigmoid", ["x"], ["y"], {})], {"x": (TensorProto.FLOAT, [4, 1024])})
        with tapml.debug(model, x, target="llvm") as session:
            assert session.run().verdict("Sigmoid") is Verdict.PASS
            session.override("Sigmoid", lambda x: (1.001 / (1 + np.exp(-x))).astype(np.float32))
            assert session.run().verdict("Sigmoid") is Verdict.FAIL

    def test_where_there_is_none_it_is_none(self):
        """A loop has no float64 run."""
        program = import_onnx(loop(), (np.ones(2, np.float32),))
        assert program.run_exact("Loop", program.bind(0, {})) is None


class TestUnits:
    def test_units_are_shared_between_layers(self, transformer):
        import tvm

        program = import_onnx(*transformer)
        values = run(program)
        texts = {
            tvm.ir.save_json(program.unit(f"model.layers.{i}.mlp.gate_proj/MatMul", values).module)
            for i in range(2)
        }
        assert len(texts) == 1

    def test_an_operator_without_a_rule_says_so(self, capsys):
        model = hand_made(
            [("Inverse", ["x"], ["d"], {"domain": "com.microsoft"}), ("Relu", ["d"], ["y"], {})],
            {"x": (TensorProto.FLOAT, [1, 1, 3, 3])},
        )
        program = import_onnx(model, (np.eye(3, dtype=np.float32)[None, None],))
        with pytest.raises(Unsupported, match=r"has no rule for .*Inverse"):
            program.unit("Inverse", run(program))
        assert capsys.readouterr() == ("", "")

    def test_a_rule_that_fails_says_why(self, capsys):
        node = ("DequantizeLinear", ["x", "s"], ["y"], {"axis": 0, "block_size": 2})
        scales = {"s": np.ones((2, 4), np.float32)}
        model = hand_made([node], {"x": (TensorProto.INT8, [4, 4])}, scales, opset=21)
        program = import_onnx(model, (np.ones((4, 4), np.int8),))
        unit = program.unit("DequantizeLinear", run(program))
        assert unit.conversion == "DequantizeLinear converted by rules of tapml_nb's"
        assert capsys.readouterr() == ("", "")

    def test_a_loop_of_known_length_is_written_out(self):
        x = np.array([1, 2], np.float32)
        program = import_onnx(loop(), (x,))
        values = run(program)
        assert outputs(program, values)[0].tolist() == [8.0, 16.0]
        unit = program.unit("Loop", values)
        assert unit.conversion == "Loop with its body written out for each step"


def loop():
    """Doubles its input three times; the factor comes from outside the loop."""
    body = helper.make_graph(
        [helper.make_node("Mul", ["carried", "two"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, [2]),
        ],
        [
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [2]),
        ],
    )
    return hand_made(
        [("Loop", ["n", "", "x"], ["y"], {"body": body})],
        {"x": (TensorProto.FLOAT, [2])},
        {"n": np.array(3), "two": np.array(2, np.float32)},
    )


class TestShapes:
    def test_shape_arithmetic_stays_on_the_host(self, dynamic):
        graph = import_onnx(dynamic, (torch.randn(2, 5, 16),)).graph
        hosts = {op.kind for op in graph.ops if op.host}
        assert "onnx.Shape" in hosts
        assert hosts.isdisjoint({"onnx.MatMul", "onnx.Softmax", "onnx.Transpose", "onnx.Reshape"})

    def test_steps_of_other_sizes_are_compiled_for_them(self, dynamic):
        steps = [(torch.randn(2, 5, 16),), (torch.randn(1, 9, 16),)]
        with tapml.debug(dynamic, steps, target="llvm") as session:
            report = session.run()
            assert report.culprits == []
            assert set(report.counts) == {Verdict.PASS, Verdict.SKIPPED}
            session.migrate()
            assert session.report.info.outputs is Verdict.PASS
            for step, (x,) in enumerate(steps):
                (value,) = session.graph.outputs
                expected = whole(dynamic, {"x": x.numpy()})[0]
                op = session.graph.values[value].producer
                assert np.array_equal(session.tensor(op, "source", step), expected)


class TestSession:
    def test_honest_kernels_pass(self, session):
        report = session.report
        assert report.ok
        assert set(report.counts) == {Verdict.PASS, Verdict.SKIPPED}
        assert report.counts[Verdict.PASS] > 100

    def test_a_planted_fault_is_the_only_culprit(self, session):
        op = "model.layers.1.mlp.down_proj/MatMul"
        session.override(op, lambda x, w: (x @ w) * np.float32(1.001))
        culprits = session.run().culprits
        session.override(op, None)
        assert [c.op for c in culprits] == [op]
        assert "1.001" in culprits[0].diagnosis
        assert "modeling_llama.py" in culprits[0].evidence

    def test_swapped_operands_are_told_as_such(self, session):
        """A diagnosis that knows what the operator does knows ONNX's names for it."""
        x = np.random.default_rng(0).standard_normal((2, 8, 8)).astype(np.float32)
        looks = {n: (TensorProto.FLOAT, [8, 8]) for n in "ab"}
        model = hand_made([("Sub", ["a", "b"], ["y"], {})], looks)
        with tapml.debug(model, tuple(x), target="llvm") as other:
            other.override("Sub", lambda a, b: b - a)
            assert "operands of sub are swapped" in other.run().culprits[0].diagnosis

    def test_inputs_stand_in_the_order_of_the_node(self):
        """Whatever order the model has them in; what is left out is none."""
        arrays = np.random.default_rng(0).standard_normal((3, 8, 8)).astype(np.float32)
        nodes = [
            ("Sub", ["b", "a"], ["d"], {}),
            ("Gemm", ["c", "d", "w"], ["e"], {"transB": 1}),
            ("Clip", ["e", "", "high"], ["f"], {}),
            ("Concat", ["f", "b", "a"], ["y"], {"axis": 0}),
        ]
        looks = {n: (TensorProto.FLOAT, [8, 8]) for n in "abc"}
        numbers = {"w": arrays[0] * 2, "high": np.float32(1)}
        with tapml.debug(hand_made(nodes, looks, numbers), tuple(arrays), target="llvm") as other:
            read = {op.kind: op.inputs for op in other.graph.ops}
            assert read["onnx.Sub"] == ("b", "a")
            assert read["onnx.Gemm"] == ("c", "d", "w")
            assert read["onnx.Concat"] == ("f", "b", "a")
            other.override("Sub", lambda b, a: b - a)
            other.override("Gemm", lambda c, d, w: c @ d.T + w)
            assert other.run().culprits == []
            other.override("Sub", lambda b, a: a - b)
            other.override("Gemm", lambda c, d, w: d @ c.T + w)
            assert {c.op for c in other.run().culprits} == {"Sub", "Gemm"}

    def test_a_convolutional_net_moves_whole(self, conv_net):
        with tapml.debug(*conv_net, target="llvm", source="onnxruntime") as other:
            assert other.run().ok
            assert len(other.migrate().offloaded) == len(other.graph)
            assert other.report.info.outputs is Verdict.PASS

    def test_what_has_no_rule_stays_on_the_source(self):
        model = hand_made(
            [("Inverse", ["x"], ["d"], {"domain": "com.microsoft"}), ("Exp", ["d"], ["y"], {})],
            {"x": (TensorProto.FLOAT, [4, 1, 3, 3])},
        )
        x = np.random.default_rng(0).standard_normal((4, 1, 3, 3)).astype(np.float32)
        with tapml.debug(model, x, target="llvm") as other:
            report = other.run()
            assert report.verdict("Inverse") is Verdict.UNSUPPORTED
            assert "no rule for com.microsoft.Inverse" in report.missing[0].message
            assert report.verdict("Exp") is Verdict.PASS

    def test_sequences_stay_on_the_source(self):
        """What comes before and behind is judged all the same."""
        nodes = [
            ("Relu", ["x"], ["r"], {}),
            ("SplitToSequence", ["r"], ["parts"], {"axis": 0}),
            ("ConcatFromSequence", ["parts"], ["whole"], {"axis": 0}),
            ("Mul", ["whole", "whole"], ["y"], {}),
        ]
        x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
        model = hand_made(nodes, {"x": (TensorProto.FLOAT, [2, 3])})
        with tapml.debug(model, x, target="llvm") as other:
            report = other.run()
            assert report.verdict("Relu") is report.verdict("Mul") is Verdict.PASS
            told = {missing.op: missing.message for missing in report.missing}
            assert set(told) == {"SplitToSequence", "ConcatFromSequence"}
            assert "yields a sequence (parts)" in told["SplitToSequence"]
            assert "reads a sequence (parts)" in told["ConcatFromSequence"]
            other.offload(["Relu", "Mul"])
            assert other.hybrid().info.outputs is Verdict.PASS
            other.override("Mul", lambda a, b: a * b * np.float32(1.01))
            assert [c.op for c in other.run().culprits] == ["Mul"]

    def test_ties_may_be_broken_either_way(self):
        node = ("TopK", ["x", "k"], ["values", "indices"], {"axis": 0})
        x = np.array([[3, 1], [3, 2], [0, 2], [1, 0]], np.float32)
        looks = {"x": (TensorProto.FLOAT, [4, 2])}
        model = hand_made([node], looks, {"k": np.array([2])}, ["values", "indices"])

        def other_way(x):
            indices = np.argsort(x, axis=0, kind="stable")[::-1][:2]
            return np.take_along_axis(x, indices, 0), indices

        with tapml.debug(model, x, target="llvm") as other:
            other.override("TopK", other_way)
            assert other.run().verdict("TopK") is Verdict.PASS
            assert other.tensor("TopK", "target", output=1)[0, 0] == 1
            other.override("TopK", lambda x: (other_way(x)[0], np.zeros((2, 2), np.int64)))
            assert other.run().verdict("TopK") is Verdict.FAIL

    def test_a_bundle_replays(self, session, tmp_path):
        bundle = session.carve(tmp_path / "onnx.tapml", ["model.layers.0.mlp", "*/Reshape"])
        report = Bundle.open(bundle.path).replay("llvm")
        assert report.ok
        assert len(report.graph) > 5


class TestBadInput:
    def test_files(self, tmp_path):
        x = np.ones(2, np.float32)
        with pytest.raises(ValueError, match=r"model: there is no file .*absent\.onnx"):
            tapml.debug(tmp_path / "absent.onnx", x)
        damaged = tmp_path / "damaged.onnx"
        damaged.write_bytes(b"\xff\x00 no protobuf")
        with pytest.raises(ValueError, match="cannot be read as an ONNX model"):
            tapml.debug(str(damaged), x)
        damaged.write_bytes(b"")
        with pytest.raises(ValueError, match="holds no ONNX graph"):
            tapml.debug(damaged, x)

    def test_a_graph_with_a_hole(self):
        model = hand_made([("Relu", ["z"], ["y"], {})], {"x": (TensorProto.FLOAT, [2])})
        with pytest.raises(FrontendError, match="Relu 'y' reads 'z', which nothing before it"):
            import_onnx(model, (np.ones(2, np.float32),))

    def test_what_onnxruntime_cannot_run(self):
        model = hand_made([("Nonsense", ["x"], ["y"], {})], {"x": (TensorProto.FLOAT, [2])})
        with pytest.raises(FrontendError, match=r"onnxruntime cannot run Nonsense"):
            import_onnx(model, (np.ones(2, np.float32),))

    @pytest.mark.parametrize(
        ("inputs", "error", "message"),
        [
            ((np.ones((2, 3), np.float64),), ValueError, r"step 0: x is float64\[2, 3\].*float32"),
            ((np.ones((3, 3), np.float32),), ValueError, r"takes float32\[2, n\]"),
            (np.ones(2, np.float32), ValueError, r"x is float32\[2\]"),
            ({"z": np.ones((2, 3), np.float32)}, ValueError, "has z, the model takes x"),
            ((1, 2), ValueError, "step 0 holds 2 tensors, the model takes 1: x"),
            ((1,), TypeError, "inputs: x is a int; give a NumPy array"),
            ("x", TypeError, "step 0 is a str"),
            ([], ValueError, "empty"),
        ],
    )
    def test_inputs(self, inputs, error, message):
        model = hand_made([("Relu", ["x"], ["y"], {})], {"x": (TensorProto.FLOAT, [2, "n"])})
        with pytest.raises(error, match=message):
            import_onnx(model, inputs)

    def test_sizes_of_one_name_are_one_size(self):
        looks = {n: (TensorProto.FLOAT, ["n"]) for n in "ab"}
        model = hand_made([("Add", ["a", "b"], ["y"], {})], looks)
        a = np.ones(2, np.float32)
        with pytest.raises(ValueError, match=r"b is float32\[1\], the model takes float32\[n\]"):
            import_onnx(model, (a, a[:1]))

    @pytest.mark.parametrize("size", [None, -1, 0])
    def test_sizes_without_a_name_are_any(self, size):
        """What exporters write for them differs; onnxruntime runs them all."""
        looks = {n: (TensorProto.FLOAT, [size, 3]) for n in "ab"}
        model = hand_made([("Concat", ["a", "b"], ["y"], {"axis": 0})], looks)
        a, b = np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)
        program = import_onnx(model, (a, b))
        assert outputs(program, run(program))[0].shape == (6, 3)
        with pytest.raises(ValueError, match=r"b is float32\[4, 2\], the model takes .*\[\?, 3\]"):
            import_onnx(model, (a, b[:, :2]))

    def test_sources_and_dynamic_shapes(self):
        model = hand_made([("Relu", ["x"], ["y"], {})], {"x": (TensorProto.FLOAT, [2])})
        x = np.ones(2, np.float32)
        with pytest.raises(ValueError, match=r"'torch' does not run an ONNX.*'onnxruntime'"):
            tapml.debug(model, x, source="torch")
        with pytest.raises(ValueError, match="dynamic_shapes: an ONNX model says itself"):
            tapml.debug(model, x, dynamic_shapes={})
        with pytest.raises(ValueError, match=r"does not run a PyTorch model; give 'torch'"):
            tapml.debug(nn.ReLU(), torch.ones(2), source="onnxruntime")
