"""What other systems are told, with the probe of the platform stood in for and nothing else."""

from __future__ import annotations

import os
import platform
import sys

import pytest

from rgopd.cli import hardware, main
from rgopd.trainer.student.fsdp_options import pick_device
from rgopd.verifier.config import default_workers
from rgopd.verifier.sandbox.command import SandboxError
from rgopd.verifier.sandbox.ladder import choose_rung, unsupported


@pytest.mark.parametrize("system", ["Darwin", "Windows", "FreeBSD"])
def test_a_verifier_without_isolation_refuses_with_the_reason(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)

    def never(rung: int) -> object:
        raise AssertionError("no rung is tried")

    with pytest.raises(SandboxError, match=rf"no isolation on {system}: .*Linux container, a virtual machine or WSL 2"):
        choose_rung("auto", never)  # type: ignore[arg-type]


def test_the_cpus_speed_is_that_of_a_computer() -> None:
    flops, narrow, bandwidth = hardware.cpu_speed()
    assert 1e9 < flops < 1e14
    assert 1e8 < narrow < 1e15
    assert 1e8 < bandwidth < 1e13


def test_wsl_is_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "release", lambda: "5.15.153.1-microsoft-standard-WSL2")
    assert unsupported() == ""
    assert hardware.system() == "Linux in WSL"


def test_windows_is_sent_to_wsl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    monkeypatch.setattr(sys, "argv", ["rgopd", "demo"])
    with pytest.raises(SystemExit) as end:
        main.main()
    assert end.value.code == 2
    assert "WSL 2: wsl --install" in capsys.readouterr().err


def test_a_mac_counts_its_cores_and_trains_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert default_workers() == hardware.cores() == 8
    machine = hardware.this_machine()
    assert machine.mps
    assert "macOS, 8 cores" in str(machine)
    assert "an Apple GPU" in str(machine)
    assert pick_device("auto", 0).type == "cpu"
