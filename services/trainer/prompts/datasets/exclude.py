"""Problems that must not be trained on: those of the test sets that the student will be judged by.

The released preparation of UltraInteract drops what stands in GSM8K's and MATH's test splits, since the paper's
evaluations score on them. Here any converter can be given any such files.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from rgopd.common.errors import ConfigError
from rgopd.trainer.prompts.datasets.base import Row, prompt_text
from rgopd.trainer.prompts.datasets.source import open_rows

COLUMNS = ("question", "problem", "prompt", "text", "instruction")
"""Where the known layouts keep the problem's text; the first that a row has."""

_WORD = re.compile(r"\w+")
_LONG = 8
"""Words from which on a problem is looked for anywhere in a prompt. A shorter one ("Compute $\\sin 60^\\circ$.") may be
a part of another problem, so it must be the prompt's end, where instructions put the problem."""


class Excluded:
    """Which prompts hold one of some problems, whatever instruction stands around it.

    Texts are compared as words without case, punctuation and spacing. Memory: the words of the problems; time: linear
    in the prompt.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._long: defaultdict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
        self._short: set[tuple[str, ...]] = set()
        for text in texts:
            words = tuple(_words(text))
            if len(words) >= _LONG:
                self._long[words[:_LONG]].append(words)
            elif words:
                self._short.add(words)

    def __len__(self) -> int:
        return len(self._short) + sum(map(len, self._long.values()))

    def holds(self, prompt: str) -> bool:
        """Whether a problem of the set stands in the prompt."""
        words = tuple(_words(prompt))
        if any(words[-n:] in self._short for n in range(1, _LONG)):
            return True
        return any(
            words[start : start + len(problem)] == problem
            for start in range(len(words) - _LONG + 1)
            for problem in self._long.get(words[start : start + _LONG], ())
        )


def read_excluded(sources: Sequence[str], *, split: str = "test") -> Excluded:
    """The problems of files, folders or hub ids; of a folder or repository, those of `split`.

    Raises:
        ConfigError: a source is not there, or its rows have none of `COLUMNS`.
    """
    return Excluded(text for source in sources for text in _texts(source, split))


def _texts(source: str, split: str) -> Iterator[str]:
    found = False
    for row in open_rows(source, split=split):
        text = _text_of(row)
        found = found or bool(text)
        yield text
    if not found:
        raise ConfigError(f"--exclude {source}: no row has text in any of the columns {', '.join(COLUMNS)}")


def _text_of(row: Row) -> str:
    for column in COLUMNS:
        if value := row.get(column):
            return prompt_text(value)
    return ""


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
