"""Those that are refused, in one line, by their config.json alone."""

from __future__ import annotations

from tests.families.family import Family

_PART = "that is no model of its own"
_SEEING = "is a model of more than text (vision_config"
_ENCODER = "is an encoder, whose tokens see those after them"
_BART = {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
_ENCODERS = (
    ["bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert"]
    + ["reformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm", "xlm-roberta"]
    + ["xlm-roberta-xl", "xlnet", "xmod"]
)
_ENCODER_DECODERS = [
    "bart",
    "bigbird_pegasus",
    "blenderbot",
    "blenderbot-small",
    "marian",
    "mbart",
    "musicgen",
    "musicgen_melody",
    "mvp",
    "pegasus",
    "plbart",
    "prophetnet",
    "trocr",
    "whisper",
]
_NO_LAYER_INPUT = {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0, "num_kv_shared_layers": 0}

REFUSED: tuple[Family, ...] = (
    Family("gemma3n", refused="needs the package timm"),
    Family(
        "mllama",
        parts={"text": ("mllama_text_model", {}), "vision": ("mllama_vision_model", {})},
        refused=_PART,
    ),
    Family("mistral3", parts={"text": ("mistral", {}), "vision": ("pixtral", {})}, refused=_SEEING),
    Family("llava", parts={"text": ("llama", {}), "vision": ("clip_vision_model", {})}, refused=_SEEING),
    Family("minimax", refused="cache of its own kind; choose another student"),
    Family("openai-gpt", refused="takes no key-value cache; choose another student"),
    Family("moshi", refused="choose another student"),
    Family("cpmant", refused="choose another student"),
    Family(
        "recurrent_gemma",
        {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 4},
        refused="is not decoded exactly with a cache",
    ),
    Family("rwkv", refused="outside of any cache"),
    Family("modernbert-decoder", refused="a head of several layers"),
    Family("xlstm", refused="keeps its state in a cache of its own kind"),
    Family("blt", refused="cuts bytes into patches"),
    Family("gemma4_assistant", parts={"text": ("gemma4_text", _NO_LAYER_INPUT)}, refused="drafts for another model"),
    Family(
        "gemma4_unified_assistant",
        parts={"text": ("gemma4_unified_text", _NO_LAYER_INPUT)},
        refused="drafts for another model",
    ),
    Family(
        "emu3",
        parts={"text": ("emu3_text_model", {}), "vq": ("emu3_vqgan", {"hidden_size": 32, "base_channels": 32})},
        refused=_PART,
    ),
    *(Family(name, refused=_ENCODER) for name in _ENCODERS),
    *(Family(name, _BART, refused="is an encoder-decoder") for name in _ENCODER_DECODERS),
)
