"""A run that is killed, stopped, cut off and robbed of its Redis is the undisturbed run, byte by byte.

The long version, over drawn faults, is `make chaos`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.cast import Cast, Nursery, result
from tests.chaos.faults import Fault, afflict

FAULTS = [
    Fault(1.0, "kill", "sampler-0", 0),
    Fault(0.5, "kill", "verifier", 0),
    Fault(1.0, "stop", "teacher", 1.0),
    Fault(0.5, "redis", "", 0.5),
    Fault(0.5, "kill", "rank-1", 0),
    Fault(2.0, "cut", "", 0),
    Fault(0.5, "empty", "", 0),
    Fault(2.0, "kill", "rank-0", 0),
    Fault(2.5, "pause", "", 0),
]


@pytest.fixture(scope="module")
def nursery(repository: Path) -> Iterator[Nursery]:
    nursery = Nursery(repository)
    yield nursery
    nursery.close()


@pytest.mark.timeout(600)  # a minute on two free cores; CI shares them
def test_faults_leave_no_trace_in_weights_ledger_and_metrics(nursery: Nursery, tmp_path: Path) -> None:
    undisturbed = Cast(nursery, tmp_path / "undisturbed", steps=4, train={"max_staleness": 1})
    try:
        undisturbed.start()
        undisturbed.run(240)
    finally:
        undisturbed.close()
    disturbed = Cast(nursery, tmp_path / "disturbed", steps=4, train={"max_staleness": 1})
    try:
        disturbed.start()
        disturbed.wait_for(lambda: disturbed.tend() or disturbed.steps_done(), 120, "no first step")
        struck = list(afflict(disturbed, FAULTS))
        disturbed.run(240)
    finally:
        disturbed.close()
    assert len(struck) >= 5, "the run was over before it was disturbed enough to show anything"
    assert any(death.startswith("trainer") for death in disturbed.deaths), disturbed.deaths
    assert result(disturbed.folder) == result(undisturbed.folder)
