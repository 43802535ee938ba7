"""The vLLM sampler on real vLLM, against a float32 transformers forward of a demo model."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from rgopd.cli.mismatch import mismatch
from rgopd.common.errors import ConfigError, Unavailable
from rgopd.sampler.config import SamplerConfig
from rgopd.sampler.engine import Sample, SampleSpec, SamplingOptions
from rgopd.sampler.vllm import VllmSampler
from rgopd.trainer.config import TrainConfig

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]  # vLLM imports what torch deprecates

# The demo's larger model: vLLM's CPU attention has no kernel for the smaller one's head dimension of 24.
STUDENT = Path(str(files("rgopd.trainer.demo") / "checkpoints" / "teacher"))
ENGINE = {"max_model_len": 128, "enforce_eager": True, "block_size": 32, "max_num_seqs": 16}
TEXTS = ["1+2*3", "17-(4-2)", "1+2*3", "3*(4+5)"]
K = 5


@pytest.fixture(scope="module")
def engine() -> Iterator[VllmSampler]:
    engine = VllmSampler(str(STUDENT), arguments=ENGINE)
    yield engine
    engine.close()


def specs(engine: VllmSampler, texts: list[str], first_seed: int = 0) -> list[SampleSpec]:
    prompts = [
        engine.tokenizer.apply_chat_template(
            [{"role": "user", "content": t}], add_generation_prompt=True, return_dict=False
        )
        for t in texts
    ]
    return [SampleSpec(np.array(p, dtype=np.int32), first_seed + n) for n, p in enumerate(prompts)]


def run(engine: VllmSampler, wanted: list[SampleSpec], **changes: float) -> list[Sample]:
    options = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 48, "support_k": K, **changes}
    found: dict[int, Sample] = {}
    engine.generate(wanted, SamplingOptions(**options), found.__setitem__)  # type: ignore[arg-type]
    return [found[i] for i in range(len(wanted))]


def plain_logprobs(model: object, spec: SampleSpec, sample: Sample, temperature: float) -> torch.Tensor:
    ids = torch.tensor(np.concatenate([spec.prompt_ids_C, sample.response_ids_T])[None], dtype=torch.long)
    with torch.no_grad():
        logits_TV = model(ids).logits[0, len(spec.prompt_ids_C) - 1 : -1].double()  # type: ignore[operator]
    return torch.log_softmax(logits_TV / temperature, dim=-1)


def check(model: object, wanted: list[SampleSpec], samples: list[Sample], temperature: float) -> None:
    for spec, sample in zip(wanted, samples, strict=True):
        expected_TV = plain_logprobs(model, spec, sample, temperature)
        sampled_T = expected_TV.gather(1, torch.tensor(sample.response_ids_T, dtype=torch.long)[:, None])[:, 0]
        np.testing.assert_allclose(sample.sampled_logprobs_T, sampled_T.numpy(), atol=1e-4)
        assert sample.support_ids_TK.shape == (len(sample.response_ids_T), K)
        chosen_TK = expected_TV.gather(1, torch.tensor(sample.support_ids_TK, dtype=torch.long))
        np.testing.assert_allclose(chosen_TK.numpy(), expected_TV.topk(K, dim=-1).values.numpy(), atol=1e-4)


@pytest.fixture(scope="module")
def model() -> object:
    return AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32).eval()


@pytest.mark.parametrize(("temperature", "top_p", "top_k"), [(1.0, 1.0, 0), (0.7, 1.0, 0), (1.5, 0.8, 4)])
def test_logprobs_are_at_the_temperature_and_before_truncation(
    engine: VllmSampler, model: object, temperature: float, top_p: float, top_k: int
) -> None:
    wanted = specs(engine, TEXTS)
    samples = run(engine, wanted, temperature=temperature, top_p=top_p, top_k=top_k)
    check(model, wanted, samples, temperature)
    if top_k:
        inside = [i in row[:top_k] for s in samples for i, row in zip(s.response_ids_T, s.support_ids_TK, strict=True)]
        assert all(inside)


def test_a_rollouts_seed_decides_it_whatever_else_is_in_the_batch(engine: VllmSampler) -> None:
    wanted = specs(engine, TEXTS, first_seed=1 << 62)
    together = run(engine, wanted)
    alone = [run(engine, [spec])[0] for spec in wanted]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a.response_ids_T, b.response_ids_T)
    many = run(engine, specs(engine, TEXTS[:1] * 12))
    assert len({s.response_ids_T.tobytes() for s in many}) > 1


def test_a_rollout_ends_with_eos_or_at_the_limit(engine: VllmSampler) -> None:
    for sample in run(engine, specs(engine, TEXTS * 3)):
        assert sample.finished == (int(sample.response_ids_T[-1]) in engine.eos_ids)
        assert not engine.eos_ids.intersection(sample.response_ids_T[:-1].tolist())
    [cut] = run(engine, specs(engine, TEXTS[:1]), max_new_tokens=3)
    assert (len(cut.response_ids_T), cut.finished) == (3, False)
    with pytest.raises(ConfigError, match="max_model_len"):
        run(engine, specs(engine, TEXTS[:1]), max_new_tokens=128)


def test_new_weights_arrive_without_a_restart(engine: VllmSampler, model: object, tmp_path: Path) -> None:
    wanted = specs(engine, TEXTS)
    before = run(engine, wanted, temperature=0.0)
    generator = torch.Generator().manual_seed(0)
    state = {
        k: v + 0.02 * torch.randn(v.shape, generator=generator)
        for k, v in load_file(STUDENT / "model.safetensors").items()
    }
    folder = tmp_path / "v00000001"
    folder.mkdir()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_bytes((STUDENT / "config.json").read_bytes())
    moved = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    engine.load_weights(folder)
    try:
        check(moved, wanted, run(engine, wanted, temperature=0.9), 0.9)
    finally:
        engine.load_weights(STUDENT)
    after = run(engine, wanted, temperature=0.0)
    check(model, wanted, after, 1.0)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a.response_ids_T, b.response_ids_T)


def test_surplus_ids_are_never_sampled(model: object) -> None:
    vocab = 60
    engine = VllmSampler(str(STUDENT), shared_vocab_size=vocab, arguments=ENGINE)
    try:
        wanted = specs(engine, TEXTS * 3)
        for spec, sample in zip(wanted, run(engine, wanted, temperature=2.0, max_new_tokens=8), strict=True):
            assert sample.response_ids_T.max() < vocab
            ids = torch.tensor(np.concatenate([spec.prompt_ids_C, sample.response_ids_T])[None], dtype=torch.long)
            with torch.no_grad():
                logits_TV = model(ids).logits[0, len(spec.prompt_ids_C) - 1 : -1, :vocab].double()  # type: ignore[operator]
            expected_TV = torch.log_softmax(logits_TV / 2.0, dim=-1)
            index = torch.tensor(sample.response_ids_T, dtype=torch.long)[:, None]
            np.testing.assert_allclose(sample.sampled_logprobs_T, expected_TV.gather(1, index)[:, 0].numpy(), atol=1e-4)
    finally:
        engine.close()


def test_rows_come_and_go_in_the_running_batch(engine: VllmSampler) -> None:
    """A row admitted while others are in work is what it would be alone; one that is dropped is not heard of again."""
    options = SamplingOptions(1.0, 1.0, 0, 48, K)
    wanted = specs(engine, TEXTS * 2, first_seed=900)
    alone = run(engine, wanted)
    names = {engine.admit(spec, options): i for i, spec in enumerate(wanted[:4])}
    found: dict[int, Sample] = {}
    for _ in range(3):
        found.update({names[name]: sample for name, sample in engine.step()})
    assert engine.mixes(options)
    assert not engine.mixes(SamplingOptions(0.5, 1.0, 0, 48, K))
    names |= {engine.admit(spec, options): 4 + i for i, spec in enumerate(wanted[4:])}
    given_up = next(name for name, i in names.items() if i == 5)
    engine.drop([given_up])
    while len(found) < len(wanted) - 1:
        found.update({names[name]: sample for name, sample in engine.step()})
    assert sorted(found) == [0, 1, 2, 3, 4, 6, 7]
    for index, sample in found.items():
        np.testing.assert_array_equal(sample.response_ids_T, alone[index].response_ids_T)
    assert engine.mixes(SamplingOptions(0.5, 1.0, 0, 48, K))
    assert engine.kv_tokens >= 16 * 128


def test_a_cache_of_the_old_policy_is_never_served(engine: VllmSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """reset_prefix_cache answers False while blocks are held: here by a row in work, then by what nothing frees."""
    engine.admit(specs(engine, TEXTS[:1])[0], SamplingOptions(1.0, 1.0, 0, 48, K))
    engine.step()
    assert engine._llm.reset_prefix_cache() is False, "this is what vLLM says while blocks are held"
    engine.drop(list(engine._running))
    engine.load_weights(STUDENT)  # waits until the blocks are free
    monkeypatch.setattr(engine._llm, "reset_prefix_cache", lambda: False)
    with pytest.raises(Unavailable, match="keeps cached prefixes of the old policy"):
        engine.load_weights(STUDENT)


def test_doctor_measures_its_mismatch_with_the_trainer(tmp_path: Path) -> None:
    """Another engine's kernels, the same model: rounding apart, far below what stops a run."""
    train = TrainConfig.from_mapping(
        {"student": str(STUDENT), "device": "cpu", "dataset": {"path": "d"}, "sampling": {"max_new_tokens": 24}}
    )
    sampler = SamplerConfig(student=str(STUDENT), engine="vllm", vllm=ENGINE)
    prompts = [np.arange(5, 5 + length, dtype=np.int32) for length in (4, 9, 6, 7)]
    found = mismatch(train, sampler, prompts)
    assert found.tokens > 4
    assert 0 < found.drift < 1e-4
    assert found.effective_fraction == pytest.approx(1.0, abs=1e-4)
