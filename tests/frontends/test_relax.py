"""Relax modules → graphs that compute what the module computes on TVM's virtual machine."""

from functools import partial
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import tvm
from tvm import relax

import tapml_nb as tapml
from tapml_nb import Bundle, FrontendError, Verdict
from tapml_nb.frontends.program import Unsupported
from tapml_nb.frontends.relax import import_relax
from tests.frontends.relax_modules import (
    Kernels,
    Matched,
    MatchedShape,
    decoder,
    normal,
    paged,
    transformer,
)
from tests.frontends.test_torch import outputs, run


def one_operation(make, *arrays):
    """A module of one operation, imported."""
    builder = relax.BlockBuilder()
    params = [
        relax.Var(f"x{k}", relax.TensorType(a.shape, str(a.dtype))) for k, a in enumerate(arrays)
    ]
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(builder.emit(make(*params)))
        builder.emit_func_output(result)
    return import_relax(builder.get(), arrays)


@pytest.fixture(scope="module")
def model():
    return transformer()


@pytest.fixture(scope="module")
def session(model):
    module, weights = model
    steps = [(normal(20, 1, 5, 16), *weights), (normal(21, 1, 9, 16), *weights)]
    with tapml.debug(module, steps, target="llvm") as session:
        session.run()
        yield session


class TestGraph:
    def test_operator_by_operator_is_the_whole_module(self, model):
        module, weights = model
        inputs = (normal(20, 1, 5, 16), *weights)
        program = import_relax(module, inputs)
        (result,) = outputs(program, run(program))
        machine = relax.VirtualMachine(tvm.compile(module, tvm.target.Target("llvm")), tvm.cpu())
        expected = machine["forward"](*map(tvm.runtime.tensor, inputs)).numpy()
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)

    def test_the_names_of_weights_tell_scopes(self, model):
        module, weights = model
        graph = import_relax(module, (normal(20, 1, 5, 16), *weights)).graph
        op = graph["layers.1.attention.qkv/matmul"]
        assert (op.kind, op.layer) == ("relax.matmul", "layers.1")
        assert "layers.0.attention/softmax" in graph
        assert graph["layers.0.attention/softmax"].constants["axis"] == -1
        assert graph.values["layers.0.up.weight"].role == "parameter"
        assert [graph.values[v].name for v in graph.inputs] == ["x"]

    def test_tuples_dissolve_and_lines_are_known_where_the_module_is_text(self):
        program = import_relax(Kernels, (normal(0, 5, 8), normal(1, 8, 4)))
        graph = program.graph
        kinds = ["tir.double", "relax.split", "function.fused", "relax.add", "tir.prefix"]
        assert [op.kind for op in graph.ops] == kinds
        assert len(graph["split"].outputs) == 2
        assert graph["add"].source.text == "total = R.add(y, left)"
        assert "relax.matmul" in graph["fused"].primitives
        values = run(program)
        x, w = values["x"], values["w"]
        expected = (np.maximum(2 * x @ w, 0) + 2 * x[:, :4])[:4]
        np.testing.assert_allclose(outputs(program, values)[0], expected, rtol=1e-5, atol=1e-6)

    def test_every_binding_has_an_id_of_its_own(self):
        """Also where functions are called what call sites are numbered."""
        builder = relax.BlockBuilder()
        double = cast(Any, Kernels)["double"]
        first = builder.add_func(double, "double")
        second = builder.add_func(double.with_attr("other", 1), "double_1")
        x = relax.Var("x", relax.TensorType((2, 8), "float32"))
        with builder.function("main", [x]):
            with builder.dataflow():
                result = x
                for function in (first, first, second):
                    result = builder.emit(relax.op.call_tir(function, (result,), out_ty=x.ty))
                result = builder.emit_output(result)
            builder.emit_func_output(result)
        program = import_relax(builder.get(), normal(0, 2, 8))
        assert len(program.graph) == 3
        values = run(program)
        np.testing.assert_array_equal(outputs(program, values)[0], values["x"] * 8)

    def test_sizes_that_are_matched(self):
        x = normal(0, 3, 4)
        with tapml.debug(Matched, [(x,), (x[:2],)], target="llvm") as session:
            report = session.run()
            assert report.culprits == []
            assert session.graph["match_cast"].host
            assert report.verdict("halve") is Verdict.PASS
            np.testing.assert_allclose(
                session.tensor("halve", "target", step=1), np.exp(x[:2].ravel() / 2), rtol=1e-5
            )

    def test_a_module_with_its_weights_inside(self):
        from tvm.relax.frontend.torch import from_exported_program

        torch.manual_seed(0)
        net = torch.nn.Linear(4, 3).eval()
        x = torch.randn(2, 4)
        exported = torch.export.export(net, (x,))
        module = from_exported_program(exported, keep_params_as_input=True)
        program = import_relax(module, x)
        (result,) = outputs(program, run(program))
        np.testing.assert_allclose(result, net(x).detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "order"),
    [
        (lambda x, y, z: relax.op.subtract(y, x), "yx"),
        (lambda x, y, z: relax.op.concat([z, x, y]), "zxy"),
        (lambda x, y, z: relax.op.nn.layer_norm(y, z, x, axes=[-1]), "yzx"),
        (lambda x, y, z: relax.op.multiply(y, y), "y"),
    ],
    ids=["subtract", "concat", "layer_norm", "twice"],
)
def test_inputs_stand_in_the_order_of_the_call(make, order):
    program = one_operation(make, *(normal(k, 4) for k in range(3)))
    assert program.graph.ops[-1].inputs == tuple(f"x{'xyz'.index(name)}" for name in order)


