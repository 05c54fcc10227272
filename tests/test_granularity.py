"""One model at every granularity: the same verdicts, the same culprits, and a way between them."""

from __future__ import annotations

import functools
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
import tvm
import tvm_ffi
from torch import nn
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

import tapml_nb as tapml
from tapml_nb import FrontendError, SelectorError, Verdict
from tapml_nb.compile.compiler import Compiler
from tapml_nb.compile.fusion import decide
from tapml_nb.compile.lowering import relax_passes
from tapml_nb.frontends.program import Granularity
from tapml_nb.frontends.torch import import_torch
from tapml_nb.frontends.torch import program as torch_program
from tapml_nb.graph import select
from tests.models import two_layers

GOOD = {Verdict.PASS, Verdict.SKIPPED}


class Block(nn.Module):
    """One layer of a transformer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out_norm = nn.LayerNorm(width)
        self.up, self.act, self.down = (
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Linear(2 * width, width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        q, k, v = self.query(y), self.key(y), self.value(y)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        x = x + torch.softmax(scores, -1) @ v
        return x + self.down(self.act(self.up(self.out_norm(x))))


class Stack(nn.Module):
    """Five layers and a head."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(5))
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x).relu()


@functools.cache
def stack() -> tuple[torch.export.ExportedProgram, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    model = Stack().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(torch.randn_like(parameter) * parameter.shape[1] ** -0.5)
    inputs = (torch.randn(2, 12, 32),)
    return torch.export.export(model, inputs, strict=False), inputs


def one_element(importer, value):
    """1 % in one element."""
    factors = np.ones([int(n) for n in value.ty.shape], np.float32)
    factors[1, 5, 7] = 1.01
    return importer.block_builder.emit(relax.op.multiply(value, relax.const(factors)))


def scaled(importer, value):
    """0.1 % in all elements."""
    return importer.block_builder.emit(relax.op.multiply(value, relax.const(np.float32(1.001))))


def unscaled(importer, value):
    """A factor that is missing."""
    return importer.block_builder.emit(relax.op.multiply(value, relax.const(np.float32(32**0.5))))


def tail_lost(importer, value):
    """The last column is never computed."""
    factors = np.ones(int(value.ty.shape[-1]), np.float32)
    factors[-1] = 0.0
    return importer.block_builder.emit(relax.op.multiply(value, relax.const(factors)))


def shifted(importer, value):
    """A constant is added to all elements."""
    return importer.block_builder.emit(relax.op.add(value, relax.const(np.float32(1e-3))))


FAULTS = {
    "blocks.0.act/gelu": ("gelu.default", one_element),
    "blocks.1/softmax": ("_softmax.default", scaled),
    "blocks.2/mul": ("mul.Tensor", unscaled),
    "blocks.3.down/linear": ("addmm.default", tail_lost),
    "blocks.4.out_norm/layer_norm": ("native_layer_norm.default", shifted),
}
"""Operators whose conversion is wrong: the importer's rule, and what is done to its result."""


@pytest.fixture
def faults(monkeypatch):
    """TVM's importer with :data:`FAULTS`: in what it produces, so at every granularity."""
    rules = ExportedProgramImporter.create_convert_map

    def planted(self):
        table = dict(rules(self))
        for op, (rule, fault) in FAULTS.items():
            table[rule] = _broken(self, table[rule], op.partition("/")[0], fault)
        return table

    monkeypatch.setattr(ExportedProgramImporter, "create_convert_map", planted)
    # Unlike any real rule these look at where a call stands, so equal calls are none.
    monkeypatch.setattr(torch_program, "recipe_of", lambda *_: None)


def _broken(importer, rule, scope, fault):
    def convert(node):
        result = rule(node)
        path, _ = list(node.meta["nn_module_stack"].values())[-1]
        if path != scope:
            return result
        if isinstance(result.ty, relax.TupleType):
            first = importer.block_builder.emit(relax.TupleGetItem(result, 0))
            return relax.Tuple([fault(importer, first)])
        return fault(importer, result)

    return convert


def names(report) -> set[str]:
    """The culprits, as the calls that they are or hold."""
    return {culprit.op for culprit in report.culprits}


@pytest.mark.usefixtures("faults")
class TestFaults:
    """Five faults in what TVM's importer makes of a model, seen at every granularity."""

    def test_operators(self):
        with tapml.debug(*stack()) as session:
            assert names(session.run()) == set(FAULTS)

    @pytest.mark.parametrize("level", ["fused", "module", "module:2"])
    def test_coarser_ones_hold_the_same_operators(self, level):
        with tapml.debug(*stack(), granularity=level) as session:
            report = session.run()
            found = [
                [fault for fault in FAULTS if fault in {m.op for m in session.graph[name].members}]
                for name in names(report)
            ]
            assert sorted(found) == sorted([fault] for fault in FAULTS)
            opened = [names(report.drill(name)) for name in names(report)]
            assert sorted(map(sorted, opened)) == sorted([fault] for fault in FAULTS)
            good = next(op.id for op in session.graph.ops if op.id not in names(report))
            bad = report.culprits[0].op
            assert session.localize(ops=[good, bad]).culprits == [frozenset({bad})]


class TestHonest:
    """Kernels without a fault pass, however much one operator holds."""

    @pytest.mark.parametrize("level", ["fused", "module:2"])
    def test_all_pass_and_move(self, level):
        with tapml.debug(*stack(), granularity=level) as session:
            report = session.run()
            assert set(report.counts) <= GOOD
            assert all(result.ratio <= 1 for result in report.introduced.values())
            migration = session.migrate()
            assert migration.offloaded == [op.id for op in session.graph.ops]
            assert session.report.ok


def deployed(exported, target) -> Counter[int]:
    """The PrimFuncs that a whole model calls when TVM compiles it, by their structure."""
    module = from_exported_program(exported, keep_params_as_input=True)
    return called(module, target)


def called(module, target) -> Counter[int]:
    with target:
        module = tvm.transform.Sequential(relax_passes(target))(module)
    found: Counter[int] = Counter()
    for block in module["main"].body.blocks:
        for binding in block.bindings:
            value = binding.value
            if isinstance(value, relax.Call) and value.op.name == "relax.call_tir":
                function = module[value.args[0]].without_attr("global_symbol")
                found[tvm_ffi.structural_hash(function, map_free_vars=True)] += 1
    return found


class Convolutions(nn.Module):
    """Fusion across convolution and normalization, several results of one call, a join."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = torch.relu(self.norm(self.conv(x))).chunk(2, dim=1)
        joined = torch.cat([left * torch.sigmoid(right), right], 1)
        values, _ = torch.topk(self.head(joined.mean((2, 3))), 2)
        return values


class TestFused:
    @pytest.mark.parametrize(
        ("model", "shape"),
        [(Stack(), (2, 12, 32)), (Convolutions(), (2, 3, 8, 8))],
        ids=["transformer", "convolutions"],
    )
    def test_every_kernel_is_one_that_is_deployed(self, model, shape):
        target = tvm.target.Target("llvm")
        inputs = (torch.randn(shape),)
        exported = torch.export.export(model.eval(), inputs, strict=False).run_decompositions()
        program = import_torch(exported, inputs).at(
            Granularity("fused"), lambda module: decide(module, target)
        )
        values = program.bind(0, {})
        kernels: Counter[int] = Counter()
        for op in program.graph.ops:
            values.update(zip(op.outputs, program.run(op.id, values), strict=True))
            kernels += called(program.unit(op.id, values).module, target)
        assert kernels == deployed(exported, target)
        assert any(len(op.members) > 1 for op in program.graph.ops)

    def test_what_cannot_be_converted_is_alone(self):
        with tapml.debug(Histogram().eval(), (torch.rand(16),), granularity="fused") as session:
            report = session.run()
            verdicts = {op.id: report.verdict(op.id) for op in session.graph.ops}
        assert verdicts.pop("histogram") is Verdict.UNSUPPORTED
        assert "exp+mul" in verdicts
        assert set(verdicts.values()) <= GOOD

    def test_a_pipeline_that_fails_as_a_whole_says_so(self):
        compiler = Compiler(tvm.target.Target("llvm"))
        try:
            with pytest.raises(FrontendError, match="cannot fuse the model as a whole"):
                compiler.fusion(tvm.IRModule({}))
        finally:
            compiler.close()

    def test_steps_of_different_lengths(self):
        class Scaled(nn.Module):
            def forward(self, x):
                y = torch.exp(x).reshape(x.shape[0] * 2, 4)
                return (y * torch.sigmoid(y)).reshape(x.shape[0], 8) / x.shape[0]

        steps = [(torch.randn(3, 8),), (torch.randn(5, 8),)]
        shapes = ({0: torch.export.Dim("n", min=2, max=32)},)
        with tapml.debug(
            Scaled().eval(), steps, granularity="fused", dynamic_shapes=shapes
        ) as session:
            report = session.run()
        assert set(report.counts) <= GOOD
        assert len(report.introduced) == 2 * len(report.graph)


class Histogram(nn.Module):
    """A call that nobody has a rule for, between others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.exp(x) * 2
        return (torch.histogram(y, 16)[0] + 1) * torch.relu(y)


class Shared(nn.Module):
    """A module that is called twice, and a list of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Sequential(nn.Linear(4, 4), nn.GELU())
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.same(self.same(x) + 1)
        for layer in self.layers:
            x = layer(x)
        return x


class TestModules:
    @pytest.fixture
    def shared(self):
        program = import_torch(Shared().eval(), (torch.randn(2, 4),))
        return lambda text: program.at(Granularity.parse(text), None).graph

    def test_every_call_of_an_innermost_module_is_one(self, shared):
        ids = [op.id for op in shared("module").ops]
        assert ids == [
            *("same.0/linear", "same.1/gelu", "add", "same.0/linear_1", "same.1/gelu_1"),
            *("layers.0", "layers.1"),
        ]

    def test_a_depth(self, shared):
        graph = shared("module:1")
        assert [op.id for op in graph.ops] == [
            *("same/linear+gelu", "add", "same/linear+gelu_1", "layers"),
        ]
        assert [m.op for m in graph["layers"].members] == ["layers.0/linear", "layers.1/linear"]

    def test_a_module_is_named_and_found_by_path_and_class(self):
        graph = import_torch(*two_layers()).at(Granularity("module"), None).graph
        assert [(op.id, op.kind) for op in graph.ops] == [
            ("first", "nn.Linear"),
            ("act", "nn.SiLU"),
            ("second", "nn.Linear"),
        ]
        assert select(graph, "kind=Linear") == ["first", "second"]
        assert graph["first"].source.line > 0

    def test_calls_are_found_by_each_of_their_kinds(self, shared):
        graph = shared("module:1")
        for kind in ("gelu", "aten.gelu", "kind=linear+gelu"):
            assert select(graph, kind) == ["same/linear+gelu", "same/linear+gelu_1"]

    def test_a_buffer_that_a_step_changes(self):
        class Counter(nn.Module):
            total: torch.Tensor

            def __init__(self):
                super().__init__()
                self.register_buffer("total", torch.zeros(2))

            def forward(self, x):
                self.total.add_(x)
                return self.total * 2

        steps = [(torch.ones(2),), (torch.full((2,), 3.0),)]
        with tapml.debug(Counter().eval(), steps, granularity="module") as session:
            assert len(session.graph) == 1
            assert set(session.run().counts) == {Verdict.PASS}
            assert session.tensor("add_+mul", step=1, output=1).tolist() == [8.0, 8.0]


@pytest.fixture(scope="module")
def session():
    with tapml.debug(*two_layers(), granularity="fused") as session:
        session.run()
        yield session


class TestOneSession:
    def test_members(self, session):
        fused = session.graph["addmm+silu"]
        assert [m.op for m in fused.members] == ["first/linear", "act/silu"]
        assert fused.kind == "aten.addmm+aten.silu"

    def test_an_override_is_of_the_whole_operator(self, session):
        (op,) = (op for op in session.graph.ops if op.id == "addmm+silu")
        shapes = [session.graph.values[v].spec.shape for v in op.inputs]

        def wrong(*arrays):
            bias, x, w = (arrays[shapes.index(shape)] for shape in ((16,), (3, 8), (8, 16)))
            y = x @ w + bias
            return (y / (1 + np.exp(-y)) * 1.001).astype(np.float32)

        session.override(op.id, wrong)
        report = session.run()
        inside = report.drill(op.id)
        session.override(op.id, None)
        assert names(report) == {op.id}
        assert inside.ok

    def test_carved_tests_replay(self, session, tmp_path):
        report = session.run()
        bundle = session.carve(tmp_path / "fused.tapml")
        replayed = bundle.replay("llvm")
        assert replayed.graph["addmm+silu"].members == session.graph["addmm+silu"].members
        for op in session.graph.ops:
            before, after = report.introduced[op.id, 0], replayed.introduced[op.id, 0]
            assert (after.verdict, after.floor) == (before.verdict, before.floor)
        with pytest.raises(RuntimeError, match="no session is behind this report"):
            replayed.drill("addmm+silu")

    def test_the_operators_inside_are_those_of_operator_granularity(self, session):
        told: list[object] = []
        unsubscribe = session.on("Event", lambda event: told.append(type(event).__name__))
        inside = session.report.drill("addmm+silu")
        unsubscribe()
        assert {"RunStarted", "RunProgress", "RunFinished"} == set(told), "but no results"
        assert [op.id for op in inside.graph.ops] == ["first/linear", "act/silu"]
        assert set(inside.counts) == {Verdict.PASS}
        with pytest.raises(ValueError, match=r"first/linear is one ATen call"):
            inside.drill("first/linear")
        with pytest.raises(SelectorError, match="names 4 operators"):
            session.report.drill("*")


def test_a_kind_of_many_calls_leaves_a_figure_room(tmp_path):
    class Many(nn.Module):
        def forward(self, x):
            for name in ("exp", "sin", "cos", "tanh", "sigmoid", "abs"):
                x = getattr(torch, name)(x)
            for name in ("neg", "floor", "ceil", "relu", "sqrt", "erf"):
                x = getattr(torch, name)(x)
            return x

    with tapml.debug(Many().eval(), (torch.randn(2, 4),), granularity="module") as session:
        report = session.run()
    assert len(report.graph.ops[0].kind) > 100
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report.to_html(tmp_path / "report.html")


def test_a_report_that_outlives_its_session_says_so():
    with tapml.debug(*two_layers(), granularity="module") as session:
        report = session.report
    with pytest.raises(RuntimeError, match="closed"):
        report.drill("act")


@pytest.mark.parametrize("text", ["layer", "module:0", "fused:2", "", None])
def test_an_unknown_granularity(text):
    with pytest.raises(ValueError, match=r"granularity: .*'operator', 'fused', 'module'"):
        tapml.debug(*two_layers(), granularity=text)


def test_a_depth_that_no_module_has():
    with pytest.raises(ValueError, match=r"'module:3' matches nothing.*has 1 component"):
        tapml.debug(*two_layers(), granularity="module:3")
