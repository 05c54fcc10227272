"""Sound, pictures with text, and time series."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.zoo.architecture import Inputs, of_transformers
from benchmarks.zoo.inputs import VOCABULARY, captioned, ids, picture, sound, tensors

_SIZE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_VISION: dict[str, Any] = {**_SIZE, "image_size": 32, "patch_size": 8}
_TEXT: dict[str, Any] = {
    **_SIZE,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 32,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
_WAVE: dict[str, Any] = {
    **_SIZE,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 2, 2],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_LISTEN: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "decoder_start_token_id": 0,
    "use_cache": False,
}


def _spectrogram() -> Inputs:
    return {"input_features": torch.randn(1, 16, 40), "decoder_input_ids": ids(1, 8)}


def _speech() -> Inputs:
    return {"input_features": torch.randn(1, 40, 16), "decoder_input_ids": ids(1, 8)}


AUDIO = (
    of_transformers(
        "Whisper",
        "audio",
        "WhisperForConditionalGeneration",
        _spectrogram,
        **_LISTEN,
        num_mel_bins=16,
        max_source_positions=20,
        max_target_positions=32,
    ),
    of_transformers(
        "Speech2Text",
        "audio",
        "Speech2TextForConditionalGeneration",
        _speech,
        **_LISTEN,
        input_feat_per_channel=16,
        max_source_positions=40,
        max_target_positions=32,
        conv_channels=32,
    ),
    of_transformers("wav2vec 2.0", "audio", "Wav2Vec2Model", sound(), **_WAVE),
    of_transformers("HuBERT", "audio", "HubertModel", sound(), **_WAVE),
    of_transformers("WavLM", "audio", "WavLMModel", sound(), **_WAVE),
    of_transformers("UniSpeech", "audio", "UniSpeechModel", sound(), **_WAVE),
    of_transformers("SEW", "audio", "SEWModel", sound(), **_WAVE, squeeze_factor=2),
    of_transformers(
        "data2vec audio",
        "audio",
        "Data2VecAudioModel",
        sound(),
        **{**_WAVE, "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 3},
    ),
    of_transformers(
        "Audio Spectrogram Transformer",
        "audio",
        "ASTModel",
        tensors(input_values=(1, 64, 32)),
        **_SIZE,
        max_length=64,
        num_mel_bins=32,
    ),
    of_transformers(
        "EnCodec",
        "audio",
        "EncodecModel",
        tensors(input_values=(1, 1, 640)),
        num_filters=4,
        hidden_size=16,
        codebook_dim=16,
        codebook_size=32,
        upsampling_ratios=[4, 2],
        num_lstm_layers=1,
        target_bandwidths=[24.0],
    ),
)

MULTIMODAL = (
    of_transformers(
        "CLIP",
        "multimodal",
        "CLIPModel",
        captioned(),
        text_config=_TEXT,
        vision_config=_VISION,
        projection_dim=32,
    ),
    of_transformers(
        "SigLIP", "multimodal", "SiglipModel", captioned(), text_config=_TEXT, vision_config=_VISION
    ),
    of_transformers(
        "ViLT", "multimodal", "ViltModel", captioned(), **_TEXT, image_size=32, patch_size=8
    ),
    of_transformers(
        "GIT",
        "multimodal",
        "GitForCausalLM",
        captioned(),
        **_TEXT,
        vision_config=_VISION,
        use_cache=False,
    ),
    of_transformers(
        "OWL-ViT",
        "multimodal",
        "OwlViTModel",
        captioned(),
        text_config=_TEXT,
        vision_config=_VISION,
        projection_dim=32,
    ),
    of_transformers(
        "CLIPSeg vision",
        "multimodal",
        "CLIPVisionModelWithProjection",
        picture(),
        "CLIPVisionConfig",
        **_VISION,
        projection_dim=32,
    ),
)

SERIES = (
    of_transformers(
        "PatchTST",
        "time series",
        "PatchTSTForPrediction",
        tensors(past_values=(1, 32, 3)),
        num_input_channels=3,
        context_length=32,
        prediction_length=8,
        patch_length=8,
        patch_stride=8,
        d_model=32,
        num_attention_heads=4,
        num_hidden_layers=2,
        ffn_dim=64,
        loss="mse",
    ),
    of_transformers(
        "PatchTSMixer",
        "time series",
        "PatchTSMixerForPrediction",
        tensors(past_values=(1, 32, 3)),
        num_input_channels=3,
        context_length=32,
        prediction_length=8,
        patch_length=8,
        patch_stride=8,
        d_model=16,
        num_layers=2,
    ),
)
