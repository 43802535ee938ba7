"""Random models in the shapes of Qwen2.5, and rollouts for them; nothing is downloaded."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Shape:
    """Of a Qwen2 with tied embeddings."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def body(self) -> int:
        """Parameters of the layers."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def parameters(self) -> int:
        return self.body + self.hidden * self.vocab


SMALL = Shape("0.5B", 896, 4864, 24, 14, 2, 151_936)
MEDIUM = Shape("1.5B", 1536, 8960, 28, 12, 2, 151_936)
TINY = Shape("tiny", 32, 64, 2, 2, 1, 600)


def shapes(tiny: bool) -> list[Shape]:
    return [TINY] if tiny else [SMALL, MEDIUM]


def make_model(shape: Shape, device: torch.device) -> Any:
    """A random Qwen2 in bfloat16 on the device."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=shape.vocab, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        max_position_embeddings=32_768, tie_word_embeddings=True, use_sliding_window=False,
    )  # fmt: skip
    with device:
        return Qwen2ForCausalLM(config).to(torch.bfloat16).eval().requires_grad_(False)


def model_folder(shape: Shape, work: str, device: torch.device) -> Path:
    """The model saved with the demo's tokenizer; written once for all sections."""
    folder = Path(work) / shape.name
    if not (folder / "whole").exists():
        make_model(shape, device).save_pretrained(folder)
        student = Path(str(files("rgopd.trainer.demo") / "checkpoints" / "student"))
        for file in student.glob("*token*"):
            shutil.copy(file, folder)
        for file in student.glob("*.jinja"):
            shutil.copy(file, folder)
        (folder / "whole").touch()
    return folder


def lengths_of(count: int, tiny: bool, longest: int = 1536) -> list[tuple[int, int]]:
    """Prompt and response tokens of a step's rollouts: 64 of them are about 53,000 tokens."""
    rng = np.random.default_rng(1)
    responses = np.exp(rng.uniform(np.log(16 if tiny else 256), np.log(32 if tiny else longest), count)).astype(int)
    prompts = rng.integers(4, 9, count) if tiny else rng.integers(64, 256, count)
    return list(zip(prompts.tolist(), responses.tolist(), strict=True))
