"""GPUs' kinds of target on real drivers.

OpenCL and WebGPU run everywhere, on a GPU or on a CPU that plays one (PoCL, Mesa's lavapipe); CUDA
where there is an NVIDIA GPU.
"""

from __future__ import annotations

import os
import signal

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn
from tvm.script import tirx as T

import tapml_nb as tapml
from tapml_nb.judge.verdict import Verdict
from tapml_nb.targets.client.availability import check
from tapml_nb.targets.client.session import TargetSession
from tapml_nb.targets.spec import Target
from tapml_nb.targets.wire.errors import TargetError
from tests import kernels, models

KINDS = ("opencl", "webgpu", *(["cuda"] if check("cuda").works else []))


@T.prim_func(s_tir=True)
def writes_far_away(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    """32 GB behind its output."""
    for i, j in T.grid(3, 16):
        y[i, T.Cast("int64", j) + T.int64(8589934592)] = x[i, j]


@pytest.fixture(params=KINDS)
def kind(request, kernel_cache, nothing_left):
    return request.param


@pytest.fixture
def session(kind):
    model, inputs = models.two_layers()
    with tapml.debug(model, inputs, target=Target(kind, timeout=3.0)) as session:
        yield session


def judged(session, kernel):
    session.override("act/silu", kernel)
    report = session.run()
    assert report.verdict("second/linear") is Verdict.PASS
    return report.introduced["act/silu", 0]


def test_the_driver_says_what_it_is(kind):
    state = check(kind)
    assert state.works
    assert state.reason == state.device["name"] != ""
    assert ("arch" if kind == "cuda" else "limits") in state.device


def test_another_device_is_not_there(kind):
    model, inputs = models.two_layers()
    with pytest.raises(ValueError, match=f"target: '{kind}' cannot be used here: there is no"):
        tapml.debug(model, inputs, target=Target(kind, device=7))


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (3, 7)])
def test_tensors_travel_unchanged(kind, shape):
    numbers = np.random.default_rng(0)
    with TargetSession(Target(kind)) as session:
        for dtype in ("float32", "float16", "int8", "uint8", "int32", "int64", "bool", "bfloat16"):
            sent = (numbers.normal(size=shape) * 50).astype(
                ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
            )
            session.put(dtype, sent)
            fetched = session.fetch(dtype)
            assert fetched.dtype == sent.dtype
            assert np.array_equal(fetched, sent)
        session.put("twice", np.ones(shape, np.float32))
        assert session.statistics("twice", "twice")["max_abs"] == 0


def test_a_model_is_judged_and_moves_over(session):
    report = session.run()
    assert report.ok
    assert report.counts == {Verdict.PASS: 3}
    assert session.run().info.sent_bytes == report.info.sent_bytes
    assert len(session.migrate().offloaded) == 3
    assert session.report.info.outputs is Verdict.PASS
    assert session.report.info.unobserved.same
    code = session.code("act/silu")
    assert "threadIdx.x" in code.tir
    words = {"opencl": "__kernel", "webgpu": "@compute", "cuda": "__global__"}
    assert words[session.engine.settings.target.kind] in code.source


