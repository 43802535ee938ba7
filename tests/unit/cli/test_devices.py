"""Which GPU is whose: `up` and `plan` read it from one function. Devices are counted here, not owned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rgopd.cli.devices import Wanted, place, ranks, shares, visible
from rgopd.cli.plan import Planner
from rgopd.cli.sections import UpConfig
from rgopd.cli.up import Machine
from rgopd.common.errors import ConfigError
from rgopd.trainer.run.seconds import DEVICES


def wanted(**changes: int) -> Wanted:
    return Wanted(**{"train": 1, "teacher": 1, "sampler": 1, "samplers": 1, **changes})


@pytest.mark.parametrize(
    ("count", "of", "expected"),
    [
        (1, {}, {"train": ["0"], "teacher": ["0"], "sampler-0": ["0"]}),
        (2, {}, {"train": ["0"], "teacher": ["1"], "sampler-0": ["0"]}),
        (3, {}, {"train": ["0"], "teacher": ["1"], "sampler-0": ["2"]}),
        (5, {"train": 2, "teacher": 2}, {"train": ["0", "1"], "teacher": ["2", "3"], "sampler-0": ["4"]}),
        (4, {"samplers": 2}, {"train": ["0"], "teacher": ["1"], "sampler-0": ["2"], "sampler-1": ["3"]}),
        (4, {"sampler": 2}, {"train": ["0"], "teacher": ["1"], "sampler-0": ["2", "3"]}),
        (None, {"train": 2}, {"train": ["0", "1"], "teacher": ["2"], "sampler-0": ["0"]}),
    ],
)
def test_unset_each_gets_its_own_as_far_as_they_go(
    count: int | None, of: dict[str, int], expected: dict[str, list[str]]
) -> None:
    assert place(UpConfig(), wanted(**of), count) == expected


def test_named_ones_are_shared_out_among_samplers() -> None:
    up = UpConfig(gpus={"train": "0,1", "teacher": 2, "sampler": "3,4,GPU-5f"}, samplers=3)
    placed = place(up, wanted(train=2, samplers=3), 8)
    assert placed["sampler-0"] == ["3"]
    assert placed["sampler-1"] == ["4"]
    assert placed["sampler-2"] == ["GPU-5f"]
    assert place(up, wanted(train=2, samplers=2, sampler=2), 8)["sampler-1"] == ["GPU-5f", "3"]


def test_what_shares_a_gpu_shares_its_memory() -> None:
    alone = place(UpConfig(), wanted(), 3)
    assert shares(alone, takes_turns=False) == {"train": 0.9, "teacher": 0.9, "sampler-0": 0.9}
    two = place(UpConfig(), wanted(), 2)
    assert shares(two, takes_turns=False) == {"train": 0.45, "teacher": 0.9, "sampler-0": 0.45}
    assert shares(two, takes_turns=True)["sampler-0"] == 0.9, "colocated: never at once"
    one = place(UpConfig(), wanted(), 1)
    assert shares(one, takes_turns=False)["teacher"] == 0.3


def sections(student: Path, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "teacher": {"model": str(student), "engine": "vllm"},
        "sampler": {"student": str(student)},
        "train": {"student": str(student), "dataset": {"path": "d"}},
        "up": {"samplers": 2},
    }
    return {name: {**section, **changes.get(name, {})} for name, section in given.items()}


@pytest.mark.parametrize(("count", "found"), [(0, 2), (1, 1), (2, 2), (8, 2)])
def test_the_demos_two_ranks_on_any_machine(
    student_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, found: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    given = sections(student_folder, train={"nproc": 2})
    machine, told = Machine(given, tmp_path), list[str]()
    assert machine._ranks(told.append) == given["train"]["nproc"] == found
    one = "train.nproc=1 instead of 2: the trainer has one GPU, and each rank needs its own"
    assert told == ([one] if found == 1 else [])
    if count:
        plan = Planner(sections(student_folder, train={"nproc": 2}), DEVICES["h100"], on_gpu=True, count=count).plan()
        assert (plan.train.nproc, plan.note) == (found, "".join(told))
        trainers = [need for needs in plan.loads.values() for need in needs if need.process.startswith("trainer")]
        assert len(trainers) == found
    assert ranks(2, ["0"], "cpu") == (2, ""), "the GPU is not the trainer's"


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_up_and_plan_agree(student_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    given = sections(student_folder)
    machine = Machine(given, tmp_path)
    device = DEVICES["h100"]
    plan = Planner(given, device, on_gpu=True, count=count).plan()
    for name in ("train", "teacher", "sampler-0", "sampler-1"):
        gpu = int(machine._environment(name)["CUDA_VISIBLE_DEVICES"])
        process = {"train": "trainer", "teacher": "teacher"}.get(name, "sampler")
        assert any(need.process.startswith(process) for need in plan.loads[gpu]), (name, gpu)
    assert not plan.overfull, "a small student fits, whoever shares with whom"
    for number in range(2):
        share = shares(machine.placed, takes_turns=False)[f"sampler-{number}"]
        given_share = machine._share(f"sampler-{number}")
        assert given_share == ([] if share == 0.9 else ["--set", f"vllm.gpu_memory_utilization={share}"])


def test_a_share_that_the_settings_name_stands(
    student_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    machine = Machine(sections(student_folder, sampler={"vllm": {"gpu_memory_utilization": 0.2}}), tmp_path)
    assert machine._share("sampler-0") == []
    assert machine._share("teacher") == ["--set", "vllm.gpu_memory_utilization=0.225"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"up": {"gpus": {"sampler": "4"}}}, r"up.gpus.sampler names GPU 4, and torch sees 4 here \(0 to 3\)"),
        ({"up": {"gpus": {"teacher": "2"}}}, "teacher.tensor_parallel_size=2, and teacher has 1 GPUs .2.: name more"),
        ({"sampler": {"tensor_parallel_size": 3}}, r"sampler.tensor_parallel_size=3, and sampler-0 has 1 GPUs \(3\)"),
    ],
)
def test_gpus_that_are_not_there_or_too_few(
    student_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], told: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    given = sections(student_folder, **{"train": {"nproc": 1}, **changes})
    given["teacher"]["tensor_parallel_size"] = 2
    with pytest.raises(ConfigError, match=told):
        Machine(given, tmp_path)


def test_without_a_gpu_nothing_is_placed(student_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    machine = Machine(sections(student_folder), tmp_path)
    assert machine.placed == {}
    assert "CUDA_VISIBLE_DEVICES" not in machine._environment("sampler-0")
    named = Machine(sections(student_folder, up={"gpus": {"sampler": "1"}}), tmp_path)
    assert named._environment("sampler-0")["CUDA_VISIBLE_DEVICES"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in named._environment("train")


def test_numbers_are_those_that_this_process_may_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-a,6")
    assert visible(["0", "1"]) == "4,GPU-a"
    assert visible(["GPU-b"]) == "GPU-b"
