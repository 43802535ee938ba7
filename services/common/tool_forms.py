"""In which form a student calls tools: what its chat template says, and a turn's text with the markers of calls in it.

The forms are read where students' text belongs, in the verifier's sandbox (`verifier/environments/tool_calls.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

Calls = Literal["auto", "hermes", "xml", "mistral", "llama", "pythonic", "deepseek"]
"""Forms of tool calls; auto: as the chat template, or else the turn itself, has it."""

_IN_TEMPLATES: tuple[tuple[str, Calls], ...] = (
    ("[TOOL_CALLS]", "mistral"),
    ("<\uff5ctool\u2581call", "deepseek"),
    ("<function=", "xml"),  # before hermes: Qwen3-Coder and GLM put their own form into the same tags
    ("<arg_key>", "xml"),
    ("<|tool_call_start|>", "pythonic"),
    ("<function_calls>", "pythonic"),
    ("<tool_call>", "hermes"),
    ("<|python_tag|>", "llama"),
)
_WORDS = ("calls\u2581begin", "calls\u2581end", "call\u2581begin", "call\u2581end", "sep")
_TAGS = ("tool_call", "arg_key", "arg_value", "function_calls")
_MARKERS = {f"<\uff5ctool\u2581{word}\uff5c>" for word in _WORDS} | {
    f"<{end}{tag}>" for tag in _TAGS for end in ("", "/")
}
_MARKERS |= {"[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|python_tag|>", "</think>"}
_MARKERS |= {"<|tool_call_start|>", "<|tool_call_end|>"}


def form_of(chat_template: Any) -> Calls:
    """The form that a chat template teaches; `auto` where it names none.

    Args:
        chat_template: one, or several by name.
    """
    text = " ".join(map(str, chat_template.values())) if isinstance(chat_template, dict) else str(chat_template or "")
    return next((form for marker, form in _IN_TEMPLATES if marker in text), "auto")


def turn_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """A turn without special tokens, but for those that mark a call: without them there is none to be seen."""
    added = tokenizer.added_tokens_decoder
    special = {int(i) for i, token in added.items() if token.special} | set(map(int, tokenizer.all_special_ids))
    marks = {int(i) for i, token in added.items() if str(token).strip() in _MARKERS}
    if special.isdisjoint(marks.intersection(ids)):
        return str(tokenizer.decode(list(ids), skip_special_tokens=True))
    kept = [i for i in ids if i in marks or i not in special]
    return str(tokenizer.decode(kept, skip_special_tokens=False))
