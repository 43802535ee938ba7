"""The embedded engine against a plain float32 forward."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rgopd.common.errors import ConfigError
from rgopd.teacher.engines import EngineFault
from rgopd.teacher.engines.forward import plan_batches
from rgopd.teacher.engines.loading import folder_digest
from rgopd.teacher.engines.rows import score_rows
from rgopd.teacher.engines.transformers import TransformersEngine
from rgopd.teacher.items import PAD_LOGPROB, TAIL_FLOOR, ScoreItem, Scoring
from tests.unit.teacher.conftest import SHARED, make_config, random_item

SHAPES = [(1, 1), (3, 1), (40, 17), (5, 60), (200, 3), (2, 8), (2, 8)]


def check(item: ScoreItem, score, logprobs_TV: np.ndarray, atol: float = 1e-5) -> None:
    rows = np.arange(len(item.response_ids_T))
    np.testing.assert_allclose(score.sampled_logprobs_T, logprobs_TV[rows, item.response_ids_T], atol=atol)
    assert score.sampled_logprobs_T.dtype == np.float32
    if item.scoring.support == "none":
        assert score.topk_logprobs_TK is None
        assert score.tail_logprob_T is None
        return
    ids_TK = score.topk_ids_TK
    assert ids_TK.shape == score.topk_logprobs_TK.shape == (len(rows), item.scoring.k)
    expected_TK = np.take_along_axis(logprobs_TV, ids_TK.clip(0), 1)
    expected_TK[ids_TK < 0] = PAD_LOGPROB
    np.testing.assert_allclose(score.topk_logprobs_TK, expected_TK, atol=atol)
    rest_TV = np.exp(logprobs_TV)
    for row, ids in zip(rest_TV, ids_TK, strict=True):
        row[ids[ids >= 0]] = 0
    np.testing.assert_allclose(np.exp(score.tail_logprob_T), rest_TV.sum(-1), atol=1e-6)
    with np.errstate(divide="ignore"):
        exact_T = np.log(rest_TV.sum(-1)).clip(TAIL_FLOOR)
    np.testing.assert_allclose(score.tail_logprob_T, exact_T, atol=1e-4)


@pytest.mark.parametrize("support", ["student", "teacher", "none"])
@pytest.mark.parametrize("k", [1, 5, SHARED])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_equals_a_plain_forward(engine, reference, support, k, temperature) -> None:
    rng = np.random.default_rng(k)
    items = [random_item(rng, c, t, support, k, temperature, f"r{c}.{t}") for c, t in SHAPES]
    for item, score in zip(items, engine.score(items), strict=True):
        check(item, score, reference(item))


def test_teacher_support_is_the_true_top_k_in_order(engine, reference) -> None:
    item = random_item(np.random.default_rng(1), 10, 30, "teacher", 4)
    (score,) = engine.score([item])
    expected = np.argsort(-reference(item), axis=1, kind="stable")[:, :4]
    np.testing.assert_array_equal(score.topk_ids_TK, expected)
    assert score.topk_ids_TK.dtype == np.int32


def test_eos_inside_the_response_is_an_id_like_any_other(engine, reference) -> None:
    item = random_item(np.random.default_rng(2), 10, 30, "student", 4)
    item.response_ids_T[[3, 4, 20]] = 2
    check(item, engine.score([item])[0], reference(item))


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_random_batches_with_padded_support(engine, reference, data) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    k = data.draw(st.integers(1, 12))
    shapes = data.draw(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=6))
    items = [random_item(rng, c, t, "student", k, name=str(i)) for i, (c, t) in enumerate(shapes)]
    for item in items:
        item.support_ids_TK[rng.random(item.support_ids_TK.shape) < 0.4] = -1
    for item, score in zip(items, engine.score(items), strict=True):
        check(item, score, reference(item))


def test_a_row_of_nothing_but_padding_keeps_its_mass_in_the_tail(engine) -> None:
    item = random_item(np.random.default_rng(3), 4, 3, "student", 3)
    item.support_ids_TK[1] = -1
    (score,) = engine.score([item])
    assert score.topk_logprobs_TK[1].tolist() == [PAD_LOGPROB] * 3
    assert score.tail_logprob_T[1] == pytest.approx(0, abs=1e-6)


def test_tail_keeps_its_precision_when_the_support_holds_nearly_everything() -> None:
    logits = torch.tensor([[0.0, -14.0, -15.0, -16.0]])
    exact = torch.logsumexp(logits[0, 1:].double(), 0) - torch.logsumexp(logits[0].double(), 0)
    rows = score_rows(logits.clone(), torch.tensor([0]), torch.tensor([[0]]), Scoring("student", 1), 4)
    assert rows.tail_R.item() == pytest.approx(exact.item(), abs=1e-5)


def test_surplus_ids_take_no_mass_even_when_they_have_the_largest_logits() -> None:
    logits = torch.tensor([[1.0, 2.0, 50.0]])
    rows = score_rows(logits, torch.tensor([1]), None, Scoring("teacher", 2), 2)
    assert rows.sampled_R.exp().item() == pytest.approx(np.e / (1 + np.e))
    assert rows.ids_RK.tolist() == [[1, 0]]
    assert rows.tail_R.item() == pytest.approx(TAIL_FLOOR)


def test_deterministic_scores_do_not_depend_on_the_batch(model_dir: Path) -> None:
    engine = TransformersEngine.load(make_config(model_dir, deterministic=True, threads=1))
    rng = np.random.default_rng(4)
    items = [random_item(rng, c, t, "student", 5, name=str(i)) for i, (c, t) in enumerate(SHAPES)]
    together = engine.score(items)
    for item, score in zip(items, together, strict=True):
        (alone,) = engine.score([item])
        np.testing.assert_array_equal(alone.sampled_logprobs_T, score.sampled_logprobs_T)
        np.testing.assert_array_equal(alone.topk_logprobs_TK, score.topk_logprobs_TK)
        np.testing.assert_array_equal(alone.tail_logprob_T, score.tail_logprob_T)


def test_batches_keep_to_the_token_budget(model_dir: Path) -> None:
    rng = np.random.default_rng(5)
    items = [random_item(rng, int(c), int(t), "none") for c, t in rng.integers(1, 40, (30, 2))]
    batches = [batch for batch, _ in plan_batches(items, 64, share=True)]
    assert sorted(i for batch in batches for i in batch) == list(range(30))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(items[i].tokens for i in batch) <= 64
    assert len(batches) < 30


def test_a_groups_prompt_is_computed_once(engine, reference) -> None:
    rng = np.random.default_rng(8)
    prompts = [rng.integers(0, SHARED, 50, dtype=np.int32), rng.integers(0, SHARED, 70, dtype=np.int32)]
    items = [
        replace(random_item(rng, 1, int(t), "student", 4, name=str(n)), prompt_ids_C=prompts[n % 2])
        for n, t in enumerate(rng.integers(1, 30, 12))
    ]
    items.append(random_item(rng, 30, 5, "student", 4, name="alone"))
    items.append(replace(random_item(rng, 1, 300, "student", 4, name="long"), prompt_ids_C=np.array([1, 2], np.int32)))
    seen: list[int] = []
    decoder = engine._models[0][0].decoder
    hook = decoder.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    scores = engine.score(items)
    hook.remove()
    for item, score in zip(items, scores, strict=True):
        check(item, score, reference(item))
    assert seen.count(49) == seen.count(69) == 1
    assert sum(seen) < sum(item.tokens for item in items)


def test_bfloat16_stays_within_its_tolerance(model_dir: Path, reference) -> None:
    engine = TransformersEngine.load(make_config(model_dir, dtype="bfloat16"))
    assert engine.info.dtype == "bfloat16"
    item = random_item(np.random.default_rng(6), 20, 20, "student", 5)
    (score,) = engine.score([item])
    rows = np.arange(20)
    # The head's weights are 30 times a usual initialisation here, and bfloat16's error grows with them.
    np.testing.assert_allclose(score.sampled_logprobs_T, reference(item)[rows, item.response_ids_T], atol=0.2)


def test_nan_weights_are_an_engine_fault_not_a_score(model_dir: Path, tmp_path: Path) -> None:
    engine = TransformersEngine.load(make_config(model_dir))
    engine._models[0][0].head.weight.data[5] = float("nan")
    with pytest.raises(EngineFault, match="NaN"):
        engine.score([random_item(np.random.default_rng(7), 3, 3, "none")])


def test_info_names_what_is_served(engine, model_dir: Path) -> None:
    info = engine.info
    assert (info.vocab_size, info.max_context, info.eos_token_ids) == (SHARED, 1024, (2,))
    assert (info.max_k, info.dtype, info.device, info.scoring) == (256, "float32", "cpu", "gathered")
    assert info.revision == folder_digest(model_dir)


def test_other_weights_are_another_revision(model_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(model_dir, copy)
    assert folder_digest(copy) == folder_digest(model_dir)
    weights = load_file(copy / "model.safetensors")
    weights["lm_head.weight"][0, 0] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert folder_digest(copy) != folder_digest(model_dir)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ""}, "model: give"),
        ({"model": "/nowhere/at/all"}, "model: /nowhere/at/all does not exist"),
        ({"shared_vocab_size": 400}, "shared_vocab_size: 400 is more than the model's 320"),
        ({"max_context": 4096}, "max_context: 4096 is more than the model's 1024"),
    ],
)
def test_a_config_that_cannot_work_says_why(model_dir: Path, changes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        TransformersEngine.load(make_config(model_dir, **changes))


def test_remote_code_is_never_run(model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "remote"
    shutil.copytree(model_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "architectures": ["Evil"], "auto_map": {"AutoModelForCausalLM": "evil.Evil"}}
    config["auto_map"]["AutoConfig"] = "evil.EvilConfig"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ConfigError, match="cannot load"):
        TransformersEngine.load(make_config(folder))
    assert not (tmp_path / "ran").exists()