class Bins(nn.Module):
    """A sum that TVM's schedules for GPUs must not take for a product with a matrix."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.histc(x, 8, 0, 7)


class Written(nn.Module):
    """An index for every axis: TVM's own kernel is a loop of the host's."""

    def forward(self, x: torch.Tensor, index: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        return x.index_put((index,), new)


@pytest.mark.parametrize("kind", ["opencl", "webgpu"])
def test_a_kernel_of_the_hosts_is_refused_and_has_a_workaround(kernel_cache, kind):
    given = (torch.randn(8), torch.tensor([3, 1]), torch.randn(2))
    with tapml.debug(Written().eval(), given, target=kind) as session:
        found = session.run().introduced["index_put", 0]
        assert found.verdict is Verdict.COMPILE_ERROR
        assert "the host would write into the device's memory" in found.message
    with tapml.debug(Written().eval(), given, target=kind, workarounds=["index_put"]) as session:
        assert session.run().verdict("index_put") is Verdict.PASS


@pytest.mark.parametrize("kind", KINDS)
def test_bins_are_counted(kernel_cache, kind):
    given = (torch.randint(0, 8, (64,)).float(),)
    with tapml.debug(Bins().eval(), given, target=kind) as session:
        assert session.run().verdict("histc") is Verdict.PASS


def test_kernels_of_the_users(session):
    """They bind no threads, so one thread computes them."""
    assert judged(session, kernels.honest).verdict is Verdict.PASS
    forgetful = judged(session, kernels.forgets_a_row)
    assert forgetful.verdict is Verdict.FAIL
    assert forgetful.message == "never writes 16 of 48 elements, from [2, 0] on"
    assert judged(session, kernels.returns_nan).verdict is Verdict.NONFINITE


def test_a_limit_is_no_crash(session):
    result = judged(session, kernels.wants_many_threads)
    assert result.verdict is Verdict.UNSUPPORTED
    assert "8192" in result.message


def test_a_session_killed_in_mid_run_comes_back(session):
    session.on(
        "OpJudged",
        lambda event: (
            event.op == "first/linear"
            and os.kill(session.engine.pool.first.platform["pid"], signal.SIGKILL)
        ),
    )
    report = session.run()
    assert report.ok
    assert report.info.restarts == 1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "webgpu"], indirect=True)
class TestAccidents:
    """WGSL forbids the first, and lavapipe ends every loop after 65,535 rounds."""

    def test_a_crash(self, session):
        result = judged(session, writes_far_away)
        assert result.verdict is Verdict.CRASH
        assert result.message.startswith(("SIGSEGV", "exit status 70: "))

    def test_a_hang(self, session):
        result = judged(session, kernels.spins)
        assert (result.verdict, result.message) == (Verdict.TIMEOUT, "no answer within 3 s")


@pytest.mark.parametrize("kind", ["opencl"], indirect=True)
class TestOpenCl:
    def test_shapes_known_only_to_the_launch(self, kind):
        """TVM's scan is one PrimFunc for all shapes, with a workspace and a loop on the host."""

        class Sum(nn.Module):
            def forward(self, x):
                return torch.cumsum(x, -1)

        with tapml.debug(Sum().eval(), (torch.ones(2, 1500),), target=kind) as session:
            result = session.run().introduced["cumsum", 0]
            assert result.verdict in (Verdict.PASS, Verdict.FAIL, Verdict.NONDETERMINISTIC)
            target = session.tensor("cumsum", "target")
            assert target.shape == (2, 1500)


@pytest.mark.parametrize("kind", ["webgpu"], indirect=True)
class TestWebGpu:
    def test_integers_have_32_bits(self, kind):
        with TargetSession(Target(kind)) as session:
            with pytest.raises(TargetError, match="the value 4294967296; integers have 32 bits"):
                session.put("wide", np.array([1, 1 << 32]))
            session.put("narrow", np.array([1, -(1 << 31)]))
            assert session.fetch("narrow").tolist() == [1, -(1 << 31)]

    def test_indices_are_narrowed(self, kind):
        torch.manual_seed(0)
        model = nn.Embedding(20, 8).eval()
        with tapml.debug(model, (torch.tensor([[3, 19, 0]]),), target=kind) as session:
            assert session.run().ok

    def test_what_the_driver_rejects_is_told(self, kind):
        """TVM 0.27 makes an array of i8 of a tensor of bool, a type that WGSL does not have."""

        class Compare(nn.Module):
            def forward(self, x):
                return x > 0

        with tapml.debug(Compare().eval(), (torch.randn(5),), target=kind) as session:
            result = session.run().introduced["gt", 0]
            assert result.verdict is Verdict.COMPILE_ERROR
            assert "the driver rejects" in result.message
            assert "unknown identifier" in result.message
