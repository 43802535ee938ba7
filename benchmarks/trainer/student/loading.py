"""Host memory of loading a student: streamed into its shards, beside `from_pretrained` and then sharding.

    python -m benchmarks.trainer.student.loading [--layers 12] [--ranks 1 2] [--lora 0 16]

Random weights in Qwen2's shape, bfloat16 on the disk, float32 in memory. Each case is processes of its own (a rank
each), in turn; what rank 0 held more than before it began, at the most, over the bytes of the whole float32 model.
Without malloc's own reserve: blocks from 64 KiB on go back to the system when they are freed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.teacher.shapes import machine
from rgopd.common.embedded import free_port
from rgopd.common.leave import leave
from rgopd.trainer.student.fsdp_options import make_mesh
from rgopd.trainer.student.lora import LoraOptions
from rgopd.trainer.student.model import Student, shard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--lora", type=int, nargs="+", default=[0, 16], help="ranks of the adapters; 0: none")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        one_rank(*options.case)
        return
    with tempfile.TemporaryDirectory(prefix="rgopd-loading-") as folder:
        size = write_model(Path(folder), options.layers)
        write_model(Path(folder) / "warm", 1)
        print(f"{machine()}; {size / 2**20:.0f} MiB in float32\n")
        print("| ranks | LoRA r | at once | streamed | streamed ÷ at once |\n|---|---|---|---|---|")
        for ranks in options.ranks:
            for r in options.lora:
                whole, streamed = (peak_of(folder, how, r, ranks) / size for how in ("whole", "streamed"))
                print(f"| {ranks} | {r} | {whole:.2f} | {streamed:.2f} | {streamed / whole:.2f} |", flush=True)


def write_model(folder: Path, layers: int) -> int:
    """Returns its bytes in float32."""
    config = Qwen2Config(
        vocab_size=4096, hidden_size=896, intermediate_size=4864, num_hidden_layers=layers, num_attention_heads=14,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    return 4 * sum(p.numel() for p in model.parameters())


def peak_of(folder: str, how: str, r: int, ranks: int) -> int:
    """Bytes, of rank 0."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
    env = os.environ | address | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-W", "ignore", "-m", __spec__.name, "--case", folder, how, str(r)]
    started = [
        subprocess.Popen(command, env=env | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(ranks)
    ]
    said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        sys.exit(f"a rank of {how}, r = {r}, failed")
    return int(said[0].split()[-1])


def one_rank(folder: str, how: str, r: str) -> None:
    """In a process of its own; rank 0 prints its peak."""
    dist.init_process_group("gloo")
    mesh = make_mesh(torch.device("cpu"), dist.get_world_size(), 1)
    lora = LoraOptions(r=int(r)) if int(r) else None
    # What imports and constructors take.
    shard(Student.load(str(Path(folder) / "warm"), streamed=True, lora=lora), mesh, "bfloat16")
    start, done, peak = held(), threading.Event(), 0

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, held() - start)

    thread = threading.Thread(target=watch)
    thread.start()
    student = Student.load(folder, streamed=how == "streamed", lora=lora)
    shard(student, mesh, "bfloat16")
    done.set()
    thread.join()
    dist.barrier()
    if dist.get_rank() == 0:
        print(peak)
    leave(0)


def held() -> int:
    """Bytes of this process that are no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
