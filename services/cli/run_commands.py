"""The commands that start a run, or look at what it needs before it starts. Registered on the app of main.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rgopd.cli.options import Config, Set, Watch, load


def up(
    config: Config = None,
    overrides: Set = None,
    page: Watch = True,
    slurm: Annotated[bool, typer.Option("--slurm", help="Inside a Slurm job: on its nodes (docs/slurm.md).")] = False,
) -> None:
    """Run everything of one sectioned config on this machine: Redis, teacher, verifier, samplers, trainer.

    --set takes the section first: --set train.steps=10 --set teacher.model=PATH.
    """
    from rgopd.cli.up import run_up

    raise typer.Exit(run_up(config, overrides or [], page, slurm))


def demo(
    overrides: Set = None,
    config: Config = None,
    gate: Annotated[str, typer.Option(help="paper, released or off.")] = "",
    seed: Annotated[int, typer.Option(help="The run's seed.")] = 0,
    output_dir: Annotated[Path | None, typer.Option(help="Default: runs/demo-<time>.")] = None,
    page: Watch = True,
) -> None:
    """The whole loop on a toy task with tiny bundled models: a few minutes on two CPU cores."""
    from rgopd.cli.demo import run_demo

    raise typer.Exit(run_demo(config, overrides or [], gate, seed, output_dir, page))


def resume(
    run: Annotated[Path, typer.Argument(help="The folder of a run that `rgopd up` or `demo` started.")],
    overrides: Set = None,
    page: Watch = True,
) -> None:
    """Go on with a run from its newest whole checkpoint, also on another machine that its folder was brought to."""
    from rgopd.cli.up import run_resume

    raise typer.Exit(run_resume(run, overrides or [], page))


def doctor(
    config: Config = None,
    overrides: Set = None,
    cluster: Annotated[bool, typer.Option("--cluster", help="Look at a deployment from inside it.")] = False,
    url: Annotated[list[str] | None, typer.Option(help="With --cluster: name=http://host:port; repeatable.")] = None,
) -> None:
    """Check models, tokenizers, Redis, sandbox and disk before a run; each failure says what to do.

    --set takes the section first, as for `up`. With --cluster: Redis, the streams' workers, dead letters, the policy's
    folder and every replica of a running deployment.
    """
    if cluster:
        from rgopd.cli.checks import report_checks
        from rgopd.cli.cluster import ClusterSettings, cluster_checks

        settings = load(ClusterSettings, "common", config, overrides)
        raise typer.Exit(report_checks(cluster_checks(settings, url or [])))

    from rgopd.cli.doctor import run_doctor

    raise typer.Exit(run_doctor(config, overrides or []))


def plan(
    config: Config = None,
    overrides: Set = None,
    device: Annotated[str, typer.Option(help="h200, h100, a100-80, a100-40, l40s, l4, rtx4090, cpu or auto.")] = "auto",
    memory_gb: Annotated[float, typer.Option(min=0, help="GiB of one device, in place of the known figure.")] = 0.0,
    mean_length: Annotated[int, typer.Option(min=0, help="Mean response tokens; 0: half of the limit.")] = 0,
    measured: Annotated[Path | None, typer.Option(help="A run folder whose timings are taken.")] = None,
) -> None:
    """Estimate memory, Redis bytes and time before the first step: fits or not, and which setting to change.

    --set takes the section first, as for `up`. Exit code 1: does not fit.
    """
    from rgopd.cli.plan import run_plan

    raise typer.Exit(run_plan(config, overrides or [], device, memory_gb, mean_length, measured))


def fetch(
    config: Config = None,
    overrides: Set = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what there is to fetch, and fetch nothing.")] = False,
) -> None:
    """Fetch a config's models and datasets from the hub: sizes first, goes on where it ended, verified."""
    from rgopd.cli.fetch import run_fetch
    from rgopd.cli.sections import read_sections

    run_fetch(read_sections(config, overrides or []), typer.echo, dry_run=dry_run)


def simulate(
    models: Annotated[str, typer.Option(help="Student and teacher: 1.5b-14b, 7b-72b or 7b-moe.")] = "1.5b-14b",
    gpu: Annotated[str, typer.Option(help="a100, h100 or h200.")] = "h100",
    gpus: Annotated[list[int] | None, typer.Option(help="How many in all; repeatable.")] = None,
    staleness: Annotated[int, typer.Option(help="max_staleness of the run.")] = 1,
    k: Annotated[int, typer.Option(help="Support width.")] = 50,
    mean_tokens: Annotated[float, typer.Option(help="Mean response length.")] = 450,
    max_new_tokens: Annotated[int, typer.Option(help="Longest response.")] = 1024,
    seed: int = 0,
    redis: Annotated[int, typer.Option(help="Redis servers that share the groups (redis_url with commas).")] = 1,
    blobs: Annotated[bool, typer.Option(help="Tensors pass Redis; not with a blob_url.")] = True,
) -> None:
    """Size a cluster and simulate its steps: replicas a stage, seconds a step, what saturates first."""
    from rgopd.cli.simulate import run_simulate

    counts = gpus or [8, 64, 1024]
    code = run_simulate(models, gpu, counts, staleness, k, mean_tokens, max_new_tokens, seed, redis, blobs)
    raise typer.Exit(code)


def register(app: typer.Typer) -> None:
    """Put these commands on the app."""
    for command in (up, demo, resume, doctor, plan, fetch, simulate):
        app.command()(command)
