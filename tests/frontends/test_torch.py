"""PyTorch models → graphs that compute what the model computes, with provenance."""

import numpy as np
import pytest
import torch
import tvm_ffi
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import tapml_nb as tapml
from tapml_nb import FrontendError
from tapml_nb.frontends.program import Unsupported
from tapml_nb.frontends.torch import import_torch
from tapml_nb.frontends.torch.export import to_device
from tapml_nb.judge.verdict import Verdict
from tests.models import llama, two_layers


def run(program, step=0, state=None):
    values = program.bind(step, state or {})
    for op in program.graph.ops:
        values.update(zip(op.outputs, program.run(op.id, values), strict=True))
    return values


def outputs(program, values):
    return [values[v] for v in program.graph.outputs]


@pytest.fixture(scope="module")
def imported():
    model, inputs = llama()
    return model, inputs, import_torch(model, inputs)


def test_running_the_operators_is_running_the_model(imported):
    model, inputs, program = imported
    (logits,) = outputs(program, run(program))
    with torch.no_grad():
        torch.testing.assert_close(logits, model(*inputs).logits, rtol=1e-5, atol=1e-5)


def test_every_call_of_the_exported_program_is_an_operator(imported):
    """Every one that decomposition keeps: it drops conversions that change nothing."""
    _, inputs, program = imported
    model, _ = llama()
    exported = torch.export.export(model, inputs, strict=False)
    kept = {
        node.meta["from_node"][-1].name
        for node in exported.run_decompositions().graph.nodes
        if node.op == "call_function" and "from_node" in node.meta
    }
    calls = [n for n in exported.graph.nodes if n.name in kept and "aten" in str(n.target)]
    assert len(calls) > 150
    assert len(program.graph) >= len(calls)
    kinds = {op.kind for op in program.graph.ops}
    assert {str(n.target).rpartition(".")[0] for n in calls} <= kinds


def test_ids_scopes_and_lines(imported):
    graph = imported[2].graph
    op = graph["model.layers.1.mlp.act_fn/silu"]
    assert (op.kind, op.scope, op.layer) == (
        "aten.silu",
        "model.layers.1.mlp.act_fn",
        "model.layers.1",
    )
    assert op.source.file.endswith("activations.py")
    assert op.source.text == "return nn.functional.silu(input)"
    linear = graph["model.layers.0.self_attn.q_proj/linear"]
    assert linear.module == "Linear"
    assert "aten.mm.default" in linear.primitives


def test_operators_are_in_executable_order(imported):
    graph = imported[2].graph
    known = {v.id for v in graph.values.values() if v.producer is None}
    for op in graph.ops:
        assert known.issuperset(op.inputs), op.id
        known.update(op.outputs)


def test_float64_is_closer_than_float32(imported):
    program = imported[2]
    values = run(program)
    op = "model.layers.0.mlp.down_proj/linear"
    (exact,) = program.run_exact(op, values)
    source = values[program.graph[op].outputs[0]]
    error = (source.double() - exact).abs().max().item()
    assert exact.dtype == torch.float64
    assert 0 < error < 1e-5


class Selections(nn.Module):
    """Calls that give a part of much."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(1000, 8)

    def forward(self, ids):
        table = self.table.weight
        return (
            self.table(ids),
            table.index_select(0, ids),
            table.gather(0, ids[:, None]),
            table.select(0, 7),
            table[3:5],
        )


class Sizes(TorchDispatchMode):
    """Notes how many elements the tensors have that are computed."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.made.append(result.numel())
        return result


def test_of_what_is_selected_the_part_is_widened_and_not_all():
    program = import_torch(Selections().eval(), (torch.tensor([5, 999, 7]),))
    values = run(program)
    read = [op for op in program.graph.ops if any("weight" in value for value in op.inputs)]
    assert {op.kind for op in read} >= {
        "aten.embedding",
        "aten.index_select",
        "aten.gather",
        "aten.select",
        "aten.slice",
    }
    for op in read:
        with Sizes() as sizes:
            (exact,) = program.run_exact(op.id, values)
        assert exact.dtype == torch.float64
        assert torch.equal(exact, values[op.outputs[0]].double()), op.id
        assert max(sizes.made) == exact.numel(), op.id


