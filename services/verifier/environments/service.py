"""The environments of a verifier, behind both of its doors. Thread-based and bounded, as the engine is."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from prometheus_client import CollectorRegistry, Counter, Histogram

from rgopd.common.errors import InvalidInput, Overloaded, Unavailable
from rgopd.common.settings import nearest
from rgopd.verifier.engine import VerifierEngine
from rgopd.verifier.environment_config import FEEDBACK, EnvironmentConfig, read_sources
from rgopd.verifier.environments.base import Environment, Episode, Observation, broken
from rgopd.verifier.environments.feedback import FeedbackEnvironment
from rgopd.verifier.environments.python import PythonEnvironment
from rgopd.verifier.environments.server import ServerEnvironment

log = logging.getLogger(__name__)


class Environments:
    """Answers episodes in threads of its own: an environment may wait for a server, or for a grader.

    Args:
        configured: environments by name.
        engine: the verifier's, for `feedback` and its sandbox.
        queue_size: episodes accepted and not answered.
        metrics: where the Prometheus metrics go.
    """

    def __init__(
        self,
        configured: Mapping[str, EnvironmentConfig],
        engine: VerifierEngine,
        *,
        queue_size: int = 4096,
        metrics: CollectorRegistry | None = None,
    ) -> None:
        self.queue_size = queue_size
        self._environments: dict[str, Environment] = {FEEDBACK: FeedbackEnvironment(engine)}
        sources = read_sources(configured)
        for name, config in configured.items():
            if name in sources:
                self._environments[name] = PythonEnvironment(sources[name], engine.tools, config.max_chars)
            else:
                self._environments[name] = ServerEnvironment(config, os.environ.get(config.token_env, ""))
        threads = engine.tools.sandbox.size + (32 if len(sources) < len(configured) else 0)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="environment")
        self._lock = threading.Lock()
        self._pending = 0
        self._draining = False
        registry = metrics or CollectorRegistry()
        self._answers = Counter("rgopd_observations", "Answers by environment", ["name", "status"], registry=registry)
        self._seconds = Histogram("rgopd_observation_seconds", "Of one answer", ["name"], registry=registry)

    @property
    def names(self) -> list[str]:
        """In alphabetical order."""
        return sorted(self._environments)

    def submit(self, episodes: Sequence[Episode]) -> list[Future[Observation]]:
        """Start all or none.

        Raises:
            InvalidInput: an unknown environment, an episode without a last action to answer, or one id twice.
            Overloaded: too many wait.
            Unavailable: draining.
        """
        for problem in filter(None, map(self.problem, episodes)):
            raise InvalidInput(problem)
        if len({episode.id for episode in episodes}) < len(episodes):
            raise InvalidInput("two episodes have the same id: an environment could not tell their turns apart")
        with self._lock:
            if self._draining:
                raise Unavailable("draining: this replica is shutting down, send the request to another one")
            if self._pending + len(episodes) > max(self.queue_size, len(episodes)):
                raise Overloaded(f"{self._pending} episodes are waiting")
            self._pending += len(episodes)
        return [self._pool.submit(self._answer, episode) for episode in episodes]

    def problem(self, episode: Episode) -> str:
        """Why an episode cannot be answered at all; "" where it can."""
        if episode.name not in self._environments:
            hint = nearest(episode.name, self._environments)
            return (
                f"episode {episode.id!r}: unknown environment {episode.name!r}{hint}; the verifier's setting "
                f"environments has {', '.join(self.names)}"
            )
        if not episode.actions or len(episode.observations) != len(episode.actions) - 1:
            return (
                f"episode {episode.id!r}: {len(episode.actions)} actions and {len(episode.observations)} observations; "
                "every action but the last has been answered"
            )
        return ""

    def _answer(self, episode: Episode) -> Observation:
        began = time.monotonic()
        try:
            said = self._environments[episode.name].answer(episode)
        except (Overloaded, Unavailable):  # of the grader behind `feedback`: asked again, it will tell
            raise
        except Exception as problem:  # a thread's outermost frame: one episode, not the worker
            log.exception("environment %s failed", episode.name, extra={"episode": episode.id})
            said = broken(f"internal: {type(problem).__name__}")
        finally:
            with self._lock:
                self._pending -= 1
        took = time.monotonic() - began
        self._answers.labels(episode.name, "error" if said.error else "answered").inc()
        self._seconds.labels(episode.name).observe(took)
        return said.but(id=episode.id, duration_ms=1000 * took)

    def drain(self) -> None:
        """Refuse new episodes."""
        self._draining = True

    def close(self) -> None:
        """Wait for those in work, a server's time-out at most."""
        self._pool.shutdown(cancel_futures=True)
        for environment in self._environments.values():
            environment.close()
