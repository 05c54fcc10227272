"""Stable Diffusion's U-Net, in the shapes of its version 1.5."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

_HEADS = 8
_DEEP = 2
"""Stages of a level on the way down; there is one more on the way up."""


class _Residual(nn.Module):
    """Two convolutions, between which the time comes in."""

    def __init__(self, given: int, width: int, time: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, given), nn.Conv2d(given, width, 3, padding=1)
        self.time = nn.Linear(time, width)
        self.norm2, self.conv2 = nn.GroupNorm(groups, width), nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Identity() if given == width else nn.Conv2d(given, width, 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        y = self.conv1(functional.silu(self.norm1(x)))
        y = y + self.time(functional.silu(time))[:, :, None, None]
        y = self.conv2(functional.silu(self.norm2(y)))
        return self.skip(x) + y


class _Attention(nn.Module):
    """Attention to one's own positions, or to a text's."""

    def __init__(self, width: int, other: int) -> None:
        super().__init__()
        self.q = nn.Linear(width, width, bias=False)
        self.k, self.v = (nn.Linear(other, width, bias=False) for _ in range(2))
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            y.unflatten(-1, (_HEADS, -1)).transpose(1, 2)
            for y in (self.q(x), self.k(other), self.v(other))
        )
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))


class _GatedMLP(nn.Module):
    """A feed-forward layer with a GELU for a gate."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(width, 8 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, gate = self.enter(x).chunk(2, dim=-1)
        return self.leave(y * functional.gelu(gate))


class _Transformer(nn.Module):
    """A block over the positions of a picture: its own, the text's, each for itself."""

    def __init__(self, width: int, text: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.enter, self.leave = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.own, self.cross = _Attention(width, width), _Attention(width, text)
        self.mlp = _GatedMLP(width)

    def forward(self, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        y = self.enter(self.norm(x)).flatten(2).transpose(1, 2)
        inner = self.norm1(y)
        y = y + self.own(inner, inner)
        y = y + self.cross(self.norm2(y), text)
        y = y + self.mlp(self.norm3(y))
        return x + self.leave(y.transpose(1, 2).reshape(x.shape))


class _Stage(nn.Module):
    """A residual block and, but for the coarsest level, a transformer."""

    def __init__(self, given: int, width: int, shape: _Shape, attends: bool) -> None:
        super().__init__()
        self.residual = _Residual(given, width, shape.time, shape.groups)
        self.transformer = _Transformer(width, shape.text, shape.groups) if attends else None

    def forward(self, x: torch.Tensor, time: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        x = self.residual(x, time)
        return x if self.transformer is None else self.transformer(x, text)


@dataclass(frozen=True)
class _Shape:
    """Widths that all stages share: of the time's embedding, of the text's, and groups of norms."""

    time: int
    text: int
    groups: int


class UNet(nn.Module):
    """From noisy latents, a time and a text to the noise.

    Args:
        widths: channels by level, the finest first; each level but the last halves the picture.
        text: size of the text's embeddings.
        groups: of the group norms.
    """

    def __init__(self, widths: Sequence[int], text: int, groups: int) -> None:
        super().__init__()
        first, coarsest = widths[0], len(widths) - 1
        shape = _Shape(4 * first, text, groups)
        self._first = first
        self.time = nn.Sequential(
            nn.Linear(first, shape.time), nn.SiLU(), nn.Linear(shape.time, shape.time)
        )
        self.enter = nn.Conv2d(4, first, 3, padding=1)
        self.down, kept, given = nn.ModuleList(), [first], first
        for level, width in enumerate(widths):
            for _ in range(_DEEP):
                self.down.append(_Stage(given, width, shape, level < coarsest))
                given = width
                kept.append(width)
            if level < coarsest:
                self.down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                kept.append(width)
        self.middle = nn.ModuleList(_Stage(given, given, shape, k == 0) for k in range(2))
        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(_DEEP + 1):
                self.up.append(_Stage(given + kept.pop(), width, shape, level < coarsest))
                given = width
            if level:
                self.up.append(nn.Conv2d(width, width, 3, padding=1))
        self.norm, self.leave = nn.GroupNorm(groups, first), nn.Conv2d(first, 4, 3, padding=1)

    def forward(self, latents: torch.Tensor, time: torch.Tensor, text: torch.Tensor) -> Any:
        embedded = self.time(self._waves(time).to(latents.dtype))
        x = self.enter(latents)
        kept = [x]
        for part in self.down:
            x = part(x, embedded, text) if isinstance(part, _Stage) else part(x)
            kept.append(x)
        for part in self.middle:
            x = part(x, embedded, text)
        for part in self.up:
            if isinstance(part, _Stage):
                x = part(torch.cat([x, kept.pop()], 1), embedded, text)
            else:
                x = part(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.leave(functional.silu(self.norm(x)))

    def _waves(self, time: torch.Tensor) -> torch.Tensor:
        """Cosines and sines of a time, at frequencies from 1 down to 1 / 10000."""
        half = self._first // 2
        steps = torch.arange(half, dtype=torch.float32, device=time.device)
        angles = time[:, None].float() * torch.exp(-math.log(10000) * steps / half)
        return torch.cat([angles.cos(), angles.sin()], -1)
