"""The commands before the first run: init, data, config. Registered on the app of main.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rgopd.cli.options import Config, Set


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


def config_reference(
    words: Annotated[list[str] | None, typer.Argument(help="Only settings that speak of these.")] = None,
) -> None:
    """Every setting with type, default, unit and meaning; with WORDs those that match."""
    from rgopd.cli.reference import as_markdown, as_text, reference, search

    typer.echo(as_text(search(words)) if words else as_markdown(reference()))


def config_schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file; default: print it.")] = None,
) -> None:
    """The JSON Schema of config files, for editors: # yaml-language-server: $schema=FILE as a config's first line."""
    from rgopd.cli.config_schema import as_json

    if output is None:
        typer.echo(as_json(), nl=False)
    else:
        output.write_text(as_json())


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


def register(app: typer.Typer) -> None:
    """Put these commands on the app."""
    app.command()(init)
    app.command()(data)
    config = typer.Typer(help="Find settings, check files, see where each value comes from.", no_args_is_help=True)
    for name, command in (("reference", config_reference), ("schema", config_schema), ("show", config_show)):
        config.command(name)(command)
    app.add_typer(config, name="config")