def test_units_are_shared_between_layers(imported):
    import tvm

    program = imported[2]
    values = run(program)
    texts = {
        tvm.ir.save_json(program.unit(f"model.layers.{i}.mlp.gate_proj/linear", values).module)
        for i in range(2)
    }
    assert len(texts) == 1


def test_an_operator_without_a_rule_says_so():
    class Histogram(nn.Module):
        def forward(self, x):
            return torch.histogram(x, 4)[0] + 1

    program = import_torch(Histogram().eval(), (torch.rand(16),))
    values = run(program)
    with pytest.raises(Unsupported, match="histogram"):
        program.unit("histogram", values)
    assert program.unit("add", values).outputs[0].shape == (4,)


class Tuples(nn.Module):
    """Multi-output operators, an unused output, and a value used twice."""

    def forward(self, x):
        values, indices = torch.topk(x, 3)
        left, right = torch.split(x, [2, 6], dim=-1)
        return values + left.sum(), indices, right * right


def test_multi_output_operators():
    x = torch.randn(4, 8)
    program = import_torch(Tuples().eval(), (x,))
    topk = program.graph["topk"]
    assert [program.graph.values[v].spec.dtype for v in topk.outputs] == ["float32", "int64"]
    for have, want in zip(outputs(program, run(program)), Tuples()(x), strict=True):
        torch.testing.assert_close(have, want)


def test_strides_that_export_has_not_foreseen():
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(32)
            self.out = nn.Linear(32, 8)

        def forward(self, x):
            return self.out(self.norm(x.transpose(1, 2)).transpose(1, 2))

    model, x = Normed().eval(), torch.randn(3, 4, 32)
    (result,) = outputs(program := import_torch(model, (x,)), run(program))
    torch.testing.assert_close(result, model(x))


class Counter(nn.Module):
    """A buffer that every step changes in place."""

    total: torch.Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(2))

    def forward(self, x):
        self.total.add_(x)
        return self.total * 2


def test_buffers_carry_from_step_to_step():
    steps = [(torch.ones(2),), (torch.full((2,), 3.0),)]
    program = import_torch(Counter().eval(), steps)
    first = run(program)
    state = {buffer: first[value] for buffer, value in program.mutations.items()}
    second = run(program, 1, state)
    assert outputs(program, first)[0].tolist() == [2.0, 2.0]
    assert outputs(program, second)[0].tolist() == [8.0, 8.0]
    assert run(program)["b_total"].tolist() == [0.0, 0.0]


def test_an_exported_program_is_taken_as_it_is():
    model, inputs = two_layers()
    program = import_torch(torch.export.export(model, inputs), inputs)
    torch.testing.assert_close(outputs(program, run(program))[0], model(*inputs))


def test_keyword_inputs():
    class Keywords(nn.Module):
        def forward(self, a, *, b, c):
            return a + 2 * b + 3 * c

    one, two, three = torch.ones(2), torch.full((2,), 2.0), torch.full((2,), 3.0)
    program = import_torch(Keywords().eval(), {"a": one, "c": three, "b": two})
    assert outputs(program, run(program))[0].tolist() == [14.0, 14.0]


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.bool, torch.int64]
)
def test_numpy_and_back(dtype):
    program = import_torch(*two_layers())
    tensor = (torch.randn(3, 5) * 3).to(dtype).t()
    back = program.from_array(program.to_numpy(tensor), tensor)
    assert back.dtype == dtype
    assert torch.equal(back, tensor)
    assert isinstance(program.to_numpy(tensor), np.ndarray)


class TestDevices:
    def test_a_device_gets_a_copy(self):
        model, inputs = two_layers()
        moved, (x,) = to_device(model, inputs, "meta")
        assert {p.device.type for p in moved.parameters()} == {x.device.type} == {"meta"}
        assert {p.device.type for p in model.parameters()} == {inputs[0].device.type} == {"cpu"}

    def test_a_program_on_a_device_computes_the_same(self):
        model, inputs = two_layers()
        exported = torch.export.export(model, inputs)
        program = import_torch(*to_device(exported, inputs, "cpu"))
        torch.testing.assert_close(outputs(program, run(program))[0], model(*inputs))

    @pytest.mark.parametrize("device", ["cuda", "cuba"])
    def test_one_that_is_not_there(self, device):
        """The tests' PyTorch has no CUDA (see test_packaging)."""
        with pytest.raises(ValueError, match=f"source: 'torch:{device}' cannot be used here: "):
            tapml.debug(*two_layers(), source=f"torch:{device}")


