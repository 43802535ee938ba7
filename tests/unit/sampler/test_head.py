"""A bfloat16 student's log-probs are those of its own hidden states under a float32 head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM

from rgopd.sampler.engine import Sample, SampleSpec, SamplingOptions
from rgopd.sampler.head import float32_logits, widen_head
from rgopd.sampler.transformers import TransformersSampler

SHAPE = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "pad_token_id": 0,
}  # fmt: skip


def test_sampled_logprobs_are_not_those_of_rounded_logits(student_folder: Path) -> None:
    engine = TransformersSampler(str(student_folder), device="cpu", dtype="bfloat16")
    prompt = np.array(engine.tokenizer("1+2*3=")["input_ids"], dtype=np.int32)
    found: dict[int, Sample] = {}
    options = SamplingOptions(temperature=0.8, top_p=1.0, top_k=0, max_new_tokens=12, support_k=3)
    engine.generate([SampleSpec(prompt, 1)], options, found.__setitem__)
    # Decoding and a whole forward differ in a bfloat16 body; so the first token alone, whose prefill is the same.
    ids = torch.tensor(prompt[None], dtype=torch.long)
    with torch.inference_mode():
        hidden_H = engine.model.model(input_ids=ids).last_hidden_state[0, -1]
        weight = engine.model.get_output_embeddings().weight
        rounded_V = torch.log_softmax((weight @ hidden_H).double() / 0.8, -1)
        exact_V = torch.log_softmax((weight.double() @ hidden_H.double()) / 0.8, -1)
    first = int(found[0].response_ids_T[0])
    assert found[0].sampled_logprobs_T[0] == pytest.approx(float(exact_V[first]), abs=2e-6)
    assert float((rounded_V - exact_V).abs().max()) > 1e-3, "or the test shows nothing"


@pytest.mark.parametrize("model", [
    CohereForCausalLM(CohereConfig(**SHAPE, logit_scale=0.25)),
    Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=16, final_logit_softcapping=3.0)),
], ids=["scaled", "capped"])  # fmt: skip
def test_what_follows_the_head_is_float32_too(model: nn.Module) -> None:
    ids = torch.arange(1, 9)[None]
    with torch.inference_mode():
        wide = model.eval()(input_ids=ids).logits
        widen_head(model)
        torch.testing.assert_close(model(input_ids=ids).logits, wide, atol=0, rtol=0)  # float32: not touched
        low = model.to(torch.bfloat16)
        assert low(input_ids=ids).logits.dtype == torch.bfloat16
        widen_head(low)
        logits: Tensor = low(input_ids=ids).logits
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, wide, atol=0.05, rtol=0.05)


def test_a_bias_and_any_leading_shape() -> None:
    torch.manual_seed(0)
    head = nn.Linear(8, 50).to(torch.bfloat16)
    hidden = torch.randn(2, 3, 8).bfloat16()
    with torch.inference_mode():
        wanted = hidden.double() @ head.weight.double().t() + head.bias.double()
        found = float32_logits(head, hidden)
    assert found.shape == (2, 3, 50)
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)
