"""The models that faults are planted in: small, random weights, activations of scale one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Made = tuple[nn.Module, Any]

# Options of every model's configuration, which the classes' signatures do not name.
_EAGER: dict[str, Any] = {"attn_implementation": "eager"}
_START: dict[str, Any] = {"decoder_start_token_id": 0}


def llama(layers: int, dtype: torch.dtype = torch.float32, length: int = 21) -> Made:
    """A Llama with grouped-query attention, each step of it an operator, and a causal mask."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=172,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        vocab_size=333,
        use_cache=False,
        initializer_range=64**-0.5,
        **_EAGER,
    )
    mask = torch.triu(torch.full((length, length), -torch.inf), 1).to(dtype)
    return LlamaForCausalLM(config).eval().to(dtype), {
        "input_ids": torch.randint(0, config.vocab_size, (2, length)),
        "attention_mask": mask[None, None].expand(2, 1, length, length),
        "position_ids": torch.arange(length)[None],
    }


def gpt2() -> Made:
    """A GPT-2: tanh-GELU, layer norms, fused query, key and value."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=64,
        vocab_size=300,
        use_cache=False,
        initializer_range=64**-0.5,
        **_EAGER,
    )
    return GPT2LMHeadModel(config).eval(), {"input_ids": torch.randint(0, 300, (1, 19))}


def bert() -> Made:
    """A BERT: erf-GELU, layer norms after the residual, no causality."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=160,
        vocab_size=300,
        initializer_range=64**-0.5,
        **_EAGER,
    )
    return BertModel(config).eval(), {"input_ids": torch.randint(0, 300, (2, 17))}


def vit() -> Made:
    """A vision transformer: patches by convolution, a class token, fused attention."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        image_size=36,
        patch_size=6,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        initializer_range=64**-0.5,
    )
    return ViTModel(config).eval(), {"pixel_values": torch.randn(2, 3, 36, 36)}


def t5() -> Made:
    """A T5: encoder and decoder, relative positions in buckets, no attention scale."""
    from transformers import T5Config, T5Model

    config = T5Config(
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        vocab_size=300,
        use_cache=False,
        **_START,
    )
    ids = {"input_ids": torch.randint(0, 300, (1, 15))}
    return T5Model(config).eval(), ids | {"decoder_input_ids": torch.randint(0, 300, (1, 7))}


class Convolutions(nn.Module):
    """A small convolutional network: strided, grouped, dilated, pooled, normalized."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.dilated = nn.Conv2d(16, 24, 3, padding=2, dilation=2)
        self.norm = nn.BatchNorm2d(24)
        self.average = nn.AvgPool2d(3, stride=2, padding=1)
        self.maximum = nn.MaxPool2d(3, stride=1, padding=1)
        self.head = nn.Linear(24, 10)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = torch.relu(self.stem(image))
        x = nn.functional.silu(self.grouped(x))
        x = self.average(self.norm(self.dilated(x)))
        x = self.maximum(x)
        scores = self.head(x.mean((2, 3)))
        return scores, scores.argmax(-1)


def convolutions() -> Made:
    """The network, with statistics in its batch norm that are not zero and one."""
    model = Convolutions()
    mean, variance = model.norm.running_mean, model.norm.running_var
    assert mean is not None
    assert variance is not None
    nn.init.uniform_(mean, -0.5, 0.5)
    nn.init.uniform_(variance, 0.5, 2.0)
    return model.eval(), (torch.randn(2, 3, 30, 30),)


