"""A reward function given from Python: its source becomes a grader of kind `python`, run in the verifier's sandbox."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from rgopd.cli.sections import lay_sections
from rgopd.cli.written_rows import write_rows
from rgopd.common.errors import ConfigError
from rgopd.trainer.prompts.config import DatasetConfig
from rgopd.trainer.prompts.problems import Problems
from rgopd.trainer.prompts.rows import dataset_rows

NAME = "reward"


def grader_source(reward: Callable[..., Any]) -> tuple[str, list[str]]:
    """(a file with grade(response, **args), the parameters after the response).

    Raises:
        ConfigError: its source cannot be had, or it uses what a file of its own would not have.
    """
    try:
        source = textwrap.dedent(inspect.getsource(reward))
        parameters = list(inspect.signature(reward).parameters.values())
    except (OSError, TypeError, ValueError) as error:
        raise ConfigError(
            f"reward: its source cannot be read ({error}); define it with def in a file or a cell"
        ) from error
    name = getattr(reward, "__name__", "")
    if not name.isidentifier() or f"def {name}" not in source:
        raise ConfigError("reward: give a function made with def; a lambda or an object has no source of its own")
    if not parameters:
        raise ConfigError(f"reward: {name} needs a parameter for the response")
    if inspect.iscoroutinefunction(reward):
        raise ConfigError(f"reward: {name} must be a plain function, not async")
    imports = "".join(f"import {module} as {used}\n" for used, module in _modules(reward))
    source = source[source.index(f"def {name}") :]  # decorators belong to where it was written
    body = f'"""Written from {name} by rgopd.distill."""\n\n{imports}\n{source}\n\ndef grade(response, **args):\n'
    names = [p.name for p in parameters[1:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return f"{body}    return {name}(response, **args)\n", names


def _modules(reward: Callable[..., Any]) -> list[tuple[str, str]]:
    """The modules it uses by names from outside; anything else from there is refused."""
    code, known = reward.__code__, reward.__globals__
    if code.co_freevars:
        raise ConfigError(
            f"reward: it uses {', '.join(code.co_freevars)} of the function around it; pass them as columns"
        )
    used = []
    for name in code.co_names:
        if name == code.co_name or name not in known:
            continue
        if not isinstance(known[name], ModuleType):
            raise ConfigError(
                f"reward: it uses {name!r} from outside, and it runs alone in the verifier's sandbox; define it inside"
            )
        used.append((name, known[name].__name__))
    return used


def reward_rows(
    sections: dict[str, dict[str, Any]], reward: Callable[..., Any], folder: Path
) -> dict[str, dict[str, Any]]:
    """The sections with every row of the datasets judged by `reward`: the rows are written anew, beside the grader."""
    source, names = grader_source(reward)
    file = folder / "data" / "reward.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source, encoding="utf-8")
    train: dict[str, Any] = sections["train"]
    changes: dict[str, Any] = {"dataset": _judged(train.get("dataset"), names, folder / "data" / "rewarded.jsonl")}
    heldout = train.get("eval", {})
    heldout = heldout.get("dataset") if isinstance(heldout, dict) else heldout
    if heldout:
        changes["eval"] = {"dataset": _judged(heldout, names, folder / "data" / "rewarded-eval.jsonl")}
    return lay_sections(sections, {"train": changes, "verifier": {"python_graders": {NAME: str(file)}}})


def _judged(given: Any, names: list[str], target: Path) -> dict[str, Any]:
    config = DatasetConfig.model_validate(given)
    if config.mix:
        raise ConfigError("reward and a mixture of datasets do not go together; mix the rows before")
    problems, rows = Problems(str(config.path)), []
    for number, row in dataset_rows(config, problems):
        missing = [name for name in names if name not in row]
        if missing:
            problems.row(number, f" lacks the column {missing[0]!r}, which the reward function asks for")
            continue
        kept = {key: row[key] for key in ("id", "domain", "teacher", "pass_rate") if row.get(key) is not None}
        prompt = row.get(config.prompt_column)
        if prompt is None:
            problems.row(number, f" lacks the column {config.prompt_column!r} (it has {sorted(row)})")
            continue
        check = {"grader": NAME, "args": {name: row[name] for name in names}}
        rows.append(
            {
                "id": str(number),
                **kept,
                "prompt": prompt,
                "kind": "python",
                "check": check,
            }
        )
    problems.raise_if_any()
    write_rows(target, rows)
    return {
        "path": str(target),
        "map": {},
        "layout": "",
        "split": "",
        "kind": "",
        "limit": 0,
        "prompt_column": "prompt",
    }
