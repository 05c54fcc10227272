"""Weights and inputs that change while a session has results of what they were.

Whatever happens then, a good kernel is never blamed, and no bundle contradicts itself.
"""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch
from torch import nn

import tapml_nb as tapml
from tapml_nb import Bundle, ModelChanged, Verdict
from tests.models import TwoLayers


class Net(nn.Module):
    """Linear layers around an activation, a buffer, and an operator that is a view of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.act = nn.SiLU()
        self.second = nn.Linear(16, 4)
        self.register_buffer("shift", torch.randn(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.act(self.first(x.transpose(0, 1)) + self.shift)
        return self.second(hidden)


def made():
    torch.manual_seed(0)
    array = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    return Net().eval(), array


def in_place(model, array, x):
    with torch.no_grad():
        model.second.weight.mul_(3)


def one_element(model, array, x):
    with torch.no_grad():
        model.second.weight[1, 2] += 1


def optimizer(model, array, x):
    model(torch.from_numpy(array).clone()).sum().backward()
    torch.optim.AdamW(model.second.parameters(), lr=0.5).step()


def behind_the_version(model, array, x):
    model.second.weight.data.mul_(3)


def new_data(model, array, x):
    model.second.weight.data = 3 * model.second.weight.data


def replaced(model, array, x):
    model.second = nn.Linear(16, 4)


def removed(model, array, x):
    model.second = nn.Identity()


def buffer(model, array, x):
    model.shift.add_(1)


def the_input(model, array, x):
    x.neg_()


def the_array(model, array, x):
    array *= -1


def only_half(model, array, x):
    model.half()


CHANGES = {
    in_place: "parameter second.weight",
    one_element: "parameter second.weight",
    optimizer: "parameter second.weight",
    behind_the_version: "parameter second.weight",
    new_data: "parameter second.weight",
    replaced: "parameter second.weight",
    removed: "parameter second.weight",
    buffer: "buffer shift",
    the_input: "input x",
    the_array: "input x",
    only_half: "parameter first.weight",
}


def kill(session):
    os.kill(session.engine.pool.first.platform["pid"], signal.SIGKILL)


def verdicts(report):
    return {str(verdict) for verdict, count in report.counts.items() if count}


GOOD = {"PASS", "SKIPPED"}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_after_a_change_nobody_is_blamed(change, tmp_path):
    model, array = made()
    x = torch.from_numpy(array)
    with tapml.debug(model, (x,)) as session:
        before = session.run()
        assert verdicts(before) <= GOOD
        change(model, array, x)
        kill(session)
        for _ in range(2):
            with pytest.raises(ModelChanged, match=f"the {CHANGES[change]} has changed since"):
                session.run()
        with pytest.raises(ModelChanged, match=CHANGES[change]):
            session.carve(tmp_path / "mixed.tapml")
        assert not (tmp_path / "mixed.tapml").exists()
        assert session.report.counts == before.counts, "results are kept"


@pytest.mark.parametrize("max_memory", [None, 1])
def test_without_a_change_all_goes_on(tmp_path, max_memory):
    model, array = made()
    x = torch.from_numpy(array)
    with tapml.debug(model, (x,), max_memory=max_memory) as session:
        session.run()
        with torch.no_grad():  # written to, but with what was there
            model.second.weight.mul_(1)
            model.second.bias.data = model.second.bias.data.clone()
        model.zero_grad()
        model.requires_grad_(False)
        model(x)
        kill(session)
        assert verdicts(session.run()) <= GOOD
        session.offload("*")
        assert session.hybrid().info.outputs is Verdict.PASS
        session.carve(tmp_path / "good.tapml")
    assert verdicts(Bundle.open(tmp_path / "good.tapml").replay()) <= GOOD


@pytest.mark.parametrize("max_memory", [None, 1])
@pytest.mark.parametrize("change", [in_place, behind_the_version], ids=lambda c: c.__name__)
def test_hybrid_runs_and_searches_after_a_change(change, max_memory):
    """The source computes the last layer anew, with weights that the pure run did not have."""
    model, array = made()
    with tapml.debug(model, (torch.from_numpy(array),), max_memory=max_memory) as session:
        session.override("act/silu", _nearly_silu)
        session.run()
        session.offload("act/silu")
        assert session.hybrid().info.outputs is Verdict.PASS
        session.restore("*")
        session.hybrid()
        session.offload("act/silu")
        change(model, array, None)
        for work in (session.hybrid, session.localize):
            with pytest.raises(ModelChanged, match=r"parameter second\.weight"):
                work()
        assert verdicts(session.report) <= GOOD
        assert {r.verdict for r in session.report.accumulated.values()} == {Verdict.PASS}


def _linear(*tensors):
    by_shape = {array.shape: array for array in tensors}
    return by_shape[3, 16] @ by_shape[4, 16].T + by_shape[4,]


def _nearly_silu(x):
    return np.nextafter(x / (1 + np.exp(-x)), np.float32(np.inf))


@pytest.mark.parametrize("change", [in_place, behind_the_version], ids=lambda c: c.__name__)
def test_a_change_after_half_of_the_operators(change, tmp_path):
    """The source has run all of the model; what was not sent yet is not what it has read."""
    model, array = made()
    x = torch.from_numpy(array)
    with tapml.debug(model, (x,)) as session:
        session.run("first/*")
        change(model, array, x)
        with pytest.raises(ModelChanged, match=r"second\.weight"):
            session.run()
        with pytest.raises(ModelChanged, match=r"second\.weight"):
            session.carve(tmp_path / "mixed.tapml", "*")
        assert verdicts(session.report) - {"UNKNOWN"} <= GOOD


def test_a_view_of_what_changed():
    """The transposed input is an operator's value in the input's own memory."""
    model, array = made()
    with tapml.debug(model, (torch.from_numpy(array),)) as session:
        session.tensor("transpose")
        array *= 2
        with pytest.raises(ModelChanged, match="input x"):
            session.run("first/*")


def test_a_numpy_override_is_not_blamed_for_a_change():
    model, array = made()
    with tapml.debug(model, (torch.from_numpy(array),)) as session:
        session.override("second/linear", _linear)
        assert verdicts(session.run()) <= GOOD
        model.second.weight.data.mul_(3)
        with pytest.raises(ModelChanged, match=r"second\.weight"):
            session.run()


def test_an_input_of_one_step():
    model = TwoLayers().eval()
    steps = [(torch.randn(3, 8),) for _ in range(3)]
    with tapml.debug(model, steps) as session:
        session.run()
        steps[1][0].zero_()
        with pytest.raises(ModelChanged, match="input x of step 1 has changed"):
            session.run()


def test_before_the_first_run_everything_may_change():
    model, array = made()
    x = torch.from_numpy(array)
    with tapml.debug(model, (x,)) as session:
        in_place(model, array, x)
        the_array(model, array, x)
        buffer(model, array, x)
        assert verdicts(session.run()) <= GOOD
        expected = model(x).detach().numpy()
        np.testing.assert_allclose(session.tensor("second/linear"), expected, rtol=1e-5)


def test_inference_tensors_and_tensors_without_addresses():
    with torch.inference_mode():
        x = torch.randn(3, 8)
    with tapml.debug(TwoLayers().eval(), (x,)) as session:
        assert verdicts(session.run()) <= GOOD
        kill(session)
        assert verdicts(session.run()) <= GOOD
        with torch.inference_mode():
            x.neg_()
        kill(session)
        with pytest.raises(ModelChanged, match="input x"):
            session.run()


def onnx_model():
    from onnx import TensorProto, helper

    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Sigmoid", ["x"], ["y"])], "g", info[:1], info[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def relax_module():
    from tvm import relax

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(relax.op.sigmoid(x)))
    return builder.get()


@pytest.mark.parametrize("model", [onnx_model, relax_module], ids=lambda m: m.__name__)
def test_arrays_of_other_frameworks(model):
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    with tapml.debug(model(), (x,)) as session:
        assert verdicts(session.run()) <= GOOD
        kill(session)
        assert verdicts(session.run()) <= GOOD
        x[0, 0] += 1
        kill(session)
        with pytest.raises(ModelChanged, match="the input x has changed"):
            session.run()
        assert verdicts(session.report) <= GOOD
