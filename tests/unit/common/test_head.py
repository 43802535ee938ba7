from __future__ import annotations

from types import SimpleNamespace

import pytest

from rgopd.common.head import AfterHead, after_head


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "qwen2"}, AfterHead()),
        ({"model_type": "granite", "logits_scaling": 8.0}, AfterHead(scale=0.125)),
        ({"model_type": "hyperclovax", "logits_scaling": 8.0}, AfterHead(scale=8.0)),
        ({"model_type": "cohere2", "logit_scale": 0.0625}, AfterHead(scale=0.0625)),
        ({"model_type": "falcon_h1", "lm_head_multiplier": 0.5}, AfterHead(scale=0.5)),
        ({"model_type": "minicpm3", "logits_scaling": 10.0}, AfterHead(scale=0.1)),
        ({"model_type": "gemma2", "final_logit_softcapping": 30.0}, AfterHead(soft_cap=30.0)),
        ({"model_type": "gemma3_text", "final_logit_softcapping": None}, AfterHead()),
        ({"model_type": "recurrent_gemma", "logits_soft_cap": 30.0}, AfterHead(soft_cap=30.0)),
        ({"model_type": "mpt", "logit_scale": 2.0}, AfterHead()),
    ],
)
def test_what_follows_the_head(config: dict[str, object], expected: AfterHead) -> None:
    assert after_head(SimpleNamespace(**config)) == expected
