"""The models that faults are planted in: small, random weights, activations of scale one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Made = tuple[nn.Module, Any]


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
        attn_implementation="eager",
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
        attn_implementation="eager",
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
        attn_implementation="eager",
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
        decoder_start_token_id=0,
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
    nn.init.uniform_(model.norm.running_mean, -0.5, 0.5)
    nn.init.uniform_(model.norm.running_var, 0.5, 2.0)
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
}


def make(name: str) -> Made:
    """A model with its inputs, the same at every call."""
    torch.manual_seed(0)
    return MODELS[name]()
