"""Attention as ``torch.export`` writes it for a GPU.

Its kernels are not there on a CPU, but their shapes are, and that is all that an export needs.
Where there is an NVIDIA GPU, models are exported there as well.
"""

from __future__ import annotations

from itertools import product
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import tapml_nb as tapml
from tapml_nb.frontends.torch.attention import DECOMPOSITIONS
from tapml_nb.frontends.torch.export import export
from tapml_nb.judge.verdict import Verdict
from tests import models

aten = torch.ops.aten

MASKED = {"efficient": True, "flash": False, "cudnn": True, "overrideable": True}
NAMES = {
    "efficient": "_scaled_dot_product_efficient_attention",
    "flash": "_scaled_dot_product_flash_attention",
    "cudnn": "_scaled_dot_product_cudnn_attention",
    "overrideable": "_scaled_dot_product_fused_attention_overrideable",
}


class Attention(nn.Module):
    """One fused kernel between operators that read its result in another layout."""

    def __init__(self, name: str, *, masked: bool, causal: bool, scale: float | None) -> None:
        super().__init__()
        self.kernel = getattr(aten, NAMES[name]).default
        self.name, self.masked, self.causal, self.scale = name, masked, causal, scale

    def fused(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any) -> Any:
        arguments = [mask] if MASKED[self.name] else []
        if self.name in ("efficient", "cudnn"):
            arguments.append(False)
        return self.kernel(q, k, v, *arguments, 0.0, self.causal, scale=self.scale)

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any) -> Any:
        y = self.fused(q, k, v, mask if self.masked else None)[0]
        tokens = y.shape[2]
        return y.transpose(1, 2).reshape(1, tokens, -1) + 1


