"""Text decoders: attention of all kinds, mixtures of experts, state spaces."""

from __future__ import annotations

from typing import Any

from benchmarks.zoo.architecture import Architecture, of_transformers
from benchmarks.zoo.inputs import VOCABULARY, tokens

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "use_cache": False,
}
_SIZE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_GQA: dict[str, Any] = {**_SIZE, "num_key_value_heads": 2}
_GPT: dict[str, Any] = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
_HEAD: dict[str, Any] = {**_GQA, "head_dim": 16}
_MOE: dict[str, Any] = {
    **_GQA,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
_MLA: dict[str, Any] = {
    **_SIZE,
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
}
_ROUTED: dict[str, Any] = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
_WINDOW: dict[str, Any] = {"sliding_window": 8}  # half of the sentence
_MAMBA2: dict[str, Any] = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
}


def _decoder(name: str, model: str, config: str = "", **options: Any) -> Architecture:
    given = {**_COMMON, **options}
    return of_transformers(name, "text decoder", model, tokens(), config, **given)


DECODERS = (
    _decoder("GPT", "OpenAIGPTLMHeadModel", **_GPT),
    _decoder("GPT-2", "GPT2LMHeadModel", **_GPT),
    _decoder("GPT-BigCode", "GPTBigCodeForCausalLM", **_GPT),
    _decoder(
        "GPT-Neo",
        "GPTNeoForCausalLM",
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        intermediate_size=128,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=64,
        window_size=8,
    ),
    _decoder("GPT-NeoX", "GPTNeoXForCausalLM", **_SIZE),
    _decoder("GPT-J", "GPTJForCausalLM", **_GPT, rotary_dim=8),
    _decoder("CodeGen", "CodeGenForCausalLM", **_GPT, rotary_dim=8),
    _decoder("CTRL", "CTRLLMHeadModel", **_GPT, dff=128),
    _decoder(
        "OPT",
        "OPTForCausalLM",
        hidden_size=64,
        ffn_dim=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
    ),
    _decoder("BioGPT", "BioGptForCausalLM", **_SIZE),
    _decoder("XGLM", "XGLMForCausalLM", d_model=64, ffn_dim=128, num_layers=2, attention_heads=4),
    _decoder("BLOOM", "BloomForCausalLM", hidden_size=64, n_layer=2, n_head=4),
    _decoder("MPT", "MptForCausalLM", d_model=64, n_layers=2, n_heads=4, max_seq_len=64),
    _decoder("Falcon", "FalconForCausalLM", **_SIZE),
    _decoder("Falcon (ALiBi)", "FalconForCausalLM", **_SIZE, alibi=True),
    _decoder("Llama", "LlamaForCausalLM", **_GQA),
    _decoder(
        "Llama 3",
        "LlamaForCausalLM",
        **_GQA,
        tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8,
        },
    ),
    _decoder(
        "Llama 4",
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        **_HEAD,
        intermediate_size_mlp=128,
        num_local_experts=4,
        num_experts_per_tok=1,
        attention_chunk_size=8,
        no_rope_layers=[1, 0],
    ),
    _decoder("DiffLlama", "DiffLlamaForCausalLM", **_GQA),
    _decoder("Mistral", "MistralForCausalLM", **_GQA, **_WINDOW),
    _decoder("Mixtral", "MixtralForCausalLM", **_GQA, num_local_experts=4, num_experts_per_tok=2),
    _decoder("Qwen2", "Qwen2ForCausalLM", **_GQA),
    _decoder("Qwen2-MoE", "Qwen2MoeForCausalLM", **_MOE, shared_expert_intermediate_size=32),
    _decoder("Qwen3", "Qwen3ForCausalLM", **_HEAD),
    _decoder("Qwen3-MoE", "Qwen3MoeForCausalLM", **_MOE, head_dim=16),
    _decoder("Gemma", "GemmaForCausalLM", **_HEAD),
    _decoder("Gemma 2", "Gemma2ForCausalLM", **_HEAD, **_WINDOW, query_pre_attn_scalar=16),
    _decoder(
        "Gemma 3",
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        **_HEAD,
        **_WINDOW,
        query_pre_attn_scalar=16,
        layer_types=["sliding_attention", "full_attention"],
    ),
    _decoder("Phi", "PhiForCausalLM", **_SIZE, partial_rotary_factor=0.5),
    _decoder("Phi-3", "Phi3ForCausalLM", **_GQA, **_WINDOW),
    _decoder("Phi-3.5-MoE", "PhimoeForCausalLM", **_GQA, num_local_experts=4),
    _decoder("StableLM", "StableLmForCausalLM", **_GQA, partial_rotary_factor=0.25),
    _decoder("OLMo", "OlmoForCausalLM", **_GQA, clip_qkv=2.0),
    _decoder("OLMo 2", "Olmo2ForCausalLM", **_GQA),
    _decoder("OLMoE", "OlmoeForCausalLM", **_GQA, num_experts=4, num_experts_per_tok=2),
    _decoder("Cohere", "CohereForCausalLM", **_GQA, use_qk_norm=True),
    _decoder("Cohere 2", "Cohere2ForCausalLM", **_GQA, **_WINDOW),
    _decoder("StarCoder 2", "Starcoder2ForCausalLM", **_GQA),
    _decoder(
        "Granite",
        "GraniteForCausalLM",
        **_GQA,
        embedding_multiplier=2.0,
        residual_multiplier=0.5,
        attention_multiplier=0.3,
        logits_scaling=2.0,
    ),
    _decoder("GraniteMoE", "GraniteMoeForCausalLM", **_GQA, num_local_experts=4),
    _decoder("GLM-4", "Glm4ForCausalLM", **_HEAD, partial_rotary_factor=0.5),
    _decoder("SmolLM 3", "SmolLM3ForCausalLM", **_GQA, no_rope_layers=[1, 0]),
    _decoder("Nemotron", "NemotronForCausalLM", **_GQA),
    _decoder("Persimmon", "PersimmonForCausalLM", **_SIZE),
    _decoder("Helium", "HeliumForCausalLM", **_HEAD),
    _decoder("ERNIE 4.5", "Ernie4_5ForCausalLM", **_HEAD),
    _decoder("EXAONE 4", "Exaone4ForCausalLM", **_GQA, **_WINDOW),
    _decoder("Seed-OSS", "SeedOssForCausalLM", **_HEAD),
    _decoder("BitNet", "BitNetForCausalLM", **_GQA),
    _decoder("Arcee", "ArceeForCausalLM", **_HEAD),
    _decoder(
        "gpt-oss",
        "GptOssForCausalLM",
        **_HEAD,
        **_WINDOW,
        num_local_experts=4,
        num_experts_per_tok=2,
    ),
    _decoder("MiniCPM 3", "MiniCPM3ForCausalLM", **_MLA),
    _decoder("DeepSeek-V2", "DeepseekV2ForCausalLM", **_MLA, **_ROUTED),
    _decoder("DeepSeek-V3", "DeepseekV3ForCausalLM", **_MLA, **_ROUTED),
    _decoder(
        "RWKV",
        "RwkvForCausalLM",
        hidden_size=64,
        attention_hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        context_length=64,
    ),
    _decoder(
        "Mamba",
        "MambaForCausalLM",
        hidden_size=64,
        num_hidden_layers=2,
        state_size=8,
        time_step_rank=8,
    ),
    _decoder(
        "Falcon-Mamba",
        "FalconMambaForCausalLM",
        hidden_size=64,
        num_hidden_layers=2,
        state_size=8,
        time_step_rank=8,
    ),
    _decoder(
        "Mamba-2",
        "Mamba2ForCausalLM",
        hidden_size=64,
        num_hidden_layers=2,
        state_size=16,
        head_dim=16,
        num_heads=8,
        n_groups=1,
        chunk_size=8,
    ),
    _decoder(
        "Jamba",
        "JambaForCausalLM",
        **_GQA,
        num_experts=2,
        num_experts_per_tok=1,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        mamba_d_state=8,
        mamba_dt_rank=8,
        use_mamba_kernels=False,
    ),
    _decoder("Bamba", "BambaForCausalLM", **_GQA, **_MAMBA2, attn_layer_indices=[1]),
    _decoder(
        "RecurrentGemma",
        "RecurrentGemmaForCausalLM",
        **{**_GQA, "num_hidden_layers": 3, "num_key_value_heads": 1},
        lru_width=64,
        attention_window_size=8,
    ),
    _decoder(
        "LFM2",
        "Lfm2ForCausalLM",
        **_GQA,
        layer_types=["conv", "full_attention"],
        block_auto_adjust_ff_dim=False,
    ),
    _decoder("NanoChat", "NanoChatForCausalLM", **_HEAD),
)
