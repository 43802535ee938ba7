"""The command `rgopd`. Heavy imports wait until a command needs them, so that --help is quick."""

from __future__ import annotations

import json
import platform
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from rgopd.cli.eval_commands import register
from rgopd.cli.extras import missing_extra
from rgopd.common.errors import RgopdError, told
from rgopd.common.settings import Settings

app = typer.Typer(help="Reward-Gated On-Policy Distillation.", no_args_is_help=True, pretty_exceptions_enable=False)


def _say_version(asked: bool) -> None:
    if asked:
        from rgopd import __version__

        typer.echo(f"rgopd {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Say the version.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """Reward-Gated On-Policy Distillation."""


Config = Annotated[
    list[Path] | None,
    typer.Option("--config", "-c", help="YAML file: flat, or one section a service; repeatable, later ones win."),
]
Set = Annotated[list[str] | None, typer.Option("--set", "-s", help="key=value, dotted for nested keys; repeatable.")]

Watch = Annotated[bool, typer.Option("--watch/--no-watch", help="Serve the live page of the run beside it.")]

S = TypeVar("S", bound=Settings)


class Dtype(StrEnum):
    """Of exported weights."""

    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


def load(cls: type[S], section: str, config: list[Path] | None, overrides: list[str] | None) -> S:
    """Settings from file, environment and --set."""
    return cls.from_sources(section, config, overrides or [])


@app.command()
def teacher(config: Config = None, overrides: Set = None) -> None:
    """Serve teacher log-probs: POST /score_topk and the stream `score`."""
    from rgopd.teacher.config import TeacherConfig

    settings = load(TeacherConfig, "teacher", config, overrides)
    from rgopd.teacher.main import serve

    raise typer.Exit(serve(settings))


@app.command()
def verifier(config: Config = None, overrides: Set = None) -> None:
    """Serve verdicts: POST /verify and the stream `verify`."""
    from rgopd.verifier.config import VerifierConfig
    from rgopd.verifier.main import serve

    raise typer.Exit(serve(load(VerifierConfig, "verifier", config, overrides)))


@app.command()
def sampler(config: Config = None, overrides: Set = None) -> None:
    """Sample rollouts of the student: the stream `generate`."""
    from rgopd.sampler.config import SamplerConfig

    settings = load(SamplerConfig, "sampler", config, overrides)
    from rgopd.sampler.main import serve

    raise typer.Exit(serve(settings))


@app.command()
def train(config: Config = None, overrides: Set = None) -> None:
    """Distil. Under torchrun this is one rank; alone it starts `nproc` ranks on this machine."""
    from rgopd.cli.train import run_train
    from rgopd.common.leave import leave

    leave(run_train(config, overrides or []))


@app.command()
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


@app.command()
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


@app.command()
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
    from rgopd.cli.doctor import report_checks, run_doctor

    if cluster:
        from rgopd.cli.cluster import ClusterSettings, cluster_checks

        settings = load(ClusterSettings, "common", config, overrides)
        raise typer.Exit(report_checks(cluster_checks(settings, url or [])))

    raise typer.Exit(run_doctor(config, overrides or []))


@app.command()
def fetch(
    config: Config = None,
    overrides: Set = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what there is to fetch, and fetch nothing.")] = False,
) -> None:
    """Fetch a config's models and datasets from the hub: sizes first, goes on where it ended, verified."""
    from rgopd.cli.fetch import run_fetch
    from rgopd.cli.sections import read_sections

    run_fetch(read_sections(config, overrides or []), typer.echo, dry_run=dry_run)


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(help="The folder of a run that `rgopd up` or `demo` started.")],
    overrides: Set = None,
    page: Watch = True,
) -> None:
    """Go on with a run from its newest whole checkpoint, also on another machine that its folder was brought to."""
    from rgopd.cli.up import run_resume

    raise typer.Exit(run_resume(run, overrides or [], page))


@app.command()
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


@app.command()
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


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run's folder.")]) -> None:
    """Write report.html and report.png of a run: Figure 2's curves and a before/after table."""
    from rgopd.cli.report import write_report

    typer.echo(str(write_report(run)))


@app.command()
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


