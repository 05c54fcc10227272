"""Operators that draw random numbers: the source differs from itself, so nobody can be judged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch._higher_order_ops.while_loop import while_loop

import tapml_nb as tapml
from tapml_nb import Verdict
from tapml_nb.frontends.onnx.subgraphs import draws
from tapml_nb.frontends.torch.program import import_torch


class Bare(nn.Module):
    """A function as it is."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Around(nn.Module):
    """A function between two layers."""

    def __init__(self, function):
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)
        self.function = function

    def forward(self, x):
        return self.last(self.function(self.first(x)).to(x.dtype).reshape(-1, 8))


def attention(x, dropout):
    x = x[None, None]
    return F.scaled_dot_product_attention(x, x, x, dropout_p=dropout)


RANDOM = {
    "dropout": lambda x: F.dropout(x, 0.5),
    "rare dropout": lambda x: F.dropout(x, 0.001),
    "dropout2d": lambda x: F.dropout2d(x[None, :, :, None], 0.5, True),
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.5, True),
    "rand_like": lambda x: x + torch.rand_like(x),
    "randn": lambda x: x * torch.randn(4, 8),
    "randn_like": lambda x: torch.randn_like(x),
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()),
    "one bernoulli": lambda x: x * torch.bernoulli(torch.tensor(0.5)),
    "multinomial": lambda x: x[:, torch.multinomial(x.exp(), 4)[0]].reshape(-1, 8),
    "randperm": lambda x: x[:, torch.randperm(8)],
    "exponential": lambda x: torch.empty_like(x).exponential_(),
    "rrelu": lambda x: F.rrelu(x, training=True),
    "gumbel": lambda x: F.gumbel_softmax(x),
    "attention": lambda x: attention(x, 0.5),
    "branch": lambda x: torch.cond(x.sum() > 9e9, torch.sin, lambda x: F.dropout(x, 0.5), (x,)),
}

HONEST = {
    "dropout that is off": lambda x: F.dropout(x, 0.5, False).tanh(),
    "dropout of nothing": lambda x: F.dropout(x, 0.0, True).tanh(),
    "attention": lambda x: attention(x, 0.0),
}

DRAWS = {
    "dropout1d": lambda x: F.dropout1d(x[None], 0.5),
    "dropout3d": lambda x: F.dropout3d(x[None, :, :, None, None], 0.001),
    "feature_alpha_dropout": lambda x: F.feature_alpha_dropout(x, 0.5, True),
    "native_dropout": lambda x: torch.native_dropout(x, 0.5, None)[0],
    "rand": lambda x: torch.rand(3),
    "randint": lambda x: torch.randint(0, 5, (3,)),
    "randint_like": lambda x: torch.randint_like(x, 5),
    "normal": lambda x: torch.normal(x, x.abs()),
    "normal_": lambda x: x.clone().normal_(),
    "uniform_": lambda x: x.clone().uniform_(),
    "random_": lambda x: x.clone().random_(),
    "cauchy_": lambda x: x.clone().cauchy_(),
    "geometric_": lambda x: x.clone().geometric_(0.5),
    "log_normal_": lambda x: x.clone().log_normal_(),
    "bernoulli_": lambda x: x.clone().bernoulli_(0.5),
    "bernoulli_ by chances": lambda x: x.clone().bernoulli_(x.sigmoid()),
    "poisson": lambda x: torch.poisson(x.exp()),
    "binomial": lambda x: torch.binomial(x.abs(), x.sigmoid()),
    "gamma": lambda x: torch._standard_gamma(x.exp()),
    "dirichlet": lambda x: torch._sample_dirichlet(x.exp()),
    "fractional_max_pool2d": lambda x: F.fractional_max_pool2d(x[None], 2, (2, 3)),
    "svd_lowrank": lambda x: torch.svd_lowrank(x)[1],
    "loop": lambda x: while_loop(
        lambda i, x: i < 2, lambda i, x: (i + 1, F.dropout(x, 0.5)), (torch.tensor(0), x)
    )[1],
}

