from __future__ import annotations

import pytest

from rgopd.verifier.config import VerifierConfig
from rgopd.verifier.main import sandbox_settings
from rgopd.verifier.sandbox import probe
from rgopd.verifier.sandbox.ladder import choose_rung


def test_a_service_started_by_init_is_not_blamed_for_the_sandboxs_own_first_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # nohup, systemd and containers make pid 1 the parent; a pid namespace has a pid 1 of its own.
    monkeypatch.setattr(probe.os, "getppid", lambda: 1)
    rung, report = choose_rung("auto", lambda r: sandbox_settings(VerifierConfig(), r))
    assert 1 <= rung <= 3
    assert "other_processes" not in str(report["refused"])
