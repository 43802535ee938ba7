"""A training step of the product's own trainer: tokens/s, MFU, memory, time by kind of kernel; and publishing it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from redis import Redis

from benchmarks.gpu import roofline
from benchmarks.gpu.harness import Bench, SkippedCase, by_kind
from benchmarks.gpu.shapes import Shape, lengths_of, model_folder, shapes
from rgopd.common.embedded import EmbeddedValkey
from rgopd.common.policies import PolicyStore
from rgopd.common.streams import Streams
from rgopd.trainer.batch.micro_batch import MicroBatch, Part, assemble
from rgopd.trainer.batch.plan import RolloutPlan, cut_micro_batches
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.run import compose
from rgopd.trainer.run.checkpoint import Checkpoints
from rgopd.trainer.run.publish import Publisher
from rgopd.trainer.run.train_step import TrainStep
from rgopd.trainer.student.fsdp_options import make_mesh

K = 50


def run(bench: Bench) -> None:
    card = roofline.card_of(torch.cuda.get_device_name() if bench.cuda else "")
    lengths = lengths_of(4 if bench.tiny else 64, bench.tiny)
    small, large = shapes(bench.tiny)[0], shapes(bench.tiny)[-1]
    cases = [(large, False, "off"), (large, False, "layers"), (large, True, "off"), (large, True, "layers"),
             (small, False, "off"), (small, False, "layers"), (small, True, "off")]  # fmt: skip
    with one_rank(bench):
        for shape, checkpointing, how in dict.fromkeys(cases):  # the larger one is the aim
            name = f"step {shape.name}, {'checkpointing' if checkpointing else 'no checkpointing'}"
            name += ", layers compiled" if how == "layers" else ""
            bench.case(name, partial(_step, bench, card, shape, name, lengths, checkpointing, how))


@contextmanager
def one_rank(bench: Bench) -> Iterator[None]:
    backend = "nccl" if bench.cuda else "gloo"
    store = Path(bench.work) / "store"
    store.unlink(missing_ok=True)
    dist.init_process_group(backend, init_method=f"file://{store}", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def trainer_of(bench: Bench, shape: Shape, checkpointing: bool, how: str = "off") -> tuple[TrainConfig, TrainStep]:
    """Student, optimizer and step as `rgopd train` builds them, in bfloat16."""
    config = TrainConfig(
        student=str(model_folder(shape, bench.work, bench.device)), dataset={"path": "unused"}, redis_url="unused",
        dtype="bfloat16", device=bench.device.type, gradient_checkpointing=checkpointing, compile=how,
        output_dir=Path(bench.work) / "run",
    )  # fmt: skip
    mesh = make_mesh(bench.device, 1, 1)
    student = compose.load_student(config, mesh, bench.device, packing=True)
    step = compose._train_step(config, student, config.build_objective(), 1000, mesh, bench.device)
    return config, step


def micro_batches(lengths: list[tuple[int, int]], vocab: int, tokens: int) -> list[MicroBatch]:
    """Made-up rollouts, cut and packed by the trainer's planner."""
    rng = np.random.default_rng(0)
    k = min(K, vocab // 8)
    parts, plans = {}, []
    for n, (prompt, response) in enumerate(lengths):
        ids = rng.integers(0, vocab, prompt + response).astype(np.int32)
        support = (rng.integers(0, vocab, (response, 1)) + 7 * np.arange(k)).astype(np.int32) % vocab
        topk = np.full((response, k), -np.log(2 * k), dtype=np.float32)
        sampled = np.full(response, -11.9, dtype=np.float32)
        tail = np.full(response, -np.log(2), dtype=np.float32)
        name = f"r{n:04d}"
        parts[name] = Part(ids[:prompt], ids[prompt:], sampled, support, sampled + (-1) ** n, topk, tail)
        plans.append(RolloutPlan(name, prompt, response, float(n % 2), 1.0 if n % 2 else -1.0, 0))
    [micros] = cut_micro_batches(plans, 1, tokens, 64, packing=True)
    return [assemble([parts[r.rollout_id] for r in m], m, step=0, total_steps=1000, packing=True) for m in micros]


def _step(
    bench: Bench,
    card: roofline.Card,
    shape: Shape,
    name: str,
    lengths: list[tuple[int, int]],
    checkpointing: bool,
    how: str,
) -> None:
    if how != "off" and not bench.cuda:
        raise SkippedCase("layers are compiled on CUDA; tests/gpu does on a CPU too")
    config, step = trainer_of(bench, shape, checkpointing, how)
    micros = micro_batches(lengths, shape.vocab, config.batch.micro_batch_tokens)
    whole = [sum(both) for both in lengths]
    tokens, responses = sum(whole), sum(response for _, response in lengths)
    flops = roofline.train_flops(shape, whole, responses)

    def call() -> None:
        step.run(micros)

    began = time.perf_counter()
    call()  # gradients and moments come into being, layers are compiled
    bench.sync()
    first = time.perf_counter() - began
    peak = bench.peak_gb(call)
    held = torch.cuda.memory_allocated() / 1e9 if bench.cuda else None
    seconds = bench.seconds_of(call, repeats=3, warm=1, budget_s=12)
    mfu = flops / seconds / card.peak_tflops / 1e12
    predicted = tokens / (card.product(flops) + roofline.optimizer_s(card, shape.parameters))
    kinds = by_kind(bench.profile(call))
    bench.add(
        name,
        tokens / seconds,
        "tokens/s",
        relative=f"{mfu:.1%} MFU",
        predicted=predicted,
        memory_gb=None if peak is None or held is None else peak + held,
        launches=sum(count for _, count in kinds.values()),
        note=f"{tokens} tokens, {len(lengths)} rollouts, {len(micros)} micro-batches; first {first:.0f} s",
    )
    adam = roofline.optimizer_s(card, shape.parameters) * 1e3
    for kind, (spent, count) in kinds.items():
        share = f"{spent / seconds:.0%} of the step"
        paper = adam if kind == "optimizer" else None
        bench.add(f"{name}: {kind}", spent * 1e3, "ms", relative=share, launches=count, predicted=paper)
    if not checkpointing and how == "off":
        published = f"publication {shape.name}, bfloat16"
        bench.case(published, lambda: _publish(bench, config, step, shape, published))


def _publish(bench: Bench, config: TrainConfig, step: TrainStep, shape: Shape, name: str) -> None:
    """A policy version through the trainer's own publisher: gathered, cast, written, hashed, announced."""
    server = EmbeddedValkey(Path(bench.work) / "valkey").start()
    client = Redis.from_url(server.url)
    try:
        publisher = Publisher(config, PolicyStore(Streams(client, "bench")), Checkpoints(config.output_dir, 1))
        versions = itertools.count(1)

        def publish() -> None:
            publisher.publish(step.student, next(versions))
            publisher.settle()

        seconds = bench.seconds_of(publish, repeats=2, warm=1)
    finally:
        client.close()
        server.stop()
    size = 2.0 * shape.parameters / 1e9
    bench.add(name, seconds, "s", note=f"{size:.2f} GB, {size / seconds:.2f} GB/s")
