"""Where prompts come from."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from rgopd.common.settings import Part


class DatasetConfig(Part):
    """Where prompts come from; see `data.py` for the columns."""

    word_key: ClassVar[str] = "path"

    path: Path = Field(description="JSONL or Parquet file, or a folder written by datasets' save_to_disk.")
    system_prompt: str = Field("", description="System message before every prompt that has none.")
    prompt_column: str = Field("prompt", description="Column of the prompt: text, or chat messages.")
    kind_column: str = Field("kind", description="Column that names the kind of check (docs/verifier.md).")
    max_prompt_tokens: int = Field(1024, ge=1, description="Longer prompts are left out and counted.")
    limit: int = Field(0, ge=0, description="Use only the first rows; 0: all.")
    teachers: dict[str, str] = Field(
        {}, description="Teacher by a row's domain, '*' for all others; a row's own `teacher` wins. Empty: one for all."
    )
