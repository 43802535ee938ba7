"""lm-eval's side: tasks by name, their leaves, sources and metrics; built on the hub's rows or on local files."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rgopd.common.errors import ConfigError
from rgopd.evaluate.data import Source, local_overrides
from rgopd.evaluate.suites import LM_EVAL, Pin, Suite, named


def require() -> None:
    """ConfigError that says what to install where lm-eval is not there, or is another version than the pins'."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError("`rgopd eval` stands on lm-eval, which is not installed: pip install 'rgopd[eval]'")
    if (found := version("lm_eval")) != LM_EVAL:
        raise ConfigError(
            f"lm-eval {found} is installed, and the suites were checked on {LM_EVAL}, where scores are known to agree: "
            f"pip install lm-eval=={LM_EVAL}"
        )


def tasks_folder() -> Path:
    """Of the installed lm-eval."""
    import lm_eval.tasks

    return Path(lm_eval.tasks.__file__).parent


class Harness:
    """lm-eval's tasks; `include` adds folders of own YAML."""

    def __init__(self, include: Sequence[Path] = ()) -> None:
        require()
        self.include = [path.resolve() for path in include]
        for path in self.include:
            if not path.is_dir():
                raise ConfigError(f"--include-path {path}: no such folder of task YAML")

    def suite(self, name: str) -> Suite:
        """The suite `name`, or one of named tasks with their metrics filled in.

        Raises:
            ConfigError: unknown names, with the nearest known one.
        """
        try:  # reading all of lm-eval's YAML takes 15 s: only for names that are not pinned
            suite = named(name, {} if not self.include else self.own.task_index)
        except ConfigError:
            suite = named(name, self.all.task_index)
        return replace(suite, pins=tuple(self._complete(pin) for pin in suite.pins))

    @cached_property
    def own(self) -> Any:
        """Of `include` alone."""
        return _manager(self.include)

    @cached_property
    def all(self) -> Any:
        """lm-eval's own tasks, and those of `include` over them."""
        return _manager([tasks_folder(), *self.include])

    def manager(self, pin: Pin) -> Any:
        """That knows the pin's task; a pinned one needs its own folder alone."""
        if pin.task in self.own.task_index:
            return self.own
        if not pin.folder:
            return self.all
        if pin.folder not in self._managers:
            own = pin.folder.removeprefix("rgopd:")
            root = Path(__file__).parent if own != pin.folder else tasks_folder()
            self._managers[pin.folder] = _manager([root / own])
        return self._managers[pin.folder]

    @cached_property
    def _managers(self) -> dict[str, Any]:
        return {}

    def leaves(self, pin: Pin) -> list[str]:
        """Names of the single tasks in it, in lm-eval's order."""
        return list(dict.fromkeys(_leaves(self.manager(pin).task_index, pin.task)))

    def config(self, pin: Pin, leaf: str) -> dict[str, Any]:
        """A leaf's YAML with the pin's overrides, functions unresolved."""
        from lm_eval.tasks._yaml_loader import load_yaml

        path = self.manager(pin).task_index[leaf].yaml_path
        config: dict[str, Any] = load_yaml(path, resolve_func=False) if path else {}
        return {**config, **self._overrides(pin)}

    def sources(self, pin: Pin) -> list[Source]:
        """What each leaf reads."""
        return [Source.of(leaf, self.config(pin, leaf)) for leaf in self.leaves(pin)]

    def load(self, pin: Pin, data: Path | None) -> dict[str, Any]:
        """lm-eval's Task objects by name, their rows read.

        Raises:
            ConfigError: rows or a package of the task are missing.
        """
        local = local_overrides(self.sources(pin), data) if data else {}
        members = [{"task": leaf, **self._overrides(pin), **local.get(leaf, {})} for leaf in self.leaves(pin)]
        try:
            loaded = self.manager(pin).load({"group": f"rgopd_{pin.task}", "task": members})["tasks"]
        except (ModuleNotFoundError, AssertionError) as error:
            raise ConfigError(f"task {pin.task} cannot be loaded: {error}") from error
        except KeyError as error:
            raise ConfigError(f"task {pin.task}: its rows lack {error}; the files need the public columns") from error
        except (OSError, ValueError) as error:  # the datasets library raises both for what it cannot find
            source = self.sources(pin)[0]
            raise ConfigError(
                f"task {pin.task}: {source.path} cannot be read ({type(error).__name__}: {str(error)[:300]}). Without "
                f"the hub, put {source.wanted(source.splits[0])} and the like under a folder and give --data FOLDER; "
                "`rgopd eval --list-data` names them all"
            ) from error
        for task in loaded.values():
            if pin.num_fewshot is not None:
                task.set_config(key="num_fewshot", value=pin.num_fewshot)
        return dict(loaded)

    def _overrides(self, pin: Pin) -> dict[str, Any]:
        zero: dict[str, Any] = {}
        if pin.num_fewshot == 0:  # then no split of examples need be there
            zero = {"training_split": None, "fewshot_split": None, "fewshot_config": None}
        own = dict(pin.overrides)
        if pin.task == "hendrycks_math":
            from rgopd.evaluate.metrics import math_results

            own["process_results"] = math_results
        return {**zero, **own, "unsafe_code": False}  # the sandbox runs their code: sandbox.py

    def _complete(self, pin: Pin) -> Pin:
        """Metric, filter and mode of a task that is not pinned: the first of its YAML, flexible extraction first."""
        if pin.metric:
            return pin
        config = self.config(pin, self.leaves(pin)[0])
        filters = [f["name"] for f in config.get("filter_list") or [{"name": "none"}]]
        chosen = "flexible-extract" if "flexible-extract" in filters else filters[0]
        metrics = config.get("metric_list") or [{"metric": "acc"}]
        metric = str(metrics[0]["metric"]).rpartition(".")[2]
        mode = "generate" if config.get("output_type") == "generate_until" else "likelihood"
        label = str(config.get("task_alias") or pin.task) if len(self.leaves(pin)) == 1 else pin.task
        return replace(pin, label=label, metric=metric, filter=chosen, mode=mode)  # type: ignore[arg-type]


def _manager(paths: Sequence[Path]) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=[str(path) for path in paths], include_defaults=False)


def _leaves(index: dict[str, Any], name: str) -> Iterator[str]:
    entry = index.get(name)
    if entry is None:
        raise ConfigError(f"lm-eval's task {name!r} is not where suites.py says; is lm-eval {LM_EVAL} installed?")
    kind = entry.kind.name
    if kind == "TAG":
        for member in sorted(entry.tags):
            yield from _leaves(index, member)
    elif kind == "GROUP":
        for member in entry.cfg.get("task") or []:
            if isinstance(member, dict) and isinstance(member.get("task"), list):
                for inner in member["task"]:
                    yield from _leaves(index, inner if isinstance(inner, str) else str(inner.get("task")))
            else:
                yield from _leaves(index, member if isinstance(member, str) else str(member["task"]))
    else:
        yield name
