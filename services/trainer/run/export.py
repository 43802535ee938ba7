"""A run's student as a folder to hand out: bf16 safetensors, tokenizer, and a model card made from the run's files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from rgopd.common.errors import ConfigError
from rgopd.common.models import check_whole, loading
from rgopd.trainer.records.metrics import read_json_lines
from rgopd.trainer.rollouts.evaluation import BEST, BEST_FILE

FIGURE = "training.png"


@dataclass(frozen=True)
class Run:
    """What a run folder tells about itself."""

    folder: Path
    config: dict[str, Any]
    steps: list[dict[str, Any]]
    evals: list[dict[str, Any]]
    teacher: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Run:
        """The run in `folder`.

        Raises:
            ConfigError: the folder is no run.
        """
        paths = folder / "config.yaml", folder / "metrics.jsonl"
        if not all(p.exists() for p in paths):
            raise ConfigError(f"{folder} is no run folder: it needs config.yaml and metrics.jsonl (see runs/)")
        config = yaml.safe_load(paths[0].read_text())
        rows = read_json_lines(paths[1])
        sections = yaml.safe_load((folder / "up.yaml").read_text()) if (folder / "up.yaml").exists() else {}
        meta = Path(config["dataset"]["path"]).with_suffix(".meta.json")
        return cls(
            folder,
            config,
            [r for r in rows if r["event"] == "step"],
            [r for r in rows if r["event"] == "eval"],
            str((sections.get("teacher") or {}).get("model", "")),
            json.loads(meta.read_text()) if meta.exists() else {},
        )

    def evaluation_of(self, which: str) -> dict[str, Any] | None:
        """The evaluation of the weights being exported, if they were evaluated."""
        if which == "student":
            return self.evals[-1] if self.evals else None
        is_best = which == BEST
        step = json.loads((self.folder / BEST / BEST_FILE).read_text())["step"] if is_best else int(which.lstrip("v"))
        return next((r for r in self.evals if r["step"] == step), None)


def export(
    run: Path, output: Path, *, which: str = "student", dtype: str = "bfloat16", figure: Path | None = None
) -> Path:
    """Write the student of a run as a Hugging Face folder, whole or not at all.

    Args:
        which: `student` (the last weights), `best`, or a folder name under `policies`, e.g. `v00000040`.
        dtype: of the weights.
        figure: a PNG to put into the card.

    Raises:
        ConfigError: no such run or weights, or `output` holds something already.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    told = Run.read(run)
    source = _source(run, which)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output} exists and is not empty; name a new folder, or remove it first")
    with loading(which, str(source)):
        model, missing = AutoModelForCausalLM.from_pretrained(
            source, dtype=getattr(torch, dtype), trust_remote_code=False, output_loading_info=True
        )
    check_whole(which, str(source), missing)
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model.save_pretrained(partial, max_shard_size="5GB")
    tokenizer = source if (source / "tokenizer_config.json").exists() else told.config["student"]
    AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False).save_pretrained(partial)
    if figure is not None:
        shutil.copyfile(figure, partial / FIGURE)
    parameters = sum(p.numel() for p in model.parameters())
    card = model_card(told, which, dtype, parameters, with_figure=figure is not None)
    (partial / "README.md").write_text(card, encoding="utf-8")
    for file in partial.iterdir():
        file.chmod(0o644)  # safetensors writes for its owner alone; a serving account must read this
    if output.exists():
        output.rmdir()
    partial.rename(output)
    return output


def _source(run: Path, which: str) -> Path:
    for source in (run / which, run / "policies" / which):
        if (source / "config.json").exists():
            return source
    if which == "student":
        raise ConfigError(f"{run} has no student: it has not ended; export `best`, or a folder of {run}/policies")
    raise ConfigError(f"{run} has no weights {which!r}: use student, best, or the name of a folder in {run}/policies")


