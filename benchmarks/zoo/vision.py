"""Vision: transformers, convolutional networks, detection, segmentation, depth, video."""

from __future__ import annotations

from typing import Any

from benchmarks.zoo.architecture import Architecture, of_transformers
from benchmarks.zoo.inputs import Make, picture, video

_VIT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
_SWIN: dict[str, Any] = {
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "image_size": 32,
    "patch_size": 2,
}
_STAGES: dict[str, Any] = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [2, 2]}
_RESNET = {"class": "ResNetConfig", **_STAGES, "out_features": ["stage2"]}


def _vision(
    name: str, model: str, config: str = "", *, inputs: Make | None = None, **options: Any
) -> Architecture:
    return of_transformers(name, "vision", model, inputs or picture(), config, **options)


VISION = (
    _vision("ViT", "ViTForImageClassification", **_VIT),
    _vision("DeiT", "DeiTModel", **_VIT),
    _vision("BEiT", "BeitModel", **_VIT, use_relative_position_bias=True),
    _vision("DINOv2", "Dinov2Model", **_VIT, mlp_ratio=2),
    _vision("DINOv2 with registers", "Dinov2WithRegistersModel", **_VIT, mlp_ratio=2),
    _vision("DINOv3", "DINOv3ViTModel", **_VIT, num_register_tokens=2),
    _vision("SigLIP vision", "SiglipVisionModel", **_VIT),
    _vision("BLIP vision", "BlipVisionModel", **_VIT),
    _vision("I-JEPA", "IJepaModel", **_VIT),
    _vision("YOLOS", "YolosForObjectDetection", **{**_VIT, "image_size": [32, 32]}, num_detection_tokens=5),
    _vision("ViTDet", "VitDetModel", **_VIT, window_size=2, window_block_indices=[0], use_relative_position_embeddings=True),
    _vision("Swin", "SwinForImageClassification", **_SWIN),
    _vision("Swin v2", "Swinv2Model", **_SWIN),
    _vision("Hiera", "HieraModel", inputs=picture(64), embed_dim=16, image_size=[64, 64], depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8]),
    _vision("PVT", "PvtModel", inputs=picture(64), image_size=64, hidden_sizes=[16, 16, 32, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2], num_encoder_blocks=4),
    _vision("PVT v2", "PvtV2Model", inputs=picture(64), image_size=64, hidden_sizes=[16, 16, 32, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2]),
    _vision("LeViT", "LevitModel", inputs=picture(64), image_size=64, hidden_sizes=[32, 48, 64], num_attention_heads=[2, 3, 4], depths=[1, 1, 1], key_dim=[8, 8, 8]),
    _vision("FocalNet", "FocalNetModel", **{k: _SWIN[k] for k in ("embed_dim", "depths", "image_size", "patch_size")}, focal_levels=[2, 2], focal_windows=[3, 3]),
    _vision("SwiftFormer", "SwiftFormerModel", inputs=picture(64), image_size=64, depths=[1, 1, 1, 1], embed_dims=[16, 16, 32, 32]),
    _vision("ConvNeXt", "ConvNextForImageClassification", hidden_sizes=[16, 32], depths=[2, 2], num_stages=2),
    _vision("ConvNeXt v2", "ConvNextV2ForImageClassification", hidden_sizes=[16, 32], depths=[2, 2], num_stages=2),
    _vision("ResNet-18", "ResNetForImageClassification", **_STAGES, layer_type="basic"),
    _vision("ResNet-50", "ResNetForImageClassification", **_STAGES, layer_type="bottleneck"),
    _vision("RegNet", "RegNetForImageClassification", **_STAGES, groups_width=8, layer_type="y"),
    _vision("BiT", "BitModel", embedding_size=32, hidden_sizes=[32, 64], depths=[1, 1], num_groups=4),
    _vision("MobileNet v1", "MobileNetV1ForImageClassification", depth_multiplier=0.25),
    _vision("MobileNet v2", "MobileNetV2ForImageClassification", inputs=picture(64), depth_multiplier=0.35),
    _vision("MobileViT", "MobileViTForImageClassification", inputs=picture(64), hidden_sizes=[24, 32, 40], neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32], image_size=64),
    _vision("MobileViT v2", "MobileViTV2Model", inputs=picture(64), image_size=64, width_multiplier=0.25, n_attn_blocks=[1, 1, 1]),
    _vision("EfficientNet", "EfficientNetForImageClassification", inputs=picture(64), image_size=64, width_coefficient=0.25, depth_coefficient=0.25, hidden_dim=320),
    _vision("PoolFormer", "PoolFormerModel", inputs=picture(64), depths=[1, 1, 1, 1], hidden_sizes=[16, 16, 32, 32]),
    _vision(
        "SegFormer",
        "SegformerForSemanticSegmentation",
        inputs=picture(64),
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[16, 32],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=32,
    ),
    _vision(
        "DPT",
        "DPTForDepthEstimation",
        **{**_VIT, "num_hidden_layers": 4},
        backbone_out_indices=[0, 1, 2, 3],
        backbone_featmap_shape=[8, 8, 8],
        neck_hidden_sizes=[8, 16, 16, 16],
        fusion_hidden_size=16,
    ),
    _vision(
        "GLPN",
        "GLPNForDepthEstimation",
        inputs=picture(64),
        hidden_sizes=[8, 16, 16, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
    ),
    _vision(
        "DETR",
        "DetrForObjectDetection",
        inputs=picture(64),
        backbone_config=_RESNET,
        d_model=64,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        num_queries=6,
    ),
    _vision(
        "SAM",
        "SamModel",
        inputs=picture(64),
        vision_config={
            "class": "SamVisionConfig",
            "hidden_size": 32,
            "output_channels": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 8,
            "mlp_dim": 64,
            "window_size": 3,
            "num_pos_feats": 16,
            "global_attn_indexes": [1],
        },
        prompt_encoder_config={
            "class": "SamPromptEncoderConfig",
            "hidden_size": 32,
            "image_size": 64,
            "patch_size": 8,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            "class": "SamMaskDecoderConfig",
            "hidden_size": 32,
            "mlp_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 32,
        },
    ),
    _vision(
        "Swin2SR",
        "Swin2SRForImageSuperResolution",
        inputs=picture(16),
        embed_dim=16,
        depths=[2],
        num_heads=[2],
        window_size=4,
        image_size=16,
        upscale=2,
        upsampler="pixelshuffle",
    ),
    _vision("VideoMAE", "VideoMAEForVideoClassification", inputs=video(4, 16), **{**_VIT, "image_size": 16}, num_frames=4),
    _vision("TimeSformer", "TimesformerModel", inputs=video(4, 16), **{**_VIT, "image_size": 16}, num_frames=4),
)
