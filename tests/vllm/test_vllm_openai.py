"""The sampled-token teacher against vLLM's own OpenAI server: with ids, and with text alone."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rgopd.common.errors import ConfigError
from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines import SomeFailed, openai_server
from rgopd.teacher.engines.openai_server import OpenaiServerEngine
from rgopd.teacher.engines.server_answers import DIALECTS
from rgopd.teacher.items import ScoreItem, Scoring
from tests.vllm.test_vllm_server import vllm_server

pytestmark = pytest.mark.vllm
TEACHER = str(files("rgopd.trainer.demo") / "checkpoints" / "teacher")
TEXTS = ("12 + 30 = 42", "def f(x): return x * 2", "so it is \\boxed{7}")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with vllm_server(TEACHER, "--max-model-len", "100") as url:
        yield url


@pytest.mark.parametrize("dialect", ["prompt_logprobs", "echo-ids", "echo-text"])
def test_every_way_of_asking_gives_the_models_own_log_probs(url: str, dialect: str, monkeypatch) -> None:
    monkeypatch.setattr(openai_server, "DIALECTS", tuple(d for d in DIALECTS if d.name == dialect))
    monkeypatch.setenv("TINY_KEY", "key")
    engine = OpenaiServerEngine(
        TeacherConfig(engine="openai", server_url=f"{url}/v1", server_key_env="TINY_KEY", model=TEACHER)
    )
    assert engine.info.scoring == f"sampled ({dialect})"
    assert engine.info.max_context == 99
    tokenizer = AutoTokenizer.from_pretrained(TEACHER)
    model = AutoModelForCausalLM.from_pretrained(TEACHER, dtype=torch.float32).eval()
    items = []
    for n, text in enumerate(TEXTS):
        ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)
        items.append(ScoreItem(f"r{n}", ids[:4], ids[4:], Scoring("none", 0)))
    for item, score in zip(items, engine.score(items), strict=True):
        ids = torch.from_numpy(item.input_ids.astype(np.int64))
        with torch.no_grad():
            rows = model(ids[None]).logits[0, :-1].double().log_softmax(-1)
        exact_T = rows.gather(1, ids[1:, None])[3:, 0].numpy()
        np.testing.assert_allclose(score.sampled_logprobs_T, exact_T, atol=1e-4)
    long = ScoreItem("long", items[0].prompt_ids_C, np.resize(items[0].response_ids_T, 200), Scoring("none", 0))
    with pytest.raises(SomeFailed, match="context length"):
        engine.score([long])
    engine.close()


def test_a_wrong_key_is_named(url: str) -> None:
    with pytest.raises(ConfigError, match=r"refuses the key in server_key \(RGOPD_SERVER_KEY\) \(401\)"):
        OpenaiServerEngine(TeacherConfig(engine="openai", server_url=url, server_key="wrong", model=TEACHER))