def test_inputs_of_a_kernel_stand_in_the_order_of_its_call():
    builder = relax.BlockBuilder()
    x, y = (relax.Var(name, relax.TensorType((4, 8), "float32")) for name in "xy")
    with builder.function("main", [x, y]):
        with builder.dataflow():
            result = builder.emit_output(builder.emit_te(tvm.topi.subtract, y, x))
        builder.emit_func_output(result)
    with tapml.debug(builder.get(), (normal(0, 4, 8), normal(1, 4, 8)), target="llvm") as session:
        (op,) = session.graph.ops
        assert op.inputs == ("y", "x")
        session.override(op.id, lambda y, x: y - x)
        assert session.run().culprits == []
        session.override(op.id, lambda y, x: x - y)
        assert [c.op for c in session.run().culprits] == [op.id]


class TestFloat64:
    @pytest.mark.parametrize(
        ("make", "expected", "shapes"),
        [
            (
                lambda x, w: relax.op.nn.rms_norm(x, w, axes=[-1], epsilon=1e-5),
                lambda x, w: F.rms_norm(x, (64,), w, 1e-5),
                [(4, 64), (64,)],
            ),
            (
                lambda x, w, b: relax.op.nn.layer_norm(x, w, b, axes=[-1], epsilon=1e-5),
                lambda x, w, b: F.layer_norm(x, (64,), w, b, 1e-5),
                [(4, 64), (64,), (64,)],
            ),
            (
                lambda x, w, b: relax.op.nn.group_norm(x, w, b, 2, 1, [2, 3], epsilon=1e-5),
                lambda x, w, b: F.group_norm(x, 2, w, b, 1e-5),
                [(1, 4, 8, 8), (4,), (4,)],
            ),
            (relax.op.nn.gelu, F.gelu, [(4, 64)]),
            (
                lambda x: relax.op.multiply(x, relax.const(0.1, "float32")),
                lambda x: x * float(np.float32(0.1)),
                [(4, 64)],
            ),
        ],
        ids=["rms_norm", "layer_norm", "group_norm", "gelu", "constant"],
    )
    def test_it_really_is_float64(self, make, expected, shapes):
        arrays = [normal(k, *shape) for k, shape in enumerate(shapes)]
        program = one_operation(make, *arrays)
        (exact,) = program.run_exact(program.graph.ops[0].id, program.bind(0, {}))
        wide = expected(*(torch.from_numpy(a).double() for a in arrays)).numpy()
        np.testing.assert_allclose(exact, wide, rtol=1e-11, atol=1e-12)

    def test_kernels_and_fused_functions_have_one(self):
        program = import_relax(Kernels, (normal(0, 5, 8), normal(1, 8, 4)))
        values = run(program)
        for op in program.graph.ops:
            exact = program.run_exact(op.id, values)
            assert all(result.dtype == np.float64 for result in exact), op.id
        product = np.maximum(values["twice"].astype(float) @ values["w"].astype(float), 0)
        np.testing.assert_allclose(program.run_exact("fused", values)[0], product, rtol=1e-13)

    def test_where_tvm_has_float32_alone_there_is_none(self):
        def resize(x):
            return relax.op.image.resize2d(x, relax.ShapeExpr((8, 8)), layout="NCHW")

        program = one_operation(resize, normal(0, 1, 2, 4, 4))
        assert program.run_exact("resize2d", program.bind(0, {})) is None


