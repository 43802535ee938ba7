"""Sampling and judging for the demo's single-process scripts: plain torch, a key-value cache, no services."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rgopd.common.kv_cache import cache_argument, cache_of

BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    eos: int,
    *,
    max_new_tokens: int = 48,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """One response per prompt, ending with ``eos`` unless cut at ``max_new_tokens``; temperature 0 is greedy."""
    width = max(map(len, prompts))
    ids_BP = torch.tensor([[eos] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    position = (mask.cumsum(1) - 1).clamp(min=0)
    done = torch.zeros(len(prompts), dtype=torch.bool)
    step_ids, cache, columns = ids_BP, None, []
    for _ in range(max_new_tokens):
        out = model(
            input_ids=step_ids,
            attention_mask=mask,
            position_ids=position,
            use_cache=True,
            **cache_argument(model, cache),
        )
        logits_BV, cache = out.logits[:, -1].float(), cache_of(out)
        if temperature == 0:
            token_B = logits_BV.argmax(-1)
        else:
            token_B = torch.multinomial((logits_BV / temperature).softmax(-1), 1, generator=generator)[:, 0]
        token_B = token_B.masked_fill(done, eos)
        columns.append(token_B)
        done |= token_B == eos
        if done.all():
            break
        step_ids, position = token_B[:, None], position[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(token_B)[:, None]], 1)
    rows = torch.stack(columns, 1).tolist()
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]


def _value(node: ast.expr, names: dict[str, int]) -> Any:
    match node:
        case ast.BinOp(left, op, right) if type(op) in BINARY:
            return BINARY[type(op)](_value(left, names), _value(right, names))
        case ast.UnaryOp(ast.USub(), operand):
            return -_value(operand, names)
        case ast.Call(ast.Name("abs"), [argument], []):
            return abs(_value(argument, names))
        case ast.Name(name) if name in names:
            return names[name]
        case ast.Constant(int() as value) if type(value) is int:
            return value
    raise ValueError("not an arithmetic expression")


def _call(source: str, entry_point: str, args: Sequence[int]) -> Any:
    """Evaluate ``def f(x, y): return <arithmetic>`` without running any of it as Python."""
    match ast.parse(source).body:
        case [ast.FunctionDef(name=name, args=params, body=[ast.Return(value=ast.expr() as value)])] if (
            name == entry_point
        ):
            return _value(value, dict(zip([a.arg for a in params.args], args, strict=True)))
    raise ValueError("not a one-line function")


def is_right(row: dict[str, Any], response: str) -> bool:
    """Whether a response answers a dataset row; a small safe stand-in for the verifier service."""
    if row["kind"] == "math":
        boxed = re.findall(r"\\boxed\{(-?\d+)\}", response)
        return bool(boxed) and int(boxed[-1]) == int(row["reference"])
    try:
        return all(_call(response, row["entry_point"], t["args"]) == t["expected"] for t in row["tests"])
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return False


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Ids of the chat-formatted prompt, ready for the response."""
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
    )
    return list(ids)


def accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]], **sampling: Any
) -> dict[str, float]:
    """Accuracy by domain, and over ``A``, ``B`` and ``all``; greedy unless ``temperature`` is given."""
    sampling.setdefault("temperature", 0.0)
    responses = sample(model, [encode_prompt(tokenizer, r["prompt"]) for r in rows], tokenizer.eos_token_id, **sampling)
    groups: dict[str, list[bool]] = {}
    for row, ids in zip(rows, responses, strict=True):
        right = is_right(row, tokenizer.decode(ids, skip_special_tokens=True))
        for name in ("all", row["domain"][0], row["domain"]):
            groups.setdefault(name, []).append(right)
    return {name: sum(hits) / len(hits) for name, hits in sorted(groups.items())}


def to_tensor(rows: Sequence[Sequence[int]], fill: int = 0) -> Tensor:
    """Right-pad integer rows into one ``int64[B, L]`` tensor."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])
