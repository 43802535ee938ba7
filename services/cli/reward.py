"""A reward function given from Python: its source becomes a grader of kind `python`, run in the verifier's sandbox."""

from __future__ import annotations

import dis
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from rgopd.cli.sections import lay_sections
from rgopd.cli.written_rows import write_rows
from rgopd.common.errors import ConfigError
from rgopd.trainer.prompts.config import DatasetConfig
from rgopd.trainer.prompts.problems import Problems
from rgopd.trainer.prompts.rows import dataset_rows

NAME = "reward"


def grader_source(reward: Callable[..., Any]) -> tuple[str, dict[str, bool]]:
    """(a file with grade(response, **args), the parameters after the response and whether each must be given).

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
    found = re.search(rf"^(async )?def {re.escape(name)}\b", source, re.MULTILINE) if name.isidentifier() else None
    if found is None:
        raise ConfigError("reward: give a function made with def; a lambda or an object has no source of its own")
    if inspect.ismethod(reward):
        raise ConfigError(f"reward: {name} is a method, and its object stays here; give a plain function")
    if inspect.iscoroutinefunction(reward) or inspect.isgeneratorfunction(inspect.unwrap(reward)) or found[1]:
        raise ConfigError(f"reward: {name} must be a plain function that returns a number, not async and no generator")
    names = _names(name, parameters)
    imports = "".join(f"import {module} as {used}\n" for used, module in _modules(reward))
    source = source[found.start() :]  # decorators belong to where it was written
    head = f'"""Written from {name} by rgopd.distill."""\n\nfrom __future__ import annotations\n\n{imports}\n{source}\n'
    return (
        f"{head}\n_reward = {name}\n\n\ndef grade(response, **given):\n    return _reward(response, **given)\n",
        names,
    )


def _names(name: str, parameters: list[inspect.Parameter]) -> dict[str, bool]:
    """The columns that its parameters after the first take; those with a default may be missing."""
    takes_response = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if not parameters or parameters[0].kind not in takes_response:
        raise ConfigError(f"reward: {name} needs a parameter for the response")
    names = {}
    for parameter in parameters[1:]:
        needed = parameter.default is inspect.Parameter.empty
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise ConfigError(f"reward: columns are given by name; put the / of {name} after the response")
        if parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
            names[parameter.name] = needed
        if not needed and not _is_plain(parameter.default):
            raise ConfigError(f"reward: the default of {parameter.name} is no plain value; make it inside {name}")
    return names


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _modules(reward: Callable[..., Any]) -> list[tuple[str, str]]:
    """The modules it uses by names from outside; anything else from there is refused."""
    code, known = reward.__code__, reward.__globals__
    if code.co_freevars:
        raise ConfigError(
            f"reward: it uses {', '.join(code.co_freevars)} of the function around it; pass them as columns"
        )
    used = []
    for name in dict.fromkeys(_outer_names(code)):
        if name == code.co_name or name not in known:
            continue
        if not isinstance(known[name], ModuleType):
            raise ConfigError(
                f"reward: it uses {name!r} from outside, and it runs alone in the verifier's sandbox; define it inside"
            )
        used.append((name, known[name].__name__))
    return used


def _outer_names(code: CodeType) -> Iterator[str]:
    """Of its body and of what is written within it: comprehensions, inner functions."""
    instructions = list(dis.get_instructions(code))
    yield from (i.argval for i in instructions if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _outer_names(inner)


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


def _judged(given: Any, names: dict[str, bool], target: Path) -> dict[str, Any]:
    config = DatasetConfig.model_validate(given)
    if config.mix:
        raise ConfigError("reward and a mixture of datasets do not go together; mix the rows before")
    problems, rows = Problems(str(config.path)), []
    for number, row in dataset_rows(config, problems):
        missing = [name for name, needed in names.items() if needed and name not in row]
        if missing:
            problems.row(number, f" lacks the column {missing[0]!r}, which the reward function asks for")
            continue
        kept = {key: row[key] for key in ("id", "domain", "teacher", "pass_rate") if row.get(key) is not None}
        prompt = row.get(config.prompt_column)
        if prompt is None:
            problems.row(number, f" lacks the column {config.prompt_column!r} (it has {sorted(row)})")
            continue
        check = {"grader": NAME, "args": {name: row[name] for name in names if name in row}}
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
