"""Writing a policy version: what `rgopd.common.policies` announces and samplers load."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from rgopd.common.policies import digest


def write_weights(folder: Path, state: Mapping[str, Tensor], config: Any) -> None:
    """Write a Hugging Face folder (weights and config) aside, then rename it into place.

    Where the same weights are there already (a resumed run publishes again) the folder stays as it is: a sampler
    may be reading it.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in state.items()}, partial / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(partial)
    if folder.exists() and digest(folder) == digest(partial):
        shutil.rmtree(partial)
        return
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
