from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_kernel_compiles_for_an_h100_without_spilling() -> None:
    """Trainer's and teacher's, in every variant and with the blocks they are launched with.

    Real Triton, NVIDIA's assembler: what the interpreter accepts, a GPU's compiler might not.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.sm90"],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert {name.partition(".")[0] for name in found} == {"triton_kept", "triton_rows", "teacher_rows"}
    assert len(found) == 31
    for kernel, used in found.items():
        assert 0 < used["REG"] <= 128, (kernel, used)  # 4 warps and more to a scheduler
        assert used["LOCAL"] == used["STACK"] == 0, (kernel, used)
