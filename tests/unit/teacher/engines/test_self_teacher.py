"""Self-teachers against the arithmetic that defines them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2ForCausalLM

from rgopd.common.errors import ConfigError
from rgopd.protos import rollout_pb2
from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines import EngineFault, make_engine
from rgopd.teacher.engines.self_teacher import SelfTeacherEngine
from rgopd.teacher.items import ScoreItem, Scoring
from rgopd.trainer.student.model import Student, full_weights
from rgopd.trainer.student.weights import write_weights
from tests.families.build import save_tiny
from tests.families.families import FAMILIES
from tests.unit.teacher.conftest import SHARED, make_config, random_item


class Trainer:
    """Publishes versions as the trainer does."""

    def __init__(self, model_dir: Path, folder: Path) -> None:
        self.start, self.folder = load_file(model_dir / "model.safetensors"), folder
        self.policy: rollout_pb2.PolicyVersion | None = None
        self.published: dict[int, dict[str, torch.Tensor]] = {}

    def publish(self, version: int) -> None:
        torch.manual_seed(version)
        weights = {k: v + 0.05 * torch.randn_like(v) for k, v in self.start.items()}
        path = self.folder / str(version)
        path.mkdir()
        save_file(weights, path / "model.safetensors")
        self.published[version] = weights
        self.policy = rollout_pb2.PolicyVersion(version=version, path=str(path))


@pytest.fixture
def trainer(model_dir: Path, tmp_path: Path) -> Trainer:
    return Trainer(model_dir, tmp_path)


@torch.inference_mode()
def logits(model_dir: Path, weights, item) -> torch.Tensor:
    model = Qwen2ForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    model.load_state_dict(weights)
    ids = torch.from_numpy(item.input_ids.astype(np.int64))[None]
    return model(ids).logits[0, len(item.prompt_ids_C) - 1 : -1, :SHARED]


def sampled(logits_TV: torch.Tensor, item) -> np.ndarray:
    return logits_TV.log_softmax(-1).numpy()[np.arange(len(item.response_ids_T)), item.response_ids_T]


def test_ema_follows_each_version(model_dir, trainer) -> None:
    engine = SelfTeacherEngine(make_config(model_dir, source="ema", self_rate=0.1), lambda: trainer.policy)
    item = random_item(np.random.default_rng(0), 8, 12, "none")
    assert engine.info.revision == "ema@start"
    average = {k: v.clone() for k, v in trainer.start.items()}
    np.testing.assert_allclose(
        engine.score([item])[0].sampled_logprobs_T, sampled(logits(model_dir, average, item), item), atol=1e-5
    )
    for version in (1, 2):
        trainer.publish(version)
        average = {k: 0.9 * v + 0.1 * trainer.published[version][k] for k, v in average.items()}
        expected = sampled(logits(model_dir, average, item), item)
        np.testing.assert_allclose(engine.score([item])[0].sampled_logprobs_T, expected, atol=1e-4)
        assert engine.info.revision == f"ema:0.1@{version}", "another revision: cached scores of the old one stay out"
        np.testing.assert_array_equal(
            engine.score([item])[0].sampled_logprobs_T, engine.score([item])[0].sampled_logprobs_T
        )
    trainer.publish(5)
    average = {k: 0.9**3 * v + (1 - 0.9**3) * trainer.published[5][k] for k, v in average.items()}
    expected = sampled(logits(model_dir, average, item), item)
    np.testing.assert_allclose(engine.score([item])[0].sampled_logprobs_T, expected, atol=1e-4)


def test_the_average_keeps_steps_that_bfloat16_would_lose(model_dir, trainer) -> None:
    engine = SelfTeacherEngine(
        make_config(model_dir, source="ema", self_rate=0.001, dtype="bfloat16"), lambda: trainer.policy
    )
    item = random_item(np.random.default_rng(0), 8, 12, "none")
    for version in range(1, 4):
        trainer.publish(version)
        engine.score([item])
    name = "lm_head.weight"
    average = trainer.start[name]
    for version in range(1, 4):
        average = average.lerp(trainer.published[version][name], 0.001)
    torch.testing.assert_close(engine._average[name], average, atol=2e-2, rtol=0)  # the start is rounded to bfloat16
    moved = (engine._average[name] - trainer.start[name].bfloat16().float()).abs().max()
    assert moved > 0


def test_trust_region_is_the_geometric_mean(model_dir, trainer) -> None:
    engine = SelfTeacherEngine(make_config(model_dir, source="trust-region", self_rate=0.3), lambda: trainer.policy)
    item = random_item(np.random.default_rng(1), 8, 12, "student", 6)
    start = logits(model_dir, trainer.start, item)
    np.testing.assert_allclose(engine.score([item])[0].sampled_logprobs_T, sampled(start, item), atol=1e-5)
    for version in (1, 2):
        trainer.publish(version)
        mixed = start.lerp(logits(model_dir, trainer.published[version], item), 0.3)
        score = engine.score([item])[0]
        np.testing.assert_allclose(score.sampled_logprobs_T, sampled(mixed, item), atol=1e-4)
        expected = np.take_along_axis(mixed.log_softmax(-1).numpy(), item.support_ids_TK, 1)
        np.testing.assert_allclose(score.topk_logprobs_TK, expected, atol=1e-4)


def test_a_version_that_is_gone_is_passed_over(model_dir, trainer, caplog) -> None:
    engine = SelfTeacherEngine(make_config(model_dir, source="ema"), lambda: trainer.policy)
    trainer.policy = rollout_pb2.PolicyVersion(version=3, path="/nowhere")
    item = random_item(np.random.default_rng(0), 8, 12, "none")
    assert np.isfinite(engine.score([item])[0].sampled_logprobs_T).all()
    assert "no weights" in caplog.text
    trainer.publish(4)
    engine.score([item])
    assert engine.info.revision.endswith("@4")


def test_another_architecture_is_refused(model_dir, trainer, tmp_path) -> None:
    engine = SelfTeacherEngine(make_config(model_dir, source="ema"), lambda: trainer.policy)
    (tmp_path / "other").mkdir()
    save_file({"something": torch.zeros(1)}, tmp_path / "other" / "model.safetensors")
    trainer.policy = rollout_pb2.PolicyVersion(version=1, path=str(tmp_path / "other"))
    with pytest.raises(EngineFault, match="own architecture"):
        engine.score([random_item(np.random.default_rng(0), 8, 12, "none")])


@pytest.mark.parametrize(("source", "family"), [("ema", "zamba"), ("ema", "granitemoe"), ("trust-region", "mixtral")])
def test_weights_that_checkpoints_hold_otherwise_than_memory(source, family, tmp_path) -> None:
    """Experts one by one, fused in memory; a repeated block under one of its names."""
    named = next(each for each in FAMILIES if each.name == family)
    start = save_tiny(tmp_path / "model", named.model_type, **named.config)
    student = Student.load(str(start))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    write_weights(tmp_path / "v1", full_weights(student, "float32"), student.hf.config)
    policy = rollout_pb2.PolicyVersion(version=1, path=str(tmp_path / "v1"))
    config = TeacherConfig(model=str(start), dtype="float32", device="cpu", source=source, self_rate=1.0)
    prompt, response = np.random.default_rng(0).integers(3, 100, (2, 9), dtype=np.int32)
    item = ScoreItem("r", prompt, response, Scoring("none", 0))
    [score] = SelfTeacherEngine(config, lambda: policy).score([item])
    ids = torch.from_numpy(item.input_ids.astype(np.int64))
    with torch.inference_mode():
        expected = student.own_logits(ids)[len(item.prompt_ids_C) - 1 : -1]
    np.testing.assert_allclose(score.sampled_logprobs_T, sampled(expected, item), atol=1e-4)


def test_a_self_teacher_needs_the_runs_redis(model_dir) -> None:
    with pytest.raises(ConfigError, match="redis_url"):
        make_engine(make_config(model_dir, source="ema"))
