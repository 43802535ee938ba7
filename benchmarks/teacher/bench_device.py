"""The transformers engine on one device: tokens/s, MFU and peak memory for 0.5B and 1.5B shapes at T=1k and 8k.

    python -m benchmarks.teacher.bench_device --peak-tflops 989      # H100/H200 SXM, dense bfloat16
    python -m benchmarks.teacher.bench_device --tiny                 # checks the script itself on a CPU

Random weights in the shapes of Qwen2.5. MFU counts 2 x parameters a token, the head on response rows only, and causal
attention (4 x layers x hidden x tokens^2 / 2); peak-tflops is the device's, from its data sheet.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.teacher.shapes import machine
from rgopd.teacher.engines import EngineInfo
from rgopd.teacher.engines.loading import take_apart
from rgopd.teacher.engines.transformers import TransformersEngine
from rgopd.teacher.items import ScoreItem, Scoring

SHAPES = {
    "0.5B": (896, 4864, 24, 14, 2, 151_936),
    "1.5B": (1536, 8960, 28, 12, 2, 151_936),
}
TINY = {"tiny": (64, 128, 2, 2, 1, 1000)}


def build(shape: tuple[int, ...], device: str, batch_tokens: int) -> tuple[TransformersEngine, Qwen2Config, int]:
    hidden, intermediate, layers, heads, kv_heads, vocab = shape
    config = Qwen2Config(
        vocab_size=vocab, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=32_768,
        tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device(device):
        model = Qwen2ForCausalLM(config).to(torch.bfloat16).eval().requires_grad_(False)
    info = EngineInfo("transformers", "random", "0", vocab, 32_768, 256, (), "bfloat16", device, "gathered")
    engine = TransformersEngine(take_apart(model), info, max_batch_tokens=batch_tokens)
    body = sum(p.numel() for p in model.model.layers.parameters())
    return engine, config, body


def rollouts(vocab: int, rows: int, count: int, k: int = 50) -> list[ScoreItem]:
    rng = np.random.default_rng(0)
    support = np.tile(np.arange(k, dtype=np.int32) * (vocab // k), (rows, 1))
    return [
        ScoreItem(
            str(n),
            rng.integers(0, vocab, 128, dtype=np.int32),
            rng.integers(0, vocab, rows, dtype=np.int32),
            Scoring("student", k),
            support,
        )
        for n in range(count)
    ]


def flops(config: Qwen2Config, body: int, items: list[ScoreItem]) -> float:
    total = 0.0
    for item in items:
        head = config.hidden_size * config.vocab_size * len(item.response_ids_T)
        attention = 4 * config.num_hidden_layers * config.hidden_size * item.tokens**2 / 2
        total += 2 * (body * item.tokens + head) + attention
    return total


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peak-tflops", type=float, default=0.0)
    parser.add_argument("--batch-tokens", type=int, default=32_768)
    parser.add_argument("--tokens", type=int, default=1 << 18, help="tokens scored in one timing")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(machine(), torch.cuda.get_device_name() if device == "cuda" else "")
    lengths = (64, 256) if arguments.tiny else (1024, 8192)
    tokens = 1 << 13 if arguments.tiny else arguments.tokens
    print(f"{'shape':>6} {'T':>6} {'tokens/s':>10} {'TFLOP/s':>8} {'MFU':>6} {'peak GiB':>9}")
    for name, shape in (TINY if arguments.tiny else SHAPES).items():
        engine, config, body = build(shape, device, arguments.batch_tokens)
        for rows in lengths:
            items = rollouts(config.vocab_size, rows, max(2, tokens // (rows + 128)))
            engine.score(items[:2])
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
            engine.score(items)  # ends with copies to the CPU, so the device is done
            seconds = time.perf_counter() - started
            rate = sum(item.tokens for item in items) / seconds
            achieved = flops(config, body, items) / seconds / 1e12
            mfu = f"{achieved / arguments.peak_tflops:6.1%}" if arguments.peak_tflops else f"{'-':>6}"
            peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
            print(f"{name:>6} {rows:>6} {rate:>10.0f} {achieved:>8.2f} {mfu} {peak:>9.2f}")


if __name__ == "__main__":
    main()