def inputs(heads: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(heads)
    q = torch.randn(1, 5, 4, 8, dtype=dtype).transpose(1, 2)
    k, v = (torch.randn(1, 5, heads, 8, dtype=dtype).transpose(1, 2) for _ in range(2))
    return q, k, v, torch.randn(1, 1, 5, 5, dtype=dtype)


CASES = [
    (name, masked, causal, scale)
    for name in NAMES
    for masked, causal, scale in (
        (False, False, None),
        (False, True, 0.3),
        (True, False, None),
    )
    if MASKED[name] or not masked
]


@pytest.mark.parametrize(("name", "masked", "causal", "scale"), CASES)
@pytest.mark.parametrize("heads", [4, 2])
def test_it_is_attention(name, masked, causal, scale, heads):
    model = Attention(name, masked=masked, causal=causal, scale=scale).eval()
    q, k, v, mask = inputs(heads)
    program = export(model, [((q, k, v, mask), {})])
    assert not [node for node in program.graph.nodes if "scaled_dot" in str(node.target)]
    expected = functional.scaled_dot_product_attention(
        q, k, v, mask if masked else None, is_causal=causal, scale=scale, enable_gqa=heads < 4
    )
    expected = expected.transpose(1, 2).reshape(1, 5, -1) + 1
    torch.testing.assert_close(program.module()(q, k, v, mask), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_operator_of_it_has_a_verdict(dtype, kernel_cache):
    model = Attention("efficient", masked=True, causal=False, scale=None).eval()
    with tapml.debug(model, inputs(2, dtype), target="llvm") as session:
        counts = session.run().counts
    assert set(counts) <= {Verdict.PASS, Verdict.SKIPPED}
    assert counts[Verdict.PASS] >= 3


@pytest.mark.parametrize("name", NAMES)
def test_the_other_results(name):
    """Shapes as in the schema's own; the sums as their definition says."""
    q, k, v, mask = inputs(2)
    overload = getattr(aten, NAMES[name]).default
    arguments: list[Any] = [mask] if MASKED[name] else []
    if name in ("efficient", "cudnn"):
        arguments.append(True)
    ours = DECOMPOSITIONS[overload](q, k, v, *arguments, 0.0, False)
    meta = overload(*(t.to("meta") for t in (q, k, v)), *_on_meta(arguments), 0.0, False)
    assert len(ours) == len(meta)
    assert ours[0].stride() == meta[0].stride()
    assert ours[1].shape == meta[1].shape
    scores = q @ k.repeat_interleave(2, 1).transpose(-2, -1) * 8**-0.5
    scores = scores + mask if MASKED[name] else scores
    torch.testing.assert_close(ours[1].flatten(2)[..., :5], scores.logsumexp(-1))


def aligned(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """As PyTorch calls the kernel: with a mask whose rows begin at multiples of 16."""
    keys = mask.shape[-1]
    mask = functional.pad(mask, (0, 16 - keys % 16))[..., :keys]
    return aten._scaled_dot_product_efficient_attention(q, k, v, mask, False)[0]


LIBRARY = torch.library.Library("tapml_test", "DEF")
LIBRARY.define("aligned(Tensor q, Tensor k, Tensor v, Tensor mask) -> Tensor")
LIBRARY.impl("aligned", aligned, "CompositeImplicitAutograd")


class Aligned(nn.Module):
    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any) -> Any:
        return torch.ops.tapml_test.aligned(q, k, v, mask) * 2


def test_padding_for_alignment_is_no_operator(kernel_cache):
    """With as many keys as come."""
    keys = torch.export.Dim("keys", min=2, max=64)
    shapes: tuple[dict[int, Any], ...] = ({}, {2: keys}, {2: keys}, {3: keys})
    with tapml.debug(Aligned().eval(), inputs(4), dynamic_shapes=shapes) as session:
        assert not [op for op in session.graph.ops if "constant_pad" in str(op.primitives)]
        report = session.run()
        assert report.ok
        assert report.counts[Verdict.PASS] == 2


def test_padding_of_the_models_own_stays(kernel_cache):
    class Padded(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.pad(x, (0, 3))[..., : x.shape[-1]] * 2

    with tapml.debug(Padded().eval(), (torch.ones(2, 4),)) as session:
        assert [op.kind for op in session.graph.ops] == ["aten.pad", "aten.slice", "aten.mul"]


FLOATS = (torch.float32, torch.float16, torch.bfloat16)
GPU = [("torch:cuda", kind) for kind in ("cuda", "llvm") if torch.cuda.is_available()]
RUNS = [
    ("torch", "llvm", torch.float32, True),
    *((*pair, t, m) for pair, t, m in product(GPU, FLOATS, (False, True))),
]
LAYER = "model.layers.0."
ATTENTION = LAYER + "self_attn/scaled_dot_product_attention"


def broken(*tensors: np.ndarray) -> np.ndarray:
    """No keys at all but the first."""
    return np.broadcast_to(tensors[2][:, :, :1], tensors[0].shape).copy()


class TestLlama:
    @pytest.mark.parametrize(("source", "kind", "dtype", "padded"), RUNS)
    def test_a_prompt(self, source, kind, dtype, padded, kernel_cache):
        model, (tokens,) = models.llama(layers=1)
        inputs = {"input_ids": tokens}
        if padded:
            inputs["attention_mask"] = (torch.arange(12) > 2).long()[None]
        with tapml.debug(model.to(dtype), inputs, target=kind, source=source) as session:
            report = session.run()
            assert report.verdict(ATTENTION) is Verdict.PASS
            session.override(ATTENTION, broken)
            (first, *_) = (c.ops[0] for c in session.run().causes if c.ops[0].startswith(LAYER))
            assert first == ATTENTION  # TVM's mask before it crashes on cuda
            assert frozenset({ATTENTION}) in session.localize().culprits

    @pytest.mark.parametrize(("source", "kind", "dtype", "padded"), RUNS)
    def test_decoding(self, source, kind, dtype, padded, kernel_cache):
        """With a mask that is the static cache's own, or with a cache that grows."""
        model, (tokens,) = models.llama(layers=1, length=5)
        model = model.to(dtype).to("cuda" if source == "torch:cuda" else "cpu")
        cache: Literal["static", "dynamic"] = "static" if padded else "dynamic"
        program, steps = tapml.decode_steps(model, tokens.to(model.device), 2, cache=cache)
        with tapml.debug(program, steps, target=kind, source=source) as session:
            report = session.run()
            for op in session.graph.ops:
                if op.kind == "aten.scaled_dot_product_attention":
                    assert report.verdict(op.id) is Verdict.PASS
                assert report.verdict(op.id) is not Verdict.UNSUPPORTED


def _on_meta(arguments: list[Any]) -> list[Any]:
    return [a.to("meta") if isinstance(a, torch.Tensor) else a for a in arguments]
