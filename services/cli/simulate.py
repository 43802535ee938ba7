"""`rgopd simulate`: sizes and step times of clusters, as a table."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console
from rich.table import Table

from rgopd.common.errors import ConfigError
from rgopd.simulate.costs import StoreCosts
from rgopd.simulate.engine import Report, Simulation
from rgopd.simulate.presets import GPUS, PAIRS, PAPER, STORE, gpu_costs
from rgopd.simulate.sizing import fit
from rgopd.simulate.workload import Cluster, Workload


def simulate_gpus(
    pair: str, gpu: str, gpus: int, workload: Workload, *, steps: int, seed: int, store: StoreCosts = STORE
) -> tuple[Workload, Cluster, Report]:
    """Size a cluster for a number of GPUs and simulate it.

    Raises:
        ConfigError: an unknown pair or GPU, or too few GPUs.
    """
    if pair not in PAIRS or gpu not in GPUS:
        raise ConfigError(f"--models: one of {', '.join(PAIRS)}; --gpu: one of {', '.join(GPUS)}")
    costs, teacher_gpus = gpu_costs(pair, gpu, store)
    try:
        scaled, cluster = fit(workload, costs, gpus, teacher_gpus)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return scaled, cluster, Simulation(scaled, cluster, costs, steps=steps, seed=seed).run()


def run_simulate(
    pair: str,
    gpu: str,
    counts: list[int],
    staleness: int,
    k: int,
    mean_tokens: float,
    max_new_tokens: int,
    seed: int,
    servers: int = 1,
    blobs: bool = True,
) -> int:
    """The command; returns an exit code. `servers`, `blobs`: see `StoreCosts`."""
    if servers < 1:
        raise ConfigError("--redis: at least one")
    workload = replace(PAPER, k=k, mean_tokens=mean_tokens, max_new_tokens=max_new_tokens, max_staleness=staleness)
    table = Table(title=f"{pair} on {gpu}, K={k}, mean {mean_tokens:g} tokens, max_staleness={staleness}")
    columns = (
        "GPUs",
        "ranks",
        "samplers",
        "teachers",
        "verifiers",
        "rollouts/step",
        "s/step",
        "tokens/s",
        "store MB/s",
    )
    for column in (*columns, "busiest", "busy: sampler, verifier, teacher, trainer, store"):
        table.add_column(column, justify="right")
    for count in counts:
        scaled, cluster, report = simulate_gpus(
            pair, gpu, count, workload, steps=8, seed=seed, store=replace(STORE, servers=servers, blobs=blobs)
        )
        numbers = [cluster.gpus, cluster.trainer_ranks, cluster.samplers, cluster.teachers, cluster.verifiers]
        table.add_row(
            *map(str, numbers),
            str(scaled.rollouts),
            f"{report.step_s:.1f}",
            f"{report.tokens_s:,.0f}",
            f"{report.store_bytes_s / 1e6:,.0f}",
            report.bottleneck,
            ", ".join(f"{share:.0%}" for share in report.busy.values()),
        )
    console = Console(width=180)
    console.print(table)
    console.print("GPU costs are data-sheet numbers at assumed shares, not measured (docs/scaling.md).")
    return 0
