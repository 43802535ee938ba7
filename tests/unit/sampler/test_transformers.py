from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rgopd.common.errors import ConfigError
from rgopd.sampler.engine import Sample, SampleSpec, SamplingOptions
from rgopd.sampler.transformers import TransformersSampler, draw
from tests.families.build import save_tiny


@pytest.fixture(scope="session")
def engine(student_folder: Path) -> TransformersSampler:
    return TransformersSampler(str(student_folder), device="cpu")


def specs(engine: TransformersSampler, texts: list[str], first_seed: int = 0) -> list[SampleSpec]:
    chat = [engine.tokenizer.apply_chat_template([{"role": "user", "content": t}], tokenize=False) for t in texts]
    ids = [np.array(engine.tokenizer(c)["input_ids"], dtype=np.int32) for c in chat]
    return [SampleSpec(i, first_seed + n) for n, i in enumerate(ids)]


def run(engine: TransformersSampler, wanted: list[SampleSpec], **changes: float) -> list[Sample]:
    options = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 48, "support_k": 5, **changes}
    found: dict[int, Sample] = {}
    engine.generate(wanted, SamplingOptions(**options), found.__setitem__)  # type: ignore[arg-type]
    return [found[i] for i in range(len(wanted))]


TEXTS = ["1+2*3=", "17-4=", "1+2*3=", "(3+4)*5="]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_and_support_are_those_of_a_plain_forward(engine: TransformersSampler, temperature: float) -> None:
    wanted = specs(engine, TEXTS)
    for spec, sample in zip(wanted, run(engine, wanted, temperature=temperature), strict=True):
        ids = torch.tensor(np.concatenate([spec.prompt_ids_C, sample.response_ids_T])[None], dtype=torch.long)
        with torch.no_grad():
            logits_TV = engine.model(ids).logits[0, len(spec.prompt_ids_C) - 1 : -1].double()
        logprobs_TV = torch.log_softmax(logits_TV / temperature, dim=-1)
        sampled_T = logprobs_TV.gather(1, torch.tensor(sample.response_ids_T, dtype=torch.long)[:, None])[:, 0]
        np.testing.assert_allclose(sample.sampled_logprobs_T, sampled_T.numpy(), atol=2e-5)
        np.testing.assert_array_equal(sample.support_ids_TK, logprobs_TV.topk(5, dim=-1).indices.numpy())


def test_a_rollout_ends_with_eos_or_at_the_limit(engine: TransformersSampler) -> None:
    for sample in run(engine, specs(engine, TEXTS * 4)):
        assert sample.finished == (int(sample.response_ids_T[-1]) in engine.eos_ids)
        assert not engine.eos_ids.intersection(sample.response_ids_T[:-1].tolist())
    [cut] = run(engine, specs(engine, TEXTS[:1]), max_new_tokens=3)
    assert (len(cut.response_ids_T), cut.finished) == (3, False)
    assert (cut.sampled_logprobs_T.shape, cut.support_ids_TK.shape) == ((3,), (3, 5))


def test_the_same_request_gives_the_same_bits(engine: TransformersSampler) -> None:
    wanted = specs(engine, TEXTS)
    first, second = run(engine, wanted), run(engine, wanted)
    for a, b in zip(first, second, strict=True):
        assert a.response_ids_T.tobytes() == b.response_ids_T.tobytes()
        assert a.sampled_logprobs_T.tobytes() == b.sampled_logprobs_T.tobytes()


def test_a_seed_decides_its_rollout_whatever_else_is_in_the_batch(engine: TransformersSampler) -> None:
    alone = run(engine, specs(engine, TEXTS[1:2], first_seed=1))
    together = run(engine, specs(engine, TEXTS))
    np.testing.assert_array_equal(alone[0].response_ids_T, together[1].response_ids_T)


def test_rollouts_of_one_prompt_differ(engine: TransformersSampler) -> None:
    samples = run(engine, specs(engine, ["12*3-4="] * 16), temperature=1.5)
    assert len({s.response_ids_T.tobytes() for s in samples}) > 1


