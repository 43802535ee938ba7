"""Teacher and sampler: tokens/s of the transformers engines on one device."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from benchmarks.gpu import roofline
from benchmarks.gpu.harness import Bench
from benchmarks.gpu.shapes import Shape, make_model, model_folder, shapes
from rgopd.sampler.engine import Sample, SampleSpec, SamplingOptions
from rgopd.sampler.transformers import TransformersSampler
from rgopd.teacher.engines import EngineInfo
from rgopd.teacher.engines.loading import take_apart
from rgopd.teacher.engines.transformers import TransformersEngine
from rgopd.teacher.items import ScoreItem, Scoring


def rollouts(vocab: int, prompts: int, group: int, prompt: int, response: int, k: int = 50) -> list[ScoreItem]:
    """`prompts` groups of `group` rollouts each, with a support of `k` ids."""
    rng = np.random.default_rng(0)
    k = min(k, vocab // 8)
    support = (np.arange(response)[:, None] + 7 * np.arange(k)).astype(np.int32) % vocab
    found = []
    for p in range(prompts):
        ids = rng.integers(0, vocab, prompt, dtype=np.int32)
        found += [
            ScoreItem(f"{p}.{n}", ids, rng.integers(0, vocab, response, dtype=np.int32), Scoring("student", k), support)
            for n in range(group)
        ]
    return found


def run_teacher(bench: Bench) -> None:
    card = roofline.card_of(torch.cuda.get_device_name() if bench.cuda else "")
    cases = {
        "no shared prompts, T=1024": (64, 1, 128, 1024),
        "no shared prompts, T=8192": (8, 1, 128, 8192),
        "8 groups × 8, prompts of 1024": (8, 8, 1024, 1024),
    }
    if bench.tiny:
        cases = {"no shared prompts": (4, 1, 6, 24), "groups": (2, 3, 24, 12)}
    for shape in shapes(bench.tiny):
        model = make_model(shape, bench.device)
        for name, case in cases.items():
            items = rollouts(shape.vocab, *case)
            for share in (True, False) if case[1] > 1 else (False,):
                path = ", each once" if share else (", each by itself" if case[1] > 1 else "")
                full = f"teacher {shape.name}, {name}{path}"
                bench.case(full, partial(_teacher, bench, card, shape, model, items, full, share))
        del model


def _teacher(
    bench: Bench,
    card: roofline.Card,
    shape: Shape,
    model: object,
    items: list[ScoreItem],
    name: str,
    share: bool,
) -> None:
    device = bench.device.type
    info = EngineInfo("transformers", "random", "0", shape.vocab, 32_768, 256, (), "bfloat16", device, "gathered")
    engine = TransformersEngine(take_apart(model), info, max_batch_tokens=256 if bench.tiny else 65_536, share=share)
    seconds = bench.seconds_of(lambda: engine.score(items), repeats=3, warm=1, budget_s=5)
    tokens = sum(item.tokens for item in items)
    flops = roofline.forward_flops(shape, [i.tokens for i in items], sum(len(i.response_ids_T) for i in items))
    bench.add(name, tokens / seconds, "tokens/s", relative=f"{flops / seconds / card.peak_tflops / 1e12:.1%} MFU",
              predicted=tokens / card.product(flops), memory_gb=bench.peak_gb(lambda: engine.score(items[:8])),
              launches=sum(count for _, count in bench.profile(lambda: engine.score(items)).values()),
              note="MFU as if every rollout's prompt were computed" if share else "")  # fmt: skip


def run_sampler(bench: Bench) -> None:
    rows, prompt, new = (3, 6, 5) if bench.tiny else (64, 256, 96)
    for shape in shapes(bench.tiny):
        name = f"sampler {shape.name}, {rows} rows, {new} tokens after {prompt}"
        bench.case(name, partial(_sampler, bench, shape, name, rows, prompt, new))


def _sampler(bench: Bench, shape: Shape, name: str, rows: int, prompt: int, new: int) -> None:
    card = roofline.card_of(torch.cuda.get_device_name() if bench.cuda else "")
    folder = model_folder(shape, bench.work, bench.device)
    engine = TransformersSampler(str(folder), dtype="bfloat16", device=bench.device.type)
    engine.eos_ids = frozenset()  # random weights would end at random
    options = SamplingOptions(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=new, support_k=20)
    rng = np.random.default_rng(0)
    specs = [SampleSpec(rng.integers(0, shape.vocab, prompt, dtype=np.int32), n) for n in range(rows)]
    found: dict[int, Sample] = {}

    def generate() -> None:
        engine.generate(specs, options, found.__setitem__)

    seconds = bench.seconds_of(generate, repeats=2, warm=1, budget_s=8)
    if len(found) != rows or any(len(sample.response_ids_T) != new for sample in found.values()):
        raise RuntimeError(f"{len(found)} samples of {rows}")
    predicted = rows / roofline.decode_s(card, shape, rows, prompt + new)
    bench.add(name, rows * new / seconds, "tokens/s", predicted=predicted, memory_gb=bench.peak_gb(generate))
