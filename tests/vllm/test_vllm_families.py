"""Families of models on real vLLM: published weights reload there, and its log-probs are the model's own.

vLLM's attention on a CPU wants heads of 32 dimensions or more, so these are a little wider than the others' tiny ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from rgopd.sampler.engine import Sample, SampleSpec, SamplingOptions
from rgopd.sampler.vllm import VllmSampler
from rgopd.trainer.student.model import Student, full_weights
from rgopd.trainer.student.weights import write_weights
from tests.families.build import save_tiny

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]  # vLLM imports what torch deprecates

ENGINE = {"max_model_len": 64, "enforce_eager": True, "block_size": 32, "max_num_seqs": 8}
WIDE = {"hidden_size": 128, "head_dim": 32, "intermediate_size": 96}
FAMILIES: dict[str, dict[str, Any]] = {
    "granite": {"logits_scaling": 4.0},  # a factor on the logits
    "gemma2": {  # soft-caps
        "layer_types": ["sliding_attention", "full_attention"],
        "final_logit_softcapping": 5.0,
        "query_pre_attn_scalar": 32,
    },
    "phi": {"head_dim": None},  # a bias of the head
    "mixtral": {},  # experts, which memory and checkpoints hold otherwise
    "qwen3_moe": {},
    "olmo2": {},
    "gpt_neox": {"head_dim": None},
}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_published_weights_are_the_students_on_vllm(model_type: str, tmp_path: Path) -> None:
    sizes = {k: v for k, v in {**WIDE, **FAMILIES[model_type]}.items() if v is not None}
    if FAMILIES[model_type].get("head_dim", 1) is None:
        sizes.pop("head_dim")
    first = save_tiny(tmp_path / "first", model_type, **sizes)
    student = Student.load(str(first))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    published = tmp_path / "v00000001"
    write_weights(published, full_weights(student, "float32"), student.hf.config)
    own = AutoModelForCausalLM.from_pretrained(published, dtype=torch.float32).eval()
    engine = VllmSampler(str(first), arguments=ENGINE)
    try:
        engine.load_weights(published)
        specs = [SampleSpec(np.arange(5, 5 + n, dtype=np.int32), n) for n in (9, 4)]
        found: dict[int, Sample] = {}
        options = SamplingOptions(temperature=0.7, top_p=1.0, top_k=0, max_new_tokens=8, support_k=5)
        engine.generate(specs, options, found.__setitem__)
        for index, spec in enumerate(specs):
            sample = found[index]
            ids = torch.tensor(np.concatenate([spec.prompt_ids_C, sample.response_ids_T])[None], dtype=torch.long)
            with torch.no_grad():
                logits_TV = own(ids).logits[0, len(spec.prompt_ids_C) - 1 : -1].double()
            own_TV = torch.log_softmax(logits_TV / 0.7, -1)
            sampled_T = own_TV.gather(1, torch.tensor(sample.response_ids_T, dtype=torch.long)[:, None])[:, 0]
            np.testing.assert_allclose(sample.sampled_logprobs_T, sampled_T.numpy(), atol=2e-4)
    finally:
        engine.close()
