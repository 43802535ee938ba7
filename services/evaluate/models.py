"""The model under evaluation, behind lm-eval's own model classes: one engine for all tasks, seeds and lengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from rgopd.common.errors import ConfigError, RgopdError
from rgopd.common.models import check_model, loading

Backend = Literal["hf", "vllm", "server"]
T = TypeVar("T")


class OutOfMemory(RgopdError):
    """Not even one request at a time fits."""

    kind = "out_of_memory"


@dataclass(frozen=True)
class ModelSpec:
    """What to load and how. `arguments` go to lm-eval's model class as they are (its --model_args)."""

    model: str
    backend: Backend = "hf"
    device: str = ""
    dtype: str = "auto"
    batch_size: int = 0
    base_url: str = ""
    tokenizer: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)


def resolve(model: str, which: str = "student") -> tuple[str, str]:
    """(what to load, a name for it) of a model folder, hub id, .gguf file, or the folder of a run.

    Raises:
        ConfigError: a run without those weights, or a folder that is neither.
    """
    path = Path(model)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ConfigError(f"{path}: no such file")
        return str(path), path.stem
    if (path / "metrics.jsonl").exists():
        for source in (path / which, path / "policies" / which):
            if (source / "config.json").exists():
                return str(source), path.resolve().name
        raise ConfigError(
            f"{path} is a run without {which!r}: it has not ended yet; --which takes best, or one of policies/"
        )
    check_model(model, "MODEL")
    return model, path.resolve().name if path.exists() else model


def arguments(spec: ModelSpec) -> tuple[str, dict[str, Any]]:
    """lm-eval's name of the model class, and its arguments."""
    if spec.backend == "server":
        if not spec.base_url:
            raise ConfigError("--backend server needs --base-url, e.g. http://localhost:8000")
        url = spec.base_url.rstrip("/").removesuffix("/v1")
        common = {"model": spec.model, "num_concurrent": spec.batch_size or 16, "max_length": 1 << 20}
        if spec.tokenizer:  # the prompt is built here: likelihood tasks work too
            own = {"base_url": f"{url}/v1/completions", "tokenizer": spec.tokenizer, "tokenizer_backend": "huggingface"}
            return "local-completions", {**common, **own, **spec.arguments}
        return "local-chat-completions", {**common, "base_url": f"{url}/v1/chat/completions", **spec.arguments}
    path = Path(spec.model)
    loaded: dict[str, Any] = {"pretrained": spec.model, "dtype": spec.dtype}
    if path.suffix == ".gguf":
        loaded |= {"pretrained": str(path.parent), "gguf_file": path.name}
        if spec.dtype == "auto":
            loaded["dtype"] = "float32"
    if spec.tokenizer:
        loaded["tokenizer"] = spec.tokenizer
    if spec.backend == "vllm":
        return "vllm", {**loaded, "batch_size": spec.batch_size or "auto", **spec.arguments}
    import torch

    device = spec.device or ("cuda" if torch.cuda.is_available() else "cpu")
    size = spec.batch_size or (64 if device.startswith("cuda") else 16)
    return "hf", {**loaded, "device": device, "batch_size": size, **spec.arguments}


class Engine:
    """A loaded model. `lm` is lm-eval's object."""

    def __init__(self, lm: Any, backend: Backend) -> None:
        self.lm = lm
        self.backend = backend
        if backend == "hf":  # progress.py tells how far it is, for every backend alike
            for name in ("generate_until", "loglikelihood"):
                setattr(lm, name, partial(getattr(lm, name), disable_tqdm=True))

    @classmethod
    def load(cls, spec: ModelSpec) -> Engine:
        """Start it.

        Raises:
            ConfigError: the backend is not installed, or there is no such model.
        """
        from lm_eval.api.registry import get_model

        name, given = arguments(spec)
        with nullcontext() if spec.backend == "server" else loading("MODEL", spec.model):
            try:
                return cls(get_model(name).create_from_arg_obj(given, {}), spec.backend)
            except ModuleNotFoundError as error:
                raise ConfigError(f"--backend {spec.backend}: {error.name or error} is not installed") from error

    @property
    def has_chat_template(self) -> bool:
        """Can it be asked through a chat template? A chat server applies its own."""
        tokenizer = getattr(self.lm, "tokenizer", None)
        return tokenizer is None or bool(getattr(tokenizer, "chat_template", None))

    @property
    def max_length(self) -> int | None:
        """Tokens of prompt and response together, where the model tells."""
        return None if self.backend == "server" else int(self.lm.max_length)

    @property
    def batch_size(self) -> int:
        """Requests a forward pass; 0 where the engine decides."""
        size = getattr(self.lm, "batch_size_per_gpu", 0) if self.backend == "hf" else 0
        return size if isinstance(size, int) else 0

    def tokens(self, text: str) -> int | None:
        """Length of a response, where the tokenizer is here."""
        tokenizer = getattr(self.lm, "tokenizer", None)
        return len(tokenizer(text, add_special_tokens=False)["input_ids"]) if tokenizer is not None and text else None

    def generation(self, temperature: float | None, length: int | None, seed: int) -> dict[str, Any]:
        """lm-eval's gen_kwargs. A model's own generation_config must not slip in top_p, top_k or a penalty."""
        given: dict[str, Any] = {} if length is None else {"max_gen_toks": length}
        if temperature is None:
            return given
        plain = {"repetition_penalty": 1.0} if self.backend != "server" else {}
        if temperature == 0:
            return {**given, "do_sample": False, "temperature": 0.0, **plain}
        cut = {"top_p": 1.0, **({"top_k": 0} if self.backend != "server" else {})}
        per_request = {"seed": seed} if self.backend == "vllm" else {}  # transformers draws from torch's own state
        return {**given, "do_sample": True, "temperature": temperature, **cut, **plain, **per_request}

    def seed(self, seed: int) -> None:
        """What a server is sent with every request; elsewhere the random states decide."""
        if self.backend == "server":
            self.lm._seed = seed

    def within_memory(self, work: Callable[[], T], say: Callable[[str], None]) -> T:
        """`work()`, again with half the batch as long as memory runs out.

        Raises:
            OutOfMemory: at a batch of one, or in an engine that chooses its own.
        """
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                size = self.batch_size
                if size <= 1:
                    raise OutOfMemory(
                        f"out of memory at batch size {size or 'auto'}: a shorter --lengths, a smaller --dtype, or "
                        "more devices (--model-args parallelize=true, or tensor_parallel_size=N with vllm)"
                    ) from error
            self._halve(size, say)

    def _halve(self, size: int, say: Callable[[str], None]) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.lm.batch_size_per_gpu = size // 2
        say(f"out of memory at batch size {size}: going on with {size // 2}")


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA's, the CPU allocator's, or Python's own."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "not enough memory" in text or "can't allocate memory" in text
