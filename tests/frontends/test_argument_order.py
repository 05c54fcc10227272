"""An operator's inputs stand in the order of the ATen call that people wrote.

What such a call yields when it is given an operator's inputs in their order is what the operator
yields; a call that has them turned around yields something else.
"""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import tapml_nb as tapml
from tapml_nb.frontends.torch import import_torch
from tapml_nb.frontends.torch.grouping import arguments, origin
from tapml_nb.judge.verdict import Verdict
from tapml_nb.widgets.kernel_text import kernel_from_text
from tests.frontends.test_torch import run
from tests.models import llama


def normal(*shape):
    return torch.from_numpy(np.random.default_rng(len(shape)).normal(size=shape)).float()


class Call(nn.Module):
    """A function as a model."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def turned(function, *inputs, beside=()):
    """The operators that read their inputs in another order than their calls have them, but for
    calls ``beside``: those that write through a view are operators of what it is a view of."""
    model = function if isinstance(function, nn.Module) else Call(function)
    exported = torch.export.export(model.eval(), inputs, strict=False)
    calls = {node.name: node for node in exported.graph.nodes}
    program = import_torch(exported, inputs)
    values = run(program)
    found = []
    for op in program.graph.ops:
        call = calls[origin(program._grouped.ops[op.id].nodes[-1])]
        if call.name in beside or op.host or not isinstance(call.target, torch._ops.OpOverload):
            continue
        results = called(call, [values[v].clone() for v in op.inputs])
        # Of several results there are those that somebody reads.
        if not all(any(map(partial(same, values[v]), results)) for v in op.outputs):
            found.append(op.id)
    return found


def same(one, other):
    return one.shape == other.shape and one.dtype == other.dtype and torch.allclose(one, other)


def called(call, tensors):
    """What a call yields on these tensors: each in the place of one that it was written with."""
    places: dict[fx.Node, int] = {}
    fx.node.map_arg(tuple(arguments(call).values()), lambda n: places.setdefault(n, len(places)))
    schema = call.target._schema.arguments
    named = dict(fx.node.map_arg(arguments(call), lambda node: tensors[places[node]]))
    keywords = {p.name: named.pop(p.name) for p in schema if p.kwarg_only}
    result = call.target(*named.values(), **keywords)
    return [result] if isinstance(result, torch.Tensor) else list(result)


def written_through_a_view(x, y):
    z = x.clone()
    z[:2].mul_(y[2:])
    return torch.rsub(z, y)


def kept_in_one_tensor(write):
    """Two views of one tensor that are written to, as keys and values of a cache are."""

    def read(x, y):
        both = torch.stack([x, y]).clone()
        keys, values = both[0], both[1]
        write(keys, y)
        write(values, x)
        once, again = torch.rsub(values, keys), torch.rsub(keys, values)
        return once, again, F.linear(keys, values)

    return read


def by_slices(cache, x):
    cache[1:2] = x[:1]


def by_index(cache, x):
    cache.index_copy_(0, torch.tensor([1]), x[:1])


SQUARE = normal(4, 4), normal(4, 4) * 2, normal(4)
X, Y, Z = normal(4, 4), normal(4, 4) * 2, normal(4, 4) - 1

CALLS = {
    "linear": (F.linear, *SQUARE),
    "linear by name": (lambda x, w, b: F.linear(bias=b, weight=w, input=x), *SQUARE),
    "linear without bias": (F.linear, X, Y),
    "bilinear": (F.bilinear, X, Y, normal(4, 4, 4), SQUARE[2]),
    "conv": (F.conv2d, normal(1, 3, 3, 3), normal(3, 3, 3, 3), normal(3)),
    "conv transposed": (F.conv_transpose1d, normal(3, 3, 3), normal(3, 3, 3) * 2, normal(3)),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (4,), bias=b, weight=w), X, *normal(2, 4)),
    "layer_norm without weight": (lambda x, b: F.layer_norm(x, (4,), None, b), X, normal(4)),
    "group_norm": (lambda x, w, b: F.group_norm(x, 2, w, b), normal(2, 4, 3), *normal(2, 4)),
    "rms_norm": (lambda x, w: F.rms_norm(x, (4,), w), X, normal(4)),
    "batch_norm": (lambda x, m, v, w, b: F.batch_norm(x, m, v.abs(), w, b), X, *normal(4, 4)),
    "addmm": (lambda a, x, y: torch.addmm(a, x, y, beta=2), X, Y, Z),
    "baddbmm": (torch.baddbmm, normal(2, 3, 3), normal(2, 3, 3) * 2, normal(2, 3, 3) - 1),
    "addcdiv": (lambda a, x, y: torch.addcdiv(a, x, y, value=3), X, Y, Z),
    "matmul": (torch.matmul, X, Y),
    "einsum": (lambda x, y: torch.einsum("ij,jk->ki", x, y), X, Y),
    "where": (lambda x, y: torch.where(x > 0, y, x), X, Y),
    "sub": (torch.sub, X, Y),
    "rsub": (torch.rsub, X, Y),
    "rsub of a sub": (lambda x, y, z: torch.rsub(x, torch.sub(y, z)), X, Y, Z),
    "lerp": (torch.lerp, X, Y, Z),
    "a tensor twice": (lambda x, y: torch.addmm(x, y, x), X, Y),
    "attention": (
        lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, mask),
        *(normal(1, 2, 4, 4) * k for k in (1, 2, 3)),
        normal(1, 1, 4, 4),
    ),
    "embedding": (F.embedding, torch.tensor([1, 0, 3]), X),
    "index": (lambda x, i, j: x[i, j], X, torch.tensor([1, 0]), torch.tensor([3, 2])),
    "index_put": (
        lambda x, i, j, y: torch.index_put(x, (i, j), y),
        X,
        torch.tensor([1, 0]),
        torch.tensor([3, 2]),
        normal(2),
    ),
    "index_put after nothing": (
        lambda x, i, y: torch.ops.aten.index_put(x, [None, i], y),
        X,
        torch.tensor([1, 0]),
        normal(4, 2),
    ),
    "cat": (lambda x, y, z: torch.cat([z, x, y], 1), X, Y, Z),
    "stack": (lambda x, y: torch.stack([y, x]), X, Y),
    "clamp": (lambda x, low, high: torch.clamp(x, max=high, min=low), X, Y, Z),
    "clamp from above": (lambda x, high: torch.clamp(x, max=high), X, Y),
    "results of one call": (lambda x: torch.sub(*x.chunk(2, 1)[::-1]), X),
    "results of one that leaves no tuple": (lambda x: torch.sub(*x.unbind(1)[2:0:-1]), X),
    "sorted": (lambda x: torch.gather(*(lambda s: (s[0], 1, s[1]))(x.sort(1))), X),
    "what changes nothing": (lambda x, y: torch.rsub(x.to(torch.float32), y.detach()), X, Y),
    "dropout": (lambda x, y: torch.rsub(F.dropout(x, training=False), y), X, Y),
    "lifted": (lambda x: torch.rsub(torch.tensor([1.0, 2.0, 3.0, 4.0]), x), X),
    "what was written in place": (lambda x, y: torch.rsub(x.clone().mul_(y), y), X, Y),
    "what was written through a view": (written_through_a_view, X, Y),
    "several calls": (lambda x, y, z: torch.rsub(torch.rsub(x, y), torch.rsub(y, z)), X, Y, Z),
}


@pytest.mark.parametrize("write", [by_slices, by_index])
def test_views_of_what_was_written(write):
    """What is viewed once more stands where its view stood, and the whole in the other's place."""
    program = import_torch(Call(kept_in_one_tensor(write)).eval(), (X, Y))
    found = run(program)
    keys, values = X.clone(), Y.clone()
    write(keys, Y)
    write(values, X)
    called = {"keys": keys, "values": values, "both": torch.stack([keys, values])}
    shown = {
        op.id: [next(n for n, t in called.items() if same(t, found[v])) for v in op.inputs]
        for op in program.graph.ops
        if op.kind in ("aten.rsub", "aten.linear")
    }
    assert shown["rsub_1"] == ["keys", "values"]
    assert shown["linear"] == ["keys", "both"]


