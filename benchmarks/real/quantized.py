"""Weights of four bits in groups, as mlc-llm deploys them under the name ``q4f16_1``.

Eight numbers of a row stand in one word, the first in its lowest bits; every 32 of them have a
scale in float16, and 7 stands for 0.  They become float16 again in the kernel that reads them.
mlc-llm's words are uint32; here they are int32, for PyTorch shifts no uint32, and the mask that
follows the shift makes up for the sign.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

GROUP = 32
"""Numbers of a row that share a scale."""

PER_WORD = 8
"""Numbers in a word."""

_BITS, _ZERO = 4, 7
_MASK = (1 << _BITS) - 1


def pack(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The words ``[rows, columns / 8]`` and the scales ``[rows, columns / 32]`` of a matrix."""
    groups = weight.unflatten(-1, (-1, GROUP)).float()
    scales = (groups.abs().amax(-1) / _ZERO).to(torch.float16)
    numbers = (groups / scales.float().clamp_min(1e-7)[..., None]).round().clamp(-_ZERO, _ZERO)
    eights = (numbers + _ZERO).to(torch.int64).view(len(weight), -1, PER_WORD)
    words = (eights << _shifts(eights)).sum(-1)
    return torch.where(words < 1 << 31, words, words - (1 << 32)).to(torch.int32), scales


def unpack(words: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The matrix, in the scales' dtype."""
    numbers = (words[..., None] >> _shifts(words)) & _MASK
    centred = (numbers - _ZERO).to(scales.dtype)
    groups = centred.view(*scales.shape, GROUP) * scales[..., None]
    return groups.view(*scales.shape[:-1], -1)


def _shifts(like: torch.Tensor) -> torch.Tensor:
    """Where in a word each of its numbers begins."""
    return torch.arange(0, 32, _BITS, dtype=like.dtype, device=like.device)


class _Packed(nn.Module):
    """A matrix of four bits."""

    words: torch.Tensor
    scales: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        words, scales = pack(weight)
        self.register_buffer("words", words)
        self.register_buffer("scales", scales)


class PackedLinear(_Packed):
    """A linear layer whose weight is unpacked in the kernel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, unpack(self.words, self.scales))


class PackedEmbedding(_Packed):
    """An embedding of which the rows that are read are unpacked."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return unpack(self.words[ids], self.scales[ids])


@torch.no_grad()
def quantize(model: Any) -> Any:
    """Put packed layers in the place of a language model's linear layers and embedding.

    One after the other: no more is in memory than the model, and what is packed of it so far.
    """
    tied = model.config.tie_word_embeddings
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Embedding):
                setattr(parent, name, PackedEmbedding(child.weight))
            elif isinstance(child, nn.Linear):
                assert getattr(child, "bias", None) is None, name
                setattr(parent, name, PackedLinear(child.weight))
    if tied:  # one matrix in memory, as one was
        embedding = model.model.embed_tokens
        model.lm_head.words, model.lm_head.scales = embedding.words, embedding.scales
    return model
