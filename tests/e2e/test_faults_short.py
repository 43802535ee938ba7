"""A run that is killed, stopped, cut off and robbed of its Redis is the undisturbed run, byte by byte.

The long version, over drawn faults, is `make chaos`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.cast import Cast, Nursery, result
from tests.chaos.faults import Fault, afflict

STEPS = 10
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


@pytest.fixture(scope="module")
def nursery(repository: Path) -> Iterator[Nursery]:
    nursery = Nursery(repository)
    yield nursery
    nursery.close()


@pytest.mark.timeout(600)  # a minute on two free cores; CI shares them
def test_faults_leave_no_trace_in_weights_ledger_and_metrics(nursery: Nursery, tmp_path: Path) -> None:
    undisturbed = Cast(nursery, tmp_path / "undisturbed", steps=STEPS, train={"max_staleness": 1})
    try:
        undisturbed.start()
        undisturbed.run(240)
    finally:
        undisturbed.close()
    # Where policies are written changes nothing either, and nothing is left there.
    memory = tmp_path / "memory"
    disturbed = Cast(
        nursery, tmp_path / "disturbed", steps=STEPS, train={"max_staleness": 1, "policies_dir": str(memory)}
    )
    try:
        disturbed.start()
        disturbed.wait_for(lambda: disturbed.tend() or disturbed.steps_done(), 120, "no first step")
        struck = list(afflict(disturbed, FAULTS))
        disturbed.run(240)
    finally:
        disturbed.close()
    assert struck == FAULTS, "the run was over before all of its faults had struck"
    assert any(death.startswith("trainer") for death in disturbed.deaths), disturbed.deaths
    assert result(disturbed.folder) == result(undisturbed.folder)
    assert not memory.exists()
    assert not (disturbed.folder / "policies").exists()
