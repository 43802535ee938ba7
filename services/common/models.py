"""What a setting that names a model may hold: a Hugging Face folder or hub id, of an architecture that can be used."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

from safetensors import SafetensorError

from rgopd.common.errors import ConfigError
from rgopd.common.hub import hub_repo, reachable, stay_offline

Dtype = Literal["float32", "bfloat16", "float16"]
"""What weights and activations may be held in."""


def hub_problem(setting: str, name: str, error: Exception) -> str:
    """One line for what transformers and huggingface_hub say at length about a model that they could not get."""
    text = " ".join(str(error).split())
    if "gated" in text.lower():
        return f"{setting}: {name} is gated: accept its terms on the hub and log in with `hf auth login`"
    if any(word in text for word in ("couldn't connect", "offline", "Connection", "resolve", "Max retries")):
        return (
            f"{setting}: {name} is no folder here, and the hub cannot be reached: check the path, or download the "
            f"model where there is a network (`hf download {name}`) and name its folder"
        )
    if any(word in text for word in ("not a valid model identifier", "Repository Not Found", "is not a local folder")):
        return f"{setting}: {name} is no folder here, and the hub has no such model; check the spelling"
    if "trust_remote_code" in text:
        return f"{setting}: {name} needs its folder's own Python code, {_NO_CODE}"
    if "Weights only load failed" in text:
        return f"{setting}: {name}: a .bin file there holds more than weights, which is never run; give safetensors"
    if "ignore_mismatched_sizes" in text:
        return f"{setting}: {name} holds weights of other sizes than its config.json says: another model's"
    return f"{setting}: {name} cannot be loaded: {text[:300]}"


def check_whole(setting: str, name: str, told: Mapping[str, Any]) -> None:
    """Refuse what transformers filled with random numbers, of what `output_loading_info` says.

    Raises:
        ConfigError: weights are missing.
    """
    if missing := sorted(told["missing_keys"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ConfigError(
            f"{setting}: {name} lacks weights of its own: {missing[0]}{more}; copy or download the folder again"
        )


def check_tokenizer(setting: str, name: str, tokenizer: Any, instead: str = "") -> None:
    """Refuse the empty tokenizer that transformers makes of a folder without its files.

    Args:
        instead: what else to do about it, with an "or".

    Raises:
        ConfigError: it has no words.
    """
    if not tokenizer("1 + 1", add_special_tokens=False)["input_ids"]:
        raise ConfigError(
            f"{setting}: {name} holds no tokenizer: {instead}copy that of the model it was made from into it"
        )


def at_hand(setting: str, name: str) -> None:
    """A hub id is in the cache, or the hub answers: found out in seconds, not by a minute of retries.

    Raises:
        ConfigError: neither; says what to do.
    """
    repo = hub_repo(name)
    if repo is None or reachable():
        return
    if repo.snapshot() is None:
        raise ConfigError(hub_problem(setting, name, OSError("offline")))
    stay_offline()


def _broken() -> tuple[type[Exception], ...]:
    """What a broken folder makes transformers raise: of its files, and of a config.json with values of other kinds."""
    from huggingface_hub.errors import StrictDataclassError

    files = (OSError, ValueError, RuntimeError, ImportError, SafetensorError)
    return (*files, UnpicklingError, AttributeError, TypeError, LookupError, ArithmeticError, StrictDataclassError)


@contextmanager
def loading(setting: str, name: str) -> Iterator[None]:
    """While transformers reads a model or its tokenizer: all that it says of a broken folder becomes one line.

    Raises:
        ConfigError: files that are missing or cut off, weights of other shapes than the config's, a package it lacks.
    """
    at_hand(setting, name)
    try:
        yield
    except ConfigError:
        raise
    except _broken() as error:
        raise ConfigError(hub_problem(setting, name, error)) from error


def check_model(name: str, setting: str) -> None:
    """Refuse a path that is no model folder, before transformers takes it for a hub id.

    Raises:
        ConfigError: names the setting and what is wrong there.
    """
    if not name.strip():
        raise ConfigError(f"{setting} is empty: give a Hugging Face folder, or a hub id like ORG/MODEL")
    looks_like_a_path = name.startswith(("/", ".", "~")) or name.endswith("/") or name.count("/") > 1
    folder = Path(name)
    if not folder.exists():
        if looks_like_a_path:
            raise ConfigError(
                f"{setting}: {name} does not exist; give a Hugging Face folder, or a hub id like ORG/MODEL"
            )
        return
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{setting}: {name} is no Hugging Face folder: it holds no config.json{_what_it_is_instead(folder)}"
        )


def _what_it_is_instead(folder: Path) -> str:
    """Of a folder without config.json: what people commonly have in its place, and what to do."""
    if not folder.is_dir():
        return " (give the folder, not a file of it)"
    if (folder / ADAPTER).is_file():
        return f", but adapters; {_MERGE}"
    if any(folder.glob("*.gguf")):
        return ", but GGUF files; give the folder of safetensors that they were made from"
    if (folder / "params.json").is_file():
        return ", but weights in their maker's own layout; convert them with transformers, or take its other folder"
    if (folder / "model_index.json").is_file():
        return ", but a pipeline of several models; rgopd takes a language model"
    return ""


def check_architecture(
    name: str,
    setting: str,
    config: Any,
    causal_lms: Container[str],
    *,
    may_be_quantised: bool = False,
    sampled: bool = False,
) -> None:
    """Refuse, in one line and before any weight is read, what cannot be sampled, scored or trained exactly.

    Args:
        name: the model's folder or hub id.
        config: what its config.json holds, whatever that is.
        causal_lms: the `model_type`s that the caller's transformers can load as causal language models.
        may_be_quantised: the engine computes with quantised weights (vLLM's does).
        sampled: token by token with a cache.

    Raises:
        ConfigError: names the setting, the architecture, and what to do.
    """
    if not isinstance(config, Mapping) or not isinstance(text := config.get("text_config") or {}, Mapping):
        raise ConfigError(f"{setting}: {name}: its config.json is not that of a model: a mapping, of mappings")
    kind = str(config.get("model_type", ""))
    packed = quantised(config) or quantised(text)
    heads = config.get("architectures") or []
    if (Path(name) / ADAPTER).is_file():
        problem = f"is a folder of adapters; {_MERGE}"
    elif config.get("is_encoder_decoder") or kind in _ENCODER_DECODERS:
        problem = "is an encoder-decoder; rgopd takes decoder-only language models: choose one"
    elif packed and not may_be_quantised:
        method = packed.get("quant_method", "an unnamed method") if isinstance(packed, Mapping) else packed
        problem = f"is quantised ({method}); give the unquantised weights" + _OR.get(setting, "")
    elif kind not in causal_lms and config.get("auto_map"):
        problem = f"needs its folder's own Python code (auto_map), {_NO_CODE}"
    elif kind not in causal_lms and (parts := other_parts(config)):
        problem = (
            f"is a model of more than text ({', '.join(parts)} in its config.json), and transformers has no language "
            "model of its text alone; choose a model of text"
        )
    elif kind not in causal_lms:
        problem = "is not among the causal language models of the installed transformers; upgrade it, or choose one"
    elif kind in _BIDIRECTIONAL and not config.get("is_decoder"):
        problem = "is an encoder, whose tokens see those after them; rgopd takes decoder-only language models"
    elif isinstance(heads, list) and heads and all(str(head).endswith(_OTHER_HEADS) for head in heads):
        problem = f"is a {heads[0]}, whose head makes no tokens; give the language model that it was made from"
    elif setting == "student" and text.get("model_type") and text["model_type"] not in causal_lms:
        problem = (
            f"has a text part ({text['model_type']}) that is no model of its own in transformers, so that trained "
            "weights could not be loaded again; choose another student"
        )
    elif kind in _UNSUPPORTED:
        problem = f"{_UNSUPPORTED[kind]}; choose another architecture"
    elif (package := _NEEDS.get(kind)) and find_spec(package) is None:
        problem = f"needs the package {package} for what it sees: pip install {package}, or give the model of its text"
    elif sampled and kind in _UNSAMPLED:
        problem = f"{_UNSAMPLED[kind]}; choose another student"
    else:
        return
    raise ConfigError(f"{setting}: {name} (model_type {kind!r}) {problem}")


def quantised(config: Mapping[str, Any]) -> Any:
    """What a config.json says of quantised weights; None where it says nothing."""
    return next((config[key] for key in _QUANTISED if config.get(key)), None)


ADAPTER = "adapter_config.json"
"""What makes a folder one of peft's adapters."""
_MERGE = "merge them into their base model (peft's merge_and_unload, then save_pretrained) and give that folder"
_QUANTISED = ("quantization_config", "compression_config", "quantization")
"""Where config.json says so: transformers' key, that of older compressed-tensors, and MLX's."""
_OR = {
    "student": ", which are what is trained and published",
    "model": ", or set engine=vllm",
    "MODEL": ", or ask through --backend vllm",
}
_NO_TEXT = ("vision", "audio", "image", "video", "speech", "vq_", "vit")
_OTHER_HEADS = ("Classification", "QuestionAnswering", "MultipleChoice", "MaskedLM", "RewardModel", "RewardHead")
_NO_CODE = (
    "which rgopd never runs (no trust_remote_code): it cannot load it; use a model whose architecture and tokenizer "
    "transformers holds"
)
_ENCODER_DECODERS = frozenset(
    ["bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian", "mbart", "mt5", "musicgen"]
    + ["musicgen_melody", "mvp", "pegasus", "plbart", "prophetnet", "t5", "trocr", "umt5", "whisper"]
)
_BIDIRECTIONAL = frozenset(
    ["bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert"]
    + ["reformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm", "xlm-roberta"]
    + ["xlm-roberta-xl", "xlnet", "xmod"]
)
_DRAFTS = "drafts for another model, whose states it is given beside the tokens"
_UNSUPPORTED: dict[str, str] = {
    "blt": "cuts bytes into patches by a second model inside of it, so that its tokens are no positions",
    "gemma4_assistant": _DRAFTS,
    "gemma4_unified_assistant": _DRAFTS,
    "modernbert-decoder": "has a head of several layers, and rgopd's is one matrix",
    "rwkv": "rescales its weights while it runs, and keeps its state outside of any cache",
    "xlstm": "keeps its state in a cache of its own kind",
}
"""Causal language models of transformers that cannot be used exactly, and why."""
_NEEDS = {"gemma3n": "timm"}
"""What transformers builds a part of an architecture with, beside itself."""
_UNSAMPLED: dict[str, str] = {
    "cpmant": "counts its positions from a prompt of its own",
    "minimax": "keeps its state in a cache of its own kind",
    "moshi": "is decoded otherwise than in one piece",
    "openai-gpt": "takes no key-value cache",
    "recurrent_gemma": "is not decoded exactly with a cache (5e-3 nats off, as measured)",
}
"""Those that no sampler decodes exactly: transformers as said, and vLLM knows none of them (Moshi's is 3 nats off)."""


def other_parts(config: Mapping[str, Any]) -> list[str]:
    """Keys that describe what sees or hears, of a composite model's config."""
    return [key for key in config if key.endswith("_config") and any(word in key for word in _NO_TEXT)]
