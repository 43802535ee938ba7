"""`rgopd.distill(...)`: the processes of `rgopd up` from Python, and the run they make.

run = rgopd.distill(student="models/student", teacher="models/teacher", dataset="rows.jsonl", steps=20)
for row in run.metrics():
    print(row["step"], row["loss"])
run.student  # a Hugging Face folder
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from rgopd.cli.checked import check_sections
from rgopd.cli.processes import Child
from rgopd.cli.reward import reward_rows
from rgopd.cli.run_handle import Run
from rgopd.cli.sections import lay_sections, place, read_sections, write_sections
from rgopd.cli.up import CHECKED
from rgopd.cli.written_rows import write_rows
from rgopd.common import fleeting
from rgopd.common.errors import ConfigError
from rgopd.common.settings import SECTIONS

Dataset = str | Path | Mapping[str, Any] | Iterable[Mapping[str, Any]]
Reward = Callable[..., Any]


def distill(
    student: str | Path = "",
    teacher: str | Path | Mapping[str, Any] = "",
    dataset: Dataset | None = None,
    *,
    reward: Reward | None = None,
    config: str | Path | None = None,
    output_dir: str | Path | None = None,
    **settings: Any,
) -> Run:
    """Start a run on this machine; returns once its processes start, after seconds in which they are checked for.

    Args:
        student, teacher: Hugging Face folders or hub ids; `teacher` may be a mapping of the teacher's settings.
        dataset: a path, a hub id, a mapping of dataset settings, or rows (mappings; a `datasets.Dataset` is such).
        reward: reward(response, ...) -> bool or a number in [0, 1], for all rows. It runs in the verifier's sandbox,
            so it has to import what it uses itself. Further parameters get the row's columns of these names.
        config: a YAML file with sections that all of this is laid over.
        output_dir: the run's folder; default runs/<time>. An unfinished run in it is resumed.
        settings: any setting, by its name where one section has it (`steps=20`, `lora=True`, `optim={"lr": 1e-4}`,
            `optim__lr=1e-4`), or by section (`verifier={"workers": 2}`, `train={...}`).

    Raises:
        ConfigError: something that cannot work, rows of the dataset included; nothing was started.
    """
    folder = Path(output_dir or Path("runs") / time.strftime("run-%Y%m%d-%H%M%S")).resolve()
    sections = read_sections([Path(config)], []) if config is not None else {}
    given: dict[str, Any] = {"train": {"output_dir": str(folder)}}
    if student:
        given["train"]["student"] = str(student)
        given["sampler"] = {"student": str(student)}
    if teacher:
        given["teacher"] = dict(teacher) if isinstance(teacher, Mapping) else {"model": str(teacher)}
    if "common" not in sections or "run_id" not in sections["common"]:
        given["common"] = {"run_id": folder.name}
    sections = lay_sections(sections, given)
    for name, value in settings.items():
        sections = lay_sections(sections, _placed(name, value))
    sections = _with_data(sections, dataset, reward, folder)
    sections["train"]["output_dir"] = str(folder)
    check_sections(sections)
    file = folder / "distill.yaml"
    write_sections(file, sections)
    argv = [sys.executable, "-m", "rgopd.cli.main", "up", "--config", str(file)]
    child = Child("up", argv, folder / "logs", stop_timeout_s=180.0)
    child.start()
    try:
        _wait_checked(child)
    except BaseException:  # an interrupted cell leaves nothing behind
        child.stop()
        raise
    return Run(folder, child)


def _wait_checked(child: Child) -> None:
    """Until `rgopd up` has looked at everything and says so. It looks, not we: torch's devices, the hub's cache and
    all that is imported for it stay out of the process that asks.

    Raises:
        ConfigError: what it found.
    """
    while child.poll() is None and CHECKED not in fleeting.text(child.out):
        time.sleep(0.05)
    if child.poll() not in (None, 0) and CHECKED not in fleeting.text(child.out):
        said = fleeting.text(child.err).rpartition("rgopd: ")[2].strip()
        raise ConfigError(said or f"`rgopd up` ended with {child.poll()}; its log is {child.err}")


def _placed(name: str, value: Any) -> dict[str, Any]:
    """steps=3 -> {"train": {"steps": 3}}; a section's own name takes a mapping of its settings."""
    if name in SECTIONS:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name}={value!r}: a section takes a mapping of its settings")
        return {name: dict(value)}
    first, *rest = name.split("__")
    for key in reversed(rest):
        value = {key: value}
    value = _plain(value)
    return {section: {first: value} for section in place(first)}


def _plain(value: Any) -> Any:
    """Only what YAML can say: the processes read it from a file."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    try:
        yaml.safe_dump(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{value!r} cannot be a setting: give text, a number, a list or a mapping") from error
    return value


def _with_data(
    sections: dict[str, dict[str, Any]], dataset: Dataset | None, reward: Reward | None, folder: Path
) -> dict[str, dict[str, Any]]:
    if dataset is None and reward is None:
        return sections
    if isinstance(dataset, (str, Path)):
        given: Any = {"path": str(dataset)}
    elif isinstance(dataset, Mapping):
        given = _plain(dataset)
    elif dataset is None:
        given = {}
    elif not isinstance(dataset, Iterable):
        raise ConfigError(f"dataset={dataset!r}: give a path, a hub id, a mapping of dataset settings, or rows")
    else:
        given = {"path": str(write_rows(folder / "data" / "train.jsonl", dataset))}
    sections = lay_sections(sections, {"train": {"dataset": given}})
    return sections if reward is None else reward_rows(sections, reward, folder)
