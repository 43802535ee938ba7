"""What is tested on a GPU, for any device: tests/gpu runs all of it on one, tests/unit the cheap part on a CPU."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from rgopd.sampler.engine import Sample, SampleSpec, SamplingOptions
from rgopd.sampler.transformers import TransformersSampler
from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines.transformers import TransformersEngine
from rgopd.trainer.batch.micro_batch import MicroBatch, assemble
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.losses.head import head_stats
from rgopd.trainer.run import compose
from rgopd.trainer.run.checkpoint import Checkpoints
from rgopd.trainer.run.train_step import TrainStep
from rgopd.trainer.student.fsdp_options import make_mesh
from rgopd.trainer.student.model import full_weights
from tests.contract.teacher_conformance import CASES, SHARED, Reference, largest_errors, save_tiny_qwen2
from tests.unit.trainer.lone import plans_of
from tests.unit.trainer.losses.test_head import case, plain, scalar
from tests.unit.trainer.ranks import make_part

_PARTS = [{"name": "reverse_kl"}, {"name": "grpo", "weight": 0.5, "options": {"normalise": "token"}}]
OPTIONS: dict[str, dict[str, Any]] = {"weighted_sum": {"parts": _PARTS}}
"""Of objectives that have no default."""


@contextmanager
def lone_rank(device: str, folder: Path) -> Iterator[None]:
    """A process group of one rank that computes on the device and on the CPU."""
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def trainer(device: str, student: Path, folder: Path, **options: Any) -> TrainStep:
    """Student, optimizer and step as `rgopd train` builds them."""
    config = TrainConfig(
        student=str(student), dataset={"path": "unused"}, redis_url="unused", output_dir=folder, device=device,
        optim={"lr": 1e-3, "warmup_steps": 0}, fault={"max_drift": 1e9}, **options,
    )  # fmt: skip
    target = torch.device(device, 0) if device == "cuda" else torch.device(device)
    mesh = make_mesh(target, 1, 1)
    loaded = compose.load_student(config, mesh, target, packing=True)
    return compose._train_step(config, loaded, config.build_objective(), 100, mesh, target)


def batch() -> MicroBatch:
    parts = [make_part(i, 40, 6) for i in range(6)]
    return assemble(parts, plans_of(parts), step=0, total_steps=100, packing=True)


def check_step(device: str, student: Path, folder: Path, tolerance: float, **options: Any) -> None:
    """One step changes the weights, and is that of a float32 CPU in plain PyTorch to `tolerance`."""
    step = trainer(device, student, folder, **options)
    before = {k: v.clone() for k, v in full_weights(step.student, "float32").items()}
    metrics = step.run([batch()])
    after = full_weights(step.student, "float32")
    assert all(bool(torch.isfinite(value).all()) for value in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in after), "nothing was learned"
    plainly = {"compile": "off", "dtype": "float32", "gradient_checkpointing": False, "head_kernels": "torch"}
    want = trainer("cpu", student, folder, **{**options, **plainly}).run([batch()])
    for name in ("loss", "grad_norm"):
        error = abs(metrics[name] - want[name])
        assert error <= tolerance * max(abs(want[name]), 1e-2), (name, metrics[name], want[name])


def check_resume(device: str, student: Path, folder: Path, **options: Any) -> None:
    """Two steps, a checkpoint, a third; the third from the checkpoint gives the same weights."""
    first = trainer(device, student, folder, **options)
    for _ in range(2):
        first.run([batch()])
    checkpoints = Checkpoints(folder / "checkpoints", 1)
    checkpoints.save(2, first.student, first.optimizer, first.scheduler, {"seed": 0})
    checkpoints.settle(wait=True)
    first.run([batch()])
    second = trainer(device, student, folder, **options)
    state = Checkpoints(folder / "checkpoints", 1).load_latest(second.student, second.optimizer, second.scheduler)
    assert state is not None
    assert state["step"] == 2
    second.run([batch()])
    want = full_weights(first.student, "float32")
    for name, value in full_weights(second.student, "float32").items():
        # Sums on a GPU may come in another order; Adam then moves a gradient near 0 by up to its rate.
        torch.testing.assert_close(value, want[name], atol=0 if device == "cpu" else 2e-4, rtol=0)


def check_head(device: str, dtype: torch.dtype, kernels: str, tolerance: float) -> None:
    """Statistics and gradients against float64 that holds all logits; `tolerance` of the largest value."""
    hidden, weight, sampled, support = case(rows=33, k=7, vocab=1000, surplus=24, dim=64, pad=1, seed=3, spread=0.2)
    hidden, weight = (x.detach().to(dtype).double().requires_grad_() for x in (hidden, weight))
    want = plain(hidden, weight, sampled, support, temperature=0.7, vocab=1000)
    scalar(want).backward()
    mine = [x.detach().to(device, dtype).requires_grad_() for x in (hidden, weight)]
    got = head_stats(*mine, sampled.to(device), support.to(device), temperature=0.7, vocab_size=1000,
                     need_entropy=True, kernels=kernels)  # fmt: skip
    scalar(got).backward()
    pairs = [(got.sampled_logprobs_N, want.sampled_logprobs_N), (got.tail_logprob_N, want.tail_logprob_N),
             (got.support_logprobs_NK[support.to(device) >= 0], want.support_logprobs_NK[support >= 0]),
             (got.entropy_N, want.entropy_N), (mine[0].grad, hidden.grad), (mine[1].grad, weight.grad)]  # fmt: skip
    for number, (found, exact) in enumerate(pairs):
        assert found is not None
        assert exact is not None
        error = float((found.detach().cpu().double() - exact.detach()).abs().max() / exact.detach().abs().max())
        assert error <= tolerance, (number, error)


def check_teacher(device: str, folder: Path, dtype: str, kernels: str, tolerance: float) -> None:
    """Every case of the engines' conformance against float64 log-probs."""
    model = save_tiny_qwen2(folder, 8 if dtype == "bfloat16" else 15)
    config = TeacherConfig(
        model=str(model), dtype=dtype, device=device, shared_vocab_size=SHARED, max_k=SHARED, head_chunk_rows=13,
        head_kernels=kernels,
    )  # fmt: skip
    engine, reference = TransformersEngine.load(config), Reference(model)
    for name, make in CASES.items():
        items = make(np.random.default_rng(zlib.crc32(name.encode())))
        errors = largest_errors(items, engine.score(items), reference)
        assert max(errors.values()) <= tolerance, (name, errors)


def check_sampler(device: str, student: Path, tolerance: float) -> None:
    """Samples carry the log-probs that the teacher's engine, in float32 on a CPU, gives their tokens."""
    from rgopd.teacher.items import ScoreItem, Scoring

    sampler = TransformersSampler(str(student), dtype="float32", device=device)
    options = SamplingOptions(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=12, support_k=8)
    rng = np.random.default_rng(0)
    specs = [SampleSpec(rng.integers(6, 40, 5 + n, dtype=np.int32), n) for n in range(4)]
    found: dict[int, Sample] = {}
    sampler.generate(specs, options, found.__setitem__)
    assert len(found) == len(specs)
    items = [
        ScoreItem(str(n), specs[n].prompt_ids_C, sample.response_ids_T, Scoring("none", 0))
        for n, sample in sorted(found.items())
    ]
    scores = TransformersEngine.load(TeacherConfig(model=str(student), dtype="float32", device="cpu")).score(items)
    for (_, sample), score in zip(sorted(found.items()), scores, strict=True):
        np.testing.assert_allclose(sample.sampled_logprobs_T, score.sampled_logprobs_T, atol=tolerance)
