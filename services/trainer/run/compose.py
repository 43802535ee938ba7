"""The composition root: the one place that knows how a rank is put together. Order matters where it says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoTokenizer

from rgopd.common.errors import ConfigError
from rgopd.common.models import check_model, check_tokenizer, loading
from rgopd.common.open_run import open_run
from rgopd.common.policies import PolicyStore
from rgopd.common.server import consumer_name
from rgopd.common.streams import Streams
from rgopd.trainer.batch.micro_batch import BatchOptions
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.objectives import Objective
from rgopd.trainer.prompts.data import PromptSource
from rgopd.trainer.records.journal import Journal
from rgopd.trainer.records.live import Live
from rgopd.trainer.records.metrics import RunState
from rgopd.trainer.records.monitors import open_monitors
from rgopd.trainer.rollouts.claim import Claim
from rgopd.trainer.rollouts.dispatch import Dispatch
from rgopd.trainer.rollouts.join import Join
from rgopd.trainer.rollouts.orchestrator import Orchestrator
from rgopd.trainer.rollouts.pass_rates import PassRates
from rgopd.trainer.run.checkpoint import Checkpoints
from rgopd.trainer.run.collective import broadcast_bytes, local_rank
from rgopd.trainer.run.gather import Gather
from rgopd.trainer.run.lead import Lead
from rgopd.trainer.run.optimizer import make_adamw
from rgopd.trainer.run.publish import Publisher
from rgopd.trainer.run.resolved import resolved
from rgopd.trainer.run.schedule import lr_factor
from rgopd.trainer.run.shared import check_shared
from rgopd.trainer.run.train_step import TrainStep
from rgopd.trainer.run.trainer import Trainer
from rgopd.trainer.run.validation import Validation
from rgopd.trainer.run.watch import Watch
from rgopd.trainer.student.anatomy import check_architecture_of
from rgopd.trainer.student.compiled import backend_of, check_backend
from rgopd.trainer.student.fsdp_options import make_mesh, pick_device
from rgopd.trainer.student.model import Student, shard
from rgopd.trainer.student.reference import make_reference
from rgopd.trainer.student.self_check import load_checked


def compose(config: TrainConfig, should_stop: Callable[[], bool] = lambda: False, live: Live | None = None) -> Trainer:
    """This rank, its student as the newest checkpoint has it. Collective; the process group must be up.

    Raises:
        ConfigError: no Redis, no such model, a dataset too small for one step, or another trainer in the folder.
    """
    if not config.redis_url:
        raise ConfigError("the trainer talks to the other services through Redis: set redis_url")
    check_model(config.student, "student")
    check_architecture_of(config.student)
    live = live or Live(None)
    patience_s = config.fault.wait_for_services_s
    wait_s = min(60.0, patience_s)
    streams = open_run(
        config.redis_url, config.run_id, blob_url=config.blob_url, wait_s=wait_s, patience_s=patience_s, check_s=wait_s
    )
    with loading("student", config.student):
        tokenizer = AutoTokenizer.from_pretrained(config.student, trust_remote_code=False)
    check_tokenizer("student", config.student, tokenizer)
    objective = config.build_objective()
    device = pick_device(config.device, local_rank())
    mesh = make_mesh(device, dist.get_world_size(), config.fsdp.replicas)
    student, _ = load_checked(
        lambda packing: load_student(config, mesh, device, packing=packing),
        packing=config.batch.packing,
        temperature=config.sampling.temperature,
        dtype=config.dtype,
        kernels=config.head_kernels,
    )
    # What follows cuts and packs as this student can take it.
    config = config.model_copy(update={"batch": config.batch.model_copy(update={"packing": student.packing})})
    prompts = PromptSource(config.dataset, tokenizer) if dist.get_rank() == 0 else None
    total_steps = _agree_on_steps(config, prompts)
    step = _train_step(config, student, objective, total_steps, mesh, device)
    saving = config.checkpoint
    in_background = saving.is_asynchronous(device.type == "cuda")
    checkpoints = Checkpoints(config.output_dir / "checkpoints", saving.keep, asynchronous=in_background)
    anew = not saving.resume and checkpoints.may_start_over()
    state = None if anew else checkpoints.load_latest(student, step.optimizer, step.scheduler)
    start = int(state["step"]) if state else 0
    publisher = Publisher(config, PolicyStore(streams), checkpoints)
    lead = None
    if prompts is not None:  # before the checkpoints are touched: it locks the folder
        generation = student.hf.generation_config
        lead = _lead(config, streams, prompts, publisher, tokenizer, generation, start, total_steps, should_stop, live)
    check_shared(config.output_dir, streams, lead.claim if lead else None)
    if anew:
        checkpoints.start_over()
    elif saving.resume:
        checkpoints.allow_start_over()
    prefilter = config.gate_config() if config.gate_prefilter == "behaviour" else None
    support = config.distillation.support != "none"
    aligns = objective.aligns and (config.distillation.tail == "tail" or not support)
    batch = (config.batch.packing, prefilter, aligns, support, config.distillation.current_k, objective.across_rows)
    options = BatchOptions(objective.needs_teacher, total_steps, *batch)
    gather = Gather(streams, options, should_stop, lead)
    watch = Watch(config, objective, tokenizer, start, live)
    parts = (tokenizer, step, gather, publisher, checkpoints, lead)
    return Trainer(config, start, total_steps, *parts, saved=start, watch=watch)


def load_student(config: TrainConfig, mesh: DeviceMesh, device: torch.device, *, packing: bool) -> Student:
    """The student as the run found it, sharded. Collective."""
    # The same on every rank: adapters are drawn here, and each rank keeps its shard of its own draw.
    torch.manual_seed(config.seed)
    backend = backend_of(config.compile, config.compile_backend, device.type)
    if backend:
        check_backend(backend, device.type)
    student = Student.load(
        config.student,
        shared_vocab_size=config.shared_vocab_size,
        gradient_checkpointing=config.gradient_checkpointing,
        packing=packing,
        lora=config.lora,
        compile_backend=backend,
        streamed=True,
    )
    shard(student, mesh, config.dtype, config.fsdp)
    return student


def _train_step(
    config: TrainConfig,
    student: Student,
    objective: Objective,
    total_steps: int,
    mesh: DeviceMesh,
    device: torch.device,
) -> TrainStep:
    temperature, optim = config.sampling.temperature, config.optim
    reference = make_reference(
        student,
        lambda: load_student(config, mesh, device, packing=student.packing),
        temperature,
        wanted=objective.needs_reference,
    )
    optimizer = make_adamw([p for p in student.parameters() if p.requires_grad], optim)
    return TrainStep(
        student,
        optimizer,
        LambdaLR(optimizer, lambda step: lr_factor(step, total_steps, optim)),
        objective,
        config.gate_config(),
        temperature,
        optim.grad_clip,
        single_pass=config.max_staleness == 0,  # on policy the behaviour log-probs predict the gate
        reference=reference,
        importance_clip=getattr(objective, "importance_clip", None),
        device=device,
        kernels=config.head_kernels,
        max_drift=config.fault.drift_limit(config.dtype),
    )


def _agree_on_steps(config: TrainConfig, prompts: PromptSource | None) -> int:
    """Collective. Rank 0 knows the dataset, so it knows how many steps the epochs are."""
    steps = config.steps
    if prompts is not None and not steps:
        steps = config.epochs * len(prompts) // config.sampling.prompts_per_step
        if not steps:
            raise ConfigError(
                f"{len(prompts)} prompts do not fill one step of {config.sampling.prompts_per_step}; "
                "lower sampling.prompts_per_step or set steps"
            )
    return int(broadcast_bytes(str(steps).encode() if prompts is not None else None))


def _lead(
    config: TrainConfig,
    streams: Streams,
    prompts: PromptSource,
    publisher: Publisher,
    tokenizer: Any,
    generation_config: Any,
    start: int,
    total_steps: int,
    should_stop: Callable[[], bool],
    live: Live,
) -> Lead:
    """Takes the run: from here on its files and its keys in Redis are this process's."""
    claim = Claim(config.output_dir, streams, config.model_dump(mode="json"))
    claim.take()
    publisher.policies.reset_floor(max(0, start - config.max_staleness))
    join = Join(streams, consumer_name("trainer"))
    dispatch = Dispatch(config, streams, join, claim, republish=publisher.announce, should_stop=should_stop)
    rates = PassRates(prompts, config.output_dir, start)
    orchestrator = Orchestrator(config, streams, prompts, dist.get_world_size(), join, dispatch, rates)
    heldout = PromptSource(config.eval.dataset, tokenizer) if config.eval.dataset else None
    if not config.dataset.streaming:
        told = [*prompts.prompts, *(heldout.prompts if heldout is not None else [])]
        config.sampling.check_domains({prompt.domain for prompt in told})
    others = open_monitors(config.monitor, config.output_dir, config.run_id, resolved(config), start)
    journal = Journal(config.output_dir, start, others, RunState(streams), live)
    validation = Validation(config, heldout, orchestrator, publisher, journal, tokenizer, generation_config, live)
    return Lead(config, start, total_steps, claim, orchestrator, publisher, validation, journal, live)
