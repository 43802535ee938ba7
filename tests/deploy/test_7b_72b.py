"""The overlay for a 7B student and a 72B teacher: its sizes are those that the product itself counts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rgopd.cli.disk import run_needs
from rgopd.cli.plan import run_plan
from rgopd.common.settings import shipped_configs
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.run.estimate import ModelShape
from tests.deploy.manifests import ROOT, build, environment, of_kind, pods

OVERLAY = ROOT / "deploy/kubernetes/overlays/gpu-cluster-7b-72b"
CONFIG = shipped_configs()["qwen2.5-7b-72b"]
QWEN: dict[str, Any] = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 152_064}
STUDENT = {"hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28, "num_attention_heads": 28}
TEACHER = {"hidden_size": 8192, "intermediate_size": 29_568, "num_hidden_layers": 80, "num_attention_heads": 64}


@pytest.fixture
def models(tmp_path: Path) -> dict[str, str]:
    """Qwen2.5's own config.json, as far as its sizes go."""
    found = {}
    for name, sizes, kv in (("student", STUDENT, 4), ("teacher", TEACHER, 8)):
        folder = tmp_path / name
        folder.mkdir()
        config = {**QWEN, **sizes, "num_key_value_heads": kv, "tie_word_embeddings": False}
        (folder / "config.json").write_text(json.dumps(config))
        found[name] = str(folder)
    return found


def gibibytes(text: str) -> int:
    return int(text.removesuffix("Gi")) << 30


def trainer() -> tuple[dict[str, Any], dict[str, str]]:
    documents = build(OVERLAY)
    [pod] = [pod for pod in pods(documents) if pod.owner == "JobSet/trainer"]
    return pod.spec["containers"][0], environment(pod.spec["containers"][0], documents)


def test_the_volumes_hold_the_run_at_its_peak(models: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    _, values = trainer()
    for name, value in values.items():
        if name.startswith("RGOPD_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("RGOPD_STUDENT", models["student"])
    train = TrainConfig.from_sources("train", CONFIG)
    shape = ModelShape.of(models["student"])
    assert shape.parameters == 7_615_616_512
    needs = run_needs(train, shape)
    assert any("3 checkpoints of 91.4 GB" in need.what for need in needs)
    sizes = {
        d["metadata"]["name"]: d["spec"]["resources"]["requests"]
        for d in of_kind(build(OVERLAY), "PersistentVolumeClaim")
    }
    assert sum(need.size for need in needs) < gibibytes(sizes["runs"]["storage"])
    weights = 2 * (shape.parameters + ModelShape.of(models["teacher"]).parameters)
    assert weights < gibibytes(sizes["models"]["storage"])


def test_it_fits_h100s(models: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    changes = [f"train.student={models['student']}", f"sampler.student={models['student']}"]
    changes.append(f"teacher.model={models['teacher']}")
    assert run_plan([CONFIG], changes, "h100", 0.0, 1400, None) == 0
    out = capsys.readouterr().out
    assert "fits: h100" in out
    assert [f"GPU {n} (h100)" in out for n in range(14)] == [True] * 13 + [False]


def test_ranks_of_a_node_are_a_replica_and_speak_rdma() -> None:
    container, values = trainer()
    text = " ".join(container["command"])
    nodes, ranks = (int(re.search(rf"--{name}=(\d+)", text).group(1)) for name in ("nnodes", "nproc-per-node"))  # type: ignore[union-attr]
    assert int(values["RGOPD_FSDP__REPLICAS"]) == nodes
    assert container["resources"]["limits"]["nvidia.com/gpu"] == ranks
    for kind in ("requests", "limits"):
        assert container["resources"][kind]["rdma/rdma_shared_device_a"] == 1
    assert values["NCCL_IB_HCA"]
    assert gibibytes(container["resources"]["requests"]["memory"]) > 12 * 7_615_616_512 / nodes, "a checkpoint's copy"


def test_a_teacher_has_as_many_gpus_as_it_is_spread_over() -> None:
    documents = build(OVERLAY)
    [pod] = [pod for pod in pods(documents) if pod.owner == "Deployment/teacher"]
    [container] = pod.spec["containers"]
    width = int(environment(container, documents)["RGOPD_TENSOR_PARALLEL_SIZE"])
    assert container["resources"]["limits"]["nvidia.com/gpu"] == width
    assert 64 % width == 0, "attention heads"
    assert 8 % width == 0, "key-value heads"


def test_the_models_are_named_in_one_place() -> None:
    text = (OVERLAY / "kustomization.yaml").read_text()
    lines = [line for line in text.splitlines() if re.search(r"Qwen2\.5-(7|72)B", line)]
    assert len(lines) == 1, lines
    for other in ("1.5B", "14B"):
        for document in build(OVERLAY):
            assert other not in json.dumps(document), document["metadata"]["name"]
