"""Text encoders, and encoders with decoders."""

from __future__ import annotations

from typing import Any

from benchmarks.zoo.architecture import Architecture, of_transformers
from benchmarks.zoo.inputs import VOCABULARY, Make, masked_translation, padded, tokens, translation

_SIZE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 66,
    "pad_token_id": 2,
}
_NARROW: dict[str, Any] = {"embedding_size": 32}
_RELATIVE: dict[str, Any] = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
_BART: dict[str, Any] = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 64,
}
_T5: dict[str, Any] = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
_PAIR: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "decoder_start_token_id": 0,
    "use_cache": False,
}


def _encoder(
    name: str, model: str, config: str = "", *, inputs: Make | None = None, **options: Any
) -> Architecture:
    given = {**_SIZE, **options}
    return of_transformers(name, "text encoder", model, inputs or padded(), config, **given)


_XLNET: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "n_layer": 2,
    "n_head": 4,
    "d_inner": 128,
}


def _pair(name: str, model: str, *, inputs: Make | None = None, **options: Any) -> Architecture:
    given = {**_PAIR, **options}
    return of_transformers(name, "encoder-decoder", model, inputs or translation(), **given)


ENCODERS = (
    _encoder("BERT", "BertForMaskedLM"),
    _encoder("RoBERTa", "RobertaModel"),
    _encoder("XLM-RoBERTa", "XLMRobertaModel"),
    _encoder("DistilBERT", "DistilBertModel", dim=64, hidden_dim=128, n_layers=2, n_heads=4),
    _encoder("ALBERT", "AlbertModel", **_NARROW),
    _encoder("ELECTRA", "ElectraModel", **_NARROW),
    _encoder("MPNet", "MPNetModel"),
    _encoder("DeBERTa", "DebertaModel", **_RELATIVE),
    _encoder("DeBERTa-v2", "DebertaV2Model", **_RELATIVE, position_buckets=8),
    _encoder("ConvBERT", "ConvBertModel", **_NARROW, conv_kernel_size=3, head_ratio=2),
    _encoder("FNet", "FNetModel", inputs=tokens()),
    _encoder("SqueezeBERT", "SqueezeBertModel", embedding_size=64),
    _encoder("MobileBERT", "MobileBertModel", **_NARROW, intra_bottleneck_size=32),
    _encoder(
        "ModernBERT",
        "ModernBertModel",
        bos_token_id=0,
        eos_token_id=1,
        cls_token_id=0,
        sep_token_id=1,
        local_attention=8,
    ),
    _encoder("RoFormer", "RoFormerModel", **_NARROW),
    _encoder(
        "Nyströmformer",
        "NystromformerModel",
        inputs=tokens(),
        num_landmarks=4,
        segment_means_seq_len=16,
        conv_kernel_size=5,
    ),
    _encoder("MEGATRON-BERT", "MegatronBertModel"),
    _encoder("ESM", "EsmModel", position_embedding_type="rotary", mask_token_id=3),
    _encoder("LayoutLM", "LayoutLMModel"),
    _encoder("SPLINTER", "SplinterModel"),
    _encoder("Longformer", "LongformerModel", attention_window=8),
    _encoder("BigBird", "BigBirdModel", attention_type="original_full"),
    _encoder("EuroBERT", "EuroBertModel", bos_token_id=0, eos_token_id=1),
    _encoder(
        "CANINE", "CanineModel", inputs=padded(64), downsampling_rate=4, local_transformer_stride=16
    ),
    of_transformers("XLNet", "text encoder", "XLNetModel", padded(), **_XLNET, use_mems_eval=False),
)

PAIRS = (
    _pair("T5", "T5ForConditionalGeneration", **_T5),
    _pair("T5 v1.1", "T5ForConditionalGeneration", **_T5, feed_forward_proj="gated-gelu"),
    _pair("UMT5", "UMT5ForConditionalGeneration", **_T5),
    _pair(
        "LongT5",
        "LongT5ForConditionalGeneration",
        inputs=masked_translation(),
        **_T5,
        local_radius=4,
    ),
    _pair(
        "Switch Transformers",
        "SwitchTransformersForConditionalGeneration",
        inputs=masked_translation(),
        **_T5,
        num_experts=4,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
        expert_capacity=8,
    ),
    _pair("BART", "BartForConditionalGeneration", **_BART),
    _pair("mBART", "MBartForConditionalGeneration", **_BART),
    _pair("Marian", "MarianMTModel", **_BART),
    _pair("PEGASUS", "PegasusForConditionalGeneration", **_BART),
    _pair("Blenderbot", "BlenderbotForConditionalGeneration", **_BART),
    _pair("M2M-100", "M2M100ForConditionalGeneration", **_BART),
)
