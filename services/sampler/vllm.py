"""The vLLM sampler: continuous batching and paged attention; new weights without a restart."""

from __future__ import annotations

import itertools
import logging
import signal
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from rgopd.common.errors import ConfigError, Unavailable
from rgopd.common.models import check_tokenizer, loading
from rgopd.common.vllm_head import REFUSALS, one_line
from rgopd.sampler.adapter import is_adapter
from rgopd.sampler.engine import OnSample, Sample, SampleSpec, SamplingOptions
from rgopd.sampler.eos import eos_ids

log = logging.getLogger(__name__)

_RESETS, _RESET_PAUSE_S = 50, 0.05
EXTENSION = "rgopd.sampler.vllm_worker.SamplingExtension"


class VllmSampler:
    """An LLM engine, stepped by the caller of `generate` so that each rollout is reported as it ends.

    Rollouts of one prompt share its prefill through the prefix cache. Equal seeds give equal samples as long as
    vLLM's kernels do not depend on what else is in the batch (its batch-invariant mode on a GPU; always in float32 up
    to the rounding of a draw).

    Args:
        model: Hugging Face folder or id.
        dtype: of weights and activations; the head and the log-probs are float32.
        shared_vocab_size: ids from here on are never sampled; 0: all exist.
        tensor_parallel_size: GPUs to spread over.
        lora_rank: policy versions are adapters of up to this rank; 0: whole weights.
        sleeps: `sleep` will be called; needs vLLM's sleep mode, and so a GPU.
        arguments: further engine arguments of vLLM, e.g. {"gpu_memory_utilization": 0.5}.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "float32",
        shared_vocab_size: int = 0,
        tensor_parallel_size: int = 1,
        arguments: dict[str, Any] | None = None,
        sleeps: bool = False,
        lora_rank: int = 0,
    ) -> None:
        with loading("student", model):
            config = AutoConfig.from_pretrained(model, trust_remote_code=False)
            self.tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        check_tokenizer("student", model, self.tokenizer)
        self.vocab_size = shared_vocab_size or int(config.get_text_config().vocab_size)
        self.eos_ids = eos_ids(_generation_config(model), config, self.tokenizer)
        self._takes_adapters = lora_rank > 0
        self._adapter: Any = None
        self._adapters = itertools.count(1)
        given = {**_lora_arguments(lora_rank), **(arguments or {})}
        self._llm = _start(model, dtype, tensor_parallel_size, sleeps, given)
        if not self._takes_adapters:
            self._check_reload(model)
        self._asleep = False
        self.max_context = int(self._llm.llm_engine.model_config.max_model_len)
        self._ids = itertools.count()
        self._running: set[str] = set()
        cache = self._llm.llm_engine.vllm_config.cache_config
        self.kv_tokens = int(cache.num_gpu_blocks) * int(cache.block_size)
        self._temperature = 0.0
        self._set_temperature(1.0)
        self._try(model)

    def generate(self, specs: Sequence[SampleSpec], options: SamplingOptions, on_sample: OnSample) -> None:
        """See `SamplerEngine`."""
        names = {self.admit(spec, options): index for index, spec in enumerate(specs)}
        while names:
            for name, sample in self.step():
                on_sample(names.pop(name), sample)

    def mixes(self, options: SamplingOptions) -> bool:
        """The temperature is the head's, and so the same for all rows; greedy rows look at a head of temperature 1."""
        return not self._running or (options.temperature or 1.0) == self._temperature

    def admit(self, spec: SampleSpec, options: SamplingOptions) -> str:
        """See `ContinuousEngine`.

        Raises:
            ConfigError: prompt and response do not fit vLLM's context.
        """
        longest = len(spec.prompt_ids_C) + spec.most(options)
        if longest > self.max_context:
            raise ConfigError(
                f"prompt of {len(spec.prompt_ids_C)} tokens + max_new_tokens {spec.most(options)} is over vLLM's "
                f"max_model_len of {self.max_context}; lower sampling.max_new_tokens or dataset.max_prompt_tokens, or "
                "raise vllm.max_model_len"
            )
        self._set_temperature(options.temperature or 1.0)
        name = f"r{next(self._ids)}"
        prompt = {"prompt_token_ids": spec.prompt_ids_C.tolist()}
        self._llm.llm_engine.add_request(name, prompt, self._params(spec, options), lora_request=self._adapter)
        self._running.add(name)
        return name

    def step(self) -> list[tuple[str, Sample]]:
        """See `ContinuousEngine`.

        Raises:
            Unavailable: vLLM's engine died; the process is asked to stop.
        """
        ended = []
        for output in self._step():
            if output.finished and (name := self._name_of(output.request_id)) in self._running:
                self._running.discard(name)
                ended.append((name, _sample(output.outputs[0])))
        return ended

    def drop(self, names: Collection[str]) -> None:
        """See `ContinuousEngine`."""
        self._llm.llm_engine.abort_request(list(names))
        self._running.difference_update(names)

    def _name_of(self, request_id: str) -> str:
        """vLLM may append to a request's id."""
        return request_id if request_id in self._running else request_id.rpartition("-")[0]

    def _step(self) -> list[Any]:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            return list(self._llm.llm_engine.step())
        except EngineDeadError as error:
            # It does not come back within this process: drain, and let whoever supervises start a new one.
            signal.raise_signal(signal.SIGTERM)
            raise Unavailable("vLLM's engine died; its log says why, and this sampler stops") from error

    def load_weights(self, folder: Path) -> None:
        """Read a policy version's safetensors into the running engine; cached prefixes of the old one are dropped.

        A version of adapters alone is loaded beside the base model. vLLM's cached prefixes are those of an adapter by
        its name, which no two versions share, so there is nothing to drop.

        Raises:
            ConfigError: the weights are those of another architecture, or of the other kind.
            Unavailable: vLLM does not let the old policy's cache go; no request may be served with it.
        """
        if is_adapter(folder) != self._takes_adapters:
            told = "adapters alone: set sampler.lora_rank" if is_adapter(folder) else "whole weights: unset lora_rank"
            raise ConfigError(f"{folder} holds {told} (train.lora.publish decides which is published)")
        if self._takes_adapters:
            self._load_adapter(folder)
            return
        try:
            self._llm.collective_rpc("load_policy", args=(str(folder),))
        except (KeyError, ValueError, RuntimeError) as error:  # of shapes, too: kernels that hold weights padded
            raise ConfigError(
                f"{folder} does not fit the student: {one_line(error)}; start the sampler from the trainer's model"
            ) from error
        for _ in range(_RESETS):  # False while a block is still held, e.g. by a rollout given up a moment ago
            if self._llm.reset_prefix_cache():
                return
            time.sleep(_RESET_PAUSE_S)
        raise Unavailable("vLLM keeps cached prefixes of the old policy: reset_prefix_cache() answered False")

    def _check_reload(self, model: str) -> None:
        """Before anything starts: a sampler that kept some of the old weights would say nothing of it."""
        if reason := next(filter(None, self._llm.collective_rpc("cannot_reload")), ""):
            self.close()
            raise ConfigError(f"student: {model}: {reason}; set sampler.engine=transformers")

    def _try(self, model: str) -> None:
        """Two tokens before it says that it is ready: what vLLM has no kernels for here shows only then."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            self.admit(SampleSpec(np.zeros(2, np.int32), 0), SamplingOptions(1.0, 1.0, 0, 2, 1))
            while self._running:
                outputs = self._llm.llm_engine.step()
                self._running.difference_update(self._name_of(o.request_id) for o in outputs if o.finished)
        except (*REFUSALS, EngineDeadError) as error:
            self.close()
            raise ConfigError(f"engine: vLLM cannot compute {model} here: {one_line(error)}") from error

    def _load_adapter(self, folder: Path) -> None:
        from vllm.lora.request import LoRARequest

        number = next(self._adapters)
        adapter = LoRARequest(f"{folder.name}.{number}", number, str(folder))
        try:
            self._llm.llm_engine.add_lora(adapter)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"{folder}: vLLM does not take these adapters: {one_line(error)}") from error
        before, self._adapter = self._adapter, adapter
        if before is not None:
            self._llm.llm_engine.remove_lora(before.lora_int_id)

    def sleep(self) -> None:
        """vLLM's level 1: weights to the host, the KV cache dropped, and with it every cached prefix."""
        self._llm.sleep(level=1)
        self._asleep = True

    def wake(self) -> None:
        """Weights and an empty KV cache are on the device again."""
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False

    def decode(self, response_ids_T: NDArray[np.int32]) -> str:
        """Text without special tokens."""
        return str(self.tokenizer.decode(response_ids_T.tolist(), skip_special_tokens=True))

    def close(self) -> None:
        """Stop vLLM and its processes."""
        self._llm.llm_engine.engine_core.shutdown()

    def _params(self, spec: SampleSpec, options: SamplingOptions) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=1.0 if options.temperature else 0.0,  # the head has applied it
            top_p=options.top_p,
            top_k=options.top_k,
            seed=spec.seed,
            max_tokens=spec.most(options),
            stop_token_ids=sorted(self.eos_ids),
            logprobs=min(options.support_k, self.vocab_size),
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _set_temperature(self, temperature: float) -> None:
        """While nothing runs the head may change."""
        if temperature == self._temperature:
            return
        assert not self._running, "rows in work are sampled at the head's temperature: ask `mixes` first"
        heads = self._llm.collective_rpc("set_head", args=(temperature, self.vocab_size))
        if not all(heads):
            raise ConfigError("this model's head is not vLLM's LogitsProcessor; use engine=transformers for it")
        self._temperature = temperature