@pytest.mark.parametrize("case", CALLS)
def test_a_call(case):
    assert turned(*CALLS[case], beside=["mul_"]) == []


def test_a_whole_model():
    model, inputs = llama(layers=1)
    exported = torch.export.export(model, inputs, strict=False)
    program = import_torch(exported, inputs)
    linears = [op for op in program.graph.ops if op.kind == "aten.linear"]
    assert len(linears) == 8
    for op in linears:
        (*_, x, weight) = op.inputs
        assert program.graph.values[weight].role == "parameter"
        assert program.graph.values[x].role == "operator"


class Net(nn.Module):
    """Calls whose inputs have one shape: nothing tells them apart but their order."""

    table: torch.Tensor

    def __init__(self):
        super().__init__()
        self.square = nn.Linear(8, 8)
        self.register_buffer("table", normal(8, 8))

    def forward(self, x, y):
        a = torch.sub(self.square(x), y)
        b = torch.rsub(a, self.table)
        c = torch.addmm(a, b, y)
        d = F.scaled_dot_product_attention(a[None, None], b[None, None], c[None, None])
        e = torch.baddbmm(a[None], b[None], c[None])
        f = torch.where(a > 0, b, c)
        return d, e, torch.cat([f, a, c])


def attention(query, key, value):
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(8)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True) @ value


