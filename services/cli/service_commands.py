"""The commands of one process each: teacher, verifier, sampler, train. Registered on the app of main.py."""

from __future__ import annotations

import typer

from rgopd.cli.options import Config, Set, load


def teacher(config: Config = None, overrides: Set = None) -> None:
    """Serve teacher log-probs: POST /score_topk and the stream `score`."""
    from rgopd.teacher.config import TeacherConfig

    settings = load(TeacherConfig, "teacher", config, overrides)
    from rgopd.teacher.main import serve

    raise typer.Exit(serve(settings))


def verifier(config: Config = None, overrides: Set = None) -> None:
    """Serve verdicts: POST /verify and the stream `verify`."""
    from rgopd.verifier.config import VerifierConfig
    from rgopd.verifier.main import serve

    raise typer.Exit(serve(load(VerifierConfig, "verifier", config, overrides)))


def sampler(config: Config = None, overrides: Set = None) -> None:
    """Sample rollouts of the student: the stream `generate`."""
    from rgopd.sampler.config import SamplerConfig

    settings = load(SamplerConfig, "sampler", config, overrides)
    from rgopd.sampler.main import serve

    raise typer.Exit(serve(settings))


def train(config: Config = None, overrides: Set = None) -> None:
    """Distil. Under torchrun this is one rank; alone it starts `nproc` ranks on this machine."""
    from rgopd.cli.train import run_train
    from rgopd.common.leave import leave

    leave(run_train(config, overrides or []))


def register(app: typer.Typer) -> None:
    """Put these commands on the app."""
    for command in (teacher, verifier, sampler, train):
        app.command()(command)
