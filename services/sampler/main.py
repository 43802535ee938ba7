"""`rgopd sampler`: HTTP health routes around the stream worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from prometheus_client import CollectorRegistry

from rgopd.common.errors import ConfigError
from rgopd.common.http import ServiceState, create_app
from rgopd.common.hub import hub_repo
from rgopd.common.models import check_model
from rgopd.common.server import bind, consumer_name, open_streams, run_http
from rgopd.common.streams import GENERATE, Streams
from rgopd.common.telemetry import configure_logging
from rgopd.common.workers import StreamWorkers
from rgopd.sampler.architecture import check_student_architecture, engine_here
from rgopd.sampler.config import SamplerConfig
from rgopd.sampler.continuous import ContinuousWorker
from rgopd.sampler.publish import deadline_s, give_up
from rgopd.sampler.transformers import TransformersSampler
from rgopd.sampler.worker import SamplerWorker

if TYPE_CHECKING:
    from rgopd.sampler.vllm import VllmSampler


_MOST_REQUESTS = 256
"""In work at once, where the KV cache does not say less."""


def make_engine(config: SamplerConfig) -> TransformersSampler | VllmSampler:
    """The engine in force, loaded."""
    check_model(config.student, "student")
    check_student_architecture(config)
    if engine_here(config) == "vllm":
        from rgopd.sampler.vllm import VllmSampler

        return VllmSampler(
            config.student,
            dtype=config.dtype,
            shared_vocab_size=config.shared_vocab_size,
            tensor_parallel_size=config.tensor_parallel_size,
            arguments=config.vllm,
            sleeps=config.colocated,
            lora_rank=config.lora_rank,
        )
    return TransformersSampler(
        config.student, dtype=config.dtype, device=config.device, shared_vocab_size=config.shared_vocab_size
    )


def make_door(
    engine: TransformersSampler | VllmSampler, streams: Streams, config: SamplerConfig, registry: CollectorRegistry
) -> StreamWorkers:
    """The stream worker that fits the engine: one request at a time, or as many as vLLM's KV cache has room for."""
    consumer, timeout_s, sleeps = consumer_name("sampler"), config.policy_timeout_s, config.colocated
    if isinstance(engine, TransformersSampler):
        one = SamplerWorker(engine, streams, policy_timeout_s=timeout_s, registry=registry, sleeps=sleeps)
        return StreamWorkers(
            streams,
            GENERATE,
            one.submit,
            give_up,
            consumer=consumer,
            max_inflight=1,
            registry=registry,
            deadline_s=deadline_s,
        )
    many = ContinuousWorker(engine, streams, policy_timeout_s=timeout_s, registry=registry, sleeps=sleeps)
    return StreamWorkers(
        streams,
        GENERATE,
        many.submit,
        give_up,
        consumer=consumer,
        max_inflight=_MOST_REQUESTS,
        room=many.room,
        registry=registry,
        deadline_s=deadline_s,
    )


def serve(config: SamplerConfig) -> int:
    """Run until SIGTERM; returns the exit code."""
    configure_logging("sampler", config.log_level)
    if not config.redis_url:
        raise ConfigError("a sampler lives on the stream 'generate': set redis_url")
    if config.threads:
        torch.set_num_threads(config.threads)
    sock = bind(config.host, config.port)
    state = ServiceState(reason="the student is loading")
    if repo := hub_repo(config.student):
        state.repos.append(repo)
    registry = CollectorRegistry()
    app = create_app("rgopd sampler", state, registry, token=config.bearer_token())
    running: list[StreamWorkers] = []

    def load() -> None:
        engine = make_engine(config)
        name = "transformers" if isinstance(engine, TransformersSampler) else "vllm"
        state.info.update(service="sampler", student=config.student, engine=name, vocab_size=engine.vocab_size)
        streams = open_streams(config)
        assert streams is not None
        door = make_door(engine, streams, config, registry)
        door.start()
        running.append(door)

    def drain() -> None:
        for door in running:
            door.stop(config.drain_s)

    return run_http("sampler", app, config, state, sock=sock, load=load, drain=drain)
