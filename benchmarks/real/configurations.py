"""The configurations: shapes of models that people deploy, each with a small one of its kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.real.models import (
    Case,
    Make,
    Options,
    Output,
    Place,
    at_trained_scales,
    decoding,
    prompted,
    shaped,
)
from benchmarks.real.quantized import quantize
from benchmarks.real.unet import UNet


@dataclass(frozen=True)
class Configuration:
    """One row of the page.

    Attributes:
        name: what people call it; of decoding with a static cache ``"… decoding"``.
        make: builds the model and its inputs.
        granularity: what one operator is.
        dtype: of its weights and activations, where it is made for one alone.
        faults: whether faults are planted in it.
    """

    name: str
    make: Make
    granularity: str = "operator"
    dtype: torch.dtype | None = None
    faults: bool = False


_FEW_LAYERS: Options = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_FEW_TOKENS: Options = {"vocab_size": 500, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_NARROW: Options = {**_FEW_LAYERS, **_FEW_TOKENS}
_GROUPED: Options = {**_NARROW, "num_key_value_heads": 2, "head_dim": 16}


@dataclass(frozen=True)
class Decoder:
    """A causal language model: its classes in ``transformers``, and what their configuration
    says."""

    kind: str
    full: Options
    small: Options
    config: str = ""

    def shaped(self, place: Place) -> Any:
        config = self.config or f"{self.kind}Config"
        return shaped(place, f"{self.kind}ForCausalLM", config, self.full, self.small)

    def model(self, place: Place) -> Any:
        return at_trained_scales(self.shaped(place))

    def prompt(self, place: Place) -> Case:
        return prompted(self.model(place), place)

    def decode(self, place: Place) -> Case:
        model = self.model(place)
        return decoding(model, place.tokens(model.config.vocab_size), place)

    def quantized(self, place: Place) -> Case:
        return prompted(quantize(self.model(place)), place)


_LLAMA_ROPE: Options = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def _long_rope(factors: int) -> Options:
    """Phi's positions, of heads that turn so many pairs."""
    return {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 4096,
        "short_factor": [1.0] * factors,
        "long_factor": [1.0 + k for k in range(factors)],
    }


DECODERS = {
    "Llama-1.1B": Decoder(
        "Llama",
        {
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 32000,
            "max_position_embeddings": 2048,
        },
        _GROUPED,
    ),
    "Llama-3.2-1B": Decoder(
        "Llama",
        {
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "vocab_size": 128256,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
            "rope_parameters": {**_LLAMA_ROPE, "factor": 32.0},
        },
        _GROUPED,
    ),
    "Qwen3-0.6B": Decoder(
        "Qwen3",
        {
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "max_position_embeddings": 40960,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
        _GROUPED,
    ),
    "Qwen3-1.7B": Decoder(
        "Qwen3",
        {
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "max_position_embeddings": 40960,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
        _GROUPED,
    ),
    "Gemma-3-1B": Decoder(
        "Gemma3",
        {
            "hidden_size": 1152,
            "intermediate_size": 6912,
            "num_hidden_layers": 26,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "vocab_size": 262144,
            "max_position_embeddings": 32768,
            "sliding_window": 512,
            "query_pre_attn_scalar": 256,
        },
        {
            **_GROUPED,
            "num_key_value_heads": 1,
            "sliding_window": 64,
            "query_pre_attn_scalar": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        "Gemma3TextConfig",
    ),
    "Phi-4-mini": Decoder(
        "Phi3",
        {
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "num_hidden_layers": 32,
            "num_attention_heads": 24,
            "num_key_value_heads": 8,
            "vocab_size": 200064,
            "max_position_embeddings": 131072,
            "original_max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
            "rope_parameters": _long_rope(48),
        },
        {
            **_NARROW,
            "num_key_value_heads": 2,
            "rope_parameters": _long_rope(6),
        },
    ),
    "Mistral-7B": Decoder(
        "Mistral",
        {
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 32768,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-5,
            "sliding_window": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
        _GROUPED,
    ),
    "Llama-3-8B": Decoder(
        "Llama",
        {
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 128256,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        },
        _GROUPED,
    ),
    "OLMoE-1B-7B": Decoder(
        "Olmoe",
        {
            "hidden_size": 2048,
            "intermediate_size": 1024,
            "num_hidden_layers": 16,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "vocab_size": 50304,
            "max_position_embeddings": 4096,
        },
        {
            **_NARROW,
            "num_key_value_heads": 4,
            "intermediate_size": 32,
            "num_experts": 8,
            "num_experts_per_tok": 2,
        },
    ),
}

_FAULTED = ("Llama-3.2-1B", "Llama-3-8B")
"""In which faults are planted, and whose weights are quantized."""

_WHISPER: Options = {
    "num_mel_bins": 128,
    "d_model": 1280,
    "encoder_layers": 32,
    "decoder_layers": 32,
    "encoder_attention_heads": 20,
    "decoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "decoder_ffn_dim": 5120,
    "vocab_size": 51866,
}
_SMALL_WHISPER: Options = {
    **_FEW_TOKENS,
    "num_mel_bins": 16,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_source_positions": 20,
    "max_target_positions": 32,
    "decoder_start_token_id": 3,
}


def _whisper(place: Place) -> tuple[Any, Any]:
    """The model, and thirty seconds of sound as it takes them."""
    kind = "WhisperForConditionalGeneration"
    model = at_trained_scales(shaped(place, kind, "WhisperConfig", _WHISPER, _SMALL_WHISPER))
    config = model.config
    return model, place.numbers(1, config.num_mel_bins, 2 * config.max_source_positions)


def _listening(place: Place) -> Case:
    model, sound = _whisper(place)
    return Case.of(Output(model.get_encoder(), "input_features", "last_hidden_state"), sound)


def _transcribing(place: Place) -> Case:
    model, sound = _whisper(place)
    return decoding(model, sound, place)


def _vit(place: Place) -> Case:
    full: Options = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_labels": 1000,
    }
    small: Options = {**_FEW_LAYERS, "num_labels": 10, "image_size": 32, "patch_size": 8}
    kind = "ViTForImageClassification"
    model = at_trained_scales(shaped(place, kind, "ViTConfig", full, small))
    size = model.config.image_size
    return Case.of(Output(model, "pixel_values", "logits"), place.numbers(1, 3, size, size))


def _diffusing(place: Place) -> Case:
    """One step of denoising: latents of a picture of 512 by 512, a time, and a prompt's text."""
    widths, text, size = ((32, 64), 48, 8) if place.small else ((320, 640, 1280, 1280), 768, 64)
    with torch.device(place.device):
        model = at_trained_scales(
            UNet(widths, text, groups=8 if place.small else 32).to(place.dtype)
        )
    time = torch.full((1,), 500, device=place.device)
    prompt = place.numbers(1, 9 if place.small else 77, text)
    return Case.of(model, place.numbers(1, 4, size, size), time, prompt)


CONFIGURATIONS = {
    one.name: one
    for one in (
        *(
            row
            for name, decoder in DECODERS.items()
            for row in (
                Configuration(name, decoder.prompt, faults=name in _FAULTED),
                Configuration(f"{name} decoding", decoder.decode),
            )
        ),
        *(
            Configuration(f"{name} q4f16", DECODERS[name].quantized, "module", dtype=torch.float16)
            for name in _FAULTED
        ),
        Configuration("Stable Diffusion 1.5 U-Net", _diffusing),
        Configuration("Whisper-large-v3 encoder", _listening),
        Configuration("Whisper-large-v3 decoding", _transcribing),
        Configuration("ViT-L/16", _vit),
    )
}
"""By name, in the order of the page."""
