"""What keeping rollouts, status and events costs a training step, side by side in one process.

    python -m benchmarks.trainer.records.watch_cost

Steps with and without it alternate on the same weights and the same micro-batches. Counted is processor time: what the
loop's thread and the writing thread spend on watching (their own clocks, so what else runs on the machine does not
matter), as if the writing thread had no core of its own, against the process's in a step without. A step here is
forward, backward and optimiser alone; a step of a run also samples, verifies and scores, so its share is smaller
(`--step-s`: seconds of a whole step; every run writes its own in timings.jsonl: `watch_s` of `seconds`).
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from transformers import Qwen2Config, Qwen2ForCausalLM

from rgopd.common.run_files import Vocabulary
from rgopd.trainer.batch.micro_batch import MicroBatch, Part, assemble
from rgopd.trainer.batch.plan import RolloutPlan
from rgopd.trainer.gating.gate import gate_preset
from rgopd.trainer.objectives import get_objective
from rgopd.trainer.records.keeper import Keeper
from rgopd.trainer.records.live import Live
from rgopd.trainer.records.watch import KeepConfig
from rgopd.trainer.run.figures import Figures
from rgopd.trainer.run.train_step import TrainStep
from rgopd.trainer.student.fsdp_options import make_mesh
from rgopd.trainer.student.model import Student, shard


@dataclass(frozen=True)
class Shape:
    """A rank's share of a step."""

    name: str
    vocab: int
    width: int
    layers: int
    rollouts: int
    tokens: int
    k: int


SHAPES = (
    Shape("the demo's, one of two ranks", 101, 64, 4, 128, 28, 16),
    Shape("14M parameters", 16_384, 256, 6, 32, 100, 50),
)


def parts_of(shape: Shape) -> list[Part]:
    """Made-up rollouts; log-probs of a plausible size."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(shape.rollouts):
        support = rng.integers(0, shape.vocab, (shape.tokens, shape.k)).astype(np.int32)
        logprobs = np.sort(-rng.exponential(4, (shape.tokens, shape.k)) - 4)[:, ::-1].astype(np.float32)
        sampled = -rng.exponential(1, shape.tokens).astype(np.float32)
        tail = np.log1p(-np.exp(logprobs).sum(1).clip(0, 0.9)).astype(np.float32)
        response = rng.integers(0, shape.vocab, shape.tokens).astype(np.int32)
        found.append(Part(response[:8], response, sampled, support, sampled - 0.1, logprobs, tail))
    return found


class Timed(Keeper):
    """Says what its thread spent."""

    spent: tuple[float, ...] = ()

    def _write(self, step: int, rows: Any) -> None:
        raise NotImplementedError

    def submit(self, step: int, rows: Any, then: Any = None) -> None:
        """Rows are made and written in one job, so its thread's clock covers both."""

        def job() -> None:
            begun = time.thread_time()
            Keeper._write(self, step, rows())
            self.spent += (time.thread_time() - begun,)

        self._jobs.put(job)


def measure(shape: Shape, pairs: int, keep: KeepConfig) -> tuple[float, float, float, int]:
    """Medians: processor seconds of a step without, of the loop's and of the thread's part; bytes a step."""
    with tempfile.TemporaryDirectory() as folder:
        config = Qwen2Config(
            vocab_size=shape.vocab,
            hidden_size=shape.width,
            intermediate_size=4 * shape.width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.width // 32,
            num_key_value_heads=shape.width // 32,
        )
        Qwen2ForCausalLM(config).save_pretrained(folder)
        student = Student.load(folder, packing=True)
        shard(student, make_mesh(torch.device("cpu"), 1, 1), "float32", None)
        parts = parts_of(shape)
        plans = [
            RolloutPlan(f"r{i:03d}", 8, shape.tokens, float(i % 2), float(i % 3 - 1), 0) for i in range(len(parts))
        ]
        micros = [
            assemble(parts[i : i + 32], plans[i : i + 32], step=0, total_steps=1, packing=True)
            for i in range(0, len(parts), 32)
        ]
        objective = get_objective("rg_opd")
        optimizer = SGD(student.parameters(), lr=1e-9, foreach=False)
        runner = TrainStep(
            student, optimizer, LambdaLR(optimizer, lambda _: 1.0), objective, gate_preset("paper"), 1.0, 1.0,
            single_pass=True,
        )  # fmt: skip
        run = Path(folder) / "run"
        keeper = Timed(run, 0, 1, 0, keep, lambda: Vocabulary([b"x"] * shape.vocab))
        live = Live(run, "cost")
        watched = [plan.rollout_id for plan in plans[: keep.rollouts]]
        without, in_loop = [], []
        for pair in range(pairs + 1):
            begun = time.process_time()
            runner.run(micros)
            plain = time.process_time() - begun
            figures = Figures(watched, plans, 0, objective, keep)
            spent = step(runner, micros, pair, figures, keeper, live)
            if pair:
                without.append(plain)
                in_loop.append(spent)
        keeper.close()
        live.end("finished", "")
        size = statistics.mean(p.stat().st_size for p in (run / "rollouts").glob("step-*"))
    thread = statistics.median(keeper.spent[1:])
    return statistics.median(without), statistics.median(in_loop), thread, int(size)


def step(
    runner: TrainStep, micros: list[MicroBatch], number: int, figures: Figures, keeper: Keeper, live: Live
) -> float:
    """Processor seconds that the loop's thread lost to watching."""
    lost = 0.0

    def note(micro: Any, result: Any) -> None:
        nonlocal lost
        begun = time.thread_time()
        figures.note(micro, result)
        live.stages(training=(1, len(micros)))
        lost += time.thread_time() - begun

    runner.run(micros, note)
    begun = time.thread_time()
    found = figures.arrays()
    keeper.submit(number, lambda: figures.rows(found))
    return lost + time.thread_time() - begun


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--step-s", type=float, default=0.0, help="Seconds of a whole step of the demo.")
    options = parser.parse_args()
    whole_s = options.step_s
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep = KeepConfig()
    print(
        f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, watch.keep={keep}\n"
    )
    print("| shape | rollouts x tokens, K | step (CPU s) | loop + thread (CPU ms) | share | kB a step |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as store:
        dist.init_process_group("gloo", init_method=f"file://{store}/store", rank=0, world_size=1)
        for shape in SHAPES:
            plain, in_loop, thread, size = measure(shape, options.pairs, keep)
            both = in_loop + thread
            cells = (
                shape.name,
                f"{shape.rollouts} x {shape.tokens}, {shape.k}",
                f"{plain:.3f}",
                f"{1000 * in_loop:.2f} + {1000 * thread:.2f}",
                f"{both / plain:.2%}" + (f" ({both / whole_s:.2%} of {whole_s} s)" if whole_s else ""),
                f"{size / 1000:.0f}",
            )
            print(f"| {' | '.join(cells)} |", flush=True)
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
