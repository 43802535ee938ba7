"""Settings of the teacher service: `rgopd teacher`."""

from __future__ import annotations

import os
from typing import Any, Literal

from pydantic import Field

from rgopd.common.errors import ConfigError
from rgopd.common.settings import ServiceSettings


class TeacherConfig(ServiceSettings):
    """The same keys in YAML, RGOPD_* environment and --set."""

    # The model
    model: str = Field("", description="Hugging Face folder or id.")
    teacher_name: str = Field(
        "", pattern=r"^[A-Za-z0-9_]{0,64}$", description="With several teachers: serve the jobs that name this one."
    )
    revision: str = Field("", description="Commit, tag or branch of a hub id; pin a commit for runs that count.")
    engine: Literal["transformers", "vllm", "vllm-server", "openai"] = Field(
        "transformers",
        description="vllm needs the extra `vllm`; vllm-server asks a running one at server_url; openai asks any "
        "completions server there for the log-probs of sampled tokens (docs/teacher.md).",
    )
    source: Literal["checkpoint", "ema", "trust-region"] = Field(
        "checkpoint", description="ema, trust-region: a self-teacher that starts at `model` and follows the student."
    )
    self_rate: float = Field(0.05, gt=0, le=1, description="Step of the average, or share of the newest student.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Of weights and activations; auto: as the checkpoint says."
    )
    device: str = Field("auto", description="auto: cuda when there is one, else cpu.")
    shared_vocab_size: int = Field(
        0, ge=0, description="Ids shared with the student; the model's surplus ids are masked. 0: all of the model's."
    )
    align: Literal["auto", "off", "always"] = Field(
        "auto",
        description="Score a student with another tokenizer by its text (docs/objectives.md). auto: where the "
        "tokenizers differ; always: also where they agree, under the teacher's own chat template and EOS.",
    )
    student_tokenizer: str = Field(
        "", description="Folder or id of the student, for align; `up` and `demo` fill it in. Empty: ids are shared."
    )
    max_k: int = Field(256, ge=1, description="Widest support a request may ask for.")
    max_context: int = Field(0, ge=0, description="Longest prompt + response; 0: what the model was made for.")

    # vLLM
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs that vLLM spreads the teacher over.")
    quantization: str = Field("", description="vLLM's name for it, e.g. fp8, awq; empty: as the model says.")
    vllm: dict[str, Any] = Field(
        default_factory=dict, description="Any other argument of vLLM's AsyncEngineArgs, e.g. gpu_memory_utilization."
    )

    # A server that runs elsewhere
    server_url: str = Field("", description="engines vllm-server and openai: the server's base URL.")
    server_key: str = Field("", repr=False, description="That server's API key.")
    server_key_env: str = Field("", description="Environment variable that holds the key, e.g. OPENAI_API_KEY.")
    server_model: str = Field("", description="engine openai: the model's name there; empty: the only one it lists.")
    server_prompt: Literal["auto", "ids", "text"] = Field(
        "auto", description="engine openai: how prompts are sent. auto: token ids where the server takes them."
    )
    server_requests: int = Field(64, ge=1, description="Requests in flight at that server.")
    server_per_minute: int = Field(0, ge=0, description="engine openai: requests started a minute; 0: no limit.")
    server_retries: int = Field(
        5, ge=0, description="engine openai: further attempts after 429, 5xx, a timeout or a lost connection."
    )
    server_timeout_s: float = Field(600.0, gt=0, description="One answer of that server.")

    # TLS
    tls_cert: str = Field("", description="PEM file; with tls_key, HTTPS.")
    tls_key: str = Field("", description="PEM file of the certificate's key.")

    # Work
    deterministic: bool = Field(
        False, description="Score each rollout in a forward of its own: a score never depends on its neighbours."
    )
    threads: int = Field(0, ge=0, description="CPU threads of a forward; 0: torch's default.")
    max_batch_tokens: int = Field(16_384, ge=1, description="Padded tokens of one forward.")
    batching: Literal["auto", "padded", "packed"] = Field(
        "auto",
        description="Rollouts of a forward: padded rows, or one row without padding whose groups share their prompt "
        "(plain full attention). auto: packed on a GPU, where the model's own answers stay the same.",
    )
    head_chunk_rows: int = Field(1024, ge=1, description="Rows of [rows, vocabulary] logits held at once.")
    head_kernels: Literal["auto", "torch", "triton"] = Field(
        "auto", description="Passes over the logits: Triton's on a GPU (auto checks it first), or PyTorch's."
    )
    max_queue_tokens: int = Field(1 << 20, ge=1, description="Tokens admitted and unfinished; beyond it: 429.")
    max_rollouts: int = Field(4096, ge=1, description="Rollouts in one call.")
    cache_mb: int = Field(64, ge=0, description="Score cache in Redis, all replicas together; 0: none.")
    max_inflight: int = Field(64, ge=1, description="Stream messages leased at once.")
    max_json_mb: int = Field(16, ge=1, description="Body of a JSON call: reading it takes many times its size.")
    max_held_mb: int = Field(256, ge=1, description="Request bodies held at once, all calls together; beyond it: 429.")
    body_timeout_s: float = Field(30.0, gt=0, description="A client whose body takes longer gets 408.")

    def key(self) -> str:
        """The server's API key; empty: none.

        Raises:
            ConfigError: `server_key_env` names a variable that is not set.
        """
        if not self.server_key_env:
            return self.server_key
        if not (key := os.environ.get(self.server_key_env, "").strip()):
            raise ConfigError(f"server_key_env: the environment variable {self.server_key_env} is not set or empty")
        return key
