"""Putting the service together: probe the sandbox, start the engine, open the doors."""

from __future__ import annotations

import logging
from importlib.metadata import version
from typing import Any

from prometheus_client import CollectorRegistry
from redis.exceptions import NoPermissionError

from rgopd.common.errors import ConfigError, Unavailable
from rgopd.common.http import ServiceState
from rgopd.common.server import bind, open_streams, run_http
from rgopd.common.telemetry import configure_logging
from rgopd.common.workers import StreamWorkers
from rgopd.verifier.app import build_app
from rgopd.verifier.config import VerifierConfig, default_workers
from rgopd.verifier.engine import VerifierEngine
from rgopd.verifier.environment_config import read_sources
from rgopd.verifier.environments.service import Environments
from rgopd.verifier.environments.worker import environment_worker
from rgopd.verifier.graders import default_registry
from rgopd.verifier.graders.python import read_graders
from rgopd.verifier.libraries import Libraries, find_libraries
from rgopd.verifier.sandbox.ladder import choose_rung
from rgopd.verifier.sandbox.pool import SandboxPool, SandboxSettings
from rgopd.verifier.symbolic.pool import SymbolicPool
from rgopd.verifier.toolchains import find_toolchains
from rgopd.verifier.tools import Tools
from rgopd.verifier.worker import stream_worker

log = logging.getLogger(__name__)

_NONE = Libraries()


def sandbox_settings(config: VerifierConfig, rung: int, libraries: Libraries = _NONE) -> SandboxSettings:
    """How the configured sandbox starts its zygotes."""
    return SandboxSettings(
        rung=rung,
        python=config.python,
        readable=(*config.readable, *libraries.readable),
        preimport=tuple(config.preimport),
        packages=libraries.names,
        package_folder=libraries.folder,
        uid_base=config.uid_base,
        recycle_after=config.recycle_after,
    )


def build_engine(
    config: VerifierConfig, metrics: CollectorRegistry | None = None
) -> tuple[VerifierEngine, dict[str, Any]]:
    """Choose and attack the sandbox, start all workers; the engine and what /info says about it.

    Raises:
        SandboxError: no rung at or above the configured one holds on this machine.
    """
    python_graders = read_graders(config.python_graders)
    read_sources(config.environments)  # what is wrong with them is told before anything starts
    try:
        toolchains = find_toolchains(config.toolchains)
    except ValueError as problem:
        raise ConfigError(str(problem)) from problem
    libraries = find_libraries(config.python, config.packages)
    rung, report = choose_rung(config.rung, lambda r: sandbox_settings(config, r))
    workers = config.workers or default_workers()
    sandbox = SandboxPool(workers, sandbox_settings(config, rung, libraries))
    symbolic = SymbolicPool(config.math_workers or default_workers(), deadline_s=config.math_deadline_s)
    tools = Tools(sandbox, symbolic, config.default_limits(), config.maximum_limits(), toolchains)
    registry = default_registry(toolchains.languages, python_graders)
    engine = VerifierEngine(
        registry,
        tools,
        queue_size=config.queue_size,
        cache_size=config.cache_size,
        truncated=config.truncated,
        metrics=metrics,
    )
    info = {
        "service": "verifier",
        "version": version("rgopd"),
        "isolation": {"rung": rung, **report},
        "kinds": registry.kinds,
        "languages": toolchains.languages,
        "packages": list(libraries.names),
        "workers": workers,
        "limits": {
            "default": tools.default_limits.as_dict(),
            "maximum": tools.maximum_limits.as_dict(),
            "max_items": config.max_items,
            "max_body_mb": config.max_body_mb,
            "queue_size": config.queue_size,
            "math_deadline_s": config.math_deadline_s,
        },
    }
    return engine, info


class VerifierService:
    """What `serve` loads and drains."""

    def __init__(self, config: VerifierConfig, state: ServiceState, metrics: CollectorRegistry) -> None:
        self.config = config
        self.state = state
        self.metrics = metrics
        self._engine: VerifierEngine | None = None
        self._environments: Environments | None = None
        self._workers: list[StreamWorkers] = []

    def engine(self) -> VerifierEngine:
        """The engine, once loaded."""
        if self._engine is None:
            raise Unavailable("not ready: starting")
        return self._engine

    def environments(self) -> Environments:
        """The environments, once loaded."""
        if self._environments is None:
            raise Unavailable("not ready: starting")
        return self._environments

    def load(self) -> None:
        """Probe, start the engine and the stream worker."""
        self.state.reason = "probing the sandbox"
        self._engine, self.state.info = build_engine(self.config, self.metrics)
        self._environments = Environments(
            self.config.environments, self._engine, queue_size=self.config.queue_size, metrics=self.metrics
        )
        self.state.info["environments"] = self._environments.names
        log.info("isolated", extra={"rung": self.state.info["isolation"]["rung"]})
        streams = open_streams(self.config)
        if streams is not None:
            inflight = min(self.config.queue_size, 16 * self._engine.tools.sandbox.size)
            longest_s = self.config.max_wall_s
            self._start(stream_worker(streams, self._engine, self.metrics, inflight, longest_s))
            try:
                self._start(environment_worker(streams, self._environments, self.metrics))
            except NoPermissionError as refused:  # a server whose users are from before environments
                log.warning("no environments on streams: %s; see deploy/redis/redis-start.sh", refused)

    def _start(self, worker: StreamWorkers) -> None:
        worker.start()
        self._workers.append(worker)

    def drain(self) -> None:
        """Finish what was accepted."""
        if self._environments is not None:
            self._environments.drain()
        for worker in reversed(self._workers):  # a conversation's check may still be asked for
            worker.stop(self.config.drain_s)
        if self._engine is not None and not self._engine.drain(self.config.drain_s):
            log.warning("%d items were not finished in time", self._engine.pending)

    def close(self) -> None:
        """Stop every process."""
        if self._environments is not None:
            self._environments.close()
        if self._engine is not None:
            self._engine.close()


def serve(config: VerifierConfig) -> int:
    """Run the service until SIGTERM or SIGINT; returns the exit code."""
    configure_logging("verifier", config.log_level)
    sock = bind(config.host, config.port)
    state = ServiceState(info={"service": "verifier"})
    metrics = CollectorRegistry()
    service = VerifierService(config, state, metrics)
    app = build_app(
        state,
        service.engine,
        metrics,
        environments=service.environments,
        token=config.bearer_token(),
        max_body_bytes=config.max_body_mb << 20,
        max_items=config.max_items,
    )
    try:
        return run_http("verifier", app, config, state, sock=sock, load=service.load, drain=service.drain)
    finally:
        service.close()