class TestBadInput:
    def test_training_mode(self):
        model, inputs = two_layers()
        with pytest.raises(ValueError, match=r"training mode.*model\.eval\(\)"):
            import_torch(model.train(), inputs)

    def test_too_many_inputs(self):
        model, (x,) = two_layers()
        with pytest.raises(ValueError, match=r"step 0 does not fit TwoLayers\.forward"):
            import_torch(model, (x, x))

    def test_wrong_shape(self):
        model, _ = two_layers()
        with pytest.raises(ValueError, match="TwoLayers itself fails on them"):
            import_torch(model, (torch.randn(3, 9),))

    def test_steps_of_different_shape(self):
        model, (x,) = two_layers()
        with pytest.raises(ValueError, match=r"step 1: x is float32\[5, 8\].*dynamic_shapes"):
            import_torch(model, [(x,), (torch.randn(5, 8),)])

    def test_no_steps(self):
        with pytest.raises(ValueError, match="empty"):
            import_torch(two_layers()[0], [])

    def test_no_tensors(self):
        with pytest.raises(TypeError, match="step 0 is a str"):
            import_torch(two_layers()[0], "x")

    def test_a_model_that_runs_but_cannot_be_exported(self):
        class Branches(nn.Module):
            def forward(self, x):
                return x + 1 if x.sum() > 0 else x - 1

        said = (
            r"torch\.export cannot capture Branches: .*test_torch\.py:\d+, return x \+ 1 if .*pass"
        )
        with pytest.raises(FrontendError, match=said):
            import_torch(Branches().eval(), (torch.ones(2),))

    def test_a_model_that_needs_an_optional_input_to_be_exported(self):
        class Masked(nn.Module):
            def forward(self, x, mask=None):
                if mask is None and not torch.compiler.is_compiling():
                    mask = torch.ones(2)
                return x * mask[0]

        with pytest.raises(FrontendError, match=r"return x \* mask\[0\]\); .*optional input"):
            import_torch(Masked().eval(), (torch.ones(2),))


