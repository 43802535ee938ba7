"""`rgopd eval`: one model on a suite of lm-eval's tasks, from the command line to the summary."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from rgopd.cli.compare import wide_console
from rgopd.cli.display import EvaluationSource, Progress
from rgopd.common.errors import ConfigError
from rgopd.common.settings import nearest
from rgopd.evaluate.models import Backend, ModelSpec, resolve
from rgopd.evaluate.suites import Suite


@dataclass(frozen=True)
class Options:
    """The command's options as they were given; empty or 0: as the suite has it."""

    model: str = ""
    suite: str = "quick"
    data: Path | None = None
    output: Path | None = None
    backend: Backend = "hf"
    base_url: str = ""
    tokenizer: str = ""
    which: str = "student"
    name: str = ""
    lengths: str = ""
    seeds: int = 0
    temperature: float | None = None
    limit: int = 0
    chat: bool | None = None
    batch_size: int = 0
    device: str = ""
    dtype: str = "auto"
    model_args: Sequence[str] = field(default_factory=tuple)
    include: Sequence[Path] = field(default_factory=tuple)
    fail_under: Sequence[str] = field(default_factory=tuple)
    rescore: bool = False
    list_data: bool = False


def run_eval(options: Options) -> int:
    """The command; 0: every cell is there, 1: a --fail-under was missed."""
    from rgopd.evaluate.harness import Harness

    console = wide_console()
    quiet()
    harness = Harness(options.include)
    suite = narrowed(harness.suite(options.suite), options)
    if options.list_data:
        _say_data(console, harness, suite)
        return 0
    if not options.model:
        raise ConfigError("name a MODEL: a Hugging Face folder, a hub id, a .gguf file, or the folder of a run")
    floors = parse_floors(options.fail_under, [pin.label for pin in suite.pins])
    source = EvaluationSource()
    with Progress(source) as display:
        found = evaluate(harness, suite, options, display.say, source.follow)
    folder = folder_of(options)
    console.print(summary_table(found))
    console.print(f"{found['done']}/{found['cells']} cells in {folder}", highlight=False, soft_wrap=True)
    missed = [f"{label} is below {floor}" for label, floor in floors.items() if _lowest(found, label) < floor]
    for line in missed:
        console.print(f"--fail-under: {line}", highlight=False)
    return 1 if missed else 0


def evaluate(
    harness: Any, suite: Suite, options: Options, say: Any, seen: Any = lambda progress: None
) -> dict[str, Any]:
    """Run and write summary.json; for the commands that evaluate many models too."""
    from rgopd.evaluate.checks import check_evaluated
    from rgopd.evaluate.evaluation import Evaluation, Request
    from rgopd.verifier.config import VerifierConfig

    if options.backend == "server":
        model, name = options.model, options.model
    else:
        model, name = resolve(options.model, options.which)
    spec = ModelSpec(
        model, options.backend, options.device, options.dtype, options.batch_size, options.base_url,
        options.tokenizer, parse_model_args(options.model_args),
    )  # fmt: skip
    if not options.rescore:
        check_evaluated(spec)
    request = Request(
        spec, options.name or name, options.suite, suite, folder_of(options), options.data, options.chat,
        tuple(options.include),
    )  # fmt: skip
    verifier = VerifierConfig.from_sources("verifier")
    found = Evaluation(request, harness, say, verifier, seen).run(rescore=options.rescore)
    partial = request.folder / "summary.partial"
    partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    partial.rename(request.folder / "summary.json")
    return found


def folder_of(options: Options) -> Path:
    """--output, or evals/<suite> in a run's folder, or evals/<model>-<suite>."""
    if options.output is not None:
        return options.output
    path, suite = Path(options.model), options.suite.replace(",", "+").replace("/", "__")
    if (path / "metrics.jsonl").exists():
        return path / "evals" / suite
    return Path("evals") / f"{options.model.strip('/').replace('/', '__')}-{suite}"


