"""Writes what is kept of rollouts in a thread of its own: a slow disk makes it skip steps, never wait."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rgopd.common.run_files import Vocabulary, kept_steps
from rgopd.common.run_files.kept_files import remove_steps, step_path, thin, write_step
from rgopd.trainer.records.watch import KeepConfig

log = logging.getLogger(__name__)

Rows = Iterable[Mapping[str, Any]]


class Keeper:
    """One a rank.

    Args:
        folder: the run folder, which all ranks see.
        rank, ranks: this one, and how many.
        start: what an earlier life kept of this step and later ones is made again.
        vocabulary: makes it; called once, in the thread.
    """

    def __init__(
        self,
        folder: Path,
        rank: int,
        ranks: int,
        start: int,
        keep: KeepConfig,
        vocabulary: Callable[[], Vocabulary],
    ) -> None:
        self.folder = folder
        self.rank = rank
        self.ranks = ranks
        self.keep = keep
        self.skipped = 0
        """Steps that were left out since the disk was slower than the run."""
        self._texts = vocabulary
        self._vocabulary: Vocabulary | None = None
        self._unchecked = self.max_bytes
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(maxsize=2)
        self._thread: threading.Thread | None = None
        if keep.rollouts:
            if rank == 0:
                remove_steps(folder, [step for step in kept_steps(folder) if step >= start])
            self._thread = threading.Thread(target=self._work, name="keeper", daemon=True)
            self._thread.start()
            if rank == 0:
                self._jobs.put(lambda: self.vocabulary.write(folder))

    @property
    def max_bytes(self) -> int:
        """Of all steps and ranks."""
        return self.keep.max_mb << 20

    @property
    def vocabulary(self) -> Vocabulary:
        """For the thread alone: making it takes a second for a large one."""
        if self._vocabulary is None:
            self._vocabulary = self._texts()
        return self._vocabulary

    def text(self, ids: list[int]) -> str:
        """Of token ids, special tokens by name. For the thread alone."""
        return "".join(self.vocabulary.pieces(ids))

    def submit(self, step: int, rows: Callable[[], Rows], then: Callable[[], None] | None = None) -> None:
        """Write a step's part, then do `then`; both in the thread. Skipped where it is two steps behind."""
        if self._thread is None:
            return

        def job() -> None:
            self._write(step, rows())
            if then is not None:
                then()

        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self.skipped += 1
            if self.skipped == 1:
                log.warning("rollouts of step %d are not kept: writing them takes longer than a step", step)

    def close(self, timeout_s: float = 30.0) -> None:
        """Wait for what is pending."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join(timeout_s)
            self._thread = None

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as error:  # noqa: BLE001 - a worker's outermost loop: watching never ends a run
                log.warning("rollouts are not kept: %s: %s", type(error).__name__, error)

    def _write(self, step: int, rows: Rows) -> None:
        size = write_step(step_path(self.folder, step, self.rank), rows)
        if self.rank != 0:
            return
        self._unchecked += size * self.ranks  # the others' parts are about as large
        if self._unchecked > self.max_bytes // 16:  # not after every step: it looks at every file
            thin(self.folder, self.keep.newest, self.max_bytes - self.max_bytes // 8)
            self._unchecked = 0
