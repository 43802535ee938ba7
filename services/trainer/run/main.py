"""The trainer process: one a rank, started by torchrun (or alone). The loop reads like the life of a step.

request -> collect (rank 0) -> broadcast the plan -> every rank reads its share -> train -> publish -> log
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
import yaml
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoTokenizer

from rgopd.common.children import PAUSED, PERMANENT, be_killed_with_parent
from rgopd.common.connection import connect
from rgopd.common.errors import ConfigError, RgopdError, Unavailable
from rgopd.common.identity import derive_seed
from rgopd.common.models import check_model
from rgopd.common.policies import PolicyStore
from rgopd.common.server import consumer_name
from rgopd.common.streams import Streams
from rgopd.common.telemetry import configure_logging, log_context
from rgopd.trainer.batch.micro_batch import BatchOptions, MicroBatch, load_micro_batch
from rgopd.trainer.batch.plan import RolloutPlan, StepPlan
from rgopd.trainer.batch.stored import Vanished
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.gating.gate import starved_signs
from rgopd.trainer.prompts.data import PromptSource
from rgopd.trainer.records.ledger import Ledger
from rgopd.trainer.records.metrics import JsonLines, RunState, read_json_lines
from rgopd.trainer.records.monitors import Monitors, check_backends, open_monitors
from rgopd.trainer.rollouts.claim import Claim
from rgopd.trainer.rollouts.dispatch import Dispatch, Interrupted
from rgopd.trainer.rollouts.evaluation import BestTracker, keep_best
from rgopd.trainer.rollouts.join import Join
from rgopd.trainer.rollouts.orchestrator import MAX_VANISHED, Orchestrator
from rgopd.trainer.run.checkpoint import Checkpoints, disk_trouble
from rgopd.trainer.run.collective import agree, broadcast_bytes
from rgopd.trainer.run.recent import Recent
from rgopd.trainer.run.schedule import lr_factor
from rgopd.trainer.run.train_step import TrainStep
from rgopd.trainer.student.fsdp_options import backend_for, make_mesh, pick_device
from rgopd.trainer.student.model import Student, full_weights, save_pretrained, shard
from rgopd.trainer.student.reference import make_reference
from rgopd.trainer.student.weights import write_weights

log = logging.getLogger(__name__)

_GOOD, _STOP, _GONE, _BAD = range(4)
_STOP_WORD = b"stop"


class Trainer:
    """One rank of a run."""

    def __init__(self, config: TrainConfig, should_stop: Callable[[], bool] = lambda: False) -> None:
        if not config.redis_url:
            raise ConfigError("the trainer talks to the other services through Redis: set redis_url")
        check_model(config.student, "student")
        self.config = config
        self.should_stop = should_stop
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self.folder = config.output_dir
        self.policies_folder = config.policies_dir or self.folder / "policies"
        patience_s = config.fault.wait_for_services_s
        self.streams = Streams(connect(config.redis_url, wait_s=60.0, patience_s=patience_s), config.run_id)
        self.policies = PolicyStore(self.streams)
        self.tokenizer = AutoTokenizer.from_pretrained(config.student)
        self.objective = config.build_objective()
        self.device = pick_device(config.device, local_rank())
        mesh = make_mesh(self.device, self.ranks, config.fsdp.replicas)
        self.student = load_student(config, mesh, self.device)
        reference = make_reference(
            self.student,
            lambda: load_student(config, mesh, self.device),
            config.sampling.temperature,
            wanted=self.objective.needs_reference,
        )
        self.prompts = PromptSource(config.dataset, self.tokenizer) if self.rank == 0 else None
        self.total_steps = self._agree_on_steps()
        optim = config.optim
        optimizer = AdamW(
            [p for p in self.student.parameters() if p.requires_grad],
            lr=optim.lr,
            betas=optim.betas,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            foreach=False,
        )
        self.step_runner = TrainStep(
            self.student,
            optimizer,
            LambdaLR(optimizer, lambda step: lr_factor(step, self.total_steps, optim)),
            self.objective,
            config.gate_config(),
            config.sampling.temperature,
            optim.grad_clip,
            single_pass=config.max_staleness == 0,  # on policy the behaviour log-probs predict the gate
            reference=reference,
            importance_clip=getattr(self.objective, "importance_clip", None),
            device=self.device,
            kernels=config.head_kernels,
        )
        saving = config.checkpoint
        self.checkpoints = Checkpoints(self.folder / "checkpoints", saving.keep, asynchronous=saving.asynchronous)
        self.saved = self.version = 0

    def _agree_on_steps(self) -> int:
        """Rank 0 knows the dataset, so it knows how many steps the epochs are."""
        steps = self.config.steps
        if self.prompts is not None and not steps:
            steps = self.config.epochs * len(self.prompts) // self.config.sampling.prompts_per_step
            if not steps:
                raise ConfigError(
                    f"{len(self.prompts)} prompts do not fill one step of {self.config.sampling.prompts_per_step}; "
                    "lower sampling.prompts_per_step or set steps"
                )
        return int(broadcast_bytes(str(steps).encode() if self.rank == 0 else None))

    def run(self) -> bool:
        """Train to the end, or until asked to stop (False); resumable at any checkpoint."""
        runner = self.step_runner
        anew = not self.config.checkpoint.resume and self.checkpoints.may_start_over()
        state = None if anew else self.checkpoints.load_latest(self.student, runner.optimizer, runner.scheduler)
        start = self.saved = int(state["step"]) if state else 0
        lead = _Lead(self, start) if self.rank == 0 else None  # it locks the folder
        if anew:
            self.checkpoints.start_over()
        elif self.config.checkpoint.resume:
            self.checkpoints.allow_start_over()
        self.publish(start)
        if lead is not None:
            lead.catch_up(start)
        done, paused = start, False
        while done < self.total_steps and not self._stops_early(lead):
            with log_context(step=done):
                paused = not self._one_step(done, lead)
            if paused:
                break
            done += 1
        self._save(done, lead)
        self.checkpoints.settle(wait=True)
        weights = {} if paused else full_weights(self.student, self.config.dtype)
        if lead is not None:
            paused = paused or not (lead.has_evaluated(done) or lead.evaluate(done))
            if paused:
                log.info("paused at step %d as asked; the same command goes on from here", done)
            else:
                lead.say_why_stopped(done)
                save_pretrained(self.folder / "student", self.student, weights, self.tokenizer)
                if self.config.policies_dir is not None:
                    _remove(self.config.policies_dir)  # memory, perhaps
            lead.close()
        dist.barrier()
        return not paused

    def _stops_early(self, lead: _Lead | None) -> bool:
        """Collective where eval.patience is set: rank 0 has seen the evaluations."""
        if not self.config.eval.patience:
            return False
        return broadcast_bytes(None if lead is None else str(int(lead.best.exhausted)).encode()) == b"1"

    def _save(self, step: int, lead: _Lead | None) -> None:
        """Collective. A checkpoint whose next step is `step`, unless there is one."""
        if step == self.saved:
            return
        self.saved = step
        if lead is not None:
            lead.sync()
        state = {"run_id": self.config.run_id, "seed": self.config.seed}
        runner = self.step_runner
        self.checkpoints.save(step, self.student, runner.optimizer, runner.scheduler, state)

    def _one_step(self, step: int, lead: _Lead | None) -> bool:
        """Take a step; False when asked to stop before it: nothing was changed."""
        started = time.monotonic()
        # Random numbers belong to the step, not to the process: a resumed step draws the same ones.
        torch.manual_seed(derive_seed(self.config.seed, "step", step, self.rank))
        gathered = self._gather(step, lead)
        if gathered is None:
            return False
        plan, micro_batches = gathered
        collected = time.monotonic()
        recent = Recent(self.tokenizer, limit=4 if self.rank == 0 else 0)
        unscored = float(plan.metrics["unscored_tokens"])
        metrics = self.step_runner.run(micro_batches, recent.note, unscored_tokens=unscored)
        trained = time.monotonic()
        self.publish(step + 1)
        if lead is not None:
            lead.after_step(plan, metrics, recent, (started, collected, trained, time.monotonic()))
        self.checkpoints.settle()
        if (step + 1) % self.config.checkpoint.every == 0 or step + 1 == self.total_steps:
            self._save(step + 1, lead)
        return True

    def _gather(self, step: int, lead: _Lead | None) -> tuple[StepPlan, list[MicroBatch]] | None:
        """The plan and this rank's tensors; None when any rank was asked to stop. All ranks agree before any trains.

        Raises:
            Unavailable: results keep vanishing from Redis, or another rank found something it cannot use.
            InvalidInput: what this rank found, e.g. NaN among the teacher's log-probs.
        """
        for _ in range(MAX_VANISHED):
            plan = self._plan(step, lead)
            if plan is None:
                return None
            micro_batches: list[MicroBatch] = []
            problem: RgopdError | None = None
            try:
                micro_batches = [self._load(micro, step) for micro in plan.micro_batches[self.rank]]
            except RgopdError as error:
                problem = error
            code = _GONE if isinstance(problem, Vanished) else _BAD if problem else _GOOD
            worst = agree(_STOP if self.should_stop() and code == _GOOD else code)
            if worst == _GOOD:
                return plan, micro_batches
            if worst == _STOP:
                return None
            if worst == _BAD:
                raise problem or Unavailable("another rank cannot use its rollouts; its log says why")
            if lead is not None:
                log.warning("results vanished from Redis between plan and training: %s", problem or "another rank's")
                lead.orchestrator.recheck(step)
        raise Unavailable(f"step {step}: results keep vanishing from Redis; look at its memory and eviction policy")

    def _load(self, rollouts: Sequence[RolloutPlan], step: int) -> MicroBatch:
        config = self.config
        prefilter = config.gate_config() if config.gate_prefilter == "behaviour" else None
        options = BatchOptions(self.objective.needs_teacher, self.total_steps, config.batch.packing, prefilter)
        return load_micro_batch(self.streams, rollouts, options, step=step)

    def _plan(self, step: int, lead: _Lead | None) -> StepPlan | None:
        """Rank 0 collects; all get the plan. An error on rank 0 ends the others too, not in a time-out."""
        if lead is None:
            data = broadcast_bytes(None)
            return None if data == _STOP_WORD else StepPlan.from_json(data)
        try:
            plan = lead.collect(step)
        except Interrupted:
            broadcast_bytes(_STOP_WORD)
            return None
        except RgopdError:
            broadcast_bytes(b"")
            raise
        broadcast_bytes(plan.to_json())
        return plan

    def publish(self, version: int) -> None:
        """Collective. Make the current weights policy `version`."""
        weights = full_weights(self.student, self.config.dtype)
        if self.rank != 0:
            return
        self.version = version
        write_weights(self._policy_folder(version), weights, self.student.hf.config)
        self.announce()
        self._retire(version)
        if self.config.colocated and self.device.type == "cuda":
            torch.cuda.empty_cache()  # for the samplers, whose turn it is

    def announce(self) -> None:
        """Rank 0. Tell the samplers of every version that a request may ask for, the newest last."""
        for version in range(max(0, self.version - self.config.max_staleness), self.version + 1):
            if (folder := self._policy_folder(version)).exists():
                self.policies.announce(version, folder)

    def _retire(self, version: int) -> None:
        """Remove policies that neither this life nor one resumed from a checkpoint will ask for."""
        stale, steps = self.config.max_staleness, [int(p.name.rpartition("-")[2]) for p in self.checkpoints.whole()]
        needed = set(range(version - stale - self.config.keep_policies + 1, version + 1))
        needed |= {v for step in steps for v in range(step - stale, step)}
        for folder in sorted(self.policies_folder.glob("v????????")):
            if (old := int(folder.name[1:])) < version and old not in needed:
                self.policies.withdraw(old)
                _remove(folder)

    def _policy_folder(self, version: int) -> Path:
        return self.policies_folder / f"v{version:08d}"


def local_rank() -> int:
    """Which of the ranks on this machine this process is, as torchrun says."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def load_student(config: TrainConfig, mesh: DeviceMesh, device: torch.device) -> Student:
    """The student as the run found it, sharded. Collective."""
    # The same on every rank: adapters are drawn here, and each rank keeps its shard of its own draw.
    torch.manual_seed(config.seed)
    student = Student.load(
        config.student,
        shared_vocab_size=config.shared_vocab_size,
        gradient_checkpointing=config.gradient_checkpointing,
        packing=config.batch.packing,
        device=device,
        lora=config.lora,
        compile_backend=config.compile_backend,
    )
    shard(student, mesh, config.dtype, config.fsdp)
    return student