class _Pairs(torch.nn.Module):
    def forward(self, x):
        halves = torch.nn.functional.silu(x).reshape(x.shape[0] // 2, 16)
        return torch.cat([halves, halves]) + 1


@pytest.fixture(scope="module")
def pairs():
    """A model that takes twice as many rows as a number that is left open."""
    rows = 2 * torch.export.Dim("pairs", min=2, max=64)
    steps = [(torch.randn(n, 8),) for n in (4, 10)]
    return import_torch(_Pairs().eval(), steps, dynamic_shapes=({0: rows},))


class TestOpenSizes:
    def test_a_unit_is_one_for_all_sizes(self, pairs):
        steps = [run(pairs, step) for step in range(2)]
        for op in pairs.graph.ops:
            if not op.host:
                first, second = (pairs.unit(op.id, values, symbolic=True) for values in steps)
                assert first.is_open
                assert tvm_ffi.structural_equal(first.module, second.module), op.id
                assert first.outputs != second.outputs, "they are those of the step"

    def test_shapes_that_the_model_never_has_get_a_unit_of_their_own(self, pairs):
        (x,) = pairs.graph.inputs
        output = pairs.graph["silu"].outputs[0]
        for shape, is_open in [((6, 8), True), ((6, 9), False), ((6, 8, 1), False)]:
            values = {x: torch.randn(shape), output: torch.randn(shape)}
            assert pairs.unit("silu", values, symbolic=True).is_open == is_open
            assert not pairs.unit("silu", values).is_open

    def test_what_is_fixed_stays_closed(self):
        program = import_torch(_Pairs().eval(), (torch.randn(4, 8),))
        assert not program.unit("silu", run(program), symbolic=True).is_open


class _Windows(nn.Module):
    """Two open sizes as one axis, which a linear layer reads and splits again."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(8, 8)

    def forward(self, x):
        batch, rows, columns, width = x.shape
        y = self.proj(x.reshape(batch * rows, columns, width) + 1)
        return y.view(batch, rows * columns, width).relu()


def test_products_of_open_sizes(kernel_cache):
    """No kernel yields them, so they are an operator of their own, on the host."""
    torch.manual_seed(0)
    batch, rows = torch.export.Dim("batch", min=2, max=16), torch.export.Dim("rows", min=2, max=16)
    steps = [(torch.randn(2, 3, 4, 8),), (torch.randn(5, 2, 4, 8),)]
    shapes = ({0: batch, 1: rows},)
    with tapml.debug(_Windows().eval(), steps, target="llvm", dynamic_shapes=shapes) as session:
        numbers = [op for op in session.graph.ops if op.host]
        assert {op.kind for op in numbers} >= {"python.mul", "aten.sym_size"}
        report = session.run()
        assert report.ok
        assert set(report.counts) == {Verdict.PASS, Verdict.SKIPPED}
        session.offload(lambda op: report.verdict(op.id) is Verdict.PASS)
        assert session.hybrid().info.outputs is Verdict.PASS
        session.override("proj/linear", lambda x, *rest: x * 0)
        assert [c.op for c in session.run().culprits] == ["proj/linear"]


def test_an_assertion_of_torch_exports_that_its_own_inputs_break(kernel_cache):
    """It bounds what ``masked_select`` yields by the size of one of its inputs."""

    class Select(nn.Module):
        def forward(self, x, mask):
            return (x * 2).masked_select(mask)

    torch.manual_seed(0)
    inputs = torch.randn(10, 1, 10), torch.rand(10, 10) > 0.2
    with tapml.debug(Select().eval(), inputs, target="llvm") as session:
        with pytest.warns(UserWarning, match="assertion of the exported program does not hold"):
            report = session.run()
        assert report.verdict("mul") is Verdict.PASS
        assert report.verdict("masked_select") is Verdict.PASS


@pytest.mark.parametrize(
    ("function", "inputs", "says"),
    [
        (torch.fft.fft, (torch.zeros(0, 6),), "fft_fft.*MKL"),
        (
            lambda x, mask: torch.ops.aten.index_put(x, [mask], x + 1),
            (torch.tensor(1.5), torch.tensor(True)),
            "index_put.*too many indices",
        ),
    ],
    ids=["fft of nothing", "index_put of a scalar by a mask"],
)
def test_what_torch_export_captures_and_pytorch_refuses(function, inputs, says, kernel_cache):
    class Refused(nn.Module):
        def forward(self, x, *rest):
            return function(x * 2, *rest)

    with tapml.debug(Refused().eval(), inputs, target="llvm") as session:
        with pytest.raises(FrontendError, match=f"PyTorch cannot run {says}"):
            session.run()


@pytest.mark.parametrize("places", [torch.tensor(2), torch.tensor([2, 0])])
def test_take_by_an_index_of_any_rank(places, kernel_cache):
    class Take(nn.Module):
        def forward(self, x, places):
            return torch.take(x, places)

    x = torch.arange(6.0).reshape(2, 3)
    with tapml.debug(Take().eval(), (x, places), target="llvm") as session:
        assert session.run().verdict("take") is Verdict.PASS
        session.override("take", lambda x, i: np.asarray(x.reshape(-1)[i] + 1))
        assert session.run().verdict("take") is Verdict.FAIL


def _views() -> dict[str, torch.Tensor]:
    base = torch.arange(64.0).reshape(4, 16)
    return {
        "contiguous": base,
        "transposed": base.t(),
        "sliced": base[1:, 3:9],
        "every other": base[:, ::2],
        "expanded": base[:, :1].expand(4, 5),
        "overlapping": base.reshape(-1).unfold(0, 8, 4),
        "nothing": base[:0],
        "a number": base[2, 3],
        "half": base.to(torch.bfloat16).t(),
        "boolean": (base > 7).t(),
    }


@pytest.mark.parametrize("name", _views())
def test_values_take_a_tensors_layout(name):
    program = import_torch(*two_layers())
    like = _views()[name]
    values = program.to_numpy(like).copy()
    found = program.from_array(values, like)
    assert torch.equal(found, like)
    if like.numel():
        assert found.stride() == like.stride()
        assert found.data_ptr() % 64 == like.data_ptr() % 64


def test_values_that_no_such_layout_holds():
    program = import_torch(*two_layers())
    like = torch.zeros(4, 1).expand(4, 5)
    values = np.arange(20, dtype=np.float32).reshape(4, 5)
    np.testing.assert_array_equal(program.from_array(values, like).numpy(), values)
    np.testing.assert_array_equal(program.from_array(values[:3], like).numpy(), values[:3])
