"""What the page knows, read anew when somebody asks and at most once a second, however many pages are open."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from typing import Any

from rgopd.common.errors import InvalidInput
from rgopd.watch.faults import links_of, processes_of
from rgopd.watch.now import now_of
from rgopd.watch.redis_view import RedisView
from rgopd.watch.run import Run
from rgopd.watch.runs import Runs

_LIST_S = 3.0
BY_STEP = {"figures", "clock", "evaluation", "first_evaluation", "warnings", "events", "cuts", "settings", "links"}


class Hub:
    """Runs by name, each with its newest state. Everything is read at most once a `poll_s`, however many pages ask."""

    def __init__(self, runs: Runs, poll_s: float = 1.0, redis_url: str = "") -> None:
        self.runs = runs
        self.poll_s = poll_s
        self.redis_url = redis_url
        self._now: dict[str, dict[str, Any]] = {}
        self._redis: dict[str, RedisView] = {}
        self._list: tuple[float, dict[str, Any]] = (-_LIST_S, {})
        self._fresh: dict[str, float] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def run(self, name: str) -> Run:
        """A run with its files read. Raises `InvalidInput` for a name that there is not."""
        run = self.runs.get(name)
        self._refresh(run)
        return run

    def now(self, name: str) -> dict[str, Any]:
        """See `now_of`; with what Redis says under `redis`."""
        self.run(name)
        return self._now[name]

    def faults(self, name: str) -> dict[str, Any]:
        """Queues, leases and dead letters in full; processes and what happened to them."""
        run = self.run(name)
        with run.lock:
            events = list(run.events)
        kinds = ("ready", "died", "restarted", "failed", "paused", "resumed", "started", "finished", "stopping")
        return {
            "redis": self._view(run).read(),
            "processes": processes_of(run.folder),
            "events": [event for event in events if event.get("kind") in kinds][-200:],
            "cuts": list(run.cuts),
        }

    def overview(self) -> dict[str, Any]:
        """{"runs": [{name, folder}], "first": names to show first}."""
        with self._lock:
            read_at, answer = self._list
            if time.monotonic() - read_at >= _LIST_S:
                folders = self.runs.folders()
                first = self.runs.named() or list(folders)[:1]
                rows = [{"name": name, "folder": str(path)} for name, path in folders.items()]
                answer = {"runs": rows, "first": first, "places": [str(place) for place in self.runs.places]}
                self._list = (time.monotonic(), answer)
            return answer

    def news(self, names: Iterable[str]) -> dict[str, str]:
        """Events for a page that looks at these runs: {"runs": JSON, "more <run>": JSON, "now <run>": JSON}.

        `more` is what changes with a step, `now` what changes within one: a second's news are small.
        """
        found = {"runs": json.dumps(self.overview())}
        for name in names:
            try:
                now = self.now(name)
            except InvalidInput:  # deleted while somebody looks at it
                continue
            parts = {"more": {"run": name}, "now": {"run": name}}
            for key, value in now.items():
                parts["more" if key in BY_STEP else "now"][key] = value
            found |= {f"{kind} {name}": json.dumps(part, allow_nan=False) for kind, part in parts.items()}
        return found

    def close(self) -> None:
        """Let Redis go."""
        for view in self._redis.values():
            view.close()

    def _refresh(self, run: Run) -> None:
        """Read the run's files and Redis, unless that was done within `poll_s`."""
        with self._lock:
            lock = self._locks.setdefault(run.name, threading.Lock())
        with lock:
            if time.monotonic() - self._fresh.get(run.name, -1e9) < self.poll_s * 0.9 and run.name in self._now:
                return
            run.refresh()
            now = now_of(run)
            now["redis"] = self._summary(run)
            now["links"] = links_of(run, alive=now["state"]["kind"] == "running")
            self._now[run.name] = now
            self._fresh[run.name] = time.monotonic()

    def _summary(self, run: Run) -> dict[str, Any]:
        """Of the queues, what Now shows: without leases and letters one by one."""
        found = self._view(run).read(full=False)
        if "queues" not in found:
            return {"trouble": found["trouble"], "at": found["at"]}
        alive: dict[str, int] = {}
        for worker in found["workers"]:
            alive[worker["stream"]] = alive.get(worker["stream"], 0) + bool(worker["alive"])
        queues = [{**queue, "alive": alive.get(queue["stream"], 0)} for queue in found["queues"]]
        return {"trouble": "", "at": found["at"], "queues": queues, "dead": found["dead_count"]}

    def _view(self, run: Run) -> RedisView:
        with self._lock:
            return self._redis.setdefault(run.name, RedisView(run.folder, self.redis_url))
