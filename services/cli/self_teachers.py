"""Self-teachers (`teacher.source`): whether they can follow the student, told before anything starts."""

from __future__ import annotations

from typing import Any

from rgopd.common.errors import ConfigError
from rgopd.common.models import loading
from rgopd.teacher.config import TeacherConfig
from rgopd.trainer.config import TrainConfig


def check_follows(train: TrainConfig, teacher: TeacherConfig) -> str:
    """The student's versions fit into this self-teacher: compared by names and shapes, without any weights.

    Raises:
        ConfigError: an engine that follows nobody, versions that are adapters alone, or another architecture.
    """
    if teacher.source == "checkpoint":
        return "follows nobody"
    if teacher.engine != "transformers":
        raise ConfigError(f"teacher.source={teacher.source} needs teacher.engine=transformers, to follow the student")
    if train.lora is not None and train.lora.publish == "adapter":
        raise ConfigError(
            f"teacher.source={teacher.source} follows the student's whole weights, and train.lora.publish=adapter "
            "writes adapters alone: set train.lora.publish=merged"
        )
    if teacher.model != train.student:
        ours, theirs = _weights("student", train.student), _weights("teacher.model", teacher.model)
        different = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        if different:
            name = different[0]
            raise ConfigError(
                f"teacher.source={teacher.source} follows the student, and teacher.model={teacher.model} is of another "
                f"architecture ({len(different)} weights differ: {name} is {theirs.get(name, 'not there')}, and of the "
                f"student {ours.get(name, 'not there')}): set teacher.model={train.student}"
            )
    return f"{teacher.source} of the student's versions, from {teacher.model} on"


def check_self_teacher(sections: dict[str, Any]) -> str:
    """`doctor`'s, of section `teacher`."""
    from rgopd.cli.checked import check_sections

    checked = check_sections(sections)
    return check_follows(checked["train"], checked["teacher"])


def _weights(setting: str, model: str) -> dict[str, list[int]]:
    """Shapes of its parameters by name, from its config alone."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with loading(setting, model):
        config: Any = AutoConfig.from_pretrained(model, trust_remote_code=False)
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config)
    return {name: list(parameter.shape) for name, parameter in empty.named_parameters()}
