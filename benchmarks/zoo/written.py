"""Architectures that no package here has, written as their papers describe them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.zoo.architecture import Made, written
from benchmarks.zoo.inputs import VOCABULARY, ids

Tensor = torch.Tensor


# -- convolutional networks ------------------------------------------------------------------------


class ConvNorm(nn.Sequential):
    """A convolution, batch norm, and an activation."""

    def __init__(
        self,
        inside: int,
        outside: int,
        size: int = 3,
        stride: int = 1,
        groups: int = 1,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__(
            nn.Conv2d(inside, outside, size, stride, size // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outside),
            activation(),
        )


def head(channels: int, classes: int = 10) -> nn.Sequential:
    """Pooled, flat, classified."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(channels, classes)
    )


@written("VGG", "vision")
def vgg() -> Made:
    """Plain convolutions between poolings."""
    layers: list[nn.Module] = []
    for inside, outside in ((3, 8), (8, 16), (16, 32)):
        layers += [ConvNorm(inside, outside), ConvNorm(outside, outside), nn.MaxPool2d(2)]
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(32 * 16, 32), nn.ReLU(), nn.Linear(32, 10)
    ), {"input": torch.randn(1, 3, 32, 32)}


class InvertedResidual(nn.Module):
    """MobileNet's block: widen, filter each channel, squeeze and excite, narrow."""

    def __init__(
        self, inside: int, outside: int, stride: int, widen: int, activation: type[nn.Module]
    ) -> None:
        super().__init__()
        wide = inside * widen
        self.residual = stride == 1 and inside == outside
        self.enter = ConvNorm(inside, wide, 1, activation=activation)
        self.filter = ConvNorm(wide, wide, 3, stride, groups=wide, activation=activation)
        self.excite = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(wide, 4, 1),
            nn.ReLU(),
            nn.Conv2d(4, wide, 1),
            nn.Hardsigmoid(),
        )
        self.leave = ConvNorm(wide, outside, 1, activation=nn.Identity)

    def forward(self, x: Tensor) -> Tensor:
        y = self.filter(self.enter(x))
        y = self.leave(y * self.excite(y))
        return x + y if self.residual else y


@written("MobileNet v3", "vision")
def mobilenet_v3() -> Made:
    """Hard swish and hard sigmoid, squeeze and excitation."""
    model = nn.Sequential(
        ConvNorm(3, 8, 3, 2, activation=nn.Hardswish),
        InvertedResidual(8, 8, 1, 2, nn.ReLU),
        InvertedResidual(8, 16, 2, 4, nn.Hardswish),
        InvertedResidual(16, 16, 1, 4, nn.Hardswish),
        head(16),
    )
    return model, {"input": torch.randn(1, 3, 32, 32)}


