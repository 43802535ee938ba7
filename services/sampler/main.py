"""`rgopd sampler`: HTTP health routes around the stream worker."""

from __future__ import annotations

import importlib.util
import logging
from typing import TYPE_CHECKING, Any

import torch
from prometheus_client import CollectorRegistry
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from rgopd.common.errors import ConfigError
from rgopd.common.http import ServiceState, create_app
from rgopd.common.hub import hub_repo
from rgopd.common.models import check_architecture, check_model, hub_problem, loading
from rgopd.common.server import bind, consumer_name, open_streams, run_http
from rgopd.common.streams import GENERATE, Streams
from rgopd.common.telemetry import configure_logging
from rgopd.common.vllm_head import cannot_reload
from rgopd.common.workers import StreamWorkers
from rgopd.sampler.config import EngineName, SamplerConfig
from rgopd.sampler.continuous import ContinuousWorker
from rgopd.sampler.publish import deadline_s, give_up
from rgopd.sampler.transformers import TransformersSampler
from rgopd.sampler.worker import SamplerWorker

if TYPE_CHECKING:
    from rgopd.sampler.vllm import VllmSampler


log = logging.getLogger(__name__)

_MOST_REQUESTS = 256
"""In work at once, where the KV cache does not say less."""


def engine_here(config: SamplerConfig) -> EngineName:
    """The engine in force on this machine; a warning where transformers samples on a GPU."""
    cuda = torch.cuda.is_available()
    installed = importlib.util.find_spec("vllm") is not None
    engine = config.pick_engine(cuda=cuda, vllm=installed)
    if engine == "transformers" and cuda and config.device != "cpu":
        how = "set sampler.engine=auto" if installed else "pip install 'rgopd[vllm]'"
        log.warning("transformers samples on a GPU: vLLM does it about ten times as fast; %s", how)
    return engine


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


def check_student_architecture(config: SamplerConfig) -> None:
    """Refuse, from its config.json, a student that this engine cannot sample from.

    Raises:
        ConfigError: names the setting, the architecture, and what to do.
    """
    try:
        raw, _ = PretrainedConfig.get_config_dict(config.student)
    except OSError as error:
        raise ConfigError(hub_problem("student", config.student, error)) from error
    installed = importlib.util.find_spec("vllm") is not None
    engine = config.pick_engine(cuda=torch.cuda.is_available(), vllm=installed)
    sampled = engine == "transformers"
    check_architecture(config.student, "student", raw, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, sampled=sampled)
    if engine == "vllm" and not config.lora_rank:
        check_reload(config.student)


def check_reload(student: str) -> None:
    """Refuse, from its config, a student whose new weights do not all reach vLLM (docs/decisions/157).

    The sampler looks again at the model that vLLM made of it (`SamplingExtension.cannot_reload`).

    Raises:
        ConfigError: names the architecture and what to do.
    """
    with loading("student", student):
        config: Any = AutoConfig.from_pretrained(student, trust_remote_code=False)
        with torch.device("meta"):
            kinds = {type(m).__name__ for m in AutoModelForCausalLM.from_config(config).modules()}
    experts = any("Experts" in kind for kind in kinds)
    if reason := cannot_reload(config.model_type, experts=experts, cpu=not torch.cuda.is_available()):
        raise ConfigError(
            f"student: {student} (model_type {config.model_type!r}): {reason}; set sampler.engine=transformers, or "
            "publish adapters (train.lora.publish=adapter), which need no reload"
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
