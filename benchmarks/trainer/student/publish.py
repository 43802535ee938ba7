"""From the trainer's weights to the sampler's: through a folder on disk, and through one in memory.

    python -m benchmarks.trainer.student.publish [--mb 1024] [--folders /var/tmp /dev/shm] [--rounds 3]

One policy version a round and folder, in turn: written (with its sha256, as `publish` does), then checked and loaded
into another model's tensors, as a sampler does. The disk's figure has the page cache in it, as a run has; --sync asks
for the disk itself.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.teacher.shapes import machine
from rgopd.common.policies import digest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=1024)
    parser.add_argument("--folders", nargs="+", default=["/var/tmp", "/dev/shm"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sync", action="store_true", help="wait for the disk after writing")
    options = parser.parse_args()
    state = {f"w{i}": torch.randn(1024, 8192).bfloat16() for i in range(options.mb // 16)}
    target = {name: torch.empty_like(tensor) for name, tensor in state.items()}
    took: dict[str, list[tuple[float, float]]] = {folder: [] for folder in options.folders}
    for _ in range(options.rounds):
        for name in options.folders:
            folder = Path(name, f"rgopd-publish-{os.getpid()}")
            folder.mkdir()
            began = time.perf_counter()
            save_file(state, folder / "model.safetensors")
            if options.sync:
                with (folder / "model.safetensors").open("rb") as file:
                    os.fsync(file.fileno())
            announced = digest(folder)
            written = time.perf_counter()
            assert digest(folder) == announced
            for key, tensor in load_file(folder / "model.safetensors").items():
                target[key].copy_(tensor)
            took[name].append((written - began, time.perf_counter() - written))
            shutil.rmtree(folder)
    print(machine())
    for name, rounds in took.items():
        write, load = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{options.mb} MB of bfloat16 through {name}: write {write:.2f} s, load {load:.2f} s")


if __name__ == "__main__":
    main()
