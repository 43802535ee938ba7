"""The configs that ship: every one fits the services' settings, alone or over the paper's run."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from rgopd.cli.checked import check_sections
from rgopd.cli.sections import read_sections
from rgopd.common.errors import ConfigError
from rgopd.common.settings import read_files
from rgopd.trainer.batch.plan import RolloutPlan, cut_micro_batches
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.gating.gate import gate_preset

FOLDER = Path(str(files("rgopd.configs")))
PAPER = FOLDER / "qwen2.5-1.5b-ultrainteract.yaml"
OVERLAYS = sorted(p for p in FOLDER.glob("*.yaml") if p not in (PAPER, FOLDER / "demo.yaml"))
DISTILLATION = {"support": "student", "tail": "tail", "support_from": "behaviour", "margin": 2}


def train(*overlays: str) -> TrainConfig:
    return TrainConfig.from_sources("train", [PAPER, *(FOLDER / f"{name}.yaml" for name in overlays)])


def test_the_papers_run_is_appendix_a1() -> None:
    config, sections = train(), read_sections(PAPER, [])
    assert sections["teacher"]["model"] == "Qwen/Qwen2.5-14B-Instruct"
    assert (sections["teacher"]["engine"], sections["teacher"]["tensor_parallel_size"]) == ("vllm", 2)
    assert config.student == sections["sampler"]["student"] == "Qwen/Qwen2.5-1.5B-Instruct"
    assert (config.nproc, config.epochs, config.steps) == (2, 3, 0)
    assert (config.optim.lr, config.optim.schedule, config.optim.warmup_steps) == (5e-6, "cosine", 50)
    assert (config.sampling.prompts_per_step, config.sampling.n, config.sampling.max_new_tokens) == (32, 8, 1024)
    assert config.dataset.max_prompt_tokens == 1024
    assert config.distillation.model_dump() == DISTILLATION | {"k": 50}
    assert config.objective.name == "rg_opd"
    assert config.gate_config() == gate_preset("paper")
    assert config.shared_vocab_size == 151_936


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda p: p.stem)
def test_every_overlay_changes_the_papers_run_into_a_valid_one(overlay: Path) -> None:
    base, merged = read_sections(PAPER, []), read_sections([PAPER, overlay], [])
    check_sections(merged)
    if overlay.stem not in ("gate-paper", "k50"):  # these two name the defaults
        assert merged != base


def test_gates_and_the_ablation_of_table_2() -> None:
    assert train("gate-released").gate_config() == gate_preset("released")
    assert train("gate-released", "gate-paper").gate_config() == gate_preset("paper")
    assert [train(f"k{k}").distillation.k for k in (20, 30, 50)] == [20, 30, 50]
    assert train("k20", "no-tail").distillation.model_dump() == DISTILLATION | {"k": 20, "tail": "none"}
    assert train("reverse-kl").gate_config().enabled is False
    assert train("length-8k").sampling.max_new_tokens == 8192
    assert train("length-8k").sampling.n == 8


def test_the_teacher_has_room_for_prompt_response_and_support() -> None:
    for overlays in ((), ("length-8k",), ("as-released",)):
        config = train(*overlays)
        teacher = read_files([PAPER, *(FOLDER / f"{name}.yaml" for name in overlays)])["teacher"]
        assert teacher["max_context"] >= config.dataset.max_prompt_tokens + config.sampling.max_new_tokens
        assert teacher["max_k"] >= config.distillation.k


def write(folder: Path, name: str, content: dict[str, Any]) -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(content))
    return path


def test_later_files_win_mapping_by_mapping_and_set_wins_over_all(tmp_path: Path) -> None:
    one = write(tmp_path, "1.yaml", {"train": {"steps": 1, "optim": {"lr": 1.0, "betas": [0.5, 0.6]}}, "up": {}})
    two = write(tmp_path, "2.yaml", {"train": {"optim": {"betas": [0.1, 0.2]}}, "common": {"run_id": "two"}})
    assert read_sections([one, two], ["train.optim.lr=3"]) == {
        "train": {"steps": 1, "optim": {"lr": 3, "betas": [0.1, 0.2]}},
        "up": {},
        "common": {"run_id": "two"},
    }
    assert read_sections([two, one], []) == {
        "train": {"steps": 1, "optim": {"lr": 1.0, "betas": [0.5, 0.6]}},
        "common": {"run_id": "two"},
        "up": {},
    }


def test_flat_files_merge_too_but_not_with_sectioned_ones(tmp_path: Path) -> None:
    flat = write(tmp_path, "flat.yaml", {"student": "a", "dataset": {"path": "x"}, "steps": 3})
    over = write(tmp_path, "over.yaml", {"steps": 4, "gate": "released"})
    config = TrainConfig.from_sources("train", [flat, over], ["seed=7"])
    assert (config.student, config.steps, config.seed, config.gate) == ("a", 4, 7, "released")
    with pytest.raises(ConfigError, match="some of .* have sections .* and some are flat"):
        TrainConfig.from_sources("train", [PAPER, over])


def test_a_misspelt_key_of_an_overlay_is_told(tmp_path: Path) -> None:
    over = write(tmp_path, "over.yaml", {"train": {"distillation": {"tial": "none"}}})
    with pytest.raises(ConfigError, match=r"unknown key 'distillation\.tial'; did you mean 'tail'"):
        TrainConfig.from_sources("train", [PAPER, over])


def commands(text: str) -> list[str]:
    """Every `rgopd` command of a page or a file's header, one a line, as a shell reads it."""
    joined = re.sub(r"\\\n[#\s]*", " ", text)
    found = (line.strip(" #") for line in joined.splitlines())
    return [re.sub(r"\s+", " ", line).replace("--input", "-i").replace("--output ", "-o ") for line in found]


def test_the_paper_runs_page_and_the_files_header_prepare_the_same_data() -> None:
    page = (Path(__file__).parents[3] / "docs" / "runs.md").read_text()
    mine = [line for line in commands(PAPER.read_text()) if line.startswith("rgopd data")]
    assert mine
    assert mine == [line for line in commands(page) if line.startswith("rgopd data ultrainteract")]
    assert "--limit 8000" in mine[0]


@pytest.mark.parametrize(("overlays", "count"), [((), 8), (("length-8k",), 7), (("as-released",), 6)])
def test_micro_batches_are_cut_by_tokens_not_by_rollouts(overlays: tuple[str, ...], count: int) -> None:
    """64 rollouts of 1,749 tokens are six to eight forwards of 16,384 to 20,480 tokens, not 32 of two rollouts."""
    config = train(*overlays)
    rollouts = [RolloutPlan(f"r{i}", 256, 1493, 0.0, 0.0, 0) for i in range(64)]
    cut = cut_micro_batches(
        rollouts, 1, config.batch.micro_batch_tokens, config.batch.micro_batch_rollouts, packing=config.batch.packing
    )
    assert len(cut[0]) == count
