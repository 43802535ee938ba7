"""Where prompts come from."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from rgopd.common.settings import Part


class DatasetConfig(Part):
    """Where prompts come from; see `data.py` for the columns."""

    path: Path = Field(description="JSONL or Parquet file, or a folder written by datasets' save_to_disk.")
    system_prompt: str = ""
    prompt_column: str = "prompt"
    kind_column: str = "kind"
    max_prompt_tokens: int = Field(1024, ge=1, description="Longer prompts are left out and counted.")
    limit: int = Field(0, ge=0, description="Use only the first rows; 0: all.")
    teachers: dict[str, str] = Field(
        {}, description="Teacher by a row's domain, '*' for all others; a row's own `teacher` wins. Empty: one for all."
    )
