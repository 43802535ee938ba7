"""One cell: lm-eval builds the prompts, the model answers, lm-eval's filters and metrics score, all of it is kept."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rgopd.common.errors import ConfigError
from rgopd.evaluate.models import Engine
from rgopd.evaluate.suites import Pin

Sample = dict[str, Any]


def ask(
    engine: Engine,
    pin: Pin,
    tasks: Mapping[str, Any],
    *,
    length: int | None,
    seed: int,
    temperature: float | None,
    limit: int | None,
    chat: bool,
) -> tuple[dict[str, Any], list[Sample]]:
    """Ask every document once.

    What `lm_eval.simple_evaluate` does between reading the tasks and `evaluate`, with the same random states, so that
    `lm_eval run --seed SEED` on one task gives the same numbers. `simple_evaluate` itself reads all task YAML and lists
    all installed packages each time, 20 s a cell.

    Returns:
        lm-eval's results by task, and one sample a document.
    """
    import torch
    from lm_eval.evaluator import evaluate

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    engine.seed(seed)
    given = engine.generation(temperature, length, seed)
    for task in tasks.values():
        if task.get_config("output_type") == "generate_until" and given:
            task.set_config(key="generation_kwargs", value=dict(given), update=True)
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=seed)
    found = evaluate(
        engine.lm,
        {"tasks": dict(tasks), "groups": {}},
        limit=limit,
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
    )
    samples = [sample for name in tasks for sample in _merged(name, found["samples"][name], pin, engine)]
    return {name: _plain(found["results"][name]) for name in tasks}, samples


def _merged(task: str, rows: Iterable[Mapping[str, Any]], pin: Pin, engine: Engine) -> list[Sample]:
    """lm-eval logs a document once a filter; here a document is one sample."""
    samples: dict[int, Sample] = {}
    for row in rows:
        sample = samples.get(row["doc_id"])
        if sample is None:
            sample = samples[row["doc_id"]] = _sample(task, row, pin, engine)
        sample["filtered"][row["filter"]] = row["filtered_resps"][0] if pin.mode == "generate" else None
        sample["metrics"][row["filter"]] = {name: row[name] for name in row["metrics"]}
    for sample in samples.values():
        sample["points"], sample["weight"] = points(sample["metrics"], pin, task)
    return [samples[key] for key in sorted(samples)]


def _sample(task: str, row: Mapping[str, Any], pin: Pin, engine: Engine) -> Sample:
    prompt = row["arguments"][0][0]
    sample: Sample = {
        "task": task,
        "doc_id": row["doc_id"],
        "doc_hash": row["doc_hash"][:16],
        "doc": row["doc"],
        "target": row["target"],
        "prompt": prompt if isinstance(prompt, str) else str(getattr(prompt, "prompt", prompt)),
        "response": None,
        "filtered": {},
        "metrics": {},
    }
    if pin.mode == "generate":
        sample["response"] = row["resps"][0][0]
        sample["tokens"] = engine.tokens(sample["response"])
    else:
        sample["loglikelihoods"] = [[float(r[0]), bool(r[1])] for r in (resps[0] for resps in row["resps"])]
        sample["choices"] = [arguments[1] for arguments in row["arguments"]]
    return sample


def points(metrics: Mapping[str, Mapping[str, Any]], pin: Pin, task: str) -> tuple[float | None, float]:
    """(points, weight) of a document in the pin's metric; (None, 1) where a metric is more than a mean over documents.

    Raises:
        ConfigError: the task has no such filter or metric.
    """
    if pin.filter not in metrics:
        raise ConfigError(f"task {task} has no filter {pin.filter!r}, only {', '.join(metrics)}")
    if pin.metric not in metrics[pin.filter]:
        raise ConfigError(f"task {task} has no metric {pin.metric!r}, only {', '.join(metrics[pin.filter])}")
    value = metrics[pin.filter][pin.metric]
    if isinstance(value, (list, tuple)) and all(isinstance(v, (bool, int, float)) for v in value):
        return float(sum(value)), float(len(value))  # IFEval by instruction
    if isinstance(value, (bool, int, float, np.floating, np.integer)) and 0 <= float(value) <= 1:
        return float(value), 1.0
    return None, 1.0


def value(samples: Sequence[Sample], results: Mapping[str, Mapping[str, Any]], pin: Pin) -> float:
    """The cell's score in percent: points over weights, which for one task is lm-eval's own number."""
    if all(sample["points"] is not None for sample in samples):
        return float(100 * sum(s["points"] for s in samples) / sum(s["weight"] for s in samples))
    if len(results) > 1:
        raise ConfigError(f"{pin.task}: {pin.metric} is no mean over documents; name its tasks one by one")
    (only,) = results.values()
    return float(only[f"{pin.metric},{pin.filter}"])


def _plain(results: Mapping[str, Any]) -> dict[str, Any]:
    return {k: float(v) if isinstance(v, (int, float, np.floating)) else v for k, v in results.items() if k != "alias"}