@app.command()
def data(
    layout: Annotated[str, typer.Argument(help="ultrainteract, gsm8k, math, mbpp or eurus.")],
    source: Annotated[str, typer.Option("--input", "-i", help="File, folder, or hub id such as openai/gsm8k.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON lines for train.dataset.path.")],
    split: Annotated[str, typer.Option(help="Files of a folder or repository.")] = "train",
    subset: Annotated[str, typer.Option(help="Folder (configuration) within a repository, e.g. main.")] = "",
    revision: Annotated[str, typer.Option(help="Commit, tag or branch on the hub.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="Prompts to keep, chosen by seed; 0: all.")] = 0,
    heldout: Annotated[int, typer.Option(min=0, help="Prompts set aside for eval.dataset.")] = 0,
    heldout_output: Annotated[Path | None, typer.Option(help="Default: <output>-heldout.jsonl.")] = None,
    seed: Annotated[int, typer.Option(help="Chooses what is kept and held out.")] = 0,
    check: Annotated[bool, typer.Option(help="Compare and check answers with the verifier's judge.")] = True,
    code_examples: Annotated[bool, typer.Option(help="ultrainteract: codecontest's examples as tests.")] = False,
    functions: Annotated[bool, typer.Option(help="eurus: take problems whose tests call a function.")] = False,
    max_tests: Annotated[int, typer.Option(min=0, help="eurus: tests kept a problem; 0: all.")] = 32,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Problems to leave out (test sets): file, folder or hub id, split test; may be repeated."),
    ] = None,
) -> None:
    """Turn a published dataset into checkable prompts, and say what was left out and why."""
    from rgopd.cli.data import run_data

    code = run_data(
        layout,
        source,
        output,
        split=split,
        subset=subset,
        revision=revision,
        limit=limit,
        heldout=heldout,
        heldout_output=heldout_output,
        seed=seed,
        check=check,
        code_examples=code_examples,
        functions=functions,
        max_tests=max_tests,
        exclude=exclude or [],
    )
    raise typer.Exit(code)


@app.command()
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


config_app = typer.Typer(help="Find settings, check files, see where each value comes from.", no_args_is_help=True)
app.add_typer(config_app, name="config")


@config_app.command("reference")
def config_reference(
    words: Annotated[list[str] | None, typer.Argument(help="Only settings that speak of these.")] = None,
) -> None:
    """Every setting with type, default, unit and meaning; with WORDs those that match."""
    from rgopd.cli.reference import as_markdown, as_text, reference, search

    typer.echo(as_text(search(words)) if words else as_markdown(reference()))


@config_app.command("schema")
def config_schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file; default: print it.")] = None,
) -> None:
    """The JSON Schema of config files, for editors: # yaml-language-server: $schema=FILE as a config's first line."""
    from rgopd.cli.config_schema import as_json

    if output is None:
        typer.echo(as_json(), nl=False)
    else:
        output.write_text(as_json())


@config_app.command("show")
def config_show(
    config: Config = None,
    overrides: Set = None,
    section: Annotated[list[str] | None, typer.Option(help="Only this section; repeatable.")] = None,
    changed: Annotated[bool, typer.Option("--changed", help="Leave defaults out.")] = False,
) -> None:
    """The settings in force, each with where it comes from: file:line, env, --set or default."""
    from rgopd.cli.config_show import show

    for line in show(config or [], overrides or [], section or [], changed=changed):
        typer.echo(line)


@app.command()
def init(
    target: Annotated[Path, typer.Argument(help="The config to write.")] = Path("rgopd.yaml"),
    student: Annotated[str, typer.Option(help="Hugging Face folder or hub id; asked for where missing.")] = "",
    teacher: Annotated[str, typer.Option(help="One of the student's family; asked for where missing.")] = "",
    data: Annotated[str, typer.Option(help="JSONL, Parquet, a folder or a hub id; asked for where missing.")] = "",
    split: Annotated[str, typer.Option(help="Of a folder or hub id, e.g. train.")] = "",
    output_dir: Annotated[Path, typer.Option(help="The run's folder.")] = Path("runs/first"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the config.")] = False,
) -> None:
    """Write a commented config for a student, a teacher, data and this machine; `doctor` and `plan` pass it."""
    from rgopd.cli.init import run_init

    raise typer.Exit(run_init(target, student, teacher, data, output_dir, split=split, force=force))


@app.command()
def export(
    run: Annotated[Path, typer.Option(help="A run's folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A new folder.")],
    which: Annotated[str, typer.Option(help="student (the last), best, or a folder of <run>/policies.")] = "student",
    dtype: Annotated[Dtype, typer.Option(help="Of the weights.")] = Dtype.bfloat16,
) -> None:
    """Write a run's student as a Hugging Face folder (safetensors, tokenizer, model card) for transformers and vLLM."""
    from rgopd.cli.export import run_export

    raise typer.Exit(run_export(run, output, which, dtype.value))


@app.command()
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


register(app)


USAGE: Any = typer.BadParameter.__bases__[0]
"""What is wrong with a command line itself: click's UsageError, which typer brings under a name of its own."""


def main() -> None:
    """Entry point: our own errors are one line on stderr, not a traceback."""
    if platform.system() == "Windows":
        sys.stderr.write("rgopd: runs on Linux, on macOS in parts, and on Windows in WSL 2: wsl --install\n")
        sys.exit(2)
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except USAGE as error:  # one line instead of a box of five
        context = getattr(error, "ctx", None)
        if context is not None and not error.format_message():  # `rgopd` alone
            typer.echo(context.get_help())
            sys.exit(2)
        command = context.command_path if context is not None else "rgopd"
        sys.stderr.write(f"rgopd: {error.format_message()}; `{command} --help` lists what it takes\n")
        sys.exit(2)
    except typer.Abort:
        sys.exit(130)
    except RgopdError as error:
        sys.stderr.write(f"rgopd: {error}\n")
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that is none, a file that may not be read
        sys.stderr.write(f"rgopd: {told(error)}\n")
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (advice := missing_extra(error)) is None:
            raise
        sys.stderr.write(f"rgopd: {advice}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
