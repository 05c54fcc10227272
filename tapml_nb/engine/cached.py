"""What PyTorch holds of a GPU's memory and nobody uses, given back where it is much."""

from __future__ import annotations

import sys

_MUCH = 1 << 30
"""Bytes that are better the target's, which may be on the same GPU; of less, allocating them again
takes longer."""


def give_back_cached() -> None:
    """At the end of what may have left a peak behind, such as the model's pass in float64."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return
    for number in range(torch.cuda.device_count()):
        if torch.cuda.memory_reserved(number) - torch.cuda.memory_allocated(number) > _MUCH:
            torch.cuda.empty_cache()  # of all GPUs
            return
