"""Programs after public reports of bugs, whole: what was said to break, comes out as it should.

Each is small and has beside it a kernel that is broken on purpose, so that a pass means something.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PhiConfig, PhiForCausalLM

import tapml_nb as tapml
from tapml_nb import Report, Session, Verdict

JUDGED = {Verdict.PASS, Verdict.SKIPPED}


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def of(report: Report, kind: str) -> set[Verdict]:
    """The verdicts of all operators of one kind."""
    return {report.verdict(op.id) for op in report.graph.ops if op.kind == kind}


def outputs_of_hybrid(session: Session) -> Verdict:
    report = session.report
    session.offload(lambda op: report.verdict(op.id) is Verdict.PASS)
    return session.hybrid().info.outputs


class Cholesky(nn.Module):
    """apache/tvm#18363: a write through two index tensors behind axes that are not indexed."""

    def forward(self, x):
        batch, heads, n = x.shape
        lower = torch.zeros(batch, heads, n, n)
        i = torch.arange(n)
        lower[..., i, i] = F.softplus(x)
        lower[:, :, i[1:], i[:-1]] = x[..., 1:]
        return x[..., :1], lower, lower @ lower.transpose(-1, -2)


class TestIndexPut:
    def test_tvms_own_rule_is_named(self):
        with tapml.debug(Cholesky().eval(), (normal(2, 3, 5),), target="llvm") as session:
            report = session.run()
            assert {cause.ops[0].split("/")[-1] for cause in report.causes} <= {"index_put_"}
            assert outputs_of_hybrid(session) is Verdict.PASS

    def test_with_the_workaround_all_passes(self):
        with tapml.debug(
            Cholesky().eval(), (normal(2, 3, 5),), target="llvm", workarounds=["index_put"]
        ) as session:
            report = session.run()
            assert set(report.counts) <= JUDGED
            (op, *_) = (op.id for op in report.graph.ops if op.kind == "aten.softplus")
            session.override(op, lambda x: np.log1p(np.exp(x)) * np.float32(1.01))
            assert [culprit.op for culprit in session.run().culprits] == [op]


class Window(nn.Module):
    """apache/tvm#18903: Swin's windows where the batch is open, so that views multiply it."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(8, 8)

    def forward(self, x):
        b, h, w, c = x.shape
        y = torch.roll(F.pad(x, (0, 0, 0, 2, 0, 2)), (-1, -1), (1, 2))
        y = y.view(b, 2, 4, 2, 4, c).transpose(2, 3)
        y = self.proj(y.reshape(-1, 16, c)).view(b, 2, 2, 4, 4, c).transpose(2, 3)
        y = y.reshape(b, 8, 8, c)[:, :h, :w, :].contiguous()
        return (x + y).view(b, h * w, c)


def test_sizes_that_are_products_of_open_ones():
    torch.manual_seed(0)
    steps = [(normal(2, 6, 6, 8),), (normal(5, 6, 6, 8),)]
    open_batch = ({0: torch.export.Dim("batch", min=2, max=16)},)
    with tapml.debug(Window().eval(), steps, target="llvm", dynamic_shapes=open_batch) as session:
        report = session.run()
        assert set(report.counts) <= JUDGED
        assert outputs_of_hybrid(session) is Verdict.PASS
        session.override("proj/linear", lambda x, w, b: x @ w.T + b * np.float32(0.9))
        assert [culprit.op for culprit in session.run().culprits] == ["proj/linear"]


class DropsNan(nn.Module):
    """apache/tvm#19579: a maximum by comparison yields the other operand where one is NaN."""

    def forward(self, a, b):
        return torch.maximum(a, b), torch.minimum(a, b), a.relu(), a.clamp(-1, 1), a.abs()


def test_nan_that_is_dropped_is_named_so():
    nan = float("nan")
    a = torch.tensor([nan, 1.0, nan, 0.5, -2.0, 3.0, nan, -0.1] * 4)
    b = torch.tensor([1.0, nan, nan, 2.0, -5.0, nan, 0.0, 7.0] * 4)
    with tapml.debug(DropsNan().eval(), (a, b), target="llvm") as session:
        report = session.run()
        assert of(report, "aten.abs") == {Verdict.PASS}
        assert sum(cause.count for cause in report.causes) == 4
        assert all("NaN" in cause.diagnosis for cause in report.causes)


def test_phi_in_float16_at_far_positions():
    """mlc-ai/mlc-llm#1573: right at first, off later: 40 tokens, and a fault in the later ones."""
    torch.manual_seed(0)
    config = PhiConfig(
        vocab_size=99,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        rope_parameters={"rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        max_position_embeddings=4096,
        initializer_range=0.15,
        use_cache=False,
    )
    model = PhiForCausalLM(config).half().eval()
    tokens = torch.randint(3, 99, (1, 40))
    with tapml.debug(
        model,
        (tokens,),
        target="llvm",
        workarounds=["product_dtype", "narrow_floats", "integer_cumsum"],
    ) as session:
        report = session.run()
        # The importer rounds GELU's 0.044715 to float16: the one finding, a known one.
        (cause,) = report.causes
        assert (cause.kind, cause.pattern) == ("aten.mul", "constant factor")
        (op, *_) = (op.id for op in report.graph.ops if op.kind == "aten.cos")

        def derails(x):
            y = np.cos(x)
            y[:, 30:] *= np.float32(1.05)
            return y

        session.override(op, derails)
        (first, other) = session.run().causes
        assert {first.ops, other.ops} == {(op,), cause.ops}
