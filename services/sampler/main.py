"""`rgopd sampler`: HTTP health routes around the stream worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from prometheus_client import CollectorRegistry

from rgopd.common.errors import ConfigError
from rgopd.common.http import ServiceState, create_app
from rgopd.common.models import check_model
from rgopd.common.server import bind, consumer_name, open_streams, run_http
from rgopd.common.streams import GENERATE
from rgopd.common.telemetry import configure_logging
from rgopd.common.worker import StreamWorker
from rgopd.sampler.config import SamplerConfig
from rgopd.sampler.transformers import TransformersSampler
from rgopd.sampler.worker import SamplerWorker, give_up

if TYPE_CHECKING:
    from rgopd.sampler.vllm import VllmSampler


def make_engine(config: SamplerConfig) -> TransformersSampler | VllmSampler:
    """The engine that the settings name, loaded."""
    check_model(config.student, "student")
    if config.engine == "vllm":
        from rgopd.sampler.vllm import VllmSampler

        return VllmSampler(
            config.student,
            dtype=config.dtype,
            shared_vocab_size=config.shared_vocab_size,
            tensor_parallel_size=config.tensor_parallel_size,
            arguments=config.vllm,
            sleeps=config.colocated,
        )
    return TransformersSampler(
        config.student, dtype=config.dtype, device=config.device, shared_vocab_size=config.shared_vocab_size
    )


def serve(config: SamplerConfig) -> int:
    """Run until SIGTERM; returns the exit code."""
    configure_logging("sampler", config.log_level)
    if not config.redis_url:
        raise ConfigError("a sampler lives on the stream 'generate': set redis_url")
    if config.threads:
        torch.set_num_threads(config.threads)
    sock = bind(config.host, config.port)
    state = ServiceState()
    registry = CollectorRegistry()
    app = create_app("rgopd sampler", state, registry, token=config.bearer_token())
    running: list[StreamWorker] = []

    def load() -> None:
        engine = make_engine(config)
        state.info.update(service="sampler", student=config.student, engine=config.engine, vocab_size=engine.vocab_size)
        streams = open_streams(config)
        assert streams is not None
        worker = SamplerWorker(
            engine, streams, policy_timeout_s=config.policy_timeout_s, registry=registry, sleeps=config.colocated
        )
        door = StreamWorker(
            streams,
            GENERATE,
            worker.submit,
            give_up,
            consumer=consumer_name("sampler"),
            max_inflight=1,
            registry=registry,
        )
        door.start()
        running.append(door)

    def drain() -> None:
        for door in running:
            door.stop(config.drain_s)

    return run_http("sampler", app, config, state, sock=sock, load=load, drain=drain)
