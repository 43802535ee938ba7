"""A turn's text keeps the special tokens that mark a call, and no others."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer

from rgopd.common.tool_forms import turn_text

STUDENT = Path(__file__).parents[3] / "services/trainer/demo/checkpoints/student"


def test_markers_that_are_special_tokens_stay() -> None:
    tokenizer = AutoTokenizer.from_pretrained(STUDENT)
    ids = tokenizer.encode('[{"name": "f"}]', add_special_tokens=False)
    eos = tokenizer.eos_token_id
    assert turn_text(tokenizer, [*ids, eos]) == '[{"name": "f"}]'
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "[TOOL_CALLS]"]})
    mark = tokenizer.convert_tokens_to_ids("[TOOL_CALLS]")
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    assert turn_text(tokenizer, [mark, *ids, user, eos]) == '[TOOL_CALLS][{"name": "f"}]'
    assert turn_text(tokenizer, []) == ""
