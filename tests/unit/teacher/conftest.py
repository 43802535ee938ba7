"""A tiny random Qwen2 with a vocabulary wider than its tokenizer's, and the reference every score is held to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines.transformers import TransformersEngine
from rgopd.teacher.items import ScoreItem, Scoring, SupportKind

VOCAB, SHARED = 320, 300

MakeItem = Callable[..., ScoreItem]


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        eos_token_id=2,
    )
    model = Qwen2ForCausalLM(config)
    # Default initialisation is nearly uniform, which hides mistakes; these logits spread over several nats.
    model.lm_head.weight.data.mul_(30)
    path = tmp_path_factory.mktemp("tiny-qwen2")
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def engine(model_dir: Path) -> TransformersEngine:
    return TransformersEngine.load(make_config(model_dir))


def make_config(model_dir: Path, **changes: object) -> TeacherConfig:
    """Float32, a shared vocabulary below the model's, and a head chunk that rollouts straddle."""
    settings: dict[str, object] = {"model": str(model_dir), "dtype": "float32", "device": "cpu"}
    settings |= {"shared_vocab_size": SHARED, "head_chunk_rows": 7, **changes}
    return TeacherConfig(**settings)  # type: ignore[arg-type]


@pytest.fixture
def make_item() -> MakeItem:
    return random_item


def random_item(
    rng: np.random.Generator,
    prompt: int,
    response: int,
    support: SupportKind = "student",
    k: int = 5,
    temperature: float = 1.0,
    name: str = "r",
) -> ScoreItem:
    """A rollout of random ids below SHARED."""
    support_ids = None
    if support == "student":
        support_ids = np.stack([rng.permutation(SHARED)[:k] for _ in range(response)]).astype(np.int32)
    return ScoreItem(
        name,
        rng.integers(0, SHARED, prompt, dtype=np.int32),
        rng.integers(0, SHARED, response, dtype=np.int32),
        Scoring(support, 0 if support == "none" else k, temperature),
        support_ids,
    )


@pytest.fixture(scope="session")
def reference(model_dir: Path) -> Callable[[ScoreItem], np.ndarray]:
    """float64[T, SHARED] log-probs of a plain transformers forward, unpadded and unchunked."""
    model = Qwen2ForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()

    @torch.inference_mode()
    def logprobs(item: ScoreItem) -> np.ndarray:
        ids = torch.from_numpy(item.input_ids.astype(np.int64))[None]
        logits = model(ids).logits[0, len(item.prompt_ids_C) - 1 : -1, :SHARED].double()
        return (logits / item.scoring.temperature).log_softmax(-1).numpy()

    return logprobs