def test_greedy_is_what_transformers_generates(engine: TransformersSampler) -> None:
    wanted = specs(engine, TEXTS[:2])
    for spec, sample in zip(wanted, run(engine, wanted, temperature=0.0), strict=True):
        ids = torch.tensor(spec.prompt_ids_C[None], dtype=torch.long)
        expected = engine.model.generate(ids, do_sample=False, max_new_tokens=48)[0, ids.shape[1] :]
        np.testing.assert_array_equal(sample.response_ids_T, expected.numpy())


def test_each_rollout_is_reported_as_it_ends(engine: TransformersSampler) -> None:
    order: list[int] = []
    lengths: list[int] = []

    def note(_: int, sample: Sample) -> None:
        order.append(len(lengths))
        lengths.append(len(sample.response_ids_T))

    engine.generate(specs(engine, TEXTS * 8), SamplingOptions(1.0, 1.0, 0, 48, 5), note)
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 1


def test_surplus_ids_are_never_sampled(student_folder: Path) -> None:
    small = TransformersSampler(str(student_folder), device="cpu", shared_vocab_size=20)
    for sample in run(small, specs(small, TEXTS), temperature=5.0, support_k=64):
        assert sample.response_ids_T.max() < 20
        assert sample.support_ids_TK.shape[1] == 20


def test_a_response_that_cannot_fit_is_refused_before_sampling(engine: TransformersSampler) -> None:
    with pytest.raises(ConfigError, match=r"over the student's context of \d+; lower sampling\.max_new_tokens"):
        run(engine, specs(engine, TEXTS[:1]), max_new_tokens=engine.max_context)


def test_weights_of_another_shape_are_refused(engine: TransformersSampler, teacher_folder: Path) -> None:
    with pytest.raises((ConfigError, RuntimeError), match=r"does not fit|size mismatch"):
        engine.load_weights(teacher_folder)


def options(**changes: float) -> SamplingOptions:
    return SamplingOptions(
        **{"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 1, "support_k": 0, **changes}
    )  # type: ignore[arg-type]


def test_draw_follows_the_distribution() -> None:
    logprobs_BV = torch.tensor([0.1, 0.0, 0.6, 0.3]).log().expand(20_000, 4)
    uniforms_B = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shares = torch.bincount(draw(logprobs_BV, uniforms_B, options()), minlength=4) / 20_000
    assert shares[1] == 0
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.0, 0.6, 0.3]), atol=0.015, rtol=0)


def test_top_k_and_top_p_truncate() -> None:
    logprobs_BV = torch.tensor([0.1, 0.05, 0.5, 0.35]).log().expand(2000, 4)
    uniforms_B = torch.linspace(0, 1 - 1e-9, 2000, dtype=torch.float64)
    assert set(draw(logprobs_BV, uniforms_B, options(top_k=1)).tolist()) == {2}
    assert set(draw(logprobs_BV, uniforms_B, options(top_p=0.49)).tolist()) == {2}
    assert set(draw(logprobs_BV, uniforms_B, options(top_p=0.8)).tolist()) == {2, 3}
    assert set(draw(logprobs_BV, uniforms_B, options(top_k=3)).tolist()) == {0, 2, 3}


@pytest.mark.parametrize("uniform", [0.0, 1 - 1e-16])
def test_the_ends_of_the_unit_interval_draw_possible_tokens(uniform: float) -> None:
    logprobs_BV = torch.tensor([[0.0, 0.5, 0.5, 0.0]]).log()
    drawn = draw(logprobs_BV, torch.tensor([uniform], dtype=torch.float64), options())
    assert int(drawn) in (1, 2)


def test_a_folder_without_a_tokenizer_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "qwen2")
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises(ConfigError, match=r"^student: \S+ holds no tokenizer: copy that") as told:
        TransformersSampler(str(folder), device="cpu")
    assert "\n" not in str(told.value)


def test_a_bin_file_with_code_in_it_is_refused_and_not_run(tmp_path: Path) -> None:
    folder, ran = save_tiny(tmp_path / "model", "qwen2"), tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return ran.touch, ()

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Evil()}, protocol=2))
    with pytest.raises(ConfigError, match="holds more than weights, which is never run; give safetensors") as told:
        TransformersSampler(str(folder), device="cpu")
    assert "\n" not in str(told.value)
    assert not ran.exists()
