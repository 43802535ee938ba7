"""One engine a rung, for every rung of the ladder that this machine can show."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rgopd.verifier.config import VerifierConfig
from rgopd.verifier.engine import VerifierEngine
from rgopd.verifier.graders import default_registry
from rgopd.verifier.graders.base import Tools
from rgopd.verifier.sandbox.ladder import attack
from rgopd.verifier.sandbox.pool import SandboxError, SandboxPool, SandboxSettings
from rgopd.verifier.sandbox.uids import slot_uids
from rgopd.verifier.symbolic.pool import SymbolicPool
from tests.attacks.host import SECRET, Listeners


@dataclass(frozen=True)
class Arena:
    """An engine at one rung, and the canaries around it."""

    rung: int
    engine: VerifierEngine
    sandbox: SandboxPool
    canary: Path
    listeners: Listeners
    uids: frozenset[int]


def settings_of(rung: int) -> SandboxSettings | None:
    """A configuration in which the rung works here. Rungs 2 and 3 run the code as a uid that may not be able to
    read this interpreter, so the system's is tried too."""
    for python in ("", shutil.which("python3", path="/usr/local/bin:/usr/bin") or ""):
        settings = SandboxSettings(rung=rung, python=python)
        try:
            attack(settings)
        except (SandboxError, OSError):
            continue
        return settings
    return None


AVAILABLE = {rung: settings for rung in (1, 2, 3) if (settings := settings_of(rung)) is not None}


@pytest.fixture(scope="session")
def symbolic() -> Iterator[SymbolicPool]:
    pool = SymbolicPool(2, deadline_s=1.0)
    yield pool
    pool.close()


@pytest.fixture(scope="session", params=sorted(AVAILABLE), ids=lambda rung: f"rung{rung}")
def arena(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, symbolic: SymbolicPool
) -> Iterator[Arena]:
    rung: int = request.param
    canary = Path(f"/tmp/rgopd-canary-{os.getpid()}-{rung}")
    canary.mkdir(mode=0o777)
    canary.chmod(0o777)
    (canary / "secret").write_text(SECRET)
    (canary / "secret").chmod(0o666)
    listeners = Listeners(canary.name)
    config = VerifierConfig()
    sandbox = SandboxPool(2, AVAILABLE[rung])
    tools = Tools(sandbox, symbolic, config.default_limits(), config.maximum_limits())
    engine = VerifierEngine(default_registry(), tools, cache_size=0)
    uids = frozenset(uid for slot in range(2) for uid in slot_uids(slot) if uid is not None)
    yield Arena(rung, engine, sandbox, canary, listeners, uids)
    engine.drain(30)
    sandbox.close()
    listeners.close()
    shutil.rmtree(canary)
