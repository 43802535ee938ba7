"""Every architecture that is tried, in one list: what it takes to build it tiny, and what becomes of it.

`make test-families` runs all of it and writes the table of docs/models.md; `make test` runs those marked quick.
"""

from __future__ import annotations

from tests.families.family import Family
from tests.families.refused import REFUSED

_MLA = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
_MLA |= {"num_key_value_heads": 4}
_SLIDING = {"layer_types": ["sliding_attention", "full_attention"]}
_CAPPED = {**_SLIDING, "final_logit_softcapping": 5.0}
_PER_LAYER = {
    **_SLIDING,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 102,
    "num_kv_shared_layers": 0,
}
_MAMBA = {"mamba_d_state": 8, "mamba_d_conv": 4, "mamba_expand": 2}
_MAMBA2 = {**_MAMBA, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1}
_ZAMBA = {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2, "mamba_d_state": 8}
_ZAMBA |= {"use_mamba_kernels": False}
_EVERY_SECOND = {"attn_layer_period": 2, "attn_layer_offset": 1}
_LINEAR = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
_LINEAR |= {"layer_types": ["linear_attention", "full_attention"]}
_CONV = {"layer_types": ["conv", "full_attention"]}
_CHUNKED = {"attention_chunk_size": 4, "intermediate_size_mlp": 48, "interleave_moe_layer_step": 2}
_CHUNKED |= {"layer_types": ["chunked_attention", "full_attention"]}
_SEES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
_SEES |= {"image_size": 28, "patch_size": 14, "depth": 1, "num_heads": 2, "out_hidden_size": 32}
_SEES |= {"projector_input_dim": 16, "projector_output_dim": 16, "vision_output_dim": 16, "num_global_layers": 1}
_ADAPTS = {"adapter_in_dim": 16, "adapter_input_size": 16, "adapter_out_dim": 32}
_INDEXED = _MLA | {"index_topk": 64, "index_head_dim": 16, "index_n_heads": 2}
_HASHED = {**_LINEAR, "hc_lowrank": 8, "ngram_vocab_size_base": 50, "split_ngram_parts": 2, "ple_embed_dim": 8}
_HASHED |= {"make_ngram_vocab_size_divisible_by": 2, "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8}
_HASHED |= {"indexer_budget": 64, "indexer_compress_ratio": 4}
_BY_KIND = {kind: {"rope_type": "default", "rope_theta": 1e4} for kind in ("sliding_attention", "full_attention")}
_INKLING = {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 8, "sliding_window_size": 4}
_INKLING |= {"unpadded_vocab_size": 102, "n_layers_per_attn_res_block": 1}


QUICK = frozenset(
    ["qwen2 (with a window)", "gemma2", "granite", "cohere", "gpt2", "phi", "bloom", "mixtral", "gpt_oss", "mamba"]
    + ["falcon_h1", "recurrent_gemma", "rwkv", "bert", "bart"]
)
"""One of each way of being different."""

FAMILIES: tuple[Family, ...] = (
    # Dense, by attention alone.
    Family("llama"),
    Family("qwen2"),
    Family("qwen2", variant="with a window", config={"use_sliding_window": True, "max_window_layers": 1}),
    Family("qwen3"),
    Family("mistral"),
    Family("ministral"),
    Family("ministral3"),
    Family("phi"),
    Family("phi3"),
    Family("gemma"),
    Family("gemma2", config={**_CAPPED, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 8}),
    Family("gemma3_text", config=_CAPPED),
    Family("gemma3n_text", config={**_PER_LAYER, "laurel_rank": 4, "activation_sparsity_pattern": [0.0, 0.0]}),
    Family("gemma4_text", config={**_PER_LAYER, "global_head_dim": 8}),
    Family("vaultgemma"),
    Family(
        "granite",
        config={
            "logits_scaling": 4.0,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.3,
            "attention_multiplier": 0.2,
        },
    ),
    Family("granite_swa", config={"logits_scaling": 4.0}),
    Family("cohere", config={"logit_scale": 0.5}),
    Family("cohere2", config={**_SLIDING, "logit_scale": 0.5}),
    Family("olmo"),
    Family("olmo2"),
    Family("olmo3", config=_SLIDING),
    Family("smollm3"),
    Family("seed_oss"),
    Family("glm"),
    Family("glm4"),
    Family("ernie4_5"),
    Family("exaone4"),
    Family("helium"),
    Family("nemotron", packs=False),
    Family("stablelm", packs=False),
    Family("starcoder2", config={"sliding_window": 4}),
    Family("apertus"),
    Family("arcee"),
    Family("cwm"),
    Family("hunyuan_v1_dense"),
    Family("hyperclovax", config={"logits_scaling": 0.25}),
    Family("jais2"),
    Family("nanochat"),
    Family("persimmon"),
    Family("bitnet"),
    Family("diffllama"),
    Family("doge", packs=False),
    Family("hrm_text"),
    Family("llama4_text", config=_CHUNKED),
    Family("minicpm3", config=_MLA),
    Family("apertus1p5_text", config={"vocab_size": 110, "output_vocab_size": 102}),
    Family("cohere_compass_text", config={**_SLIDING, "rope_parameters": _BY_KIND, "logit_scale": 0.5}),
    Family("dory", config={"num_hidden_layers": 3, "n_input_layers": 1, "n_output_layers": 1}),
    Family("exaone"),
    Family("gemma4_unified_text", config={**_PER_LAYER, "global_head_dim": 8}),
    Family("internlm3"),
    Family("iquestcoder"),
    # Older ones.
    Family("gpt2"),
    Family(
        "gpt_neo",
        config={
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "intermediate_size": 64,
        },
        packs=False,
    ),
    Family("gpt_neox"),
    Family("gpt_neox_japanese", packs=False),
    Family("gptj", config={"rotary_dim": 4}),
    Family("gpt_bigcode"),
    Family("gpt-sw3"),
    Family("codegen", config={"rotary_dim": 4}),
    Family("opt", config={"word_embed_proj_dim": 16}),
    Family("bloom", config={"hidden_dropout": 0.1, "attention_dropout": 0.1}, packs=False),
    Family("falcon", packs=False),
    Family("mpt", packs=False),
    Family("biogpt", packs=False),
    Family("ctrl"),
    Family("xglm", packs=False),
    # Mixtures of experts.
    Family("mixtral"),
    Family("qwen2_moe"),
    Family("qwen3_moe"),
    Family("olmoe"),
    Family("flex_olmo"),
    Family("phimoe", config={"router_jitter_noise": 0.1, "input_jitter_noise": 0.1, "lm_head_bias": True}),
    Family("gpt_oss"),
    Family("deepseek_v2", config=_MLA),
    Family("deepseek_v3", config=_MLA),
    Family("deepseek_v32", config=_INDEXED, packs=False),
    Family("deepseek_v4", packs=False),
    Family("granitemoe", config={"logits_scaling": 4.0}),
    Family("granitemoeshared", config={"logits_scaling": 4.0, "shared_intermediate_size": 32}),
    Family("granitemoe_swa", config={"logits_scaling": 4.0}),
    Family("glm4_moe"),
    Family("glm4_moe_lite", config=_MLA),
    Family("ernie4_5_moe"),
    Family("hunyuan_v1_moe"),
    Family("exaone_moe"),
    Family("cohere2_moe"),
    Family("dots1", config={"layer_types": ["full_attention", "sliding_attention"]}),
    Family(
        "dbrx",
        config={
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
            "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
        },
    ),
    Family("jetmoe"),
    Family("afmoe"),
    Family("aria_text"),
    Family("solar_open"),
    Family("minimax_m2"),
    Family("mimo_v2_flash"),
    Family(
        "longcat_flash",
        config=_MLA
        | {
            "ffn_hidden_size": 48,
            "expert_ffn_hidden_size": 16,
            "zero_expert_num": 2,
            "n_routed_experts": 4,
            "moe_topk": 2,
        },
    ),
    Family("hy_v3"),
    Family("hy_v4", packs=False),
    Family("kolibri1"),
    Family("laguna"),
    Family("mellum"),
    Family("flint"),
    Family("beam"),
    Family("youtu", config=_MLA),
    Family("inkling_text", packs=False),
    Family("zaya", config={"num_experts_per_tok": 1}, packs=False),
    Family("axk1", config=_MLA),
    Family("axk2", config=_INDEXED, packs=False),
    Family("dots3_note_text", config=_INDEXED, packs=False),
    Family("glm_moe_dsa", config=_INDEXED, packs=False),
    Family("inkling2_text", config=_INKLING, packs=False),
    Family("inkling2_loop_text", config=_INKLING, packs=False),
    Family("minimax_m3_vl_text"),
    Family(
        "minimax_m3_vl_text",
        variant="sparse",
        config={
            "layer_types": ["full_attention", "minimax_m3_sparse"],
            "index_n_heads": 2,
            "index_head_dim": 16,
            "index_block_size": 4,
        },
        packs=False,
    ),
    Family("sarvam_mla", config=_MLA),
    Family("sarvam_moe"),
    # State spaces, linear attention and hybrids.
    Family("mamba", packs=False),
    Family("mamba2", config={"num_heads": 8, "head_dim": 8, "n_groups": 1, "expand": 2, "chunk_size": 8}, packs=False),
    Family("falcon_mamba", packs=False),
    Family(
        "jamba",
        config={
            **_MAMBA,
            **_EVERY_SECOND,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "use_mamba_kernels": False,
            "mamba_dt_rank": 4,
        },
        packs=False,
    ),
    Family("bamba", config={**_MAMBA2, "attn_layer_indices": [1]}, packs=False),
    Family(
        "zamba",
        config={
            **_ZAMBA,
            **_EVERY_SECOND,
            "mamba_dt_rank": 4,
            "n_mamba_heads": 2,
            "attention_hidden_size": 64,
            "attention_head_dim": 16,
        },
        packs=False,
    ),
    Family(
        "zamba2",
        config={**_ZAMBA, "mamba_ngroups": 1, "n_mamba_heads": 8, "chunk_size": 8, "num_mem_blocks": 1},
        packs=False,
    ),
    Family(
        "falcon_h1",
        config={
            **_MAMBA2,
            "mamba_d_ssm": 64,
            "mamba_chunk_size": 8,
            "lm_head_multiplier": 0.5,
            "embedding_multiplier": 2.0,
        },
        packs=False,
    ),
    Family(
        "granitemoehybrid",
        config={
            **_MAMBA2,
            "layer_types": ["mamba", "attention"],
            "shared_intermediate_size": 32,
            "logits_scaling": 4.0,
        },
        packs=False,
    ),
    Family(
        "nemotron_h",
        config={
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "n_groups": 1,
            "ssm_state_size": 8,
            "chunk_size": 8,
            "moe_intermediate_size": 16,
            "moe_shared_expert_intermediate_size": 16,
            "moe_latent_size": None,
        },
        packs=False,
    ),
    Family("lfm2", config=_CONV, packs=False),
    Family("lfm2_moe", config={**_CONV, "num_dense_layers": 1}, packs=False),
    Family("olmo_hybrid", config=_LINEAR, packs=False),
    Family("qwen3_next", config=_LINEAR, packs=False),
    Family("qwen3_5_text", config=_LINEAR, packs=False),
    Family("qwen3_5_moe_text", config=_LINEAR, packs=False),
    Family("qwen4_exp_text", config=_HASHED, packs=False),
    Family("bailing_hybrid", config={**_MLA, "layer_group_size": 2}, packs=False),
    Family(
        "kimi_linear",
        config={
            **_MLA,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_head_dim": 8,
            "linear_num_heads": 4,
        },
        packs=False,
    ),
    Family(
        "lfm3", {"layer_types": ["conv", "sliding_attention", "full_attention"], "num_hidden_layers": 3}, packs=False
    ),
    Family("lara_mini", packs=False),
    # Composite ones (vision and text), on text alone. Some are trained and published as their text model.
    Family("gemma3", parts={"text": ("gemma3_text", _SLIDING), "vision": ("siglip_vision_model", _SEES)}),
    Family("gemma4", parts={"text": ("gemma4_text", {**_PER_LAYER, "global_head_dim": 8})}),
    Family("fuyu", parts={"text": ("persimmon", {})}),
    Family("llama4", parts={"text": ("llama4_text", _CHUNKED), "vision": ("llama4_vision_model", _SEES)}),
    Family("qwen3_5", parts={"text": ("qwen3_5_text", _LINEAR), "vision": ("qwen3_5_vision", _SEES)}, packs=False),
    Family(
        "qwen3_5_moe",
        parts={"text": ("qwen3_5_moe_text", _LINEAR), "vision": ("qwen3_5_moe_vision", _SEES)},
        packs=False,
    ),
    Family(
        "qwen4_exp", parts={"text": ("qwen4_exp_text", _HASHED), "vision": ("qwen4_exp_vision", _SEES)}, packs=False
    ),
    Family("gemma4_unified", parts={"text": ("gemma4_unified_text", {**_PER_LAYER, "global_head_dim": 8})}),
    Family(
        "dots3_note",
        parts={
            "text": ("dots3_note_text", _INDEXED),
            "vision": ("dots3_note_vision_encoder", {**_SEES, "mlp_layer_types": ["dense"], **_ADAPTS}),
            "audio": ("dots3_note_audio_encoder", {**_SEES, "downsample_hidden_size": 8, **_ADAPTS}),
        },
        packs=False,
    ),
    Family(
        "got_ocr2",
        config={
            "vision_config": {
                **_SEES,
                "mlp_dim": 16,
                "output_channels": 8,
                "window_size": 2,
                "global_attn_indexes": [0],
            }
        },
        parts={"text": ("qwen2", {})},
    ),
    Family(
        "moss_transcribe_diarize",
        parts={"text": ("qwen3", {}), "audio": ("moss_transcribe_diarize_audio", {**_SEES, "num_mel_bins": 8})},
    ),
    Family("git", config={"vision_config": _SEES}, packs=False),
    Family(
        "phi4_multimodal",
        config={
            "vision_config": {**_SEES, "crop_size": 28},
            "audio_config": {
                **_SEES,
                "num_blocks": 1,
                "ext_pw_out_channel": 16,
                "depthwise_separable_out_channel": 16,
                "nemo_conv_channels": 16,
            },
            "original_max_position_embeddings": 128,
        },
    ),
    *REFUSED,
)