def model_card(run: Run, which: str, dtype: str, parameters: int, *, with_figure: bool) -> str:
    """README.md: metadata for the hub, results, gate, data, configuration, use."""
    base, teacher = _name(run.config["student"]), _name(run.teacher) or "its teacher"
    head: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["rgopd", "on-policy-distillation", "knowledge-distillation"],
    }
    if not Path(run.config["student"]).is_absolute():
        head["base_model"] = run.config["student"]
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {base}, distilled from {teacher}",
        f"{parameters:,} parameters in {dtype}. Trained on its own rollouts with objective "
        f"`{run.config['objective']['name']}` (Reward-Gated On-Policy Distillation, arXiv 2607.04037) for "
        f"{len(run.steps)} steps by rgopd {version('rgopd')}, seed {run.config['seed']}; these are the weights "
        f"`{which}` of run `{run.config['run_id']}`. The licences of the base model and of the data apply.",
        "## Results\n\n" + _results(run, which),
        "## Training\n\n" + _dynamics(run.steps) + (f"\n\n![training dynamics]({FIGURE})" if with_figure else ""),
        "## Gate\n\n" + _gate(run.config["gate"]),
        "## Data\n\n" + _data(run),
        "## Use\n\n" + _USE,
        f"## Configuration\n\n```yaml\n{yaml.safe_dump(_public(run.config), sort_keys=False)}```",
    ]
    return "\n\n".join(parts) + "\n"


_USE = """```python
from transformers import pipeline
pipeline("text-generation", model="THIS_FOLDER")([{"role": "user", "content": "What is 12*12?"}])
```

`vllm serve THIS_FOLDER` serves it."""


def _results(run: Run, which: str) -> str:
    after = run.evaluation_of(which)
    if not run.evals or after is None:
        return "Not evaluated: the run had no `eval.dataset`."
    before = run.evals[0]
    metrics = [("greedy accuracy", float(before["accuracy"]), float(after["accuracy"]))]
    metrics += [(f"pass@{k}", before["pass_at"][k], v) for k, v in after.get("pass_at", {}).items()]
    for domain, result in after["by_domain"].items():
        if domain in before["by_domain"]:
            metrics.append((f"greedy, {domain}", before["by_domain"][domain]["accuracy"], result["accuracy"]))
    rows = [(name, f"{b:.1%}", f"{a:.1%}", f"{100 * (a - b):+.1f}") for name, b, a in metrics]
    about = f"On {after['problems']} held-out problems, judged by the run's verifier; step {after['step']} against 0."
    return f"{about}\n\n{_table(('', 'before', 'after', 'points'), rows)}"


def _dynamics(steps: Sequence[Mapping[str, Any]]) -> str:
    if not steps:
        return "No step was taken."
    edge = max(1, len(steps) // 10)
    names = {
        "loss": "loss (nats a kept token)",
        "kept_fraction": "kept token fraction",
        "response_length_mean": "response length (tokens)",
        "reward_mean": "reward",
    }
    rows = [
        (title, *(f"{sum(float(r[key]) for r in part) / edge:.3f}" for part in (steps[:edge], steps[-edge:])))
        for key, title in names.items()
    ]
    return _table((f"mean of {edge} steps", "first", "last"), rows)


def _gate(gate: Mapping[str, Any]) -> str:
    if not gate["enabled"]:
        return "Off: every response token was distilled."
    return (
        f"Tokens were kept where {gate['signal']} and teacher agree (Eq. 2), judged by {gate['granularity']}; "
        f"advantage 0: {gate['zero_advantage']}; margin {gate['delta']} nats."
    )


def _data(run: Run) -> str:
    text = f"`{_name(run.config['dataset']['path'])}`"
    if run.data:
        left = sum(run.data["left_out"].values())
        taken = ", ".join(f"{count} {kind}" for kind, count in run.data["taken"].items())
        text += f", from {_name(run.data['dataset'])} by `rgopd data {run.data['layout']}`: "
        text += f"{run.data['read']} rows read, taken: {taken}, left out: {left}."
    return text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _name(path: str) -> str:
    """A hub id as it is; of a path on this machine only the last part: a card is for others."""
    return Path(path).name if Path(path).is_absolute() else path


def _public(value: Any) -> Any:
    """The configuration without this machine's folders."""
    if isinstance(value, dict):
        return {k: _public(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_public(v) for v in value]
    return _name(value) if isinstance(value, str) and value else value