HONEST = {
    "square/linear": lambda input, weight, bias: input @ weight.T + bias,
    "sub": lambda input, other: input - other,
    "rsub": lambda input, other: other - input,
    "addmm": lambda input, mat1, mat2: input + mat1 @ mat2,
    "scaled_dot_product_attention": attention,
    "baddbmm": lambda input, batch1, batch2: input + batch1 @ batch2,
    "where": lambda condition, input, other: np.where(condition, input, other),
    "cat": lambda *tensors: np.concatenate(tensors),
}


def wrong(kernel, op):
    """The same with two inputs in each other's place: of ``where`` what it chooses from."""
    if op == "where":
        return lambda condition, one, two: kernel(condition, two, one)
    return lambda one, two, *rest: kernel(two, one, *rest)


class TestKernels:
    """Whatever stands in an operator's place gets its inputs in that order."""

    @pytest.fixture(scope="class")
    @classmethod
    def session(cls, kernel_cache):
        torch.manual_seed(0)
        with tapml.debug(Net().eval(), (normal(8, 8), normal(8, 8) * 2), target="llvm") as session:
            yield session

    @pytest.fixture(autouse=True)
    def as_it_was(self, session):
        yield
        for op in list(session.overrides):
            session.override(op, None)

    def test_of_tvms(self, session):
        report = session.run()
        assert report.culprits == []
        assert {report.verdict(op) for op in HONEST} == {Verdict.PASS}

    def test_of_the_users(self, session):
        for op, kernel in HONEST.items():
            session.override(op, kernel)
        report = session.run()
        assert report.culprits == []
        assert {report.verdict(op) for op in HONEST} == {Verdict.PASS}

    def test_of_the_users_that_are_wrong(self, session):
        for op, kernel in HONEST.items():
            session.override(op, wrong(kernel, op))
        assert {c.op for c in session.run().culprits} == HONEST.keys()

    @pytest.mark.parametrize("op", ["sub", "rsub", "where"])
    def test_its_own_tir(self, session, op):
        """A kernel that is one PrimFunc can be taken, changed, and put in the operator's place."""
        session.override(op, kernel_from_text(session.code(op).tir))
        assert session.run(op).verdict(op) is Verdict.PASS

    def test_in_another_process(self, session, tmp_path):
        report = session.run()
        bundle = session.carve(tmp_path / "net.tapml")
        for test in bundle:
            for array, own in zip(test.inputs, session.inputs(test.op), strict=True):
                np.testing.assert_array_equal(array, own)
        assert report.diff(bundle.replay()).empty
        bundle.close()

    def test_inputs_are_shown_in_it(self, session):
        x, y = normal(8, 8), normal(8, 8) * 2
        given, weight, bias = session.inputs("square/linear")
        np.testing.assert_array_equal(given, x)
        expected = x.numpy() @ weight.T + bias
        np.testing.assert_allclose(session.tensor("square/linear"), expected, rtol=1e-5)
        np.testing.assert_array_equal(session.inputs("sub")[1], y)


def test_calls_that_are_one_operator_follow_each_other():
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Parameter(normal(8, 8)), nn.Parameter(normal(8, 8))

        def forward(self, x, y):
            return torch.rsub(torch.rsub(y, self.first), F.linear(x, self.second))

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def forward(self, x, y):
            return self.inner(x + 1, y + 1)

    def kernel(y, first, x, second):
        return x @ second.T - (first - y)

    inputs = normal(8, 8), normal(8, 8) * 2
    with tapml.debug(Outer().eval(), inputs, target="llvm", granularity="module") as session:
        assert session.graph["inner"].inputs == ("add_1", "p_inner_first", "add", "p_inner_second")
        assert session.run().culprits == []
        session.override("inner", kernel)
        assert session.run("inner").verdict("inner") is Verdict.PASS
        session.override("inner", lambda y, first, x, second: kernel(x, first, y, second))
        assert [c.op for c in session.run("inner").culprits] == ["inner"]
