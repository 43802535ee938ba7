"""What `rgopd reproduce paper --scale gpu` takes: memory, GPU hours and money, told and agreed on before it starts."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.table import Table

from rgopd.cli.compare import wide_console
from rgopd.cli.plan import Plan, Planner, find_device, steps_of
from rgopd.cli.reproduce import METHODS, STUDENT, TEACHER, Protocol
from rgopd.common.errors import ConfigError
from rgopd.evaluate.suites import DOCUMENTS, SUITES, Pin
from rgopd.trainer.run.estimate import ModelShape
from rgopd.trainer.run.seconds import DECODE_UTILISATION, Device, step_seconds

ROWS = 256
"""Responses that vLLM decodes at once."""
MEAN_SHARE, LONGEST_MEAN = 0.4, 1200.0
"""Assumed: a response is 40% of the limit, and no longer than this on average however high the limit is."""
PREFILL_TOKENS = 1200
"""Assumed prompt: five worked examples and the question."""
SCORE_UTILISATION = 0.4
UNREAD_STEPS = 750
"""Assumed steps where the training rows are not here to be counted: 8,000 problems, 3 epochs, 32 a step."""


@dataclass(frozen=True)
class Part:
    """A line of the plan."""

    name: str
    hours: float
    gpus: int

    @property
    def gpu_hours(self) -> float:
        """What is paid for."""
        return self.hours * self.gpus


def agreed(protocol: Protocol, output: Path, device: str, gpu_hour: float, *, plan_only: bool, yes: bool) -> bool:
    """Print the plan; True where it may start.

    Raises:
        ConfigError: it does not fit the device, or nobody can be asked and --yes was not given.
    """
    chosen, on_gpu = find_device(device, 0.0)
    if not on_gpu and not plan_only:
        raise ConfigError("--scale gpu needs CUDA devices, and none is here; --plan --device h100 tells what it takes")
    if not on_gpu:
        chosen, _ = find_device("h100", 0.0)
    parts, plan = parts_of(protocol, output, chosen)
    console = wide_console()
    console.print(table(parts, chosen, gpu_hour))
    console.print("Assumed, not measured: data-sheet speeds with the shares of docs/runs.md; expect a factor of two.")
    if plan.overfull:
        raise ConfigError(f"does not fit {chosen.name} on GPU {plan.overfull}: `rgopd plan` names what would help")
    if plan_only:
        return False
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ConfigError("give --yes to start without being asked, or --plan to only see this")
    return typer.confirm("Start?")


def parts_of(protocol: Protocol, output: Path, device: Device) -> tuple[list[Part], Plan]:
    """What is to be done, method by method and model by model, and the memory plan of a training run."""
    parts: list[Part] = []
    plan: Plan | None = None
    for method, changes in METHODS.items():
        planner = Planner(protocol.sections(method, changes, output / "runs" / method), device, on_gpu=True)
        plan = planner.plan()
        parts.append(Part(f"train {method}", _train_hours(plan), len(plan.loads)))
    assert plan is not None
    student, teacher = plan.shapes
    for name, shape in ((STUDENT, student), (TEACHER, teacher), *((method, student) for method in METHODS)):
        parts.append(Part(f"evaluate {name}", _evaluation_hours(protocol, shape, device), 1))
    return parts, plan


def _train_hours(plan: Plan) -> float:
    train = plan.train
    seconds = step_seconds(
        train, *plan.shapes, plan.device,
        mean_response=train.sampling.max_new_tokens / 2, mean_prompt=train.dataset.max_prompt_tokens / 2,
        tensor_parallel=max(1, plan.tensor_parallel), samplers=1,
    )  # fmt: skip
    if plan.tensor_parallel == 0:  # GRPO asks no teacher
        seconds["score"] = 0.0
    return (train.steps or steps_of(train) or UNREAD_STEPS) * sum(seconds.values()) / 3600


def _evaluation_hours(protocol: Protocol, shape: ModelShape, device: Device) -> float:
    total = 0.0
    for name in protocol.suites:
        suite = SUITES[name]
        for pin in suite.pins:
            if pin.mode == "likelihood":
                total += _prefill_seconds(pin, shape, device, choices=4)
            for length in suite.lengths if pin.mode == "generate" else ():
                total += suite.seeds * _generation_seconds(pin, shape, device, length or 256)
    return total / 3600


def _generation_seconds(pin: Pin, shape: ModelShape, device: Device, length: int) -> float:
    """Decoding reads all weights and the batch's cache for each token of each response in the batch."""
    mean = min(MEAN_SHARE * length, LONGEST_MEAN)
    cache = 2 * 2 * shape.kv * shape.layers * ROWS * (PREFILL_TOKENS + mean / 2)
    token = (2 * shape.parameters + cache) / (device.bandwidth * DECODE_UTILISATION)
    return DOCUMENTS[pin.label] * mean * token / ROWS + _prefill_seconds(pin, shape, device, choices=1)


def _prefill_seconds(pin: Pin, shape: ModelShape, device: Device, choices: int) -> float:
    tokens = DOCUMENTS[pin.label] * PREFILL_TOKENS * choices
    return 2 * shape.parameters * tokens / (device.flops * SCORE_UTILISATION)


def table(parts: list[Part], device: Device, gpu_hour: float) -> Table:
    """For people, with the sum, and what it costs where a price was given."""
    shown = Table("part", title=f"The paper's protocol on {device.name}")
    for name in ("GPUs", "hours", "GPU hours", *(["cost"] if gpu_hour else [])):
        shown.add_column(name, justify="right")
    whole = Part("all, one after the other", sum(p.hours for p in parts), 0)
    paid = sum(p.gpu_hours for p in parts)
    for part in parts:
        cost = [f"{part.gpu_hours * gpu_hour:.0f}"] if gpu_hour else []
        shown.add_row(part.name, str(part.gpus), f"{part.hours:.1f}", f"{part.gpu_hours:.1f}", *cost)
    shown.add_section()
    shown.add_row(
        whole.name, "", f"{whole.hours:.1f}", f"{paid:.1f}", *([f"{paid * gpu_hour:.0f}"] if gpu_hour else [])
    )
    return shown