class Arithmetic(nn.Module):
    """What pre- and postprocessing is made of: divisions, roundings, scans, gathers, choices."""

    def forward(
        self, x: torch.Tensor, large: torch.Tensor, numbers: torch.Tensor, masked: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        floor = torch.div(numbers, 7, rounding_mode="floor")
        rest = torch.remainder(numbers, 7)
        halves = torch.round(numbers.to(torch.float32) / 2)
        cube = torch.pow(x, 3)
        running = torch.cumsum(x, 1)
        picked = torch.gather(x, 1, rest.clamp(0, 6))
        best = torch.argmax(x, 1)
        top, where = torch.topk(x, 5, -1)
        order = torch.argsort(halves, -1)
        spread = torch.var(large, -1)
        logs = torch.log(x.abs() + 1e-3)
        small = torch.exp(-20 * x.abs() - 60)
        weights = torch.softmax(masked, -1)
        both = torch.cat([cube, running], 0)
        joined = torch.sub(both, 1.5) / 3.0
        scaled = numbers * 5
        return (floor, halves, running, picked, best, top, where, order, spread, logs, small,
                weights, joined, scaled)  # fmt: skip


def arithmetic() -> Made:
    """The module with inputs that reach the corners: negatives, halves, large means, masks."""
    masked = torch.randn(6, 33)
    masked[:, 25:] = -torch.inf
    x = torch.randn(37, 9)
    numbers = torch.randint(-60, 60, (37, 9))
    large = torch.randn(320, 64) + 800 * torch.rand(320, 1)
    return Arithmetic().eval(), (x, large, numbers, masked)


class Extremes(nn.Module):
    """Elements that share nothing but a tensor: massive tokens, wide ranges, sums that cancel,
    masks, booleans, NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(1 + 0.1 * torch.randn(64))
        self.norm = nn.LayerNorm(64)
        self.long = nn.Linear(4096, 24, bias=False)

    def forward(
        self,
        tokens: torch.Tensor,
        wide: torch.Tensor,
        rows: torch.Tensor,
        spread: torch.Tensor,
        long: torch.Tensor,
        image: torch.Tensor,
        scores: torch.Tensor,
        mask: torch.Tensor,
        gaps: torch.Tensor,
        codes: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        normed = nn.functional.rms_norm(tokens, (64,), self.gain, 1e-6)
        power = tokens.square().mean(-1)
        powers = torch.exp(wide)
        joined = torch.cat([tokens, normed], 1)
        turned = tokens.transpose(1, 2)
        part = tokens[:, 2:11]
        centred = spread - spread.mean(-1, keepdim=True)
        rest = centred.mean(-1)
        pooled = nn.functional.instance_norm(image).mean((2, 3))
        product = self.long(long)
        normal = self.norm(rows)
        lowest = scores.masked_fill(mask, torch.finfo(scores.dtype).min)
        left_out = scores.masked_fill(mask, -torch.inf)
        larger = torch.maximum(gaps, scores)
        every = torch.ge(tokens.abs(), 0)
        some = torch.gt(tokens, 0)
        scaled = codes * 5
        return (normed, power, powers, joined, turned, part, rest, pooled, product, normal, lowest,
                left_out, larger, every, some, scaled)  # fmt: skip


def extremes() -> Made:
    """The module; one token has a magnitude of a thousand, means are large beside deviations."""
    tokens = torch.randn(1, 16, 64)
    tokens[0, 3] *= 1000
    gaps = torch.randn(16, 16)
    gaps[::3, ::5] = torch.nan
    model = Extremes()
    nn.init.normal_(model.long.weight, std=64**-1.0)
    return model.eval(), (
        tokens,
        torch.empty(8, 64).uniform_(-30, 30),
        30 + torch.randn(12, 64),
        torch.randn(24, 8192),
        3 + torch.randn(6, 4096),
        torch.randn(2, 8, 96, 96),
        torch.randn(16, 16),
        torch.rand(16, 16) < 0.3,
        gaps,
        torch.randint(-60, 60, (16, 24)),
    )


class Channels(nn.Module):
    """What narrow dtypes meet: channels of magnitude 500 among those of one."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(1 + 0.1 * torch.randn(64))
        self.shift = nn.Parameter(0.1 * torch.randn(64))

    def forward(
        self, channels: torch.Tensor, scores: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        scaled = channels * self.gain
        shifted = channels + self.shift
        lowest = scores.masked_fill(mask, torch.finfo(scores.dtype).min)
        cubic = scores * 0.044715
        return scaled, shifted, lowest, cubic


def channels(dtype: torch.dtype) -> Made:
    """The module in a narrow dtype."""
    massive = torch.randn(1, 32, 64)
    massive[..., [5, 40]] *= 500
    inputs = (massive.to(dtype), torch.randn(48, 48).to(dtype), torch.rand(48, 48) < 0.3)
    return Channels().eval().to(dtype), inputs


class Undefined(nn.Module):
    """What no specification and no generator settles: casts of what does not fit, and chance."""

    def forward(self, odd: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return odd.to(torch.int32), nn.functional.dropout(x, 0.5, training=True)


def undefined() -> Made:
    """The module, with NaN, infinities and numbers beyond the range of integers."""
    odd = 100 * torch.randn(8, 16)
    odd[0, :4] = torch.tensor([torch.nan, torch.inf, -torch.inf, 3e10])
    return Undefined().eval(), (odd, torch.randn(32, 16))


MODELS: dict[str, Callable[[], Made]] = {
    "llama": lambda: llama(6),
    "llama-long": lambda: llama(1, length=64),
    "llama-fp16": lambda: llama(1, torch.float16),
    "llama-bf16": lambda: llama(1, torch.bfloat16),
    "gpt2": gpt2,
    "bert": bert,
    "vit": vit,
    "t5": t5,
    "convolutions": convolutions,
    "arithmetic": arithmetic,
    "extremes": extremes,
    "channels-bf16": lambda: channels(torch.bfloat16),
    "channels-fp16": lambda: channels(torch.float16),
    "undefined": undefined,
}


def make(name: str) -> Made:
    """A model with its inputs, the same at every call."""
    torch.manual_seed(0)
    return MODELS[name]()
