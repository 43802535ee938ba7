"""What becomes of the families of `families.py` in vLLM 0.32 on a CPU (`make test-vllm-families`)."""

from __future__ import annotations

IN_VLLM = (
    ["llama", "qwen2", "qwen3", "mistral", "ministral3", "phi", "phi3", "gemma", "gemma2", "gemma3_text", "vaultgemma"]
    + ["granite", "granite_swa", "cohere", "cohere2", "olmo", "olmo2", "olmo3", "smollm3", "seed_oss", "glm", "glm4"]
    + ["ernie4_5", "exaone4", "nemotron", "stablelm", "starcoder2", "arcee", "cwm", "hunyuan_v1_dense", "hyperclovax"]
    + ["jais2", "gpt2", "gpt_neox", "gptj", "gpt_bigcode", "opt", "bloom", "falcon", "mamba2", "falcon_h1", "zamba2"]
    + ["ministral", "helium", "nanochat", "persimmon", "bitnet", "doge", "biogpt", "lfm2"]
)
"""Sampled, reloaded and sampled again by vLLM 0.32 on a CPU with the model's own log-probs."""
_EXPERTS = "experts from a copy that new weights do not reach"
_SEES_TOO = "holds a model of more than text under other names"
_UNKNOWN = "vLLM cannot hold"
REFUSED_BEFORE_VLLM = {
    **dict.fromkeys(
        ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss", "granitemoe", "granitemoehybrid"], _EXPERTS
    ),
    **dict.fromkeys(["granitemoeshared", "granitemoe_swa", "flex_olmo", "deepseek_v2", "deepseek_v3"], _EXPERTS),
    **dict.fromkeys(["deepseek_v32", "glm4_moe", "glm4_moe_lite", "ernie4_5_moe", "hunyuan_v1_moe"], _EXPERTS),
    **dict.fromkeys(["exaone_moe", "cohere2_moe", "afmoe", "minimax_m2", "mimo_v2_flash", "hy_v3", "laguna"], _EXPERTS),
    **dict.fromkeys(["mellum", "dots1", "solar_open", "phimoe", "lfm2_moe", "jamba", "qwen3_next"], _EXPERTS),
    **dict.fromkeys(
        ["llama4_text", "dbrx", "aria_text", "longcat_flash", "nemotron_h", "deepseek_v4", "hy_v4", "inkling_text"],
        _EXPERTS,
    ),
    **dict.fromkeys(["gemma3", "gemma4", "llama4", "fuyu", "qwen3_5"], _SEES_TOO),
    **dict.fromkeys(["codegen", "diffllama", "gpt_neo", "gpt_neox_japanese", "xglm"], "vLLM has no code for it"),
    "hrm_text": "the tokens of a prompt see those after them",
    "youtu": "does not take the sizes of its latent attention",
    **dict.fromkeys(["qwen3_5_text", "qwen3_5_moe_text"], "needs torchvision"),
    **dict.fromkeys(["jetmoe", "zaya"], "off the model's own, as measured"),
    "apertus": "holds numbers of its activation (xIELU) in bfloat16",
    "ctrl": "does not read the bias of a head again",
    "gemma3n_text": "does not read all of Gemma 3n's weights again",
}
"""Those that the vLLM sampler refuses on a CPU by their config.json, and with which words."""
REFUSED_IN_VLLM = {
    **dict.fromkeys(["gemma4_text", "minicpm3", "olmo_hybrid", "bamba", "zamba"], _UNKNOWN),
    "mpt": _UNKNOWN,
    "qwen2 (with a window)": "Sliding window for some but all layers is not supported",
    **dict.fromkeys(["mamba", "falcon_mamba"], "vLLM cannot compute"),
}
"""Those that vLLM itself has no code for there; its words on one line, before anything is sampled."""