CERTAIN = {
    "dropout of all": lambda x: F.dropout(x, 1.0),
    "dropout of whole channels": lambda x: F.dropout2d(x[None, :, :, None], 1.0),
    "dropout of no element": lambda x: F.dropout(x[:0], 0.5),
    "alpha_dropout of nothing": lambda x: F.alpha_dropout(x.sin(), 0.0, True),
    "native_dropout that is off": lambda x: torch.native_dropout(x, 0.5, False)[0],
    "rrelu that is off": lambda x: F.rrelu(x),
    "bernoulli of a truth value": lambda x: torch.bernoulli((x > 0).float()),
    "bernoulli_ of truth values": lambda x: x.clone().bernoulli_((x > 0).float()),
    "bernoulli_ of nothing": lambda x: x.clone().bernoulli_(0.0),
    "attention": lambda x: attention(x, 0.0),
    "samples that are given": lambda x: F.fractional_max_pool2d(
        x[None], 2, (2, 3), _random_samples=torch.full((1, 1, 2), 0.5)
    ),
    "branch": lambda x: torch.cond(x.sum() > 0, torch.sin, lambda x: F.dropout(x, 0.0), (x,)),
}


def draws_in(function):
    """Which of a function's operators draw random numbers, by PyTorch's own word."""
    torch.manual_seed(0)
    program = import_torch(Bare(function).eval(), (torch.randn(4, 8),))
    values = program.bind(0, {})
    for op in program.graph.ops:
        if program.draws(op.id, values):
            yield op.id
        values.update(zip(op.outputs, program.run(op.id, values), strict=True))


@pytest.mark.parametrize("name", DRAWS)
def test_what_draws(name):
    """Every kind of operator with PyTorch's tag, whatever little it happened to draw."""
    assert len(list(draws_in(DRAWS[name]))) == 1


@pytest.mark.parametrize("name", CERTAIN)
def test_what_leaves_nothing_to_chance(name):
    assert not list(draws_in(CERTAIN[name]))


def session_of(function, **options):
    torch.manual_seed(0)
    return tapml.debug(Around(function).eval(), (torch.randn(4, 8),), **options)


@pytest.mark.parametrize("name", RANDOM)
def test_the_source_is_random(name):
    with session_of(RANDOM[name]) as session:
        report = session.run()
        random = [op for op in session.graph.ops if report.verdict(op.id) is Verdict.UNSUPPORTED]
        assert len(random) == 1
        assert "the source itself is random" in report.introduced[random[0].id, 0].message
        others = [op.id for op in session.graph.ops if op is not random[0]]
        assert {report.verdict(op) for op in others} <= {Verdict.PASS, Verdict.SKIPPED}
        # The source draws the same numbers in a hybrid run, whatever it draws them for.
        moved = session.offload("*")
        assert random[0].id not in moved
        report = session.hybrid()
        assert report.info.outputs is Verdict.PASS
        assert report.info.unobserved.same
        assert {r.verdict for r in report.accumulated.values()} == {Verdict.PASS}


@pytest.mark.parametrize("name", HONEST)
def test_what_only_might_be_random_is_judged(name):
    with session_of(HONEST[name]) as session:
        report = session.run()
        assert {report.verdict(op.id) for op in session.graph.ops} <= {
            Verdict.PASS,
            Verdict.SKIPPED,
        }
        session.offload("*")
        assert session.hybrid().info.outputs is Verdict.PASS


@pytest.mark.parametrize(
    ("function", "verdict", "message"),
    [
        (lambda x: F.dropout(x, 1.0), Verdict.FAIL, "source 0.0"),  # the importer drops it
        (lambda x: torch.bernoulli((x > 0).float()), Verdict.UNSUPPORTED, "no rule for aten.rand"),
        (lambda x: F.rrelu(x, training=False), Verdict.PASS, ""),
    ],
    ids=["all is dropped", "probabilities of 0 and 1", "off"],
)
def test_a_draw_without_chance(function, verdict, message):
    """The result is the same each time, whatever is drawn for it."""
    with session_of(function) as session:
        found = [r.message for r in session.run().introduced.values() if r.verdict is verdict]
        assert any(message in words for words in found)


