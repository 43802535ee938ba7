"""Packed rows, shared prompts: the numbers of a plain forward, and who shares by size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from rgopd.teacher.engines.forward import response_states
from rgopd.teacher.engines.packed import NAME, enable, packed_states
from rgopd.teacher.engines.sharing import BodySize, gain, plan_rows, unit_tokens
from rgopd.teacher.engines.transformers import TransformersEngine
from rgopd.teacher.engines.varlen import disagreement
from rgopd.teacher.items import ScoreItem, Scoring
from tests.unit.teacher.conftest import SHARED, make_config, random_item
from tests.unit.teacher.engines.test_transformers import check

CPU = torch.device("cpu")
QWEN_HALF = BodySize(357_900_000, 24, 896)
QWEN_1B = BodySize(1_310_000_000, 28, 1536)
QWEN_7B = BodySize(6_500_000_000, 28, 3584)
DEMO = BodySize(200_000, 3, 64)


def group_of(prompt: int, responses: list[int], seed: int = 0) -> list[ScoreItem]:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, SHARED, prompt, dtype=np.int32)
    return [replace(random_item(rng, 1, t, "student", 4, name=f"{seed}.{t}"), prompt_ids_C=ids) for t in responses]


@pytest.mark.parametrize(("size", "prompt", "members", "response", "shares"), [
    (QWEN_HALF, 1024, 8, 1024, True),
    (QWEN_HALF, 512, 8, 512, True),
    (QWEN_HALF, 20, 8, 1024, False),  # a chat template before a long chain of thought
    (QWEN_HALF, 128, 8, 2048, False),
    (QWEN_1B, 1024, 8, 1024, True),
    (QWEN_1B, 256, 8, 512, True),
    (QWEN_1B, 20, 8, 1024, False),
    (QWEN_7B, 128, 8, 1024, True),
    (QWEN_7B, 1024, 2, 4096, True),
    (QWEN_7B, 1024, 1, 1024, False),
    (DEMO, 20, 8, 30, False),  # all of it is launches
    (DEMO, 20, 8, 4000, False),
])  # fmt: skip
def test_who_shares_is_a_matter_of_size(size: BodySize, prompt: int, members: int, response: int, shares: bool) -> None:
    items = group_of(prompt, [response] * members)
    rows = plan_rows(items, 1 << 20, size)
    assert any(len(unit) > 1 for row in rows for unit in row) == shares
    if members > 1 and shares:
        assert gain(size, prompt, members, response * members) > 0


def test_rows_keep_to_the_budget_and_hold_several_groups() -> None:
    items = [i for n in range(6) for i in group_of(300, [100, 130, 90, 200], seed=n)]
    items += group_of(50, [2000], seed=99) + group_of(10, [20, 30], seed=98)
    rows = plan_rows(items, 1500, QWEN_7B)
    assert sorted(i for row in rows for unit in row for i in unit) == list(range(len(items)))
    tokens = [sum(unit_tokens(items, unit) for unit in row) for row in rows]
    assert all(n <= 1500 or len(row) == 1 for n, row in zip(tokens, rows, strict=True))
    assert max(sum(len(unit) > 1 for unit in row) for row in rows) > 1, "groups together"
    assert sum(tokens) < 0.6 * sum(item.tokens for item in items)
    assert all(len(unit) == 1 for row in plan_rows(items, 1500, None) for unit in row)


def test_a_group_over_the_budget_is_cut_and_its_prompt_computed_once_a_part() -> None:
    items = group_of(300, [400] * 5)
    rows = plan_rows(items, 1200, QWEN_7B)
    assert sorted(len(unit) for row in rows for unit in row) == [1, 2, 2]


def test_two_attentions_added_are_one() -> None:
    assert disagreement(CPU, torch.float32) < 1e-6
    assert disagreement(CPU, torch.bfloat16) < 0.05


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("head_kernels", ["torch", "triton"])
def test_scores_are_those_of_a_plain_forward(model_dir: Path, reference, temperature: float, head_kernels: str) -> None:
    config = make_config(model_dir, batching="packed", head_kernels=head_kernels, max_batch_tokens=300)
    engine = TransformersEngine.load(config)
    assert engine._packed
    engine._size = QWEN_7B  # shares whatever it can
    items = group_of(50, [7, 30, 1], 1) + group_of(70, [20, 3], 2) + group_of(5, [60], 3) + group_of(1, [4, 9], 4)
    items = [replace(i, scoring=replace(i.scoring, temperature=temperature)) for i in items]
    seen: list[int] = []
    hook = engine._models[0][0].decoder.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    scores = engine.score(items)
    hook.remove()
    for item, score in zip(items, scores, strict=True):
        check(item, score, reference(item))
    assert sum(seen) < sum(item.tokens for item in items) - 2 * 49 - 69
    assert max(seen) <= 300


def test_groups_between_others_in_any_order() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=SHARED, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2,
    )).eval()  # fmt: skip
    items = group_of(9, [4, 6], 1) + group_of(3, [5], 2) + group_of(12, [2, 8, 1], 3)
    with torch.inference_mode():
        wanted = torch.cat([response_states(model.model, [item], CPU, shared=False) for item in items])
        assert enable(model.model, CPU, SHARED) is not None
        assert model.config._attn_implementation == NAME
        for units in ([[3, 5, 4], [2], [1, 0]], [[0], [1, 2][:1], [2], [3, 4], [5]]):
            torch.testing.assert_close(packed_states(model.model, items, units, CPU), wanted, atol=2e-5, rtol=1e-4)


def test_a_model_with_other_attention_stays_as_it_was() -> None:
    model = Gemma2ForCausalLM(Gemma2Config(
        vocab_size=SHARED, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, pad_token_id=0,
    )).eval()  # fmt: skip
    before = model.config._attn_implementation
    assert enable(model.model, CPU, SHARED) is None
    assert model.config._attn_implementation == before
    item = ScoreItem("r", np.array([1, 2], np.int32), np.array([3, 4], np.int32), Scoring("none", 0))
    with torch.inference_mode():
        assert response_states(model.model, [item], CPU, shared=False).isfinite().all()
