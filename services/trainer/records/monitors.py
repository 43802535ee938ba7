"""Where a run's rows go besides metrics.jsonl: TensorBoard, Weights & Biases, Trackio. Each behind two methods."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from pydantic import Field

from rgopd.common.errors import ConfigError
from rgopd.common.parts import Part

Backend = Literal["tensorboard", "wandb", "trackio"]

_MODULE = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}


class MonitorConfig(Part):
    """Which services see the metrics. metrics.jsonl is always written."""

    word_key: ClassVar[str] = "backends"

    backends: list[Backend] = Field([], description="tensorboard, wandb, trackio; each needs the extra of its name.")
    project: str = Field("rgopd", description="wandb and trackio: the project.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="wandb and trackio: more arguments of init, e.g. {mode: offline}."
    )


class Monitor(Protocol):
    """Takes the rows of metrics.jsonl and timings.jsonl."""

    def write(self, row: Mapping[str, Any]) -> None:
        """One row; `event` and `step` name it."""

    def close(self) -> None:
        """Send what is pending."""


class Monitors:
    """Several as one."""

    def __init__(self, monitors: Sequence[Monitor]) -> None:
        self.monitors = list(monitors)

    def write(self, row: Mapping[str, Any]) -> None:
        """To each."""
        for monitor in self.monitors:
            monitor.write(row)

    def close(self) -> None:
        """Each once, in the opposite order."""
        while self.monitors:
            self.monitors.pop().close()


class TensorBoard:
    """Event files in `<run>/tensorboard`, for `tensorboard --logdir runs`."""

    def __init__(self, folder: Path, module: Any, *, start: int) -> None:
        # purge_step hides what an earlier life of the run wrote for steps that are made again.
        self.writer = module.SummaryWriter(str(folder / "tensorboard"), purge_step=start or None, flush_secs=10)

    def write(self, row: Mapping[str, Any]) -> None:
        """Every number of the row, as `<event>/<name>`."""
        for name, value in scalars(row):
            self.writer.add_scalar(name, value, int(row["step"]))

    def close(self) -> None:
        """Flush and close the file."""
        self.writer.close()


class Tracked:
    """wandb or trackio, which share `init`, `log` and `finish`.

    wandb refuses rows for an earlier step than the last, so the step travels as a value beside the figures.
    """

    def __init__(self, module: Any, config: MonitorConfig, run_id: str, settings: Mapping[str, Any]) -> None:
        self.run = module.init(project=config.project, name=run_id, config=dict(settings), **config.options)

    def write(self, row: Mapping[str, Any]) -> None:
        """Every number of the row, as `<event>/<name>`, beside `train_step`."""
        self.run.log({**dict(scalars(row)), "train_step": int(row["step"])})

    def close(self) -> None:
        """Wait until all is sent."""
        self.run.finish()


def scalars(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a row, those of nested mappings too: {"event": "eval", "pass_at": {"4": .5}} -> eval/pass_at/4."""

    def walk(prefix: str, value: Any) -> Iterator[tuple[str, float]]:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield from walk(f"{prefix}/{key}", inner)
        elif isinstance(value, int | float):
            yield prefix, float(value)

    for key, value in row.items():
        if key not in ("event", "step"):
            yield from walk(f"{row['event']}/{key}", value)


def check_backends(config: MonitorConfig) -> None:
    """ConfigError for a backend whose library is not installed; called before anything starts."""
    for backend in config.backends:
        if importlib.util.find_spec(_MODULE[backend]) is None:
            raise ConfigError(
                f"monitor.backends: {backend} needs the package {_MODULE[backend]}: pip install 'rgopd[{backend}]'"
            )


def open_monitors(
    config: MonitorConfig, folder: Path, run_id: str, settings: Mapping[str, Any], start: int
) -> Monitors:
    """The configured monitors of a run that starts (or resumes) at step `start`."""
    check_backends(config)
    opened: list[Monitor] = []
    for backend in config.backends:
        module = importlib.import_module(_MODULE[backend])
        if backend == "tensorboard":
            opened.append(TensorBoard(folder, module, start=start))
        else:
            opened.append(Tracked(module, config, run_id, settings))
    return Monitors(opened)
