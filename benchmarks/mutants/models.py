"""The models whose kernels are changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.faults import models as planted
from benchmarks.zoo.architecture import Made
from benchmarks.zoo.architectures import ARCHITECTURES


def _zoo(name: str, dtype: torch.dtype = torch.float32) -> Callable[[], tuple[Any, Any]]:
    def make() -> Made:
        model, inputs = ARCHITECTURES[name].build()
        moved = {
            key: value.to(dtype) if value.is_floating_point() else value
            for key, value in inputs.items()
        }
        return model.to(dtype), moved

    return make


MODELS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "Llama": lambda: planted.make("llama-long"),
    "Mixtral": _zoo("Mixtral"),
    "T5": _zoo("T5"),
    "Whisper": _zoo("Whisper"),
    "Mamba": _zoo("Mamba"),
    "ViT": _zoo("ViT"),
    "GPT-2": lambda: planted.make("gpt2"),
    "convolutions": lambda: planted.make("convolutions"),
    "U-Net": _zoo("Stable Diffusion U-Net"),
    "arithmetic": lambda: planted.make("arithmetic"),
    "Llama, float16": lambda: planted.make("llama-fp16"),
    "BERT, bfloat16": _zoo("BERT", torch.bfloat16),
}
"""Grouped queries, mixtures of experts, encoders with decoders, sound, a state space, vision,
convolutions, norms over groups; float32, and two in narrower dtypes."""
