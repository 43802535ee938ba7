"""The commands of the paper's tables: eval, compare, reproduce. Registered on the app of main.py."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Backend(StrEnum):
    """What runs the model."""

    hf = "hf"
    vllm = "vllm"
    server = "server"


class Axis(StrEnum):
    """Of the curves."""

    steps = "steps"
    tokens = "tokens"
    seconds = "seconds"


class Scale(StrEnum):
    """Of a reproduction."""

    tiny = "tiny"
    gpu = "gpu"


def evaluate(
    model: Annotated[str, typer.Argument(help="Hugging Face folder, hub id, .gguf file, or a run's folder.")] = "",
    suite: Annotated[
        str, typer.Option(help="paper, paper-generative, paper-likelihood, quick, or lm-eval's names, comma-separated.")
    ] = "quick",
    data: Annotated[Path | None, typer.Option(help="Folder of local files in place of the hub.")] = None,
    list_data: Annotated[bool, typer.Option("--list-data", help="Say what each task reads and where from.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: evals/<model>-<suite>.")] = None,
    backend: Annotated[Backend, typer.Option(help="hf (transformers), vllm, or a running OpenAI server.")] = Backend.hf,
    base_url: Annotated[str, typer.Option(help="With --backend server: http://host:port.")] = "",
    tokenizer: Annotated[str, typer.Option(help="Tokenizer, where it is not the model's own.")] = "",
    which: Annotated[str, typer.Option(help="Of a run: student, best, or a folder of policies/.")] = "student",
    name: Annotated[str, typer.Option(help="The row's name in tables.")] = "",
    lengths: Annotated[str, typer.Option(help="New tokens, comma-separated, e.g. 1024,8096.")] = "",
    seeds: Annotated[int, typer.Option(min=0, help="0: as the suite.")] = 0,
    temperature: Annotated[float | None, typer.Option(help="0: greedy.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Documents a task; 0: all.")] = 0,
    chat: Annotated[
        bool | None, typer.Option("--chat/--no-chat", help="Chat template; default: as each task is pinned.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=0, help="0: 16 on a CPU, 64 on a GPU, vLLM's own.")] = 0,
    device: Annotated[str, typer.Option(help="cuda, cuda:1, cpu; default: a GPU if there is one.")] = "",
    dtype: Annotated[str, typer.Option(help="Of the weights.")] = "auto",
    model_args: Annotated[list[str] | None, typer.Option(help="key=value for lm-eval's model class.")] = None,
    include_path: Annotated[list[Path] | None, typer.Option(help="Folder of own task YAML; repeatable.")] = None,
    fail_under: Annotated[list[str] | None, typer.Option(help="BENCHMARK=PERCENT: exit code 1 below it.")] = None,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Score the kept responses again; samples nothing.")
    ] = False,
) -> None:
    """Evaluate a model with lm-evaluation-harness, cell by cell; run it again to go on where it stopped."""
    from rgopd.cli.evaluate import Options, run_eval

    options = Options(
        model, suite, data, output, backend.value, base_url, tokenizer, which, name, lengths, seeds, temperature, limit,
        chat, batch_size, device, dtype, model_args or (), include_path or (), fail_under or (), rescore, list_data,
    )  # fmt: skip
    raise typer.Exit(run_eval(options))


def compare(
    sources: Annotated[list[str], typer.Argument(help="Evaluations or runs, as PATH or LABEL=PATH.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for tables and curves.")] = Path("compare"),
    baseline: Annotated[str, typer.Option(help="The row that Δ is above; default: the first that is ranked.")] = "",
    teacher: Annotated[str, typer.Option(help="A row left out of ranks and best values.")] = "",
    reference: Annotated[list[str] | None, typer.Option(help="Likewise, e.g. borrowed numbers; repeatable.")] = None,
    x: Annotated[Axis, typer.Option(help="Axis of the curves.")] = Axis.steps,
    paper: Annotated[bool, typer.Option("--paper", help="Add the paper's printed rows at its lengths.")] = False,
    draws: Annotated[int, typer.Option(min=100, help="Bootstrap draws.")] = 10_000,
    columns: Annotated[str, typer.Option(help="Only these benchmarks, comma-separated.")] = "",
    lengths: Annotated[str, typer.Option(help="Only these generation lengths.")] = "",
) -> None:
    """Tables of the paper's shape from evaluations, with intervals; curves of runs in one figure."""
    from rgopd.cli.compare import run_compare
    from rgopd.cli.evaluate import numbers, words
    from rgopd.evaluate.compare import Comparison, parse_sources

    asked = Comparison(
        parse_sources(sources), output, baseline, teacher, reference or (), x.value, paper, draws,
        columns=words(columns), lengths=numbers("--lengths", lengths),
    )  # fmt: skip
    raise typer.Exit(run_compare(asked))


def reproduce(
    what: Annotated[str, typer.Argument(help="paper.")],
    scale: Annotated[Scale, typer.Option(help="tiny: the demo's models, on two cores; gpu: the paper's.")] = Scale.tiny,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: runs/reproduce-<scale>.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", "-s", help="section.key=value of every run.")] = None,
    data: Annotated[Path | None, typer.Option(help="gpu: folder of local benchmark files.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="tiny: training steps of a method.")] = 40,
    problems: Annotated[int, typer.Option(min=13, help="tiny: held-out problems.")] = 500,
    plan: Annotated[bool, typer.Option("--plan", help="gpu: only say what it takes.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="gpu: start without asking.")] = False,
    device: Annotated[str, typer.Option(help="gpu: the device to plan for; see rgopd plan.")] = "auto",
    gpu_hour: Annotated[float, typer.Option(min=0, help="gpu: price of one GPU for one hour, for the cost.")] = 0.0,
) -> None:
    """The paper's whole protocol: train the methods, evaluate, write the tables. Run it again to go on."""
    from rgopd.cli import reproduce as command
    from rgopd.common.errors import ConfigError

    if what != "paper":
        raise ConfigError(f"reproduce {what!r}: there is one protocol, `paper`")
    folder = (output or Path("runs") / f"reproduce-{scale.value}").resolve()
    if scale is Scale.tiny:
        protocol = command.tiny(folder, overrides or [], steps=steps, problems=problems)
    else:
        from rgopd.cli.reproduce_plan import agreed

        protocol = command.gpu(folder, overrides or [], data)
        if not agreed(protocol, folder, device, gpu_hour, plan_only=plan, yes=yes):
            raise typer.Exit(0)
    raise typer.Exit(command.run_reproduce(protocol, folder))


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("eval")(evaluate)
    app.command("compare")(compare)
    app.command("reproduce")(reproduce)