class TestSession:
    def test_honest_kernels_pass_in_all_shapes(self, session):
        report = session.report
        assert report.ok
        assert set(report.counts) <= {Verdict.PASS, Verdict.SKIPPED}

    def test_one_kernel_is_for_all_shapes(self, session):
        """Of prefill and decode, of caches of two lengths."""
        used: dict[str, set[str]] = {}
        for (op, _), result in session.report.introduced.items():
            used.setdefault(op, set()).add(result.kernel)
        assert {op for op, kernels in used.items() if len(kernels) > 1} == set()
        assert len(set.union(*used.values())) == session.report.info.kernels

    def test_a_planted_fault_is_the_only_culprit(self, session):
        op = "layers.1.up/matmul"
        session.override(op, lambda x, w: (x @ w) * np.float32(1.001))
        culprits = session.run().culprits
        session.override(op, None)
        assert [c.op for c in culprits] == [op]
        assert "1.001" in culprits[0].diagnosis

    def test_all_moves(self, session):
        session.run()
        assert len(session.migrate().offloaded) == len(session.graph)
        assert session.report.info.outputs is Verdict.PASS

    def test_a_bundle_replays(self, session, tmp_path):
        bundle = session.carve(tmp_path / "relax.tapml", "layers.0.attention")
        report = Bundle.open(bundle.path).replay("llvm")
        assert report.ok
        assert "layers.0.attention/softmax" in report.graph

    def test_a_match_of_a_shape(self):
        steps = [(normal(n, n, 8),) for n in (3, 7)]
        with tapml.debug(MatchedShape, steps, target="llvm") as other:
            report = other.run()
            assert report.ok
            assert set(report.counts) == {Verdict.PASS, Verdict.SKIPPED}
            other.offload(lambda op: report.verdict(op.id) is Verdict.PASS)
            assert other.hybrid().info.outputs is Verdict.PASS
            other.override("multiply", lambda x, y: x * y * np.float32(1.01))
            assert [c.op for c in other.run().culprits] == ["multiply"]

    def test_kernels_of_the_module_on_another_target(self):
        with tapml.debug(Kernels, (normal(0, 5, 8), normal(1, 8, 4)), target="c") as other:
            assert other.run().counts == {Verdict.PASS: 5}
            other.override("double", lambda x: x + x * np.float32(1.01))
            assert [c.op for c in other.run().culprits] == ["double"]


class TestCache:
    """Decoding with a KV cache, an object that calls change in place."""

    @pytest.fixture(scope="class")
    @classmethod
    def decoding(cls):
        module, (weight, bias) = decoder()
        steps = [
            {
                "x": normal(30 + k, 1, size, 16),
                "total": total,
                "qkv.weight": weight,
                "qkv.bias": bias,
            }
            for k, (size, total) in enumerate([(4, 4), (1, 5), (1, 6)])
        ]
        with tapml.debug(module, steps, target="llvm") as session:
            session.run()
            yield session, steps

    @staticmethod
    def expected(steps, wrong=1.0):
        """What each step computes; ``wrong`` is a factor on what the cache is given."""
        held, results = np.zeros((0, 16), np.float32), []
        for step in steps:
            hidden = (step["x"] @ step["qkv.weight"].T + step["qkv.bias"]) * np.float32(wrong)
            query, key, _ = np.split(hidden, 3, axis=-1)
            held = np.concatenate([held, key[0]])
            scores = np.exp(query @ held.T)
            results.append(scores / scores.sum(axis=-1, keepdims=True) @ held)
        return results

    def test_steps_carry_the_cache(self, decoding):
        session, steps = decoding
        for k, result in enumerate(self.expected(steps)):
            found = session.tensor("matmul_1", "source", step=k)
            np.testing.assert_allclose(found, result, rtol=1e-4, atol=1e-5)

    def test_what_takes_the_cache_is_marked_and_the_rest_judged(self, decoding):
        report = decoding[0].report
        assert report.verdict("attention_kv_cache_append") is Verdict.SKIPPED
        assert report.verdict("attention_kv_cache_view") is Verdict.UNSUPPORTED
        assert "such as a KV cache" in report.missing[0].message
        assert report.culprits == []
        assert report.counts[Verdict.PASS] >= 8

    def test_a_fault_goes_through_the_cache_and_out_again(self, decoding):
        """Caches are changed in place, yet every hybrid run finds them as they were."""
        session, steps = decoding
        session.override("qkv/add", lambda x, b: (x + b) * np.float32(1.5))
        session.offload("qkv/add")
        for _ in range(2):
            session.hybrid()
            wrong = self.expected(steps, 1.5)[2]
            array = session.engine.hybrid.array(session.graph.outputs[0], 2)
            np.testing.assert_allclose(array, wrong, rtol=1e-4, atol=1e-5)
            assert session.report.info.outputs is Verdict.FAIL
        session.override("qkv/add", None)
        session.hybrid()
        assert session.report.info.outputs is Verdict.PASS

    def test_an_object_of_the_users_is_made_by_a_function(self):
        module, weights = decoder()
        made = []

        def cache():
            made.append(1)
            create = tvm.get_global_func("vm.builtin.attention_kv_cache_create")
            start = tvm.runtime.tensor(np.zeros((8, 16), np.float32))
            return create(start, tvm.runtime.ShapeTuple([8, 16]), 0)

        x = normal(30, 1, 4, 16)
        program = import_relax(module, (x, 4, cache, *weights))
        run(program)
        assert len(made) >= 2
        with pytest.raises(TypeError, match="cache is an object of TVM's virtual machine; give a"):
            import_relax(module, (x, 4, np.zeros(3), *weights))
        with pytest.raises(Unsupported, match="attention_kv_cache_view"):
            program.unit("attention_kv_cache_view", run(program))


