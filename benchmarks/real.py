"""Models of real size: what each stage costs beside the two plain passes.

    python -m benchmarks.real [NAME ...] [--device cuda] [--tokens 128] [--workers 1]

A configuration of random weights goes through a session on the device it lives on.  Printed, a line
of JSON each: parameters, operators, seconds of every stage, the ratio of a second run to the two
plain passes (the source's own forward pass, and the sum of the target's kernels), bytes sent, the
most memory of this process and of the GPU, and the verdicts.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

import tapml_nb as tapml

WORKAROUNDS = ("product_dtype", "integer_cumsum", "narrow_floats", "narrow_numbers")

_LLAMA: dict[str, Any] = {
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 2048,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama-0.1b": _LLAMA
    | {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 4, "vocab_size": 32000},
    "llama-1.1b": _LLAMA
    | {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "vocab_size": 32000,
    },
    "llama-8b": _LLAMA
    | {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "vocab_size": 128256,
    },
}
"""Shapes of Llama models by name."""


class Logits(torch.nn.Module):
    """A causal language model from tokens to logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=tokens, use_cache=False).logits
        return logits


def built(name: str, device: str, dtype: torch.dtype) -> Logits:
    """A model with random weights, made where it is to live."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        config = LlamaConfig(**CONFIGS[name], dtype=dtype)
        model = LlamaForCausalLM._from_config(config, dtype=dtype, attn_implementation="sdpa")
    return Logits(model).eval().requires_grad_(False)


class Stages:
    """Seconds by stage."""

    def __init__(self, device: str) -> None:
        self.seconds: dict[str, float] = {}
        self._cuda = device.startswith("cuda")

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        if self._cuda:
            torch.cuda.synchronize()
        self.seconds[name] = round(time.perf_counter() - begin, 3)


def measure(name: str, device: str, tokens: int) -> dict[str, Any]:
    """Take a configuration through a session."""
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    model = built(name, device, dtype)
    generator = torch.Generator().manual_seed(1)
    vocabulary = CONFIGS[name]["vocab_size"]
    given = torch.randint(0, vocabulary, (1, tokens), generator=generator).to(device)
    stage = Stages(device)
    with torch.inference_mode():
        for _ in range(3):
            with stage("forward pass"):
                model(given)
    target, source = ("cuda", "torch:cuda") if device.startswith("cuda") else ("llvm", "torch")
    with stage("debug"):
        session = tapml.debug(
            model, (given,), target=target, source=source, workarounds=WORKAROUNDS
        )
    with session:
        with stage("first run"):
            report = session.run()
        sent = int(report.frame()["sent_bytes"].sum())
        with stage("second run"):
            report = session.run()
        frame = report.frame()
        passed = [op.id for op in report.graph.ops if report.verdict(op.id) == "PASS"]
        session.offload(passed)
        with stage("hybrid"):
            hybrid = session.hybrid()
        kernels = float(frame["target_ms"].sum()) / 1e3
        plain = stage.seconds["forward pass"] + kernels
        return {
            "name": name,
            "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
            "parameters": sum(p.numel() for p in model.parameters()),
            "operators": len(report.graph.ops),
            "seconds": stage.seconds,
            "kernels": round(kernels, 3),
            "ratio": round(stage.seconds["second run"] / plain, 1),
            "sent_mb": round(sent / 1e6),
            "sent_again_mb": round(int(frame["sent_bytes"].sum()) / 1e6),
            "host_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
            "gpu_mb": round(torch.cuda.max_memory_allocated() / 1e6) if source != "torch" else 0,
            "verdicts": {str(k): int(n) for k, n in frame["verdict"].value_counts().items()},
            "findings": [
                f"{row.op} {row.verdict}: {row.message}"
                for row in frame.itertuples()
                if row.verdict not in ("PASS", "SKIPPED")
            ][:12],
            "hybrid": str(hybrid.outcome),
        }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=["llama-1.1b"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tokens", type=int, default=128)
    options = parser.parse_args()
    for name in options.names:
        print(json.dumps(measure(name, options.device, options.tokens)), flush=True)


if __name__ == "__main__":
    main()
