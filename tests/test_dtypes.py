"""Narrow dtypes and weight-only quantization: honest kernels pass, planted faults do not."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from tvm.script import tirx as T

import tapml_nb as tapml
from tapml_nb import Verdict
from tapml_nb.frontends.torch.workarounds import WORKAROUNDS
from tests.models import llama

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
ROWS, INNER, OUTER, GROUP = 5, 64, 48, 16
GROUPS = INNER // GROUP


def unpacked(packed: torch.Tensor) -> torch.Tensor:
    """Two 4-bit numbers of each byte, the low one first."""
    nibbles = torch.stack([packed & 15, (packed >> 4) & 15], dim=-1)
    return nibbles.flatten(-2)


class Int8Linear(nn.Module):
    """A linear layer whose weight is int8 with one scale per row."""

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        weight = torch.randn(OUTER, INNER) * INNER**-0.5
        scale = weight.abs().amax(1) / 127
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale.to(dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale[:, None])


class Int4Linear(nn.Module):
    """A linear layer with two weights in a byte, and scale and zero point per group of 16."""

    packed: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        weight = torch.randn(OUTER, GROUPS, GROUP) * INNER**-0.5
        low, high = weight.amin(2), weight.amax(2)
        scale = (high - low) / 15
        zero = (-low / scale).round().clamp(0, 15)
        codes = (weight / scale[..., None] + zero[..., None]).round().clamp(0, 15)
        codes = codes.to(torch.uint8).reshape(OUTER, INNER // 2, 2)
        self.register_buffer("packed", codes[..., 0] | codes[..., 1] << 4)
        self.register_buffer("scale", scale.to(dtype))
        self.register_buffer("zero", zero.to(torch.uint8))

    def weight(self, dtype: torch.dtype) -> torch.Tensor:
        codes = unpacked(self.packed).reshape(OUTER, GROUPS, GROUP).to(dtype)
        groups = (codes - self.zero[..., None].to(dtype)) * self.scale[..., None]
        return groups.reshape(OUTER, INNER)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight(x.dtype))


@torch.library.custom_op("tapml_tests::linear_int4", mutates_args=())
def linear_int4(
    x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor
) -> torch.Tensor:
    """A 4-bit linear layer in one operator, as kernel libraries have it; sums in float32."""
    codes = unpacked(packed).reshape(OUTER, GROUPS, GROUP)
    wide = torch.promote_types(x.dtype, torch.float32)
    weight = (codes.to(wide) - zero[..., None].to(wide)) * scale[..., None].to(wide)
    return (x.to(wide) @ weight.reshape(OUTER, INNER).T).to(x.dtype)


@linear_int4.register_fake
def _(x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor):
    return x.new_empty((len(x), len(packed)))


class FusedInt4Linear(Int4Linear):
    """:class:`Int4Linear` in one operator."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear_int4(x, self.packed, self.scale, self.zero)


