"""The embedded sampler: batched decoding with a KV cache through transformers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from rgopd.common.errors import ConfigError
from rgopd.common.kv_cache import cache_argument
from rgopd.common.models import check_tokenizer, check_whole, loading
from rgopd.sampler.adapter import Merger, is_adapter
from rgopd.sampler.engine import OnSample, Sample, SampleSpec, SamplingOptions
from rgopd.sampler.eos import eos_ids
from rgopd.sampler.head import widen_head
from rgopd.sampler.self_check import can_pad


class TransformersSampler:
    """One causal language model and its tokenizer.

    Args:
        model: Hugging Face folder or id.
        dtype: of weights and activations; logits and log-probs are always float32.
        device: "cpu", "cuda", ... or "auto".
        shared_vocab_size: ids from here on are never sampled; 0: all exist.
    """

    def __init__(self, model: str, *, dtype: str = "float32", device: str = "auto", shared_vocab_size: int = 0) -> None:
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        with loading("student", model):
            self.tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
            loaded, told = AutoModelForCausalLM.from_pretrained(
                model, dtype=getattr(torch, dtype), trust_remote_code=False, output_loading_info=True
            )
        check_tokenizer("student", model, self.tokenizer)
        check_whole("student", model, told)
        self._merger = Merger(model)
        self.model: Any = loaded.to(self.device).eval()
        widen_head(self.model)
        self.eos_ids = eos_ids(getattr(loaded, "generation_config", None), loaded.config, self.tokenizer)
        text = loaded.config.get_text_config()
        self.vocab_size = shared_vocab_size or int(text.vocab_size)
        self.max_context = int(getattr(text, "max_position_embeddings", None) or 1 << 30)
        # Purely recurrent models take a mask of what they are given now, and generate with none once that is one token.
        self._recurrent = "position_ids" not in inspect.signature(type(loaded).forward).parameters
        self.pads = can_pad(self.model, self._decode, self.vocab_size)

    def load_weights(self, folder: Path) -> None:
        """Copy a policy version's safetensors into the model, refusing a different architecture."""
        if is_adapter(folder):
            own = self.model.state_dict(keep_vars=True)
            with torch.no_grad():
                for name, value in self._merger.merged(folder).items():
                    own[name].copy_(value)
            return
        state: dict[str, Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            state.update(load_file(file))
        own = self.model.state_dict(keep_vars=True)
        if not state.keys() <= own.keys():
            state = self._converted(folder)
        tied = {name for same in _by_tensor(own) if state.keys() & same for name in same}
        missing, unexpected = self.model.load_state_dict(state, strict=False)
        _refuse(folder, [name for name in missing if name not in tied], unexpected)

    def _converted(self, folder: Path) -> dict[str, Tensor]:
        """Weights that checkpoints hold otherwise than memory does (a layer's experts one by one)."""
        model, told = type(self.model).from_pretrained(
            folder, config=self.model.config, dtype=self.model.dtype, output_loading_info=True
        )
        _refuse(folder, list(told["missing_keys"]), list(told["unexpected_keys"]))
        state: dict[str, Tensor] = model.state_dict()
        return state

    def sleep(self) -> None:
        """The weights go to the host; the caching allocator gives back what it held."""
        self.model.to("cpu")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def wake(self) -> None:
        """The weights come back."""
        self.model.to(self.device)

    def decode(self, response_ids_T: NDArray[np.int32]) -> str:
        """Text without special tokens."""
        text = self.tokenizer.decode(response_ids_T.tolist(), skip_special_tokens=True)
        return str(text)

    @torch.inference_mode()
    def generate(self, specs: Sequence[SampleSpec], options: SamplingOptions, on_sample: OnSample) -> None:
        """See `SamplerEngine`. Prompts are left-padded; equal prompts are prefilled once."""
        if not specs:
            return
        for spec in specs:
            if len(spec.prompt_ids_C) + spec.most(options) > self.max_context:
                raise ConfigError(
                    f"prompt of {len(spec.prompt_ids_C)} tokens + max_new_tokens {spec.most(options)} is over the "
                    f"student's context of {self.max_context}; lower sampling.max_new_tokens or "
                    "dataset.max_prompt_tokens"
                )
        for chosen in [range(len(specs))] if self.pads else _by_length(specs):
            some = [specs[i] for i in chosen]
            self._generate(some, options, lambda i, sample, chosen=chosen: on_sample(chosen[i], sample))  # type: ignore[misc]

    def _generate(self, specs: Sequence[SampleSpec], options: SamplingOptions, on_sample: OnSample) -> None:
        batch = _Batch(specs, options, self.device)
        logits_BV, cache, attention_BS = self._prefill([s.prompt_ids_C for s in specs])
        while True:
            logits_BV = logits_BV[:, : self.vocab_size].float()
            done = batch.append(logits_BV, self.eos_ids)
            for row in done:
                on_sample(batch.spec_index(row), batch.sample(row))
            if not any(batch.alive):
                return
            if done and (keep := batch.compact()) is not None:
                # Fewer rows is a cheaper step; which rows leave when depends on these specs alone.
                cache.reorder_cache(keep)
                attention_BS = attention_BS[keep]
            logits_BV, attention_BS = self._step(batch.last_ids_B1(), cache, attention_BS)

    def _step(self, ids_B1: Tensor, cache: DynamicCache, attention_BS: Tensor) -> tuple[Tensor, Tensor]:
        """One more token a row: the logits after it, and the grown mask."""
        attention_BS = torch.cat([attention_BS, attention_BS.new_ones(len(ids_B1), 1)], dim=1)
        out = self.model(
            input_ids=ids_B1,
            attention_mask=None if self._recurrent else attention_BS,
            position_ids=attention_BS.sum(dim=1, keepdim=True) - 1,
            **cache_argument(self.model, cache),
            use_cache=True,
        )
        return out.logits[:, -1], attention_BS

    def _prefill(self, given: Sequence[NDArray[np.int32]]) -> tuple[Tensor, DynamicCache, Tensor]:
        """One row a distinct prompt, then repeated for every rollout of it."""
        unique: dict[bytes, int] = {}
        rows = [unique.setdefault(prompt.tobytes(), len(unique)) for prompt in given]
        prompts = [np.frombuffer(key, dtype=np.int32) for key in unique]
        longest = max(map(len, prompts))
        ids_PS = np.zeros((len(prompts), longest), dtype=np.int64)
        mask_PS = np.zeros((len(prompts), longest), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            ids_PS[row, longest - len(prompt) :] = prompt
            mask_PS[row, longest - len(prompt) :] = 1
        attention_PS = torch.from_numpy(mask_PS).to(self.device)
        cache = DynamicCache(config=self.model.config)
        out = self.model(
            input_ids=torch.from_numpy(ids_PS).to(self.device),
            attention_mask=attention_PS,
            position_ids=(attention_PS.cumsum(dim=1) - 1).clamp(min=0),
            **cache_argument(self.model, cache),
            use_cache=True,
            logits_to_keep=1,
        )
        expand = torch.tensor(rows, device=self.device)
        cache.reorder_cache(expand)
        return out.logits[:, -1][expand], cache, attention_PS[expand]

    def _decode(self, prompts: Sequence[NDArray[np.int32]], continuations: Sequence[NDArray[np.int32]]) -> Tensor:
        """For `can_pad`: the logits that `generate` would draw these continuations from, and one more."""
        logits_BV, cache, attention_BS = self._prefill(prompts)
        found = [logits_BV]
        for column_B in np.stack(continuations, axis=1):
            ids_B1 = torch.from_numpy(column_B.astype(np.int64))[:, None].to(self.device)
            logits_BV, attention_BS = self._step(ids_B1, cache, attention_BS)
            found.append(logits_BV)
        return torch.stack(found, dim=1)


def _by_length(specs: Sequence[SampleSpec]) -> list[list[int]]:
    """Indices of specs whose prompts are of one length."""
    groups: dict[int, list[int]] = {}
    for index, spec in enumerate(specs):
        groups.setdefault(len(spec.prompt_ids_C), []).append(index)
    return list(groups.values())


def _by_tensor(state: Mapping[str, Tensor]) -> list[set[str]]:
    """Names of one and the same parameter."""
    names: dict[int, set[str]] = {}
    for name, value in state.items():
        names.setdefault(id(value), set()).add(name)
    return list(names.values())


def _refuse(folder: Path, missing: Sequence[str], unexpected: Sequence[str]) -> None:
    if missing or unexpected:
        raise ConfigError(
            f"{folder} does not fit the student: missing {list(missing)[:3]}, unexpected {list(unexpected)[:3]}; "
            "start the sampler from the same model as the trainer"
        )


class _Batch:
    """The state of the rollouts still being sampled; all transitions of a rollout are here."""

    def __init__(self, specs: Sequence[SampleSpec], options: SamplingOptions, device: torch.device) -> None:
        self.options = options
        self.most = [spec.most(options) for spec in specs]
        self.device = device
        count, steps = len(specs), options.max_new_tokens
        # All random numbers of a rollout are drawn from its own seed, before anything else can matter.
        self.uniforms_BT = torch.stack(
            [torch.rand(steps, generator=torch.Generator().manual_seed(s.seed), dtype=torch.float64) for s in specs]
        ).to(device)
        self.index = list(range(count))
        self.alive = [True] * count
        self.length = 0
        self.ids: list[list[int]] = [[] for _ in specs]
        self.logprobs: list[list[float]] = [[] for _ in specs]
        self.support: list[list[NDArray[np.int32]]] = [[] for _ in specs]
        self.finished = [False] * count
        self.last_B = torch.zeros(count, dtype=torch.long, device=device)

    @property
    def rows(self) -> int:
        """Rows in the forward pass, finished ones that were not compacted away included."""
        return len(self.index)

    def spec_index(self, row: int) -> int:
        """Which spec a row belongs to."""
        return self.index[row]

    def last_ids_B1(self) -> Tensor:
        """The tokens to feed next."""
        return self.last_B[:, None]

    def append(self, logits_BV: Tensor, eos_ids: frozenset[int]) -> list[int]:
        """Draw one token a row; returns the rows whose rollout ended by it."""
        greedy = self.options.temperature == 0
        logprobs_BV = torch.log_softmax(logits_BV / (1.0 if greedy else self.options.temperature), dim=-1)
        if greedy:
            chosen_B = logprobs_BV.argmax(dim=-1)
        else:
            chosen_B = draw(logprobs_BV, self.uniforms_BT[self.index, self.length], self.options)
        sampled_B = logprobs_BV.gather(1, chosen_B[:, None])[:, 0]
        k = min(self.options.support_k, logprobs_BV.shape[1])
        support_BK = logprobs_BV.topk(k, dim=-1).indices.to(torch.int32).cpu().numpy()
        self.last_B = chosen_B
        self.length += 1
        ended = []
        for row, (token, logprob) in enumerate(zip(chosen_B.tolist(), sampled_B.tolist(), strict=True)):
            spec = self.index[row]
            if not self.alive[spec]:
                continue
            self.ids[spec].append(token)
            self.logprobs[spec].append(logprob)
            self.support[spec].append(support_BK[row])
            self.finished[spec] = token in eos_ids
            if self.finished[spec] or self.length == self.most[spec]:
                self.alive[spec] = False
                ended.append(row)
        return ended

    def sample(self, row: int) -> Sample:
        """The finished rollout of a row."""
        spec = self.index[row]
        return Sample(
            np.array(self.ids[spec], dtype=np.int32),
            np.array(self.logprobs[spec], dtype=np.float32),
            np.stack(self.support[spec]).astype(np.int32),
            self.finished[spec],
        )

    def compact(self) -> Tensor | None:
        """Once half of the rows have ended, drop them; returns the rows to keep."""
        keep = [row for row, spec in enumerate(self.index) if self.alive[spec]]
        if len(keep) > self.rows // 2:
            return None
        self.index = [self.index[row] for row in keep]
        self.last_B = self.last_B[keep]
        return torch.tensor(keep, device=self.device)


def draw(logprobs_BV: Tensor, uniforms_B: Tensor, options: SamplingOptions) -> Tensor:
    """Sample by inverting the cumulative distribution at given uniforms: int64[B].

    Args:
        logprobs_BV: float32 log-probs before truncation.
        uniforms_B: float64 in [0, 1).
    """
    probs_BV = logprobs_BV.double().exp()
    if options.top_k or options.top_p < 1:
        ranked_BV, order_BV = probs_BV.sort(dim=-1, descending=True)
        before_BV = ranked_BV.cumsum(dim=-1) - ranked_BV
        drop_BV = before_BV >= options.top_p
        if options.top_k:
            drop_BV[:, options.top_k :] = True
        probs_BV = torch.zeros_like(probs_BV).scatter(1, order_BV, ranked_BV.masked_fill(drop_BV, 0.0))
    cumulative_BV = probs_BV.cumsum(dim=-1)
    target_B1 = (uniforms_B * cumulative_BV[:, -1])[:, None]
    # right=True: the first entry that exceeds the target, so an id of probability 0 is never drawn.
    chosen_B1 = torch.searchsorted(cumulative_BV, target_B1, right=True)
    return chosen_B1[:, 0].clamp(max=probs_BV.shape[1] - 1)
