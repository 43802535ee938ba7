"""Peak extra memory of the transformers engine against the length of the response, vocabulary 151,936.

    python -m benchmarks.teacher.bench_memory

Each length runs in a process of its own. "decoder" is the forward without the head; "score" is the whole engine;
"plain" is model(ids).logits + log_softmax, what the engine would cost without chunks (short lengths only).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.teacher.shapes import machine, wide_vocabulary
from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines.loading import load_model
from rgopd.teacher.engines.transformers import TransformersEngine
from rgopd.teacher.items import ScoreItem, Scoring

VOCAB, CHUNK, K = 151_936, 256, 50


def status_bytes(field: str) -> int:
    """VmRSS, or VmHWM since it was last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) << 10


def child(path: str, mode: str, rows: int) -> None:
    torch.set_num_threads(2)
    config = TeacherConfig(
        model=path, device="cpu", dtype="float32", head_chunk_rows=CHUNK, max_batch_tokens=1 << 15, max_context=0
    )
    model, loaded, info = load_model(config)
    engine = TransformersEngine(loaded, info, **TransformersEngine.options(config))
    rng = np.random.default_rng(0)
    ids = rng.integers(0, VOCAB, rows + 1, dtype=np.int32)
    support = np.tile(np.arange(K, dtype=np.int32) * 3000, (rows, 1))
    item = ScoreItem("r", ids[:1], ids[1:], Scoring("student", K), support)
    warm = ScoreItem("w", ids[:1], ids[1:9], Scoring("student", K), support[:8])
    engine.score([warm])
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = status_bytes("VmRSS")
    with torch.inference_mode():
        if mode == "score":
            engine.score([item])
        elif mode == "decoder":
            loaded.decoder(input_ids=torch.from_numpy(ids[None].astype(np.int64)), use_cache=False)
        else:
            model(torch.from_numpy(ids[None].astype(np.int64)), use_cache=False).logits.float().log_softmax(-1)
    print((status_bytes("VmHWM") - before) / 2**20)


def measure(path: Path, mode: str, rows: int) -> float:
    command = [sys.executable, "-m", "benchmarks.teacher.bench_memory", str(path), mode, str(rows)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    print(machine())
    print(f"head_chunk_rows={CHUNK}: chunk x vocabulary = {CHUNK * VOCAB * 4 / 2**20:.0f} MiB; peak extra MiB")
    print(f"{'T':>6} {'score':>8} {'decoder':>8} {'plain':>8}")
    with tempfile.TemporaryDirectory() as folder:
        path = wide_vocabulary(Path(folder))
        for rows in (1024, 2048, 4096, 8192, 16_384):
            plain = f"{measure(path, 'plain', rows):8.0f}" if rows <= 4096 else f"{'-':>8}"
            print(f"{rows:>6} {measure(path, 'score', rows):8.0f} {measure(path, 'decoder', rows):8.0f} {plain}")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        child(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        main()