class _Lead:
    """What only rank 0 does: orchestrate, evaluate, log."""

    def __init__(self, trainer: Trainer, start: int) -> None:
        self.trainer = trainer
        self.config = trainer.config
        assert trainer.prompts is not None
        self.start = start
        self.claim = Claim(trainer.folder, trainer.streams, self.config.model_dump(mode="json"))
        self.claim.take()
        trainer.policies.reset_floor(max(0, start - self.config.max_staleness))
        join = Join(trainer.streams, consumer_name("trainer"))
        dispatch = Dispatch(
            self.config,
            trainer.streams,
            join,
            self.claim,
            republish=trainer.announce,
            should_stop=trainer.should_stop,
        )
        self.orchestrator = Orchestrator(self.config, trainer.streams, trainer.prompts, trainer.ranks, join, dispatch)
        dataset = self.config.eval.dataset
        self.eval_prompts = PromptSource(dataset, trainer.tokenizer) if dataset else None
        folder = trainer.folder
        self.jsonl = JsonLines(
            folder / "metrics.jsonl", lambda r: r["step"] < start or (r["event"] == "eval" and 0 < r["step"] == start)
        )
        settings = resolved(self.config)
        others = open_monitors(self.config.monitor, folder, self.config.run_id, settings, start)
        self.metrics = Monitors([self.jsonl, others])
        earlier = read_json_lines(self.jsonl.path)
        self.best = BestTracker(self.config.eval, [row for row in earlier if row["event"] == "eval"])
        self.evaluated = {int(row["step"]) for row in earlier if row["event"] == "eval"}
        timings = JsonLines(folder / "timings.jsonl", lambda r: r["step"] < start)
        self.timings = Monitors([timings, others])
        self.ledger = Ledger(folder, start)
        self.state = RunState(trainer.streams)

    def collect(self, step: int) -> StepPlan:
        """Ask for this step's rollouts and, within max_staleness, for later ones; wait for this step's."""
        for ahead in range(step, min(step + self.config.max_staleness, self.trainer.total_steps - 1) + 1):
            self.orchestrator.request(ahead, self._policy_for(ahead))
        plan = self.orchestrator.collect(step)
        if self.config.colocated:
            self.orchestrator.wait_for_idle_samplers()
        return plan

    def _policy_for(self, step: int) -> int:
        """Which weights sample a step's rollouts: those that were the newest when an undisturbed run would have asked.

        Not those that are the newest now: a resumed run must ask for what it asked for before.
        """
        version = max(0, step - self.config.max_staleness)
        if version < self.start and not self.trainer._policy_folder(version).exists():
            log.warning("policy %d is not in the run folder: step %d is sampled by %d", version, step, self.start)
            return self.start
        return version

    def catch_up(self, start: int) -> None:
        """The evaluation before the first step, or one that was due when an earlier life ended."""
        if not self.has_evaluated(start) and (start == 0 or self.evaluates_at(start)):
            self.evaluate(start)

    def has_evaluated(self, version: int) -> bool:
        """Whether its row is in metrics.jsonl."""
        return version in self.evaluated

    def evaluates_at(self, version: int) -> bool:
        """Whether `after_step` evaluates this version."""
        every = self.config.eval.every
        return bool(every) and version % every == 0

    def evaluate(self, version: int) -> bool:
        """Accuracy of a published version into metrics.jsonl; the best student so far is kept.

        False: asked to stop meanwhile; the resumed run makes up for it.
        """
        if self.eval_prompts is None:
            return True
        started = time.monotonic()
        try:
            result = self.orchestrator.evaluate(self.eval_prompts, version)
        except Interrupted:
            return False
        row = {"event": "eval", "step": version, **result}
        if self.best.update(row) and self.config.eval.keep_best:
            # Before the row: a life that ends between the two evaluates again, one that finds the row does not.
            trainer = self.trainer
            policy, generation = trainer._policy_folder(version), trainer.student.hf.generation_config
            keep_best(trainer.folder, policy, trainer.tokenizer, generation, row)
        self.metrics.write(row)
        self.evaluated.add(version)
        self.timings.write({"event": "eval", "step": version, "seconds": time.monotonic() - started})
        log.info("evaluation", extra={"accuracy": result["accuracy"], "version": version})
        return True

    def say_why_stopped(self, done: int) -> None:
        """A run that ends before its last step says so where its figures are."""
        if done < self.trainer.total_steps:
            metric, best, since = self.config.eval.best, self.best.best, self.best.best_step
            self.metrics.write(
                {"event": "early_stop", "step": done, "metric": metric, "best": best, "best_step": since}
            )
            log.warning("stopped early at step %d: no better %s since step %d", done, metric, since)

    def after_step(
        self, plan: StepPlan, metrics: dict[str, float], recent: Recent, clock: tuple[float, float, float, float]
    ) -> None:
        """Log, publish the state, free the step's blobs, evaluate where due."""
        started, collected, trained, published = clock
        unscored = float(plan.metrics["unscored_tokens"])
        row: dict[str, Any] = {
            "event": "step",
            "step": plan.step,
            "policy_version": plan.step,
            **plan.metrics,
            **metrics,
        }
        self.metrics.write(row)
        seconds = published - started
        self.timings.write(
            {
                "event": "step",
                "step": plan.step,
                "seconds": seconds,
                "collect_s": collected - started,
                "train_s": trained - collected,
                "publish_s": published - trained,
                "tokens_per_s": (metrics["response_tokens"] + unscored) / seconds,
            }
        )
        self.ledger.write(plan)
        self._warn(metrics)
        self.state.publish(row)
        self.state.add_recent(recent.rows)
        self.orchestrator.release(plan.step)
        log.info("step", extra={k: row[k] for k in ("loss", "kept_fraction", "reward_mean", "response_length_mean")})
        if self.evaluates_at(plan.step + 1):
            self.evaluate(plan.step + 1)

    def _warn(self, metrics: dict[str, float]) -> None:
        sums = {f"tokens_total_{s}": metrics[f"tokens_{s}"] for s in ("positive", "negative")}
        sums |= {
            f"tokens_kept_{s}": metrics[f"kept_fraction_{s}"] * metrics[f"tokens_{s}"] for s in ("positive", "negative")
        }
        for sign in starved_signs(sums):
            log.warning("the gate keeps under 1%% of the tokens of %s advantage; see docs/objectives.md", sign)
        if metrics["skipped"]:
            log.warning(
                "weights unchanged: the gate kept %d tokens, %.2f%%, which is none or under gate.min_kept_fraction",
                metrics["kept_tokens"],
                100 * metrics["kept_fraction"],
            )

    def sync(self) -> None:
        """What a checkpoint is about to say was done has been written down."""
        self.jsonl.sync()
        self.ledger.sync()

    def close(self) -> None:
        """Flush the files and let the next trainer in."""
        self.metrics.close()
        self.timings.close()
        self.ledger.close()
        self.claim.release()


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def stop_on_signal() -> Callable[[], bool]:
    """SIGTERM and SIGINT ask for a stop between two steps, with a checkpoint; asked again, the process ends at once."""
    asked = threading.Event()

    def ask(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    return asked.is_set


def train(config: TrainConfig) -> int:
    """Run this rank; returns the exit code."""
    configure_logging(f"trainer-{os.environ.get('RANK', '0')}", config.log_level)
    check_backends(config.monitor)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        be_killed_with_parent()
    for key, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        os.environ.setdefault(key, value)
    if "MASTER_PORT" not in os.environ:
        from rgopd.common.embedded import free_port

        os.environ["MASTER_PORT"] = str(free_port())
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    device = pick_device(config.device, local_rank())
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # The other ranks wait in a collective while rank 0 collects, which may take this long with redraws.
    limit_s = (config.fault.max_redraws + 2) * MAX_VANISHED * config.fault.step_timeout_s
    dist.init_process_group(backend_for(device), timeout=timedelta(seconds=max(1800.0, limit_s)))
    try:
        if dist.get_rank() == 0:
            write_resolved(config)
        finished = Trainer(config, stop_on_signal()).run()
    except (RgopdError, FloatingPointError) as error:
        log.critical("%s", error)
        if dist.get_rank() != 0:
            time.sleep(3)  # rank 0 says why; its exit code must be the one that the launcher sees
        return 1 if isinstance(error, RgopdError) and error.retryable else PERMANENT
    except (OSError, CheckpointException) as error:
        if (trouble := disk_trouble(error)) is None:
            raise
        log.critical("%s; checkpoints that were whole still are: the same command goes on from the newest", trouble)
        return 1
    finally:
        dist.destroy_process_group()
    return 0 if finished else PAUSED


def resolved(config: TrainConfig) -> dict[str, Any]:
    """The configuration in force, defaults included; secrets are left out."""
    settings = config.model_dump(mode="json", exclude={"redis_url"})
    settings["gate"] = config.gate_config().model_dump(mode="json")
    return settings


def write_resolved(config: TrainConfig) -> None:
    """`resolved` as config.yaml of the run's folder."""
    config.output_dir.mkdir(parents=True, exist_ok=True)
    (config.output_dir / "config.yaml").write_text(yaml.safe_dump(resolved(config), sort_keys=False))
