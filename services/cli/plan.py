"""`rgopd plan`: does a run fit, how long is a step, and which setting to change. Reads configs, no weights."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rgopd.cli.advice import advise
from rgopd.cli.devices import Wanted, place, ranks, shares
from rgopd.cli.hardware import available_memory, cpu_speed
from rgopd.cli.prompt_lengths import mean_prompt
from rgopd.cli.sections import lay_sections, read_sections, up_config
from rgopd.common.errors import ConfigError
from rgopd.common.models import check_model
from rgopd.common.settings import ConfigFiles, merge, nearest
from rgopd.sampler.config import EngineName, SamplerConfig
from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines.waiting import ELSEWHERE
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.records.metrics import read_json_lines
from rgopd.trainer.run.estimate import (
    ModelShape,
    Need,
    TeacherSetup,
    redis_bytes,
    sampler_need,
    teacher_need,
    trainer_need,
    vllm_need,
)
from rgopd.trainer.run.seconds import DEVICES, Device, step_seconds
from rgopd.trainer.student.anatomy import check_architecture_of

Sections = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """The needs of every device, by its number (CPU: one machine, number 0)."""

    device: Device
    on_gpu: bool
    loads: dict[int, list[Need]]
    train: TrainConfig
    shapes: tuple[ModelShape, ModelShape]
    tensor_parallel: int
    train_gpus: list[int]
    sampler_engine: EngineName = "transformers"
    sampler_dtype: str = "bfloat16"
    teacher_dtype: str = "bfloat16"
    teacher_tokens: int = 0
    """Of one forward of a teacher that is not vLLM."""
    samplers: int = 1
    note: str = ""
    """What is otherwise than the settings say."""

    def load(self, number: int) -> int:
        """Bytes on a device."""
        return sum(need.total for need in self.loads[number])

    @property
    def overfull(self) -> list[int]:
        """Devices on which it does not fit."""
        return [n for n in sorted(self.loads) if self.load(n) > self.device.memory]


class Planner:
    """Makes plans of one config and of variations of it; reads each model's shape once."""

    def __init__(self, sections: Sections, device: Device, *, on_gpu: bool, count: int | None = None) -> None:
        """`count`: GPUs of the machine; None: as many as it takes."""
        self.sections = sections
        self.count = count
        self.device = device
        self.on_gpu = on_gpu
        self._shapes: dict[str, ModelShape] = {}

    def shape(self, model: str, check: Callable[[], None] = lambda: None) -> ModelShape:
        """Of a model's config.json, which is checked first."""
        if model not in self._shapes:
            check_model(model, "model")
            check()
            self._shapes[model] = ModelShape.of(model)
        return self._shapes[model]

    def plan(self, changes: dict[str, Any] | None = None) -> Plan:
        """The plan of the config with `changes` laid over it."""
        sections = lay_sections(self.sections, changes or {})
        common = sections.get("common", {})

        def settings(cls: Any, section: str) -> Any:
            shared = {k: v for k, v in common.items() if k in cls.model_fields}
            return cls.from_mapping({**shared, **sections.get(section, {})})

        train: TrainConfig = settings(TrainConfig, "train")
        sampler: SamplerConfig = settings(SamplerConfig, "sampler")
        teacher: TeacherConfig = settings(TeacherConfig, "teacher")
        up = up_config(sections)
        served = bool(teacher.model) and train.build_objective().needs_teacher
        width = teacher.tensor_parallel_size if served else 0
        wanted = Wanted(train.nproc, width, sampler.tensor_parallel_size, up.samplers)
        placed = place(up, wanted, self.count)
        fewer, note = ranks(train.nproc, placed["train"] if self.on_gpu and self.count else [], train.device)
        train = train.model_copy(update={"nproc": fewer})
        student = self.shape(train.student, lambda: check_architecture_of(train.student))
        rank = trainer_need(_with_full_micro_batch(train), student, on_gpu=self.on_gpu)
        needs = [("train", i, rank) for i in range(train.nproc)]
        engine = self.sampler_engine(sampler)
        share = shares(placed, takes_turns=train.colocated)
        needs += self._samplers(train, sampler, engine, up.samplers, share)
        setup = self._teacher(teacher, share, train)
        if setup is not None and train.build_objective().needs_teacher:
            need = teacher_need(setup, self.device.memory, on_gpu=self.on_gpu)
            needs += [("teacher", i, need) for i in range(setup.tensor_parallel)]
        shapes = student, setup.shape if setup is not None else student
        width = setup.tensor_parallel if setup is not None else 0
        train_gpus = [int(gpu) for gpu in placed["train"] if gpu.isdigit()] or list(range(train.nproc))
        loads = self._place(needs, placed, sampler.tensor_parallel_size)
        plan = Plan(self.device, self.on_gpu, loads, train, shapes, width, train_gpus, engine)
        return dataclasses.replace(
            plan,
            sampler_dtype=sampler.dtype,
            teacher_dtype=setup.dtype if setup is not None else "bfloat16",
            teacher_tokens=setup.max_batch_tokens if setup is not None and not setup.share else 0,
            samplers=up.samplers,
            note=note,
        )

    def sampler_engine(self, sampler: SamplerConfig) -> EngineName:
        """What samples on the planned device, where vLLM is taken to be installed."""
        return sampler.pick_engine(cuda=self.on_gpu, vllm=True)

    def _samplers(
        self, train: TrainConfig, sampler: SamplerConfig, engine: EngineName, count: int, shares: dict[str, float]
    ) -> list[tuple[str, int, Need]]:
        student = self.shape(train.student)
        if engine == "transformers" or not self.on_gpu:
            need = sampler_need(train, student, sampler.dtype, on_gpu=self.on_gpu)
            return [("sampler", i, need) for i in range(count)]
        width, found = sampler.tensor_parallel_size, []
        for number in range(count):
            share = float(sampler.vllm.get("gpu_memory_utilization", shares[f"sampler-{number}"]))
            need = vllm_need("sampler", student, sampler.dtype, width, share, self.device.memory)
            found += [("sampler", number * width + i, need) for i in range(width)]
        return found

    def _teacher(self, config: TeacherConfig, shares: dict[str, float], train: TrainConfig) -> TeacherSetup | None:
        """A forward holds no more tokens than the rollouts of a step have, and no less than the longest of them."""
        if not config.model:
            return None
        count = train.sampling.prompts_per_step * train.sampling.n * (1 + train.max_staleness)
        longest = train.dataset.max_prompt_tokens + train.longest_response
        dtype = "bfloat16" if config.dtype == "auto" else config.dtype
        share = 0.0
        if config.engine == "vllm":
            share = float(config.vllm.get("gpu_memory_utilization", shares["teacher"]))
        return TeacherSetup(
            self.shape(config.model, lambda: check_teacher(config)),
            dtype,
            config.tensor_parallel_size,
            min(max(config.max_batch_tokens, longest), count * longest),
            min(config.head_chunk_rows, count * train.longest_response),
            share if self.on_gpu else 0.0,
        )

    def _place(
        self, needs: list[tuple[str, int, Need]], placed: dict[str, list[str]], sampler_width: int
    ) -> dict[int, list[Need]]:
        """As `rgopd up` places them (`rgopd.cli.devices`); GPUs named by UUID are numbered as they come."""
        loads: dict[int, list[Need]] = defaultdict(list)
        others: dict[str, int] = {}
        for role, index, need in needs:
            name = f"sampler-{index // sampler_width}" if role == "sampler" else role
            gpus = placed[name]
            gpu = gpus[index % sampler_width % len(gpus) if role == "sampler" else index % len(gpus)]
            number = int(gpu) if gpu.isdigit() else others.setdefault(gpu, len(others))
            loads[number if self.on_gpu else 0].append(need)
        return dict(loads)


