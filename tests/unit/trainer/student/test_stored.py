"""A student that is filled a layer at a time while it is sharded: the same weights, never all of them on a rank."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from rgopd.common.embedded import free_port
from rgopd.trainer.student.lora import LoraOptions
from rgopd.trainer.student.model import Student, full_weights
from rgopd.trainer.student.stored import NotStored, open_stored, parameters_on_meta
from tests.families.build import save_tiny
from tests.unit.trainer.lone import load, lone_rank


def families(tmp_path: Path, student_folder: Path) -> dict[str, Path]:
    return {"demo": student_folder, "gemma2": save_tiny(tmp_path / "g", "gemma2")}


@pytest.mark.parametrize("name", ["demo", "gemma2"])
def test_it_is_what_from_pretrained_gives(name: str, student_folder: Path, tmp_path: Path) -> None:
    folder = families(tmp_path, student_folder)[name]
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model, stored = open_stored(str(folder))
    assert all(p.is_meta for p in model.parameters())
    stored.fill(model)
    for mine, theirs in (
        (model.state_dict(), plain.state_dict()),
        *[map(dict, (m.named_buffers() for m in (model, plain)))],
    ):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == plain.config.tie_word_embeddings
    assert model.config._attn_implementation == plain.config._attn_implementation
    assert model.generation_config.to_dict() == plain.generation_config.to_dict()
    assert [m.training for m in model.modules()] == [m.training for m in plain.modules()]
    mine, theirs = (json.loads(m.config.to_json_string()) for m in (model, plain))
    assert mine == theirs


@pytest.mark.parametrize("lora", [None, LoraOptions(r=4)], ids=["whole", "LoRA"])
def test_a_sharded_student_is_the_same(student_folder: Path, tmp_path: Path, lora: LoraOptions | None) -> None:
    """Adapters too: drawn alike, and what is frozen is frozen."""
    with lone_rank(tmp_path):
        found = [load(student_folder, streamed=streamed, lora=lora) for streamed in (False, True)]
        weights = [full_weights(student, "float32") for student in found]
        held = [{n: (p.full_tensor(), p.requires_grad) for n, p in s.named_parameters()} for s in found]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert held[0].keys() == held[1].keys()
    assert all(torch.equal(held[0][n][0], value) and held[0][n][1] == g for n, (value, g) in held[1].items())


def test_adapters_are_real_beside_weights_that_are_not_there(student_folder: Path) -> None:
    student = Student.load(str(student_folder), streamed=True, lora=LoraOptions(r=4))
    assert student.stored is not None
    for name, parameter in student.named_parameters():
        assert parameter.is_meta == (".lora_" not in name), name
        assert parameter.requires_grad == (".lora_" in name), name


def test_files_that_do_not_fit_are_read_as_transformers_reads_them(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "qwen2")
    state = load_file(folder / "model.safetensors")
    for name, changed in {
        "no tensor is called": {k: v for k, v in state.items() if "q_proj" not in k},
        "and not": {k: v[:3] if "norm" in k else v for k, v in state.items()},
    }.items():
        save_file({k: v.contiguous() for k, v in changed.items()}, folder / "model.safetensors")
        with pytest.raises(NotStored, match=name):
            open_stored(str(folder))
    moe = save_tiny(tmp_path / "moe", "qwen3_moe")
    with pytest.raises(NotStored, match="otherwise than it stores them|no tensor"):
        open_stored(str(moe))
    assert Student.load(str(moe), streamed=True).stored is None
    (folder / "model.safetensors").unlink()
    with pytest.raises(NotStored, match="has no model"):
        open_stored(str(folder))


def test_modules_hold_their_parameters_again_afterwards() -> None:
    with parameters_on_meta():
        assert nn.Linear(2, 2).weight.is_meta
    assert not nn.Linear(2, 2).weight.is_meta


RANK = """
import os, sys, threading, torch
import torch.distributed as dist
from pathlib import Path
from rgopd.trainer.student.fsdp_options import make_mesh
from rgopd.trainer.student.model import Student, shard
from rgopd.common.leave import leave
def held():
    return next(int(l.split()[1]) * 1024 for l in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in l)
torch.set_num_threads(1)
dist.init_process_group("gloo")
mesh = make_mesh(torch.device("cpu"), 2, 1)
Student.load(sys.argv[2], streamed=True)  # what imports and constructors take
for streamed in (True, False):
    start, done, peak = held(), threading.Event(), [0]
    def watch():
        while not done.wait(0.001):
            peak[0] = max(peak[0], held() - start)
    thread = threading.Thread(target=watch)
    thread.start()
    student = Student.load(sys.argv[1], streamed=streamed)
    shard(student, mesh, "bfloat16")
    done.set()
    thread.join()
    if dist.get_rank() == 0:
        print(peak[0] / sum(4 * p.numel() for p in student.parameters()))
dist.barrier()
leave(0)
"""


def test_no_rank_holds_the_whole_model(student_folder: Path, tmp_path: Path) -> None:
    """Two ranks, 16 layers, 168 MB in float32: half of it, a layer and what is outside of them; all of it without."""
    config = Qwen2Config(
        vocab_size=512, hidden_size=512, intermediate_size=1280, num_hidden_layers=16, num_attention_heads=8,
        num_key_value_heads=8,
    )  # fmt: skip
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    model.to_empty(device="cpu").to(torch.bfloat16).save_pretrained(tmp_path)
    env = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    env |= {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}  # so that what is freed is gone
    command = [sys.executable, "-c", RANK, str(tmp_path), str(student_folder)]
    ranks = [subprocess.Popen(command, env=env | {"RANK": str(r)}, stdout=subprocess.PIPE, text=True) for r in range(2)]
    text = [rank.communicate(timeout=600)[0] for rank in ranks][0]
    streamed, at_once = map(float, text.split())
    assert streamed < 0.75, text
    assert at_once > 1.0, text