def narrowed(suite: Suite, options: Options) -> Suite:
    """The suite with --lengths, --seeds, --temperature and --limit laid over it."""
    if options.lengths:
        suite = replace(suite, lengths=numbers("--lengths", options.lengths))
    if options.temperature is not None:
        if options.temperature < 0:
            raise ConfigError(f"--temperature {options.temperature}: 0 is greedy, more than 0 samples")
        suite = replace(suite, temperature=options.temperature)
    if options.seeds:
        suite = replace(suite, seeds=options.seeds)
    elif options.temperature == 0:
        suite = replace(suite, seeds=1)  # greedy: the same answers each time
    return replace(suite, limit=options.limit or suite.limit)


def words(text: str) -> tuple[str, ...]:
    """Comma-separated."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Comma-separated numbers of tokens, each at least 1."""
    try:
        found = tuple(int(word) for word in words(text))
    except ValueError as error:
        raise ConfigError(f"{option} {text!r}: write numbers of tokens, e.g. 1024,8096") from error
    if any(n < 1 for n in found):
        raise ConfigError(f"{option} {text!r}: a length is at least 1 token")
    return found


def parse_model_args(words: Sequence[str]) -> dict[str, Any]:
    """["key=value", "a=1,b=x"] -> lm-eval's model arguments; values are YAML scalars."""
    found: dict[str, Any] = {}
    for part in ",".join(words).split(",") if words else []:
        key, equals, text = part.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--model-args {part!r}: write key=value, e.g. tensor_parallel_size=2")
        found[key.strip()] = yaml.safe_load(text)
    return found


def parse_floors(words: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """["GSM8K=50"] -> {"GSM8K": 50.0}."""
    found: dict[str, float] = {}
    for word in words:
        label, _, text = word.partition("=")
        known = {name.lower(): name for name in labels}
        if label.lower() not in known:
            raise ConfigError(f"--fail-under {word!r}: no benchmark {label!r}{nearest(label, labels)}")
        try:
            found[known[label.lower()]] = float(text)
        except ValueError as error:
            raise ConfigError(f"--fail-under {word!r}: write BENCHMARK=PERCENT") from error
    return found


def _lowest(found: dict[str, Any], label: str) -> float:
    means = [float(row["mean"]) for row in found["scores"] if row["benchmark"] == label]
    return min(means, default=float("-inf"))


def summary_table(found: dict[str, Any]) -> Table:
    """For a terminal: lm-eval's score, the verifier's, and on how many responses they disagree."""
    table = Table("benchmark", "asked by", title=f"{found['name']} on {found['suite']}")
    for name in ("tokens", "score", "verifier", "disagree", "cut off", "documents"):
        table.add_column(name, justify="right")
    for row in found["scores"]:
        spread = "" if row["sd"] is None else f" ± {row['sd']:.2f}"
        table.add_row(
            row["benchmark"], "generation" if row["mode"] == "generate" else "likelihood",
            str(row["length"] or ""), f"{row['mean']:.2f}{spread}",
            "" if row["verifier"] is None else f"{row['verifier']:.2f}",
            str(row["disagreements"]), "" if row["cut_off"] is None else f"{row['cut_off']:.0%}",
            str(row["documents"]),
        )  # fmt: skip
    return table


def _say_data(console: Console, harness: Any, suite: Suite) -> None:
    """A paragraph a column: the hub's datasets, and the files that may stand in for them."""
    from rgopd.evaluate.data import listing

    lines = ["Below --data DIR (.jsonl, .json or .parquet, or a snapshot of the dataset's repository):"]
    seen = ""
    for label, task, hub, paths in listing((pin.label, s) for pin in suite.pins for s in harness.sources(pin)):
        lines += [f"{label}:"] if label != seen else []
        lines += [f"  {task}, hub dataset {hub}", *(f"    {path}" for path in paths)]
        seen = label
    if any(pin.task == "ifeval" for pin in suite.pins):
        lines.append(
            "  and nltk's punkt_tab, in ~/nltk_data/tokenizers/punkt_tab (python -m nltk.downloader punkt_tab)"
        )
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def quiet() -> None:
    """Our lines in place of lm-eval's log and its many progress bars, unless LMEVAL_LOG_LEVEL asks for them."""
    if "LMEVAL_LOG_LEVEL" in os.environ:
        return
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("lm_eval", "datasets", "transformers", "accelerate", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)