def check_teacher(config: TeacherConfig) -> None:
    """That its engine can score with it, where that is not someone else's server.

    Raises:
        ConfigError: names the architecture and what to do.
    """
    from rgopd.teacher.engines.loading import check_teacher_architecture

    if config.engine not in ELSEWHERE:
        check_teacher_architecture(config)


def _with_full_micro_batch(train: TrainConfig) -> TrainConfig:
    """The run with `micro_batch_tokens` of no more than a micro-batch can get: a step's rollouts may be fewer."""
    rollouts = train.sampling.prompts_per_step * train.sampling.n
    if train.batch.packing:  # packed ones are dealt out evenly; padded ones are cut by length, in halves where need be
        rollouts = -(-rollouts // train.nproc)
    longest = train.dataset.max_prompt_tokens + train.longest_response
    most = longest * min(rollouts, train.batch.micro_batch_rollouts)
    tokens = min(train.batch.micro_batch_tokens, most)
    return train.model_copy(update={"batch": train.batch.model_copy(update={"micro_batch_tokens": tokens})})


def find_device(name: str, memory_gb: float) -> tuple[Device, bool]:
    """A device by name, or the one of this machine; and whether it is a GPU."""
    import torch

    if name in DEVICES:
        found, on_gpu = DEVICES[name], True
    elif name == "auto" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found, on_gpu = Device(properties.name, properties.total_memory, 300e12, 2000e9), True
    elif name in ("auto", "cpu"):
        available = available_memory()
        if not available and not memory_gb:
            raise ConfigError("this system does not tell its free memory: give it with --memory-gb")
        flops, narrow, bandwidth = cpu_speed()
        found, on_gpu = Device("cpu", available, flops, bandwidth, narrow), False
    else:
        raise ConfigError(f"--device {name!r}{nearest(name, [*DEVICES, 'auto', 'cpu'])}")
    if memory_gb:
        found = dataclasses.replace(found, memory=int(memory_gb * (1 << 30)))
    return found, on_gpu


def _count() -> int:
    import torch

    return torch.cuda.device_count()


def run_plan(
    config: ConfigFiles, overrides: list[str], device: str, memory_gb: float, mean_length: int, measured: Path | None
) -> int:
    """The command; 0 where it fits, 1 where it does not."""
    chosen, on_gpu = find_device(device, memory_gb)
    count = _count() if device == "auto" and on_gpu else None
    planner = Planner(read_sections(config, overrides), chosen, on_gpu=on_gpu, count=count)
    plan = planner.plan()
    console = Console()
    if plan.note:
        console.print(plan.note, highlight=False, soft_wrap=True)
    for number in sorted(plan.loads):
        console.print(_memory_table(plan, number))
    length = mean_length or max(1, plan.train.sampling.max_new_tokens // 2)
    prompt = mean_prompt(plan.train)
    _say_lengths(console, prompt, length, mean_length)
    prompt = prompt or plan.train.dataset.max_prompt_tokens / 2
    _say_redis(console, plan.train, length, prompt)
    _say_time(console, planner, plan, length, prompt, measured)
    if not plan.overfull:
        console.print(f"fits: {chosen.name}", highlight=False)
        return 0
    where = f"GPU {', '.join(map(str, plan.overfull))}" if on_gpu else "this machine"
    console.print(f"does not fit on {where}; what would help:", highlight=False)
    for line in advise(planner, plan):
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    return 1


def _memory_table(plan: Plan, number: int) -> Table:
    where = f"GPU {number} ({plan.device.name})" if plan.on_gpu else "this machine"
    table = Table("process", "for", title=f"{where}: {_gib(plan.load(number))} of {_gib(plan.device.memory)}")
    table.add_column("GiB", justify="right")
    same = Counter(need.process for need in plan.loads[number])
    for need in {need.process: need for need in plan.loads[number]}.values():
        name = f"{same[need.process]} x {need.process}" if same[need.process] > 1 else need.process
        for part, size in need.parts.items():
            if size >> 20:
                table.add_row(name, part, f"{size / (1 << 30):.2f}")
        total = f"[bold]{need.total / (1 << 30):.2f}[/bold]"
        table.add_row(
            name, "[bold]total[/bold]" + (" of each" if name != need.process else ""), total, end_section=True
        )
    return table


def _say_lengths(console: Console, prompt: float, length: int, given: int) -> None:
    """What seconds and Redis stand on; memory stands on the longest that the settings allow."""
    prompts = f"{prompt:.0f} tokens, as in its first rows" if prompt else "half of max_prompt_tokens, assumed"
    responses = "given" if given else "assumed: half of max_new_tokens; --mean-length N says another"
    say = f"mean prompt: {prompts}; mean response: {length} response tokens, {responses}"
    console.print(say, highlight=False, soft_wrap=True)


def _say_redis(console: Console, train: TrainConfig, length: int, prompt: float) -> None:
    sizes = redis_bytes(train, length, prompt)
    told = ", ".join(f"{name} {size / (1 << 20):.1f} MiB" for name, size in sizes.items())
    console.print(f"Redis (K={train.distillation.k}): {told}", highlight=False, soft_wrap=True)


def _say_time(
    console: Console, planner: Planner, plan: Plan, length: int, prompt: float, measured: Path | None
) -> None:
    if measured is not None:
        seconds, source = measured_seconds(measured), f"measured in {measured}"
    else:
        sections = merge({"teacher": {}, "up": {}}, planner.sections)
        seconds = step_seconds(
            plan.train,
            *plan.shapes,
            plan.device,
            mean_response=length,
            mean_prompt=prompt,
            tensor_parallel=int(sections["teacher"].get("tensor_parallel_size", 1)),
            samplers=int(sections["up"].get("samplers", 1)),
            sampler_engine=plan.sampler_engine,
            sampler_dtype=plan.sampler_dtype,
            teacher_dtype=plan.teacher_dtype,
            on_gpu=plan.on_gpu,
        )
        sheet = "the device's data sheet" if plan.on_gpu else "products and copies measured just now"
        source = f"assumed from {sheet}, {plan.sampler_engine} samples; --measured RUN uses a run's own"
    if plan.on_gpu and plan.sampler_engine == "transformers":
        say = "transformers samples on the GPU, about ten times slower than vLLM: set sampler.engine=auto"
        console.print(f"warning: {say}", highlight=False, soft_wrap=True)
    overlap = plan.train.max_staleness > 0
    total = max(seconds.values()) if overlap else sum(seconds.values())
    parts = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
    say = f"step: {total:.1f} s ({parts}; {'stages overlap' if overlap else 'one after the other'}); {source}"
    console.print(say, highlight=False, soft_wrap=True, markup=False)
    steps = plan.train.steps or steps_of(plan.train)
    if steps:
        console.print(f"run: {steps} steps, {steps * total / 3600:.1f} h without evaluations", highlight=False)


def steps_of(train: TrainConfig) -> int:
    """Steps of a run by epochs, counted from its rows; 0 where they cannot be counted."""
    path = train.dataset.path
    if path.suffix != ".jsonl" or not path.is_file():
        return 0
    with path.open("rb") as lines:
        rows = sum(1 for line in lines if line.strip())
    rows = min(rows, train.dataset.limit or rows)
    return train.epochs * rows // train.sampling.prompts_per_step


def measured_seconds(run: Path) -> dict[str, float]:
    """Mean seconds of the stages of a run's steps, the first one (which warms up) left out."""
    path = run / "timings.jsonl"
    if not path.exists():
        raise ConfigError(f"--measured {run}: no timings.jsonl there; name a run's folder")
    rows = [r for r in read_json_lines(path) if r["event"] == "step"]
    rows = rows[1:] or rows
    if not rows:
        raise ConfigError(f"--measured {run}: it took no step yet")
    names = {"collect": "collect_s", "train": "train_s", "publish": "publish_s"}
    return {name: sum(float(r[key]) for r in rows) / len(rows) for name, key in names.items()}


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