def test_one_module_that_trains(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8)).eval()
    model[1].train()
    steps = [(torch.randn(4, 8),) for _ in range(2)]
    with tapml.debug(model, steps) as session:
        report = session.run()
        assert report.verdict("1/dropout") is Verdict.UNSUPPORTED
        assert report.culprits == []
        # A kernel of the user's cannot be judged either.
        session.override("1/dropout", lambda x: x * 2)
        assert session.run("1/dropout").verdict("1/dropout") is Verdict.UNSUPPORTED
        migration = session.migrate()
        assert "1/dropout" in migration.quarantined
        assert session.report.info.outputs is Verdict.PASS
        bundle = session.carve(tmp_path / "dropout.tapml")
    replayed = bundle.replay()
    assert replayed.verdict("1/dropout") is Verdict.UNSUPPORTED
    assert replayed.culprits == []


@pytest.mark.parametrize("where", ["0/linear", "2/linear"])
def test_a_fault_beside_a_random_operator(where):
    """Before it or behind it: a wrong kernel is found, alone and in the model."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8)).eval()
    model[1].train()
    with tapml.debug(model, (torch.randn(4, 8),)) as session:
        session.override(where, lambda *tensors: np.full((4, 8), 0.5, np.float32))
        report = session.run()
        assert [culprit.op for culprit in report.culprits] == [where]
        session.offload("*")
        assert session.hybrid().info.outputs is not Verdict.PASS


@pytest.mark.parametrize("granularity", ["fused", "module"])
def test_in_coarse_operators(granularity):
    with session_of(RANDOM["dropout"], granularity=granularity) as session:
        report = session.run()
        assert report.counts[Verdict.UNSUPPORTED] == 1
        assert report.culprits == []
        session.offload("*")
        assert session.hybrid().info.outputs is Verdict.PASS


@pytest.mark.parametrize(("training", "ratio"), [(True, 0.5), (True, 0.0), (False, 0.5)])
def test_onnx(training, ratio):
    constants = {"ratio": np.float32(ratio), "training": np.bool_(training)}
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 8]) for name in "xy"]
    nodes = [
        helper.make_node("Tanh", ["x"], ["a"]),
        helper.make_node("Dropout", ["a", "ratio", "training"], ["b"]),
        helper.make_node("RandomNormalLike", ["b"], ["c"]),
        helper.make_node("Add", ["b", "c"], ["y"]),
    ]
    initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    x = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    with tapml.debug(model, (x,)) as session:
        report = session.run()
        dropout = report.verdict("Dropout")
        assert (dropout is Verdict.UNSUPPORTED) is (training and ratio > 0)
        assert report.verdict("RandomNormalLike") is Verdict.UNSUPPORTED
        assert report.verdict("Tanh") is report.verdict("Add") is Verdict.PASS
        session.offload("*")
        assert session.hybrid().info.outputs is Verdict.PASS
    assert dropout in (Verdict.UNSUPPORTED, Verdict.PASS, Verdict.SKIPPED)


@pytest.mark.parametrize(
    ("kind", "inputs", "random"),
    [
        ("Bernoulli", [[0.5, 1.0]], True),
        ("Bernoulli", [[0.0, 1.0]], False),
        ("Dropout", [[1.0], 0.5, True], True),
        ("Dropout", [[1.0], 0.0, True], False),
        ("Dropout", [[1.0], 0.5, False], False),
        ("Dropout", [[1.0], 0.5], False),
        ("RandomUniformLike", [[1.0]], True),
        ("Tanh", [[1.0]], False),
    ],
)
def test_what_draws_in_onnx(kind, inputs, random):
    values = {f"i{k}": np.asarray(value) for k, value in enumerate(inputs)}
    node = helper.make_node(kind, list(values), ["y"])
    assert draws(node, values) is random


@pytest.mark.parametrize(("kind", "random"), [("RandomUniformLike", True), ("Tanh", False)])
def test_what_draws_in_a_branch_in_onnx(kind, random):
    body = helper.make_graph([helper.make_node(kind, ["x"], ["y"])], "body", [], [])
    node = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    assert draws(node, {}) is random
