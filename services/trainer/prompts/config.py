"""Where prompts come from."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from rgopd.common.parts import Part

COLUMNS = ("id", "prompt", "kind", "reference", "tests", "test", "entry_point", "setup", "language", "checker") + (
    "check", "domain", "environment", "teacher", "pass_rate", "tools", "options", "args", "grader", "parts",
    "environment_args", "tolerance", "compare", "extract", "partial", "limits", "require", "constraints", "threshold",
)  # fmt: skip
"""What rows are made of, for words about misspelt ones; a kind of check may know others (docs/verifier.md)."""


class DatasetPart(Part):
    """One dataset: where its rows are and which columns they have; see `data.py` for the columns."""

    word_key: ClassVar[str] = "path"

    path: Path = Field(
        description="JSONL or Parquet file, a folder (also of datasets' save_to_disk), or a hub id like openai/gsm8k."
    )
    split: str = Field("", description="Of a folder or hub id: files of this split; a slice too, e.g. train[:1000].")
    subset: str = Field("", description="Of a folder or hub id: files below a folder of this name, e.g. main.")
    revision: str = Field("", description="Commit, tag or branch of a hub id; pin a commit for runs that count.")
    layout: str = Field("", description="A published dataset's layout that `rgopd data` knows, e.g. gsm8k.")
    map: dict[str, str] = Field(
        {},
        description="Our column: theirs, e.g. {prompt: question, reference: answer}; dotted within objects, or a text "
        "with {column} in it.",
    )
    kind: str = Field("", description="Kind of check of rows that name none, e.g. math.")
    domain: str = Field(
        "", description="Domain of all rows; empty: by their column `domain`, or their kind. See sampling.domains."
    )
    environment: str = Field(
        "", description="Environment of rows that name none, which makes them conversations (docs/environments.md)."
    )
    prompt_column: str = Field("prompt", description="Column of the prompt: text, or chat messages.")
    kind_column: str = Field("kind", description="Column that names the kind of check (docs/verifier.md).")
    limit: int = Field(0, ge=0, description="Use only the first rows; 0: all.")
    weight: float = Field(1.0, gt=0, description="Share of prompts, beside the weights of what is mixed in.")

    @field_validator("map")
    @classmethod
    def _known_columns(cls, given: dict[str, str]) -> dict[str, str]:
        for ours in given:
            plain = ours.lower().replace("-", "_")
            if ours not in COLUMNS and (close := difflib.get_close_matches(plain, COLUMNS, n=1, cutoff=0.75)):
                raise ValueError(f"{ours!r} is no column of ours; did you mean {close[0]!r}?")
        return given


class SelectionConfig(Part):
    """Which prompts a step takes, by how often earlier steps solved them (or the column `pass_rate` says)."""

    skip: bool = Field(
        False, description="Leave out prompts at min_rate or below, and at max_rate or above: their advantage is 0."
    )
    min_rate: float = Field(0.0, ge=0, le=1, description="With skip: never solved.")
    max_rate: float = Field(1.0, ge=0, le=1, description="With skip: always solved.")
    target: float | None = Field(
        None, ge=0, le=1, description="Curriculum: take of the candidates the one that is solved nearest to this often."
    )
    candidates: int = Field(4, ge=2, le=1024, description="Prompts that a position chooses among, with a target.")
    recheck_steps: int = Field(
        0,
        ge=0,
        description="With skip: steps after which a prompt is tried again, as the student changes; 0: never.",
    )

    @classmethod
    def from_word(cls, word: Any) -> Any:
        """`true` and `skip`: leave out what is always or never solved; a number: that target."""
        if word is True or word == "skip":
            return {"skip": True}
        if isinstance(word, (int, float)) and not isinstance(word, bool):
            return {"target": float(word)}
        return {} if word is False else word

    @classmethod
    def word_schemas(cls) -> list[dict[str, Any]]:
        """See `from_word`."""
        return [{"enum": [True, False, "skip"]}, {"type": "number"}]

    @model_validator(mode="after")
    def _some_left(self) -> SelectionConfig:
        if self.min_rate >= self.max_rate:
            raise ValueError(f"min_rate={self.min_rate:g} is not below max_rate={self.max_rate:g}: no prompt is left")
        return self

    @property
    def active(self) -> bool:
        """Whether anything is selected."""
        return self.skip or self.target is not None


class DatasetConfig(DatasetPart):
    """Where prompts come from."""

    mix: list[DatasetPart] = Field([], description="More datasets, each with its `weight`; a list of paths will do.")
    streaming: bool = Field(
        False,
        description="Read rows as they are needed, shuffled within `shuffle_buffer`, for more than memory holds.",
    )
    shuffle_buffer: int = Field(4096, ge=1, description="With streaming: rows that are shuffled among each other.")
    selection: SelectionConfig = SelectionConfig()
    bad_rows: Literal["refuse", "skip"] = Field(
        "refuse", description="Rows that cannot be used are listed and the run does not start, or they are left out."
    )
    system_prompt: str = Field("", description="System message before every prompt that has none.")
    max_prompt_tokens: int = Field(1024, ge=1, description="Longer prompts are left out and counted.")
    teachers: dict[str, str] = Field(
        {}, description="Teacher by a row's domain, '*' for all others; a row's own `teacher` wins. Empty: one for all."
    )

    @classmethod
    def from_word(cls, word: Any) -> Any:
        """A path, or a list of paths or mappings: the first, and the others mixed in."""
        if isinstance(word, str) and "," in word:
            word = [part.strip() for part in word.split(",") if part.strip()]
        if not isinstance(word, list) or not word:
            return super().from_word(word)
        first = word[0] if isinstance(word[0], dict) else {"path": word[0]}
        return {**first, "mix": [part if isinstance(part, dict) else {"path": part} for part in word[1:]]}

    @model_validator(mode="after")
    def _consistent(self) -> DatasetConfig:
        if self.streaming and (self.mix or self.selection.active):
            raise ValueError("streaming reads one dataset in its own order: it excludes mix and selection")
        return self

    @property
    def parts(self) -> list[DatasetPart]:
        """All datasets, this one first."""
        return [self, *self.mix]
