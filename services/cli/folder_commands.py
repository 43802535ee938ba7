"""The commands about runs that are there: queues, rollouts, report, watch, export. Registered on the app of main.py."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rgopd.cli.options import Config, Set, load


class Dtype(StrEnum):
    """Of exported weights."""

    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


def queues(
    redis_url: Annotated[str, typer.Option(help="Default: redis_url of --config or RGOPD_REDIS_URL.")] = "",
    run_id: Annotated[str, typer.Option("--run", help="Default: every run.")] = "",
    config: Config = None,
    replay: Annotated[str, typer.Option(help="Give dead letters another life: an id, a stream, or all.")] = "",
    drop: Annotated[str, typer.Option(help="Forget dead letters: an id, a stream, or all.")] = "",
    sweep: Annotated[float, typer.Option(help="Delete runs that nobody has worked on for this many hours.")] = 0.0,
) -> None:
    """Depth, leases, age and attempts of a run's streams, and its dead letters."""
    from rgopd.cli.queues_command import run_queues

    raise typer.Exit(run_queues(redis_url, run_id, config, replay=replay, drop=drop, sweep_h=sweep))


def rollouts(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    step: Annotated[int | None, typer.Option(min=0, help="Default: the newest that is kept.")] = None,
    kept: Annotated[bool, typer.Option("--kept", help="Of which the gate kept at least a token.")] = False,
    dropped: Annotated[bool, typer.Option("--dropped", help="Of which it kept none, or not trained on.")] = False,
    verdict: Annotated[str, typer.Option(help="passed, failed or error.")] = "",
    sign: Annotated[str, typer.Option(help="Of the advantage: positive, zero or negative.")] = "",
    domain: Annotated[str, typer.Option(help="As in the dataset.")] = "",
    outcome: Annotated[str, typer.Option(help="trained, prefiltered, unscored, error, lost or redrawn.")] = "",
    text: Annotated[str, typer.Option(help="In prompt or response.")] = "",
    tokens: Annotated[
        bool, typer.Option("--tokens", help="A line a token, with the likeliest ids and the tail.")
    ] = False,
    limit: Annotated[int, typer.Option(min=0, help="Rollouts shown; 0: all.")] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a rollout, figures included.")] = False,
) -> None:
    """Rollouts of a step: prompt, response, verdict, reward, and why the gate kept them or not."""
    from rgopd.cli.rollouts import Wanted, run_rollouts

    wanted = Wanted(kept, dropped, verdict, sign, domain, outcome, text)
    raise typer.Exit(run_rollouts(run, step, wanted, as_json=as_json, tokens=tokens, limit=limit))


def report(run: Annotated[Path, typer.Argument(help="A run's folder.")]) -> None:
    """Write report.html and report.png of a run: Figure 2's curves and a before/after table."""
    from rgopd.cli.report import write_report

    typer.echo(str(write_report(run)))


def watch(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders, or folders of runs. Default: runs.")] = None,
    config: Config = None,
    overrides: Set = None,
    port: Annotated[int | None, typer.Option(help="Default: any free one, which is printed.")] = None,
    host: Annotated[str, typer.Option(help="Default: 127.0.0.1. Any other is guarded by a token.")] = "",
) -> None:
    """Serve a live page of runs at a URL that is printed: curves, rollouts token by token, queues and faults.

    It only reads, needs no trainer, and works on finished and on mounted folders.
    """
    from rgopd.watch.config import WatchConfig
    from rgopd.watch.main import serve

    given = [f"runs={json.dumps([str(run) for run in runs])}"] if runs else []
    given += [f"{key}={value}" for key, value in (("port", port), ("host", host)) if value not in (None, "")]
    raise typer.Exit(serve(load(WatchConfig, "watch", config, [*(overrides or []), *given])))


def export(
    run: Annotated[Path, typer.Option(help="A run's folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A new folder.")],
    which: Annotated[str, typer.Option(help="student (the last), best, or a folder of <run>/policies.")] = "student",
    dtype: Annotated[Dtype, typer.Option(help="Of the weights.")] = Dtype.bfloat16,
) -> None:
    """Write a run's student as a Hugging Face folder (safetensors, tokenizer, model card) for transformers and vLLM."""
    from rgopd.cli.export import run_export

    raise typer.Exit(run_export(run, output, which, dtype.value))


def register(app: typer.Typer) -> None:
    """Put these commands on the app."""
    for command in (queues, rollouts, report, watch, export):
        app.command()(command)
