"""`rgopd teacher`: one engine, two doors."""

from __future__ import annotations

import logging
import signal
import threading
import time

from prometheus_client import CollectorRegistry

from rgopd.common.errors import ConfigError
from rgopd.common.http import ServiceState
from rgopd.common.hub import hub_repo
from rgopd.common.server import bind, consumer_name, open_streams, run_http
from rgopd.common.streams import SCORE, Streams
from rgopd.common.telemetry import configure_logging
from rgopd.common.worker import DEADLINES_S
from rgopd.teacher.alignment import make_aligner
from rgopd.teacher.app import TeacherDoor, make_app
from rgopd.teacher.batching import TeacherService
from rgopd.teacher.cache import ScoreCache
from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines import Engine, make_engine
from rgopd.teacher.engines.waiting import await_server
from rgopd.teacher.metrics import TeacherMetrics
from rgopd.teacher.worker import ScoreWorker

log = logging.getLogger(__name__)

WATCH_S = 1.0
"""How often the engine is asked how it is."""

HANG_S = DEADLINES_S[SCORE]
"""A GPU that has had a batch for so long hangs, whatever its engine says; the stream takes the batch back then."""

CLOSE_S = 30.0


class TeacherProcess:
    """Loads, serves and drains; the methods run in the server's helper threads."""

    def __init__(self, config: TeacherConfig) -> None:
        self.config = config
        self.registry = CollectorRegistry()
        self.state = ServiceState(reason="the model is loading")
        if config.engine != "vllm-server" and (repo := hub_repo(config.model, config.revision)):
            self.state.repos.append(repo)
        self.door = TeacherDoor(config, self.state)
        self._service: TeacherService | None = None
        self._worker: ScoreWorker | None = None
        self._ended = threading.Event()

    def load(self) -> None:
        """Load the model, then open both doors. Redis is tried first: it fails faster than a model loads."""
        streams = open_streams(self.config)
        # A little less than after which nothing to be seen is called stuck, which could say less.
        await_server(self.config, 0.8 * self.config.load_quiet_s, self._waits, self._ended)
        started = time.monotonic()
        engine = make_engine(self.config, None if streams is None else streams.redis)
        log.info("loaded %s in %.1f s", engine.info.model, time.monotonic() - started, extra={"info": engine.info})
        metrics = TeacherMetrics(self.registry)
        metrics.gpu_bytes.set_function(engine.gpu_bytes)
        self._service = TeacherService(
            engine,
            metrics,
            max_batch_tokens=self.config.max_batch_tokens,
            max_queue_tokens=self.config.max_queue_tokens,
            cache=self._cache(streams, engine),
            aligner=make_aligner(self.config, engine.info.vocab_size, reads_text=engine.info.reads_text),
        )
        self._service.start()
        self._watch_in_thread(engine)
        self.door.open(self._service)
        if streams is not None:
            self._worker = ScoreWorker(
                self._service,
                streams,
                teacher=self.config.teacher_name,
                consumer=consumer_name("teacher"),
                max_inflight=self.config.max_inflight,
                registry=self.registry,
            )
            self._worker.start()

    def _waits(self, text: str) -> None:
        self.state.reason = text

    def _watch_in_thread(self, engine: Engine) -> None:
        threading.Thread(target=self._watch, args=(engine,), name="watch", daemon=True).start()

    def _watch(self, engine: Engine) -> None:
        """The probe says what the engine says; one that cannot recover takes the process with it."""
        while not self._ended.wait(WATCH_S):
            hangs = self._hangs(engine)
            before, self.state.trouble = self.state.trouble, hangs or engine.trouble()
            if self.state.trouble and not before:
                log.error("the engine is in trouble: %s", self.state.trouble)
            if hangs or (self.state.trouble and not engine.recovers):
                self.state.broken = True
                signal.raise_signal(signal.SIGTERM)
                return

    def _hangs(self, engine: Engine) -> str:
        """Why it gives no answer any more; on a CPU a large batch may take as long as it likes."""
        if self._service is None or not engine.info.device.startswith("cuda"):
            return ""
        seconds = self._service.in_work_s()
        return f"it has had a batch for {seconds:.0f} s: it hangs" if seconds > HANG_S else ""

    def _cache(self, streams: Streams | None, engine: Engine) -> ScoreCache | None:
        if streams is None or not self.config.cache_mb:
            return None
        if engine.info.revision == "unknown":
            log.warning("the score cache is off: nothing names the weights of %s (set revision)", engine.info.model)
            return None
        return ScoreCache(streams.redis, self.config.cache_mb << 20)

    def drain(self) -> None:
        """Finish leases and calls, then free the model."""
        self._ended.set()
        deadline = time.monotonic() + self.config.drain_s
        if self._worker is not None:
            self._worker.stop(self.config.drain_s)
        if self._service is not None:
            if not self._service.drain(max(0.0, deadline - time.monotonic())):
                log.warning("draining took longer than drain_s=%g; the rest is cancelled", self.config.drain_s)
            self._service.close(CLOSE_S)


def serve(config: TeacherConfig) -> int:
    """Run until SIGTERM or SIGINT; the process's exit code.

    Raises:
        ConfigError: a port in use, an unreadable token file.
    """
    configure_logging("teacher", config.log_level)
    if bool(config.tls_cert) != bool(config.tls_key):
        raise ConfigError("tls_cert and tls_key: give both or none")
    process = TeacherProcess(config)
    app = make_app(process.door, process.registry)
    sock = bind(config.host, config.port)
    return run_http(
        "teacher",
        app,
        config,
        process.state,
        sock=sock,
        load=process.load,
        drain=process.drain,
        ssl_certfile=config.tls_cert or None,
        ssl_keyfile=config.tls_key or None,
    )
