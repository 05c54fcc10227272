"""All of them, by name, and those that are measured in narrow dtypes, too."""

from __future__ import annotations

from benchmarks.zoo.architecture import Architecture
from benchmarks.zoo.decoders import DECODERS
from benchmarks.zoo.encoders import ENCODERS, PAIRS
from benchmarks.zoo.mixed import AUDIO, MULTIMODAL, SERIES
from benchmarks.zoo.vision import VISION
from benchmarks.zoo.written import WRITTEN

ALL: tuple[Architecture, ...] = (
    *DECODERS,
    *ENCODERS,
    *PAIRS,
    *VISION,
    *AUDIO,
    *MULTIMODAL,
    *SERIES,
    *WRITTEN,
)

ARCHITECTURES: dict[str, Architecture] = {
    one.name: one for one in sorted(ALL, key=lambda one: one.group)
}

EVERYDAY: tuple[str, ...] = (
    *("GPT-2", "GPT-NeoX", "GPT-J", "OPT", "BLOOM", "MPT", "Falcon", "Llama", "Llama 3"),
    *("Mistral", "Mixtral", "Qwen2", "Qwen2-MoE", "Qwen3", "Qwen3-MoE"),
    *("Gemma", "Gemma 2", "Gemma 3", "Phi", "Phi-3", "StableLM", "OLMo 2", "Cohere"),
    *("StarCoder 2", "Granite", "GLM-4", "SmolLM 3", "gpt-oss", "DeepSeek-V3", "Mamba"),
    *("BERT", "RoBERTa", "XLM-RoBERTa", "DistilBERT", "ALBERT", "ELECTRA", "MPNet"),
    *("DeBERTa-v2", "ModernBERT", "T5", "BART", "Marian"),
    *("ViT", "DeiT", "BEiT", "DINOv2", "DINOv3", "SigLIP vision", "YOLOS", "Swin", "Swin v2"),
    *("Hiera", "PVT v2", "ConvNeXt", "ConvNeXt v2", "ResNet-18", "ResNet-50", "RegNet"),
    *("MobileNet v2", "MobileNet v3", "MobileViT", "EfficientNet", "PoolFormer", "SegFormer"),
    *("DPT", "DETR", "SAM", "Swin2SR", "VideoMAE", "VGG", "DenseNet", "U-Net", "YOLO"),
)
"""Language and vision models of everyday use: those that are measured in narrow dtypes, too."""