class Dense(nn.Module):
    """DenseNet's layer: what it computes is put beside what it was given."""

    def __init__(self, inside: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inside), nn.ReLU(), nn.Conv2d(inside, growth, 3, padding=1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


@written("DenseNet", "vision")
def densenet() -> Made:
    """Dense blocks with a transition between them."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 7, 2, 3, bias=False),
        nn.MaxPool2d(3, 2, 1),
        Dense(16, 8),
        Dense(24, 8),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 16, 1),
        nn.AvgPool2d(2),
        Dense(16, 8),
        Dense(24, 8),
        head(32),
    )
    return model, {"input": torch.randn(1, 3, 32, 32)}


class Shuffle(nn.Module):
    """ShuffleNet's unit: half of the channels pass, then all are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.body = nn.Sequential(
            ConvNorm(half, half, 1),
            ConvNorm(half, half, 3, groups=half, activation=nn.Identity),
            ConvNorm(half, half, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        y = torch.cat([left, self.body(right)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


@written("ShuffleNet v2", "vision")
def shufflenet() -> Made:
    """Channels shuffled between groups."""
    model = nn.Sequential(
        ConvNorm(3, 16, 3, 2), nn.MaxPool2d(3, 2, 1), Shuffle(16), Shuffle(16), head(16)
    )
    return model, {"input": torch.randn(1, 3, 32, 32)}


class Inception(nn.Module):
    """Branches of different widths, joined."""

    def __init__(self, inside: int) -> None:
        super().__init__()
        self.one = ConvNorm(inside, 8, 1)
        self.three = nn.Sequential(ConvNorm(inside, 8, 1), ConvNorm(8, 8, 3))
        self.five = nn.Sequential(ConvNorm(inside, 4, 1), ConvNorm(4, 8, 5))
        self.pool = nn.Sequential(nn.AvgPool2d(3, 1, 1), ConvNorm(inside, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


@written("Inception", "vision")
def inception() -> Made:
    """GoogLeNet's mixed blocks and local response normalisation."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 7, 2, 3),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.LocalResponseNorm(5),
        Inception(16),
        Inception(32),
        head(32),
    )
    return model, {"input": torch.randn(1, 3, 32, 32)}


class UNetwork(nn.Module):
    """Down, up, and across."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = self._pair(3, 8), self._pair(8, 16), self._pair(16, 32)
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.d = self._pair(32, 16)
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.e = self._pair(24, 8)
        self.out = nn.Conv2d(8, 1, 1)

    @staticmethod
    def _pair(inside: int, outside: int) -> nn.Sequential:
        return nn.Sequential(ConvNorm(inside, outside), ConvNorm(outside, outside))

    def forward(self, image: Tensor) -> Tensor:
        a = self.a(image)
        b = self.b(F.max_pool2d(a, 2))
        c = self.c(F.max_pool2d(b, 2))
        d = self.d(torch.cat([self.up(c), b], 1))
        return torch.sigmoid(self.out(self.e(torch.cat([self.upsample(d), a], 1))))


@written("U-Net", "vision")
def unet() -> Made:
    """Transposed convolution, bilinear upsampling, skip connections."""
    return UNetwork(), {"image": torch.randn(1, 3, 32, 32)}


class Yolo(nn.Module):
    """A detector in one stage: cross-stage partial block, spatial pyramid, two scales, boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 16, 3, 2, activation=nn.SiLU)
        self.left = ConvNorm(16, 8, 1, activation=nn.SiLU)
        self.right = ConvNorm(16, 8, 3, activation=nn.SiLU)
        self.down = ConvNorm(16, 32, 3, 2, activation=nn.SiLU)
        self.fine = nn.Conv2d(48, 3 * 9, 1)
        self.coarse = nn.Conv2d(128, 3 * 9, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        x = torch.cat([self.left(x), self.right(x)], 1)
        y = self.down(x)
        pyramid = [y]
        for _ in range(3):
            pyramid.append(F.max_pool2d(pyramid[-1], 5, 1, 2))
        up = F.interpolate(y, scale_factor=2, mode="nearest")
        coarse = self._boxes(self.coarse(torch.cat(pyramid, 1)), 4)
        return torch.cat([self._boxes(self.fine(torch.cat([x, up], 1)), 2), coarse], 1)

    @staticmethod
    def _boxes(found: Tensor, stride: int) -> Tensor:
        n, _, h, w = found.shape
        found = found.view(n, 3, 9, h, w).permute(0, 1, 3, 4, 2).sigmoid()
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        grid = torch.stack([x, y], -1).to(found.dtype)
        centre = (found[..., :2] * 2 - 0.5 + grid) * stride / 32
        size = (found[..., 2:4] * 2) ** 2
        return torch.cat([centre, size, found[..., 4:]], -1).view(n, -1, 9)


@written("YOLO", "vision")
def yolo() -> Made:
    """Boxes on a grid from two scales."""
    return Yolo(), {"image": torch.randn(1, 3, 32, 32)}


class RadianceField(nn.Module):
    """NeRF: a position and a direction by sines, then colour and density along a ray, rendered."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(39, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.density = nn.Linear(32, 1)
        self.colour = nn.Linear(32 + 3, 3)

    def forward(self, points: Tensor, direction: Tensor) -> Tensor:
        scaled = points[..., None] * (2.0 ** torch.arange(6))
        waves = torch.cat([points, scaled.sin().flatten(-2), scaled.cos().flatten(-2)], -1)
        h = self.body(waves)
        sigma = F.softplus(self.density(h)).squeeze(-1)
        direction = direction[:, None].expand(-1, points.shape[1], -1)
        colour = torch.sigmoid(self.colour(torch.cat([h, direction], -1)))
        alpha = 1 - torch.exp(-sigma * 0.1)
        through = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha], 1), 1)
        return ((alpha * through[:, :-1])[..., None] * colour).sum(1)


@written("NeRF", "vision")
def nerf() -> Made:
    """Volume rendering with a cumulative product."""
    return RadianceField(), {"points": torch.randn(4, 12, 3), "direction": torch.randn(4, 3)}


class PointNet(nn.Module):
    """A cloud of points: each by itself, then their maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Sequential(
            nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 64, 1), nn.ReLU()
        )
        self.all = nn.Linear(64, 10)

    def forward(self, points: Tensor) -> Tensor:
        return F.log_softmax(self.all(self.each(points).max(dim=-1).values), dim=-1)


@written("PointNet", "vision")
def pointnet() -> Made:
    """A maximum over points."""
    return PointNet(), {"points": torch.randn(2, 3, 40)}


# -- diffusion -------------------------------------------------------------------------------------


def waves(time: Tensor, size: int) -> Tensor:
    """A time as sines and cosines."""
    rates = torch.exp(-math.log(10000.0) * torch.arange(size // 2) / (size // 2))
    angles = time[:, None].float() * rates[None]
    return torch.cat([angles.cos(), angles.sin()], -1)


class TimedResidual(nn.Module):
    """Two convolutions with group norm; the time is added between them."""

    def __init__(self, inside: int, outside: int, time: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, inside), nn.GroupNorm(4, outside)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.time = nn.Linear(time, outside)
        self.skip = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(time))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class TextAttention(nn.Module):
    """Pixels attend to each other, then to the prompt, then a gated feed-forward."""

    def __init__(self, channels: int, text: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, channels)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.query = nn.ModuleList(nn.Linear(channels, channels, bias=False) for _ in range(2))
        self.keys = nn.ModuleList(
            nn.Linear(size, 2 * channels, bias=False) for size in (channels, text)
        )
        self.out = nn.ModuleList(nn.Linear(channels, channels) for _ in range(2))
        self.gate, self.down = nn.Linear(channels, 8 * channels), nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = self.norm(x).flatten(2).transpose(1, 2)
        for k in range(2):
            z = self.norms[k](y)
            y = y + self._attend(k, z, z if k == 0 else prompt)
        value, gate = self.gate(self.norms[2](y)).chunk(2, -1)
        y = y + self.down(value * F.gelu(gate))
        return x + y.transpose(1, 2).view(n, c, h, w)

    def _attend(self, k: int, x: Tensor, context: Tensor) -> Tensor:
        def heads(t: Tensor) -> Tensor:
            return t.unflatten(-1, (2, -1)).transpose(1, 2)

        key, value = self.keys[k](context).chunk(2, -1)
        y = F.scaled_dot_product_attention(heads(self.query[k](x)), heads(key), heads(value))
        return self.out[k](y.transpose(1, 2).flatten(2))


class DiffusionUNet(nn.Module):
    """Stable Diffusion's network: residual blocks that know the time, attention to a prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 64))
        self.enter = nn.Conv2d(4, 16, 3, padding=1)
        self.first = TimedResidual(16, 16, 64)
        self.down = nn.Conv2d(16, 16, 3, 2, 1)
        self.second = TimedResidual(16, 32, 64)
        self.attention = TextAttention(32, 24)
        self.third = TimedResidual(32, 32, 64)
        self.up = nn.Conv2d(32, 32, 3, padding=1)
        self.last = TimedResidual(48, 16, 64)
        self.norm, self.leave = nn.GroupNorm(4, 16), nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, sample: Tensor, timestep: Tensor, prompt: Tensor) -> Tensor:
        time = self.time(waves(timestep, 32))
        a = self.first(self.enter(sample), time)
        h = self.third(self.attention(self.second(self.down(a), time), prompt), time)
        h = self.up(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.leave(F.silu(self.norm(self.last(torch.cat([h, a], 1), time))))


@written("Stable Diffusion U-Net", "diffusion")
def diffusion_unet() -> Made:
    """Cross-attention to a prompt."""
    return DiffusionUNet(), {
        "sample": torch.randn(1, 4, 16, 16),
        "timestep": torch.tensor([321]),
        "prompt": torch.randn(1, 7, 24),
    }


class ModulatedBlock(nn.Module):
    """DiT's block: shifts, scales and gates come from the time and the class."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(size, elementwise_affine=False, eps=1e-6)
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.mlp = nn.Sequential(
            nn.Linear(size, 4 * size), nn.GELU(approximate="tanh"), nn.Linear(4 * size, size)
        )
        self.modulate = nn.Sequential(nn.SiLU(), nn.Linear(size, 6 * size))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        s1, c1, g1, s2, c2, g2 = self.modulate(condition)[:, None].chunk(6, -1)
        q, k, v = self.qkv(self.norm(x) * (1 + c1) + s1).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + g1 * self.out(y)
        return x + g2 * self.mlp(self.norm(x) * (1 + c2) + s2)


class DiffusionTransformer(nn.Module):
    """DiT: patches, modulated blocks, patches put together again."""

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        self.patch = nn.Conv2d(4, size, 2, 2)
        self.position = nn.Parameter(torch.randn(1, 64, size))
        self.time = nn.Sequential(nn.Linear(32, size), nn.SiLU(), nn.Linear(size, size))
        self.label = nn.Embedding(11, size)
        self.blocks = nn.ModuleList(ModulatedBlock(size, 4) for _ in range(2))
        self.norm = nn.LayerNorm(size, elementwise_affine=False, eps=1e-6)
        self.modulate = nn.Sequential(nn.SiLU(), nn.Linear(size, 2 * size))
        self.out = nn.Linear(size, 2 * 2 * 8)

    def forward(self, latent: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        x = self.patch(latent).flatten(2).transpose(1, 2) + self.position
        condition = self.time(waves(timestep, 32)) + self.label(label)
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.modulate(condition)[:, None].chunk(2, -1)
        x = self.out(self.norm(x) * (1 + scale) + shift).view(-1, 8, 8, 2, 2, 8)
        return torch.einsum("nhwpqc->nchpwq", x).reshape(-1, 8, 16, 16)


@written("DiT", "diffusion")
def dit() -> Made:
    """Adaptive layer norm with gates."""
    return DiffusionTransformer(), {
        "latent": torch.randn(1, 4, 16, 16),
        "timestep": torch.tensor([17]),
        "label": torch.tensor([3]),
    }


class JointBlock(nn.Module):
    """Stable Diffusion 3's block: picture and prompt have their own weights and attend together."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(size, elementwise_affine=False)
        self.qkv = nn.ModuleList(nn.Linear(size, 3 * size) for _ in range(2))
        self.qk_norm = nn.ModuleList(nn.RMSNorm(size // heads, eps=1e-6) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(size, size) for _ in range(2))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(size, 2 * size), nn.GELU("tanh"), nn.Linear(2 * size, size))
            for _ in range(2)
        )
        self.modulate = nn.ModuleList(nn.Linear(size, 6 * size) for _ in range(2))

    def forward(self, streams: list[Tensor], condition: Tensor) -> list[Tensor]:
        parts = [m(F.silu(condition))[:, None].chunk(6, -1) for m in self.modulate]
        joint = []
        for k, x in enumerate(streams):
            qkv = self.qkv[k](self.norm(x) * (1 + parts[k][1]) + parts[k][0]).chunk(3, -1)
            q, key, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in qkv)
            joint.append((self.qk_norm[k](q), self.qk_norm[k](key), v))
        q, key, v = (torch.cat(both, 2) for both in zip(*joint, strict=True))
        y = F.scaled_dot_product_attention(q, key, v).transpose(1, 2).flatten(2)
        attended = y.split([x.shape[1] for x in streams], dim=1)
        result = []
        for k, (x, a) in enumerate(zip(streams, attended, strict=True)):
            x = x + parts[k][2] * self.out[k](a)
            z = self.norm(x) * (1 + parts[k][4]) + parts[k][3]
            result.append(x + parts[k][5] * self.mlp[k](z))
        return result


class JointDiffusionTransformer(nn.Module):
    """MMDiT: two streams, joint attention."""

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        self.patch, self.prompt = nn.Conv2d(4, size, 2, 2), nn.Linear(24, size)
        self.time = nn.Sequential(nn.Linear(32, size), nn.SiLU(), nn.Linear(size, size))
        self.blocks = nn.ModuleList(JointBlock(size, 4) for _ in range(2))
        self.out = nn.Linear(size, 16)

    def forward(self, latent: Tensor, timestep: Tensor, prompt: Tensor) -> Tensor:
        condition = self.time(waves(timestep, 32))
        streams = [self.patch(latent).flatten(2).transpose(1, 2), self.prompt(prompt)]
        for block in self.blocks:
            streams = block(streams, condition)
        pixels = self.out(streams[0]).transpose(1, 2).unflatten(-1, (8, 8))
        return F.pixel_shuffle(pixels, 2)


@written("MMDiT", "diffusion")
def mmdit() -> Made:
    """Stable Diffusion 3's transformer."""
    return JointDiffusionTransformer(), {
        "latent": torch.randn(1, 4, 16, 16),
        "timestep": torch.tensor([500]),
        "prompt": torch.randn(1, 6, 24),
    }


class PictureDecoder(nn.Module):
    """The decoder of a variational autoencoder: from a latent to pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(4, 32, 3, padding=1)
        self.norm, self.qkv, self.out = (
            nn.GroupNorm(8, 32),
            nn.Conv2d(32, 96, 1),
            nn.Conv2d(32, 32, 1),
        )
        self.ups = nn.ModuleList(nn.Conv2d(32, 32, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.GroupNorm(8, 32, eps=1e-6) for _ in range(2))
        self.leave = nn.Conv2d(32, 3, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.enter(latent / 0.18215)
        n, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, -1)
        weights = torch.softmax(torch.bmm(q, k.transpose(1, 2)) * c**-0.5, dim=-1)
        x = x + self.out(torch.bmm(weights, v).transpose(1, 2).reshape(n, c, h, w))
        for up, norm in zip(self.ups, self.norms, strict=True):
            x = up(F.interpolate(F.silu(norm(x)), scale_factor=2.0, mode="nearest"))
        return self.leave(x).clamp(-1, 1)


@written("VAE decoder", "diffusion")
def vae_decoder() -> Made:
    """Attention over pixels in one head, upsampling."""
    return PictureDecoder(), {"latent": 0.2 * torch.randn(1, 4, 8, 8)}


# -- sequences -------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """A recurrent network over a sequence."""

    def __init__(self, cell: nn.RNNBase) -> None:
        super().__init__()
        self.cell = cell
        self.out = nn.Linear(cell.hidden_size * (2 if cell.bidirectional else 1), 5)

    def forward(self, sequence: Tensor) -> Tensor:
        return self.out(self.cell(sequence)[0])


@written("LSTM", "sequence")
def lstm() -> Made:
    """Two layers."""
    return Recurrent(nn.LSTM(16, 24, 2, batch_first=True)), {"sequence": torch.randn(2, 7, 16)}


@written("GRU (bidirectional)", "sequence")
def gru() -> Made:
    """Forwards and backwards."""
    return Recurrent(nn.GRU(16, 24, batch_first=True, bidirectional=True)), {
        "sequence": torch.randn(2, 7, 16)
    }


class Dilated(nn.Module):
    """WaveNet's layer: a gated, dilated, causal convolution."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.pad = dilation
        self.both = nn.Conv1d(channels, 2 * channels, 2, dilation=dilation)
        self.skip = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, gate = self.both(F.pad(x, (self.pad, 0))).chunk(2, 1)
        y = self.skip(torch.tanh(value) * torch.sigmoid(gate))
        return x + y, y


class WaveNetwork(nn.Module):
    """Dilations that double, and the sum of all skips."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv1d(1, 16, 1)
        self.layers = nn.ModuleList(Dilated(16, 2**k) for k in range(4))
        self.leave = nn.Sequential(nn.ReLU(), nn.Conv1d(16, 16, 1), nn.ReLU(), nn.Conv1d(16, 32, 1))

    def forward(self, sound: Tensor) -> Tensor:
        x = self.enter(sound)
        skips = []
        for layer in self.layers:
            x, skip = layer(x)
            skips.append(skip)
        return self.leave(torch.stack(skips).sum(0))


@written("WaveNet", "audio")
def wavenet() -> Made:
    """Dilated causal convolutions."""
    return WaveNetwork(), {"sound": torch.randn(1, 1, 64)}


class Recommender(nn.Module):
    """DLRM: embeddings of categories and a net of numbers meet in all their products."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(50, 16, mode="sum") for _ in range(3))
        self.bottom = nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(22, 32), nn.ReLU(), nn.Linear(32, 1), nn.Sigmoid())

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        dense = self.bottom(numbers)
        looked = [table(categories[:, k]) for k, table in enumerate(self.tables)]
        vectors = torch.stack([dense, *looked], 1)
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        row, column = torch.tril_indices(4, 4, offset=-1)
        return self.top(torch.cat([dense, products[:, row, column]], 1))


@written("DLRM", "recommendation")
def dlrm() -> Made:
    """Bags of embeddings."""
    return Recommender(), {
        "numbers": torch.randn(4, 13),
        "categories": torch.randint(0, 50, (4, 3, 5)),
    }


class GraphNetwork(nn.Module):
    """GAT: nodes listen to their neighbours, edges given as pairs."""

    def __init__(self, size: int = 16) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, size), nn.Linear(size, 4)
        self.source, self.target = nn.Linear(size, 1), nn.Linear(size, 1)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        x = self.enter(nodes)
        source, target = edges[0], edges[1]
        scores = F.leaky_relu(self.source(x)[source] + self.target(x)[target], 0.2).exp()
        total = torch.zeros(x.shape[0], 1).index_add(0, target, scores)
        heard = torch.zeros_like(x).index_add(0, target, scores * x[source])
        return self.leave(F.elu(heard / (total + 1e-6)))


@written("GAT", "graph")
def gat() -> Made:
    """Scatter and gather along edges."""
    return GraphNetwork(), {"nodes": torch.randn(12, 8), "edges": torch.randint(0, 12, (2, 40))}


# -- language models whose code lives on the hub ---------------------------------------------------


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary positions, halves."""
    one, two = x.chunk(2, -1)
    return x * angles.cos() + torch.cat([-two, one], -1) * angles.sin()


class PackedAttention(nn.Module):
    """InternLM 2's attention: queries, keys and values of a group lie side by side."""

    def __init__(self, size: int, heads: int, groups: int) -> None:
        super().__init__()
        self.groups, self.per_group, self.width = groups, heads // groups, size // heads
        self.packed = nn.Linear(size, (heads + 2 * groups) * self.width, bias=False)
        self.out = nn.Linear(size, size, bias=False)

    def forward(self, x: Tensor, angles: Tensor, mask: Tensor) -> Tensor:
        packed = self.packed(x).unflatten(-1, (self.groups, self.per_group + 2, self.width))
        q = packed[..., : self.per_group, :].flatten(2, 3).transpose(1, 2)
        k, v = packed[..., -2, :].transpose(1, 2), packed[..., -1, :].transpose(1, 2)
        q, k = rotate(q, angles), rotate(k, angles)
        k, v = (t.repeat_interleave(self.per_group, dim=1) for t in (k, v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.width) + mask
        weights = F.softmax(scores.float(), dim=-1).to(q.dtype)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class PackedDecoder(nn.Module):
    """A decoder of such layers with RMS norms and a gated feed-forward."""

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, size)
        self.attention = nn.ModuleList(PackedAttention(size, 4, 2) for _ in range(2))
        self.norms = nn.ModuleList(nn.RMSNorm(size, eps=1e-5) for _ in range(5))
        self.up = nn.ModuleList(nn.Linear(size, 256, bias=False) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(128, size, bias=False) for _ in range(2))
        self.head = nn.Linear(size, VOCABULARY, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        length = input_ids.shape[1]
        rates = 10000.0 ** (-torch.arange(0, 16, 2) / 16)
        angles = torch.outer(torch.arange(length), rates).repeat(1, 2)
        mask = torch.full((length, length), -torch.inf).triu(1)
        for k in range(2):
            x = x + self.attention[k](self.norms[2 * k](x), angles, mask)
            gate, value = self.up[k](self.norms[2 * k + 1](x)).chunk(2, -1)
            x = x + self.down[k](F.silu(gate) * value)
        return self.head(self.norms[4](x))


@written("InternLM 2", "text decoder")
def internlm2() -> Made:
    """Packed grouped-query attention with an explicit mask."""
    return PackedDecoder(), {"input_ids": ids(1, 16)}


class SlopedDecoder(nn.Module):
    """Baichuan 13B: a normalised head and ALiBi, with a mask made of slopes."""

    def __init__(self, size: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Embedding(VOCABULARY, size)
        self.qkv = nn.ModuleList(nn.Linear(size, 3 * size, bias=False) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(size, size, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.RMSNorm(size, eps=1e-6) for _ in range(3))
        self.head = nn.Parameter(torch.randn(VOCABULARY, size))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        length = x.shape[1]
        slopes = 2.0 ** (-8.0 * torch.arange(1, self.heads + 1) / self.heads)
        distance = torch.arange(length)[None] - torch.arange(length)[:, None]
        bias = slopes[:, None, None] * distance[None]
        bias = bias.masked_fill(distance[None] > 0, torch.finfo(x.dtype).min)
        for k in range(2):
            q, key, v = self.qkv[k](self.norms[k](x)).unflatten(-1, (3, self.heads, -1)).unbind(2)
            q, key, v = (t.transpose(1, 2) for t in (q, key, v))
            scores = torch.maximum(
                q @ key.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias,
                torch.tensor(torch.finfo(x.dtype).min),
            )
            x = x + self.out[k]((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return F.linear(self.norms[2](x), F.normalize(self.head))


@written("Baichuan 13B", "text decoder")
def baichuan() -> Made:
    """ALiBi and a normalised head."""
    return SlopedDecoder(), {"input_ids": ids(1, 16)}


class InterleavedRotary(nn.Module):
    """ChatGLM: rotary positions by complex numbers, one pair of neighbours each, multi-query."""

    def __init__(self, size: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.width = heads, size // heads
        self.embed, self.norm = nn.Embedding(VOCABULARY, size), nn.RMSNorm(size, eps=1e-5)
        self.qkv = nn.Linear(size, size + 2 * self.width)
        self.out, self.head = nn.Linear(size, size), nn.Linear(size, VOCABULARY)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        length = x.shape[1]
        rates = 10000.0 ** (-torch.arange(0, self.width, 2) / self.width)
        angles = torch.outer(torch.arange(length), rates)
        turn = torch.polar(torch.ones_like(angles), angles)
        q, k, v = self.qkv(self.norm(x)).split([x.shape[-1], self.width, self.width], -1)
        q = q.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        def rotated(t: Tensor) -> Tensor:
            pairs = torch.view_as_complex(t.unflatten(-1, (-1, 2)).contiguous())
            return torch.view_as_real(pairs * turn).flatten(-2)

        y = F.scaled_dot_product_attention(
            rotated(q),
            rotated(k)[:, None].expand(-1, self.heads, -1, -1),
            v[:, None].expand(-1, self.heads, -1, -1),
            is_causal=True,
        )
        return self.head(x + self.out(y.transpose(1, 2).flatten(2)))


@written("ChatGLM", "text decoder")
def chatglm() -> Made:
    """Complex rotary positions and multi-query attention."""
    return InterleavedRotary(), {"input_ids": ids(1, 16)}


class Retention(nn.Module):
    """RetNet's retention in its parallel form: decays in place of a softmax."""

    def __init__(self, size: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Embedding(VOCABULARY, size)
        self.qkv, self.gate = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.norm, self.group = nn.LayerNorm(size), nn.GroupNorm(heads, size)
        self.out, self.head = nn.Linear(size, size), nn.Linear(size, VOCABULARY)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        n, length, size = x.shape
        decay = torch.log1p(-(2.0 ** (-5.0 - torch.arange(self.heads))))
        steps = torch.arange(length)[:, None] - torch.arange(length)[None]
        mask = torch.where(steps >= 0, torch.exp(steps * decay[:, None, None]), 0.0)
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        y = (q @ k.transpose(-1, -2) * mask) @ v
        y = self.group(y.transpose(1, 2).reshape(n * length, size)).view(n, length, size)
        return self.head(x + self.out(F.silu(self.gate(x)) * y))


@written("RetNet", "text decoder")
def retnet() -> Made:
    """Retention with decays per head."""
    return Retention(), {"input_ids": ids(1, 16)}


WRITTEN = (
    internlm2,
    baichuan,
    chatglm,
    retnet,
    vgg,
    mobilenet_v3,
    densenet,
    shufflenet,
    inception,
    unet,
    yolo,
    nerf,
    pointnet,
    diffusion_unet,
    dit,
    mmdit,
    vae_decoder,
    lstm,
    gru,
    wavenet,
    dlrm,
    gat,
)
