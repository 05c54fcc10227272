"""Guard mode: what passes silently otherwise becomes a verdict."""

from __future__ import annotations

import os
import signal

import numpy as np
import psutil
import pytest
import torch
from tvm.script import tirx as T

import tapml_nb as tapml
from tapml_nb.judge.verdict import Verdict
from tapml_nb.targets.server.guard import ALIGNMENT, Block, telling
from tests import kernels, models


@T.prim_func(s_tir=True)
def past_the_end_by_one(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    """SiLU, and a store to the element behind the last one."""
    for i, j in T.grid(3, 16):
        y[i, j] = x[i, j] / (T.float32(1) + T.exp(-x[i, j]))
    y[2, 16] = T.float32(0)


@T.prim_func(s_tir=True)
def past_the_end_by_a_hundred(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    """SiLU, and a store a hundred elements behind the last one."""
    for i, j in T.grid(3, 16):
        y[i, j] = x[i, j] / (T.float32(1) + T.exp(-x[i, j]))
    y[2, 116] = T.float32(0)


@T.prim_func(s_tir=True)
def before_the_start(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    """SiLU, and a store two elements in front of the first one."""
    for i, j in T.grid(3, 16):
        y[i, j] = x[i, j] / (T.float32(1) + T.exp(-x[i, j]))
    y[0, -2] = T.float32(0)


@T.prim_func(s_tir=True)
def reads_too_far(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    """SiLU, plus nothing times what lies behind the input."""
    for i, j in T.grid(3, 16):
        y[i, j] = x[i, j] / (T.float32(1) + T.exp(-x[i, j]))
    if x[2, 16] > T.float32(1e30):
        y[0, 0] = T.float32(0)


@T.prim_func(s_tir=True)
def reads_what_it_never_wrote(x: T.Buffer((3, 16), "float32"), y: T.Buffer((3, 16), "float32")):
    """SiLU by adding to half of an output that was not set to 0."""
    for i, j in T.grid(3, 16):
        y[i, j] = T.float32(0.5) * y[i, j] + x[i, j] / (T.float32(1) + T.exp(-x[i, j]))


@pytest.fixture
def guarded():
    model, inputs = models.two_layers()
    with tapml.debug(model, inputs, target=tapml.Target("llvm", guard=True)) as session:
        yield session


def verdict(session, kernel):
    session.override("act", kernel)
    return session.run("act").introduced["act/silu", 0]


def test_honest_kernels_pass(guarded):
    report = guarded.run()
    assert report.ok
    assert "on llvm (guarded)" in report.summary()
    assert verdict(guarded, kernels.honest).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("kernel", "wanted", "words"),
    [
        (past_the_end_by_one, Verdict.CRASH, "it reaches 0 bytes past the end of output 0"),
        (past_the_end_by_a_hundred, Verdict.CRASH, "400 bytes past the end of output 0"),
        (
            before_the_start,
            Verdict.FAIL,
            "writes 4 bytes before the start of output 0, from byte -8",
        ),
        (reads_too_far, Verdict.CRASH, "it reaches 0 bytes past the end of input 0"),
        (reads_what_it_never_wrote, Verdict.NONDETERMINISTIC, "reads memory that nothing wrote"),
        (kernels.forgets_a_row, Verdict.FAIL, "never writes 16 of 48 elements"),
        (kernels.spoils_its_input, Verdict.FAIL, "writes into its own input"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_is_seen(guarded, kernel, wanted, words):
    result = verdict(guarded, kernel)
    assert result.verdict is wanted, result.message
    assert words in result.message
    assert guarded.run("first").verdict("first/linear") is Verdict.PASS


@pytest.mark.parametrize("kernel", [past_the_end_by_one, reads_too_far])
def test_without_guard_nothing_is_seen(kernel):
    """A store farther away may hit anything, and now and then something that crashes."""
    model, inputs = models.two_layers()
    with tapml.debug(model, inputs) as session:
        assert verdict(session, kernel).verdict is Verdict.PASS


def test_many_hits_leave_nothing_behind(nothing_left):
    model, inputs = models.two_layers()
    with tapml.debug(model, inputs, target=tapml.Target("llvm", guard=True)) as session:
        session.override("act", past_the_end_by_a_hundred)
        for _ in range(20):
            assert session.run("act").verdict("act/silu") is Verdict.CRASH
        assert session.run("second").verdict("second/linear") is Verdict.PASS
        server = psutil.Process(session.engine.pool.first.endpoint.server._process.pid)
        assert len(server.children()) <= 1


class Odd(torch.nn.Module):
    """Sizes and dtypes that do not fill 64 bytes."""

    def forward(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        return [x.flip(0) if x.dtype is torch.bool else x + x for x in tensors]


def test_odd_sizes_and_dtypes():
    sizes = [(), (0, 3), (1,), (7,), (63,), (65,)]
    dtypes = [torch.float32, torch.float16, torch.int8, torch.bool]
    tensors = [
        (torch.rand(size) * 9).to(dtype)
        for size in sizes
        for dtype in dtypes
        if size or dtype is not torch.bool
    ]
    with tapml.debug(Odd().eval(), tuple(tensors)) as session:
        plain = session.run().frame()["verdict"]
    target = tapml.Target("llvm", guard=True)
    with tapml.debug(Odd().eval(), tuple(tensors), target=target) as session:
        assert list(session.run().frame()["verdict"]) == list(plain)


def test_a_llama_gets_the_same_verdicts():
    model, inputs = models.llama(1)
    with tapml.debug(model, inputs) as session:
        plain = session.run().frame()["verdict"]
    with tapml.debug(model, inputs, target=tapml.Target("llvm", guard=True)) as session:
        assert list(session.run().frame()["verdict"]) == list(plain)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 4095, 4096, 4097, 100_000])
def test_a_block_ends_at_its_page(size):
    block = Block.map("output 0", size)
    try:
        start = block.data.ctypes.data
        assert start % ALIGNMENT == 0
        assert block.data.size == size
        assert (start + size + block.after.size) % 4096 == 0
        assert block.after.size < ALIGNMENT
        assert block.overruns() == ""
        block.data[:] = 0
        assert block.overruns() == ""
        if block.after.size:
            block.after[-1] = 0
            assert block.overruns().startswith("writes 1 bytes past the end of output 0, from")
        assert block.place(start - 3) == "3 bytes before the start of output 0"
        assert block.place(start + size + 5) == "5 bytes past the end of output 0"
        assert block.place(0) == ""
    finally:
        block.unmap()


def test_the_former_handler_comes_back():
    seen = []
    signal.signal(signal.SIGSEGV, lambda *_: seen.append("former"))
    try:
        with telling([]):
            pass
        os.kill(os.getpid(), signal.SIGSEGV)
        np.zeros(1)
        assert seen == ["former"]
    finally:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)


def test_only_cpus_can_be_guarded():
    with pytest.raises(ValueError, match="guard needs a CPU \\('llvm' or 'c'\\), not 'cuda'"):
        tapml.Target("cuda", guard=True)