class TestBadInput:
    def test_inputs(self, model):
        module, weights = model
        x = normal(0, 1, 5, 16)
        with pytest.raises(ValueError, match=r"step 0 holds 1 tensors, the model takes \d+: x"):
            import_relax(module, (x,))
        with pytest.raises(ValueError, match=r"step 0: x is float32\[5, 16\], the function takes"):
            import_relax(module, (x[0], *weights))
        with pytest.raises(ValueError, match=r"step 0: x is float64"):
            import_relax(module, (x.astype(float), *weights))
        with pytest.raises(TypeError, match="step 0: x is a int; give a NumPy array"):
            import_relax(module, (1, *weights))
        changed = [weights[0] + 1, *weights[1:]]
        with pytest.raises(ValueError, match=r"step 1: layers\S+ differs from step 0's"):
            import_relax(module, [(x, *weights), (x, *changed)])

    def test_which_function(self):
        main = cast(Any, Matched)["main"]
        functions = {name: main.with_attr("global_symbol", name) for name in "ab"}
        with pytest.raises(ValueError, match="public Relax functions a, b; give one with"):
            import_relax(tvm.IRModule(functions), (normal(0, 2, 2),))

    def test_a_function_that_branches(self):
        from tvm.script import relax as R

        @R.function
        def main(x: R.Tensor((2,), "float32"), c: R.Tensor((), "bool")):
            if c:  # noqa: SIM108
                y = R.exp(x)
            else:
                y = R.sin(x)
            return y

        module = tvm.IRModule({"main": main})
        with pytest.raises(FrontendError, match=r"function branches \(R\.If\) in 'y'"):
            import_relax(module, (normal(0, 2), np.array(True)))

    def test_sources(self, model):
        module, weights = model
        inputs = (normal(0, 1, 5, 16), *weights)
        with pytest.raises(ValueError, match=r"'torch' does not run a Relax.*'tvm:llvm'"):
            tapml.debug(module, inputs, source="torch")
        if not tvm.cuda().exist:
            with pytest.raises(ValueError, match="'tvm:cuda' cannot be used here"):
                tapml.debug(module, inputs, source="tvm:cuda")


def test_a_paged_cache_of_mlcs():
    """Attention over it stays on the source, and says so; all else is judged and moves over."""
    module, weights, cache = paged()
    steps = [(normal(tokens, 1, tokens, 32), partial(cache, tokens), *weights) for tokens in (5, 3)]
    with tapml.debug(module, steps, target="llvm") as session:
        report = session.run()
        assert report.culprits == []
        attention = {op.id for op in session.graph.ops if "attention_kv_cache" in op.kind}
        assert len(attention) == 2
        assert {result.op for result in report.missing} == attention
        assert {report.verdict(op) for op in attention} == {Verdict.UNSUPPORTED}
        matmuls = [op.id for op in session.graph.ops if op.kind == "relax.matmul"]
        assert all(report.verdict(op, step) is Verdict.PASS for op in matmuls for step in range(2))
        session.offload([op.id for op in session.graph.ops if op.id not in attention])
        assert session.hybrid().info.outputs is Verdict.PASS
        # What the target computes reaches the cache: a wrong projection changes what is read.
        session.override("layers.0.qkv/matmul", lambda x, w: (x @ w) * np.float32(1.01))
        assert session.hybrid().info.outputs is Verdict.FAIL
