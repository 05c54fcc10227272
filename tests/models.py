"""Models that tests share: small, random weights, structurally true, activations of scale one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def llama(
    layers: int = 2, hidden: int = 64, *, length: int = 12
) -> tuple[PreTrainedModel, tuple[torch.Tensor, ...]]:
    """A Hugging Face Llama with grouped-query attention, and token ids for one step."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        vocab_size=300,
        use_cache=False,
        initializer_range=hidden**-0.5,
    )
    model = LlamaForCausalLM(config).eval()
    return model, (torch.randint(0, config.vocab_size, (1, length)),)


class TwoLayers(nn.Module):
    """A linear layer, an activation and another linear layer: the smallest model with scopes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.act = nn.SiLU()
        self.second = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.act(self.first(x)))


def two_layers() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """:class:`TwoLayers` with an input."""
    torch.manual_seed(0)
    return TwoLayers().eval(), (torch.randn(3, 8),)
