"""Models and rollouts that the teacher's benchmarks share."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from rgopd.teacher.items import ScoreItem, Scoring


def machine() -> str:
    """CPU, cores and load, for the head of every result."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    return f"{name}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}"


def smollm_135m(path: Path, layers: int = 30) -> Path:
    """Random weights in the shape of SmolLM2-135M (vocabulary 49,152), float32."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=layers, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def wide_vocabulary(path: Path) -> Path:
    """One thin layer under Qwen2.5's vocabulary of 151,936: nearly all its work and memory is the head."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=151_936, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32_768, tie_word_embeddings=True,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(path)
    return path


def groups(
    vocab: int, n_groups: int = 8, group: int = 8, prompt: int = 64, responses: tuple[int, int] = (32, 224), k: int = 50
) -> list[ScoreItem]:
    """n_groups x group rollouts; a group shares its prompt, lengths are uniform in `responses`."""
    rng = np.random.default_rng(0)
    items = []
    for g in range(n_groups):
        prompt_ids = rng.integers(0, vocab, prompt, dtype=np.int32)
        for i in range(group):
            length = int(rng.integers(*responses))
            response = rng.integers(0, vocab, length, dtype=np.int32)
            support = np.argpartition(rng.random((length, 4 * k)), k, axis=1)[:, :k].astype(np.int32) * (
                vocab // (4 * k)
            )
            items.append(ScoreItem(f"g{g}.{i}", prompt_ids, response, Scoring("student", k), support))
    return items
