"""Runs inside vLLM's worker processes, of the teacher and of the sampler: what the vocabulary head does to its logits.

vLLM's own log-probs come either before the temperature or after truncation, and know no shared vocabulary. Its logits
layer has a scale and a cut, both applied outside the compiled graph, so setting them on every worker makes every path
exact. vLLM is imported where it runs: this module needs neither it nor torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

REFUSALS = (TypeError, ValueError, OSError, AssertionError, AttributeError, NotImplementedError, RuntimeError)
"""What vLLM raises at its start for architectures and devices that it has no code for, and for settings that it does
not take."""


def one_line(error: BaseException) -> str:
    """An error's kind and words, as far as people read them."""
    text = " ".join(str(error).split()).partition(" Supported architectures:")[0]
    return f"{type(error).__name__}: {text[:300]}"


def cannot_reload(model: str, *, experts: bool, cpu: bool, tied_bias: bool = False) -> str:
    """Why a policy's weights would not all arrive in a running vLLM, as measured; empty: they do.

    Args:
        model: its class or `model_type`.
        experts: it is a mixture of experts.
        tied_bias: its head is the embedding, and has a bias.
    """
    if cpu and experts:
        return "on a CPU vLLM computes experts from a copy that new weights do not reach"
    if tied_bias:
        return "vLLM does not read the bias of a head again that is the embedding"
    if model.lower().startswith("gemma3n"):
        return "vLLM does not read all of Gemma 3n's weights again"
    return ""


def inexact(raw: Mapping[str, Any], dtype: str) -> str:
    """Why vLLM's log-probs are not the model's own, or why it has none; empty: they are, or it is not known.

    Args:
        raw: what config.json holds.
        dtype: of weights and activations.
    """
    kind = str(raw.get("model_type"))
    if kind == "apertus" and dtype == "float32":
        return "vLLM holds numbers of its activation (xIELU) in bfloat16, 1e-3 nats off in float32"
    if kind == "lfm2" and not {"conv_dim", "block_dim"} <= raw.keys():
        return "vLLM reads conv_dim and block_dim, which its config.json does not hold (both are the hidden_size)"
    if kind.startswith("qwen3_5") and find_spec("torchvision") is None:
        return "vLLM's code for it needs torchvision, which is not installed"
    return _INEXACT.get(kind, "")


_NO_CODE = "vLLM has no code for it, and cannot exchange the attention in transformers'"
_INEXACT = {
    **dict.fromkeys(["codegen", "diffllama", "gpt_neo", "gpt_neox_japanese", "xglm"], _NO_CODE),
    "hrm_text": "in vLLM the tokens of a prompt see those after them, in transformers they do not",
    "jetmoe": "vLLM's log-probs are 0.02 nats off the model's own, as measured",
    "moshi": "vLLM's log-probs are 3 nats off the model's own, as measured",
    "youtu": "vLLM does not take the sizes of its latent attention",
    "zaya": "vLLM's log-probs are 0.01 nats off the model's own, as measured",
}


class VllmHead:
    """Base of what is mixed into vLLM's worker (`worker_extension_cls`); called through `collective_rpc`."""

    model_runner: Any

    def set_head(self, temperature: float, vocab_size: int) -> int:
        """Divide logits by `temperature` and cut them at `vocab_size`; returns how many heads were set."""
        from vllm.model_executor.layers.logits_processor import LogitsProcessor

        heads = [m for m in self.model_runner.get_model().modules() if isinstance(m, LogitsProcessor)]
        for head in heads:
            if not hasattr(head, "as_loaded"):
                head.as_loaded = (head.scale, head.org_vocab_size)
            scale, vocab = head.as_loaded
            head.scale = scale / temperature
            head.org_vocab_size = min(vocab, vocab_size)
        return len(heads)
