"""What pydantic found wrong, in words: one line a problem, the key as it is written, and what would work."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

from pydantic import BaseModel, ValidationError

from rgopd.common.parts import parts_in, parts_within

Location = tuple[int | str, ...]

_WITH_UNIT = re.compile(r"\s*[-+]?[\d.,_]+(e[-+]?\d+)?\s*[a-zµ%]+\s*", re.IGNORECASE)


def explain(model: type[BaseModel], error: ValidationError) -> str:
    """One line a problem; for an unknown key, the nearest known one."""
    lines: list[str] = []
    for problem in _meant(error.errors()):
        loc = _written(model, problem["loc"])
        where = ".".join(str(part) for part in loc)
        if problem["type"] == "extra_forbidden":
            line = f"unknown key {where!r}{nearest(str(loc[-1]), keys_at(model, loc[:-1]))}"
        elif problem["type"] == "missing":
            line = f"{where} is missing"
        elif problem["type"] == "value_error":
            line = f"{where}: {problem['ctx']['error']}" if where else str(problem["ctx"]["error"])
        else:
            line = f"{where or 'settings'}: {problem['msg']} (got {_short(problem['input'])}){_hint(problem)}"
        if line not in lines:
            lines.append(line)
    return "; ".join(lines)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'; did you mean X?', or nothing where nothing is near."""
    options = {_plain(option): option for option in sorted(known)}
    plain = _plain(ELSEWHERE.get(_plain(word), word))
    close = difflib.get_close_matches(plain, list(options), n=1, cutoff=0.5)
    return f"; did you mean {options[close[0]]!r}?" if close else ""


ELSEWHERE = {
    "rank": "r",
    "lora_rank": "r",
    "lora_alpha": "alpha",
    "learning_rate": "lr",
    "max_grad_norm": "grad_clip",
    "lr_scheduler_type": "schedule",
    "max_steps": "steps",
    "num_train_epochs": "epochs",
    "num_generations": "n",
    "group_size": "n",
    "batch_size": "prompts_per_step",
    "max_completion_length": "max_new_tokens",
    "max_tokens": "max_new_tokens",
    "max_prompt_length": "max_prompt_tokens",
    "save_steps": "every",
    "eval_steps": "every",
    "save_total_limit": "keep",
    "top_k_tokens": "k",
    "model_name_or_path": "model",
    "tp": "tensor_parallel_size",
}
"""What other trainers call some of our settings."""


def _plain(word: str) -> str:
    return word.strip().lower().replace("-", "_")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def nearest(word: str, known: Iterable[str]) -> str:
    """'; did you mean X?' or the list of what is known."""
    options = sorted(known)
    return did_you_mean(word, options) or f"; known keys are {', '.join(options)}"


def _meant(problems: Sequence[Any]) -> list[Any]:
    """Without those of a union's alternatives that the value was not meant for."""

    def stray(problem: Any) -> bool:
        if problem["type"] == "literal_error":
            return isinstance(problem["input"], Mapping) and len(problems) > 1
        return problem["type"] in ("model_type", "none_required") and len(problems) > 1

    return [problem for problem in problems if not stray(problem)] or list(problems)


def _written(model: type[BaseModel], loc: Location) -> Location:
    """The location without pydantic's names for a union's alternatives."""
    written: list[int | str] = []
    current: Any = [model]
    for part in loc:
        found = [m for m in current if isinstance(part, str) and part in m.model_fields]
        if found:
            current = parts_in(found[0].model_fields[str(part)].annotation)
        elif any(part == m.__name__ for m in current) or _is_branch(part):
            continue
        written.append(part)
    return tuple(written)


_PLAIN = ("str", "int", "float", "bool", "list", "dict", "none")


def _is_branch(part: int | str) -> bool:
    return isinstance(part, str) and (part.endswith("]") or part in _PLAIN)


def keys_at(model: type[BaseModel], loc: Location) -> set[str]:
    """The keys that are known where `loc` leads."""
    current = [model]
    for part in loc:
        found = [m for m in current if part in m.model_fields]
        if found:
            annotation = found[0].model_fields[str(part)].annotation
            current = parts_in(annotation) or parts_within(annotation)
    return {key for m in current for key in m.model_fields}


def _hint(problem: Any) -> str:
    """'; did you mean X?' for a misspelt word; how to write what is of another type."""
    given = problem["input"]
    if problem["type"] == "string_type" and isinstance(given, (int, float, date)):
        return "; put quotes around it"
    if problem["type"] in ("int_parsing", "float_parsing") and isinstance(given, str) and _WITH_UNIT.fullmatch(given):
        unit = "a share is written as 0.1" if given.strip().endswith("%") else "the key's name or meaning has the unit"
        return f"; write a plain number: {unit}"
    if problem["type"] != "literal_error" or not isinstance(given, str):
        return ""
    return did_you_mean(problem["input"], re.findall("'([^']*)'", problem["ctx"]["expected"]))