def kernel(dtype: str, *, swapped: int = 0, off: int = 0, neighbour: int = 0, row: int = -1):
    """A kernel for :class:`FusedInt4Linear`, with a fault, in one row of the weight or in all."""

    @T.prim_func(s_tir=True)
    def linear(
        x: T.Buffer((ROWS, INNER), dtype),
        packed: T.Buffer((OUTER, INNER // 2), "uint8"),
        scale: T.Buffer((OUTER, GROUPS), dtype),
        zero: T.Buffer((OUTER, GROUPS), "uint8"),
        y: T.Buffer((ROWS, OUTER), dtype),
    ):
        total = T.alloc_buffer((1,), "float32")
        for i, j in T.grid(ROWS, OUTER):
            total[0] = T.float32(0)
            for k in range(INNER):
                wrong = T.if_then_else(T.Or(row < 0, j == row), 1, 0)
                nibble = (k + wrong * swapped) % 2
                group = (k // GROUP + wrong * neighbour) % GROUPS
                code = T.bitwise_and(
                    T.shift_right(T.Cast("int32", packed[j, k // 2]), 4 * nibble), 15
                )
                shifted = code - T.Cast("int32", zero[j, k // GROUP]) + wrong * off
                total[0] = total[0] + T.Cast("float32", x[i, k]) * (
                    T.Cast("float32", shifted) * T.Cast("float32", scale[j, group])
                )
            y[i, j] = T.Cast(dtype, total[0])

    return linear


FAULTS = {
    "nibbles in the other order": {"swapped": 1},
    "zero point off by one": {"off": 1},
    "scale of the neighbouring group": {"neighbour": 1},
}


@pytest.fixture(scope="module", params=DTYPES)
def fused(request):
    """Session over a 4-bit layer in one operator, and the name of its dtype."""
    torch.manual_seed(0)
    dtype = DTYPES[request.param]
    model = FusedInt4Linear(dtype).eval()
    with tapml.debug(model, (torch.randn(ROWS, INNER).to(dtype),)) as session:
        yield session, request.param


class TestFusedInt4:
    def test_an_honest_kernel_passes(self, fused):
        session, dtype = fused
        (op,) = [op.id for op in session.graph.ops]
        assert session.run().verdict(op) is Verdict.UNSUPPORTED  # TVM has no rule for it
        session.override(op, kernel(dtype))
        report = session.run()
        assert report.verdict(op) is Verdict.PASS
        assert report.frame()["ratio"][0] < 2

    @pytest.mark.parametrize("row", [-1, 17], ids=["everywhere", "in one row"])
    @pytest.mark.parametrize("fault", FAULTS)
    def test_a_fault_does_not(self, fused, fault, row):
        session, dtype = fused
        (op,) = [op.id for op in session.graph.ops]
        session.override(op, kernel(dtype, row=row, **FAULTS[fault]))
        (culprit,) = session.run().culprits
        assert (culprit.op, culprit.verdict) == (op, Verdict.FAIL)
        assert culprit.ratio > 16


class PackedInt8Linear(Int8Linear):
    """:class:`Int8Linear` by PyTorch's own kernel, which has no float64 run to compare with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten._weight_int8pack_mm(x, self.weight, self.scale)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_int8_by_pytorchs_own_kernel(dtype):
    def honest(x, weight, scale):
        weight = weight.astype(np.float32) * scale.astype(np.float32)[:, None]
        return x.astype(np.float32) @ weight.T

    session, report = run(PackedInt8Linear(dtype), dtype)
    with session:
        (op,) = [op.id for op in session.graph.ops]
        assert report.verdict(op) is Verdict.UNSUPPORTED
        session.override(op, honest)
        assert session.run().verdict(op) is Verdict.PASS
        session.override(op, lambda x, weight, scale: honest(x, weight, np.roll(scale, 1)))
        assert session.run().verdict(op) is Verdict.FAIL
        session.override(op, lambda x, weight, scale: honest(x, weight | 1, scale))
        assert session.run().verdict(op) is Verdict.FAIL


def run(layer: nn.Module, dtype: torch.dtype):
    """Report on a layer in the order of its operators, beside its session."""
    torch.manual_seed(0)
    session = tapml.debug(layer.eval(), (torch.randn(ROWS, INNER).to(dtype),))
    return session, session.run()


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
class TestDequantize:
    """Quantized layers of single operators, as the importer and TVM make them."""

    def test_int8(self, dtype):
        session, report = run(Int8Linear(dtype), dtype)
        with session:
            assert_honest(report, dtype)
            assert report.missing == []
            mul = next(op.id for op in session.graph.ops if op.kind == "aten.mul")
            session.override(mul, lambda w, scale: w * np.roll(scale, 1, 0))
            assert session.run(mul).verdict(mul) is Verdict.FAIL

    def test_int4(self, dtype):
        session, report = run(Int4Linear(dtype), dtype)
        with session:
            assert_honest(report, dtype)
            op = {op.kind: op.id for op in session.graph.ops}
            assert not report.missing  # TVM 0.27 has no rule for the shift, but we have
            assert "tapml_nb" in report.conversions[op["aten.__rshift__"]]
            faults = {
                "aten.__rshift__": lambda packed: packed.view(np.int8) >> 4,
                "aten.stack": lambda low, high: np.stack([high, low], -1),
                "aten.sub": lambda codes, zero: codes - (zero + zero.dtype.type(1)),
                "aten.mul": lambda codes, scale: codes * np.roll(scale, 1, 1),
            }
            for kind, fault in faults.items():
                session.override(op[kind], fault)
            report = session.run()
            assert {c.op for c in report.culprits} >= {op[kind] for kind in faults}


def assert_honest(report, dtype):
    """Every operator passes but the matrix product, of which TVM makes float32 in all dtypes."""
    wrong = {report.graph[c.op].kind: c for c in report.culprits}
    if dtype is torch.float32:
        assert wrong == {}
    else:
        assert set(wrong) == {"aten.linear"}
        assert "the target's result is float32" in wrong["aten.linear"].diagnosis


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_whole_llama(dtype):
    """What fails is TVM's: matrix products in float32, sums of bools.  All else is right."""
    model, (tokens,) = llama(layers=1)
    with tapml.debug(model.to(dtype), (tokens,)) as session:
        report = session.run()
        wrong = {session.graph[c.op].kind for c in report.culprits}
        assert wrong == {"aten.linear"}
        assert all("result is float32" in c.diagnosis for c in report.culprits)
        assert {session.graph[r.op].kind for r in report.missing} == {"aten.cumsum"}
        migration = session.migrate()
        assert len(migration.offloaded) > 50
        assert session.report.info.outputs is Verdict.PASS


def attention(q, k, v, *, scale=16**-0.5):
    """Attention in float32, as an honest kernel computes it; ``scale`` is the fault."""
    q, k, v = (x.astype(np.float32) for x in (q, k, v))
    scores = q @ k.swapaxes(-1, -2) * scale
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def layer_norm(x, weight, bias, *, freedom=0):
    """Layer normalization in float32; ``freedom`` is the fault."""
    x, weight, bias = (t.astype(np.float32) for t in (x, weight, bias))
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt(x.var(-1, keepdims=True, ddof=freedom) + 1e-5)
    return centred / deviation * weight + bias


PLANTED: dict[str, tuple[str, Any, Any]] = {
    "attention by the wrong scale": (
        "aten.scaled_dot_product_attention",
        attention,
        partial(attention, scale=64**-0.5),
    ),
    "the deviation of a sample": ("aten.layer_norm", layer_norm, partial(layer_norm, freedom=1)),
}


class Block(nn.Module):
    """A layer of a transformer, with what workarounds are for in narrow dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(64), nn.LayerNorm(64)
        self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)
        self.up, self.down = nn.Linear(64, 128), nn.Linear(128, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            t.unflatten(-1, (4, 16)).transpose(1, 2) for t in self.qkv(self.before(x)).chunk(3, -1)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        return x + self.down(nn.functional.silu(self.up(self.after(x)))) * 0.1


@pytest.fixture(scope="module", params=[torch.float16, torch.bfloat16], ids=str)
def transformer(request):
    """Session over two layers in a narrow dtype, all workarounds in force."""
    torch.manual_seed(0)
    model = nn.Sequential(Block(), Block()).eval().to(request.param)
    names = [workaround.name for workaround in WORKAROUNDS]
    x = torch.randn(1, 12, 64).to(request.param)
    with tapml.debug(model, (x,), workarounds=names) as session:
        assert session.run().ok
        yield session


@pytest.mark.parametrize("fault", PLANTED)
def test_a_fault_in_a_narrow_model_is_named(transformer, fault):
    kind, honest, wrong = PLANTED[fault]
    op = [op.id for op in transformer.graph.ops if op.kind == kind][1]
    transformer.override(op, honest)
    assert transformer.run().ok
    transformer.override(op, wrong)
    report = transformer.run()
    assert [culprit.op for culprit in report.culprits] == [op]
    assert report.causes[0].first == op
    transformer.override(op, None)
