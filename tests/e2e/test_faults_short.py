"""A run that is killed, stopped, cut off and robbed of its Redis is the undisturbed run, byte by byte.

The long version, over drawn faults, is `make chaos`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rgopd.trainer.prompts.order import shuffled
from rgopd.trainer.records.metrics import read_json_lines
from tests.chaos.cast import Cast, Nursery, result
from tests.chaos.disturbed import play
from tests.chaos.faults import Fault

STEPS, SEED, PROMPTS, PER_STEP = 10, 7, 12, 4
# What a step takes depends on what the steps before it measured, so every death also loses rates that must come back.
TRAIN = {
    "max_staleness": 1,
    "dataset": {"limit": PROMPTS, "selection": {"skip": True, "target": 0.5, "candidates": 3}},
}
# By steps, not by the clock: on a fast machine the run would be over before it was disturbed.
FAULTS = [
    Fault(0.1, "kill", "sampler-0", 0, step=1),
    Fault(0.1, "kill", "verifier", 0, step=1),
    Fault(0.1, "stop", "teacher", 1.0, step=2),
    Fault(0.1, "redis", "", 0.5, step=3),
    Fault(0.1, "kill", "rank-1", 0, step=4),
    Fault(0.1, "cut", "", 0, step=5),
    Fault(0.1, "empty", "", 0, step=6),
    Fault(0.1, "kill", "rank-0", 0, step=7),
    Fault(0.1, "pause", "", 0, step=8),
]


@pytest.mark.timeout(1800)  # a minute on two free cores; CI shares them
def test_faults_leave_no_trace_in_weights_ledger_and_metrics(nursery: Nursery, tmp_path: Path) -> None:
    undisturbed = Cast(nursery, tmp_path / "undisturbed", steps=STEPS, train=TRAIN)
    play(undisturbed)
    # Where policies are written changes nothing either, and nothing is left there.
    memory = tmp_path / "memory"
    disturbed = Cast(nursery, tmp_path / "disturbed", steps=STEPS, train={**TRAIN, "policies_dir": str(memory)})
    assert play(disturbed, FAULTS) == FAULTS, "the run was over before all of its faults had struck"
    assert any(death.startswith("trainer") for death in disturbed.deaths), disturbed.deaths
    assert result(disturbed.folder) == result(undisturbed.folder)
    check_selection(disturbed.folder, undisturbed.folder)
    assert not memory.exists()
    assert not (disturbed.folder / "policies").exists()


def check_selection(disturbed: Path, undisturbed: Path) -> None:
    """Steps took prompts by what earlier ones measured, and both lives measured the same."""
    measured = [(folder / "pass_rates.jsonl").read_text() for folder in (disturbed, undisturbed)]
    assert measured[0] == measured[1]
    rates = [row["rates"] for row in map(json.loads, measured[0].splitlines())]
    assert [row["step"] for row in map(json.loads, measured[0].splitlines())] == list(range(STEPS))
    ids = [row["id"] for row in read_json_lines(undisturbed / "data" / "train.jsonl")[:PROMPTS]]
    plain = [
        {ids[shuffled(PROMPTS, SEED, position)] for position in range(step * PER_STEP, (step + 1) * PER_STEP)}
        for step in range(STEPS)
    ]
    assert set(rates[0]) == plain[0], "nothing is known before the first steps"
    assert any(set(taken) != wanted for taken, wanted in zip(rates, plain, strict=True)), "nothing was ever left out"
    for step in range(2, STEPS):  # what a step takes was not settled two steps before, while others were left to take
        known = {name: rate for earlier in rates[: step - 1] for name, rate in earlier.items()}
        open_ones = [name for name in ids if known.get(name, 0.5) not in (0.0, 1.0)]
        assert sum(known.get(name, 0.5) in (0.0, 1.0) for name in rates[step]) <= max(0, PER_STEP - len(open_ones))
