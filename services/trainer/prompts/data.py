"""Datasets of checkable prompts: rows of files, a `datasets` folder or the hub -> tokenised `Prompt` messages."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from rgopd.common.errors import ConfigError
from rgopd.protos import rollout_pb2
from rgopd.trainer.prompts.bad_row import BadRow
from rgopd.trainer.prompts.config import DatasetConfig
from rgopd.trainer.prompts.files import read_rows
from rgopd.trainer.prompts.maker import CHECK_COLUMNS, PromptMaker, known_rate
from rgopd.trainer.prompts.order import mixed, shuffled
from rgopd.trainer.prompts.problems import Problems
from rgopd.trainer.prompts.rows import dataset_rows
from rgopd.trainer.prompts.selection import Selection
from rgopd.trainer.prompts.stream import Stream

__all__ = ["CHECK_COLUMNS", "PromptSource", "read_rows"]

log = logging.getLogger(__name__)


class PromptSource:
    """All prompts of a dataset (or of several, mixed by weight), in an order that (seed, position) alone decides.

    Args:
        config: where and which columns.
        tokenizer: the student's; its chat template is used when it has one.

    Raises:
        ConfigError: rows that cannot be used, all of them by number; or none is left.
    """

    def __init__(self, config: DatasetConfig, tokenizer: Any) -> None:
        self.config = config
        self.maker = PromptMaker(config, tokenizer)
        self.prompts: list[rollout_pb2.Prompt] = []
        self.too_long = 0
        self.sizes: list[int] = []
        """Prompts of each dataset of the mixture; they stand one after the other in `prompts`."""
        self._known_rates: dict[str, float] = {}
        self._ids: set[str] = set()
        self._stream = Stream(lambda: self._made(0), config.shuffle_buffer) if config.streaming else None
        if self._stream is not None:
            self._stream.at(0, 0)  # what is wrong with the first rows is told before the run
            return
        for number in range(len(config.parts)):
            before = len(self.prompts)
            self.prompts += self._made(number)
            self.sizes.append(len(self.prompts) - before)
            if not self.sizes[-1]:
                path = config.parts[number].path
                raise ConfigError(f"dataset {path} has no usable rows ({self.too_long} prompts were too long)")
        if self.too_long:
            log.warning("%d prompts are over max_prompt_tokens=%d", self.too_long, config.max_prompt_tokens)
        ids = [prompt.prompt_id for prompt in self.prompts]
        self.selection = Selection(config.selection, ids, self._known_rates)

    def __len__(self) -> int:
        """Prompts in an epoch; unknown (an error) for a stream."""
        if self._stream is not None:
            raise ConfigError("dataset.streaming does not count its rows: set steps")
        return len(self.prompts)

    def at(self, seed: int, position: int) -> rollout_pb2.Prompt:
        """The prompt at a position of the endless order, nothing selected."""
        if self._stream is not None:
            return self._stream.at(seed, position)
        return self.prompts[self._index(seed, position)[1]]

    def of_step(self, seed: int, step: int, count: int, before: int) -> list[rollout_pb2.Prompt]:
        """The prompts of a step, with `selection` by the pass rates of steps before `before`."""
        positions = range(step * count, (step + 1) * count)
        if self._stream is not None or not self.config.selection.active:
            return [self.at(seed, position) for position in positions]
        chosen: dict[int, None] = {}
        for position in positions:
            taken = set(chosen)
            dataset, first = self._index(seed, position)
            start = sum(self.sizes[:dataset])
            among = range(start, start + self.sizes[dataset])
            pick = self.selection.choose(first, taken, seed, position, before, among)
            if pick in taken:  # a dataset smaller than a step
                return [self.at(seed, p) for p in positions]
            chosen[pick] = None
        return [self.prompts[index] for index in chosen]

    def _index(self, seed: int, position: int) -> tuple[int, int]:
        """(dataset of the mixture, index into `prompts`) of a position."""
        if len(self.sizes) == 1:
            return 0, shuffled(self.sizes[0], seed, position)
        dataset, within = mixed([part.weight for part in self.config.parts], seed, position)
        return dataset, sum(self.sizes[:dataset]) + shuffled(self.sizes[dataset], seed, within, dataset)

    def _made(self, dataset: int) -> Iterator[rollout_pb2.Prompt]:
        """The usable prompts of one dataset, in its order. At the end the problems of all its rows are told."""
        part = self.config.parts[dataset]
        problems = Problems(str(part.path))
        for number, row in dataset_rows(part, problems):
            try:
                name = f"{dataset}.{number}" if dataset else str(number)
                rate = known_rate(row)
                prompt = self.maker.make(row, name, part)
            except BadRow as bad:
                problems.row(number, str(bad))
                if self._stream is not None and self.config.bad_rows == "refuse":
                    problems.raise_if_any()  # a stream has no end to wait for
                continue
            if prompt is None:
                self.too_long += 1
                continue
            if self._stream is None:
                if prompt.prompt_id in self._ids:  # another row's, whose pass rate is not this one's
                    prompt.prompt_id = f"{prompt.prompt_id}~{dataset}.{number}"
                self._ids.add(prompt.prompt_id)
            if rate is not None:
                self._known_rates[prompt.prompt_id] = rate
            yield prompt
        if self.config.bad_rows == "refuse":
            problems.raise_if_any()
        elif len(problems):
            log.warning("%s", problems)
