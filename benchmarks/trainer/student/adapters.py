"""A LoRA student's versions in a vLLM sampler: whole weights, merged, against the adapters alone.

    VLLM_CPU_KVCACHE_SPACE=1 .venv-vllm/bin/python -m benchmarks.trainer.student.adapters [--hidden 256] [--layers 4]

A random Qwen2. Written (with its sha256) as the trainer does, loaded into a running vLLM as a sampler does, and then
sampled from: medians of the rounds, the two kinds in turn. Merging itself and gathering the whole model from the ranks
are on top of the first and are not counted.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

from benchmarks.teacher.shapes import machine
from rgopd.common.policies import digest
from rgopd.sampler.engine import Sample, SampleSpec, SamplingOptions
from rgopd.sampler.vllm import VllmSampler
from rgopd.trainer.student.adapter import write_adapter
from rgopd.trainer.student.lora import LoraOptions
from rgopd.trainer.student.weights import write_weights

ENGINE: dict[str, Any] = {"max_model_len": 256, "enforce_eager": True, "max_num_seqs": 16}
PROMPTS, TOKENS = 8, 8
"""A round's rollouts: enough for a rate, and few enough to end on a loaded machine."""
OPTIONS = LoraOptions(r=16, alpha=32.0, publish="adapter")


def student(folder: Path, hidden: int, layers: int) -> Any:
    """A random model with the demo's tokenizer, saved."""
    from importlib.resources import files

    config = Qwen2Config(
        vocab_size=32_000, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, num_key_value_heads=hidden // 64, max_position_embeddings=512,
        tie_word_embeddings=True, eos_token_id=2,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(files("rgopd.trainer.demo") / "checkpoints" / "student")).save_pretrained(folder)
    return model


def adapters(model: Any) -> dict[str, torch.Tensor]:
    """Of every linear layer but the head."""
    state = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            state[f"base_model.model.{name}.lora_A.weight"] = torch.randn(OPTIONS.r, module.in_features) / 100
            state[f"base_model.model.{name}.lora_B.weight"] = torch.randn(module.out_features, OPTIONS.r) / 100
    return state


def measured(engine: VllmSampler, write: Any, root: Path, rounds: int) -> dict[str, float]:
    """Seconds to write and to load a version, tokens sampled a second, bytes of a version."""
    times: dict[str, list[float]] = {"write": [], "load": [], "tokens/s": []}
    specs = [SampleSpec(np.arange(5, 37, dtype=np.int32) + n, n) for n in range(PROMPTS)]
    for number in range(rounds):
        folder = root / f"v{number:08d}"
        began = time.perf_counter()
        write(folder)
        digest(folder)
        written = time.perf_counter()
        engine.load_weights(folder)
        loaded = time.perf_counter()
        samples: list[Sample] = []
        engine.generate(specs, SamplingOptions(1.0, 1.0, 0, TOKENS, 8), lambda _, sample, to=samples: to.append(sample))
        times["write"].append(written - began)
        times["load"].append(loaded - written)
        times["tokens/s"].append(sum(len(s.response_ids_T) for s in samples) / (time.perf_counter() - loaded))
        size = sum(f.stat().st_size for f in folder.iterdir())
        shutil.rmtree(folder)
    return {name: statistics.median(values) for name, values in times.items()} | {"MB": size / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        model = student(root / "base", args.hidden, args.layers)
        state, base = adapters(model), str(root / "base")
        whole, config = {k: v.detach() for k, v in model.named_parameters()}, model.config
        found = {}
        for kind in ("whole", "adapter"):
            engine = VllmSampler(base, arguments=ENGINE, lora_rank=OPTIONS.r if kind == "adapter" else 0)
            writers = {
                "whole": lambda folder: write_weights(folder, whole, config),
                "adapter": lambda folder: write_adapter(folder, state, OPTIONS, base),
            }
            found[kind] = measured(engine, writers[kind], root / kind, args.rounds)
            engine.close()
            print(kind, {name: round(value, 3) for name, value in found[kind].items()}, flush=True)
    print(machine(), f"{sum(p.numel() for p in model.parameters()) / 1e6:.0f}M parameters, rank {OPTIONS.r}")
    for column in ("MB", "write", "load", "tokens/s"):
        one, other = found["whole"][column], found["adapter"][column]
        print(f"{column:9} whole {one:8.3f}  adapter {other:8.3f}  whole / adapter {one / other:6.2f}")


if __name__ == "__main__":
    main()
