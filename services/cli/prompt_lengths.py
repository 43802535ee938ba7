"""How long a run's prompts are, for `rgopd plan`: some of its own rows, where they lie on this machine."""

from __future__ import annotations

from pathlib import Path

from rgopd.cli.models import read_tokenizer
from rgopd.common.errors import ConfigError
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.prompts.config import DatasetPart
from rgopd.trainer.prompts.data import PromptSource

ROWS = 256
"""Rows that are read: the first of each dataset."""


def mean_prompt(train: TrainConfig) -> float:
    """Mean tokens of the first rows' prompts; 0 where student or dataset are not files here, or cannot be used.

    A plan is made before a run is whole: what is wrong with the rows is doctor's to say.
    """
    dataset = train.dataset
    local = Path(train.student).is_dir() and all(Path(part.path).is_file() for part in dataset.parts)
    if not local or dataset.streaming:
        return 0.0
    mix = [part.model_copy(update={"limit": _few(part)}) for part in dataset.mix]
    try:
        few = dataset.model_copy(update={"limit": _few(dataset), "mix": mix})
        source = PromptSource(few, read_tokenizer(train.student, "train.student"))
    except ConfigError:
        return 0.0
    return sum(len(prompt.prompt_ids.data) // 4 for prompt in source.prompts) / len(source)


def _few(part: DatasetPart) -> int:
    return min(part.limit or ROWS, ROWS)