def _start(model: str, dtype: str, tensor_parallel_size: int, sleeps: bool, arguments: dict[str, Any]) -> Any:
    try:
        from vllm import LLM
    except ImportError as error:
        raise ConfigError(f"engine: vllm is not installed here ({error}); pip install 'rgopd[vllm]'") from error
    settings: dict[str, Any] = {
        "model": model,
        "dtype": dtype,
        "tensor_parallel_size": tensor_parallel_size,
        "skip_tokenizer_init": True,
        "trust_remote_code": False,
        "enable_prefix_caching": True,
        "logprobs_mode": "raw_logprobs",  # of the head's logits, before top-p and top-k
        "max_logprobs": -1,
        "worker_extension_cls": EXTENSION,
        "disable_log_stats": True,
        "enable_sleep_mode": sleeps,
        **arguments,
    }
    if dtype != "float32":
        # Logits rounded to bfloat16 cost up to 0.06 a log-prob; the head alone in float32 costs little.
        settings["hf_overrides"] = {"head_dtype": "float32", **settings.get("hf_overrides", {})}
    try:
        return LLM(**settings)
    except REFUSALS as error:
        raise ConfigError(f"engine: vLLM cannot hold {model} with these settings: {one_line(error)}") from error


_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Of adapters, that vLLM makes room for."""


def _lora_arguments(rank: int) -> dict[str, Any]:
    """vLLM's, for two adapters: the version in force, and the next while it is loaded."""
    if not rank:
        return {}
    return {"enable_lora": True, "max_lora_rank": next(r for r in _RANKS if r >= rank), "max_loras": 2}


def _sample(output: Any) -> Sample:
    """One without tokens where vLLM gave the rollout up: what it has of it is cut at no place of the student's."""
    if output.finish_reason not in ("stop", "length") or not output.token_ids:
        log.warning("vLLM ended a rollout by %r after %d tokens", output.finish_reason, len(output.token_ids))
        return Sample(np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros((0, 0), np.int32), False)
    ids_T, flat = np.array(output.token_ids, dtype=np.int32), output.logprobs
    columns = len(flat.token_ids) // len(ids_T)
    # Column 0 is the sampled id, whatever its rank; then the top k, best first.
    ids_TN = np.array(flat.token_ids, dtype=np.int32).reshape(len(ids_T), columns)
    logprobs_TN = np.array(flat.logprobs, dtype=np.float32).reshape(len(ids_T), columns)
    return Sample(ids_T, logprobs_TN[:, 0].copy(), np.ascontiguousarray(ids_TN[:, 1:]), output.finish_reason == "stop")


def _generation_config(model: str) -> Any:
    if Path(model).is_dir() and not (Path(model) / "generation_config.json").exists():
        return None
    return GenerationConfig.from_pretrained(model)
