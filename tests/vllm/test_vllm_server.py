"""The vllm-server engine against vLLM's own OpenAI server, in both states that a CPU build can be in."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np
import pytest

from rgopd.common.errors import InvalidInput
from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines.vllm_server import VllmServerEngine
from rgopd.teacher.validation import make_scoring
from tests.contract.teacher_conformance import CASES, SHARED, Reference, largest_errors, rollout, save_tiny_qwen2

pytestmark = pytest.mark.vllm
NO_TEXT = "--skip-tokenizer-init"


@contextmanager
def vllm_server(model_dir, *arguments: str) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_dir), "--port", str(port),
        "--host", "127.0.0.1", "--dtype", "float32", "--max-model-len", "1000", "--enforce-eager",
        "--api-key", "key", *arguments,
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 600
        while True:
            assert process.poll() is None, "vLLM's server did not start"
            assert time.monotonic() < deadline
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def make_engine(url: str, **changes) -> VllmServerEngine:
    values = {"engine": "vllm-server", "server_url": url, "server_key": "key", "shared_vocab_size": SHARED}
    return VllmServerEngine(TeacherConfig(**{**values, "max_k": SHARED, **changes}))


def test_a_server_with_all_logprobs_conforms(model_dir) -> None:
    reference = Reference(model_dir)
    with vllm_server(model_dir, NO_TEXT, "--max-logprobs", "-1", "--enable-scale-out") as url:
        engine = make_engine(url)
        assert engine.info.scoring == "full-vocab"
        for name, case in CASES.items():
            items = case(np.random.default_rng(zlib.crc32(name.encode())))
            errors = largest_errors(items, engine.score(items), reference)
            print(f"\nserver {name}: {errors}")
            assert max(errors.values()) <= 1e-4, name
        engine.close()


def test_a_server_with_default_settings_says_what_it_cannot_do(tmp_path, caplog) -> None:
    model_dir = save_tiny_qwen2(tmp_path)
    with vllm_server(model_dir, NO_TEXT) as url:
        engine = make_engine(url, shared_vocab_size=320)
        assert (engine.info.scoring, engine.info.max_k) == ("top-k", 20)
        assert "cannot score given ids" in caplog.text
        with pytest.raises(InvalidInput, match="offers"):
            make_scoring("student", 5, 1.0, engine.info)
        item = rollout(np.random.default_rng(0), 9, 12, "teacher", 20)
        score = engine.score([item])[0]
        plain = Reference(model_dir).model(torch_ids(item)).logits[0, 8:-1].log_softmax(-1).detach().numpy()
        np.testing.assert_allclose(score.topk_logprobs_TK, -np.sort(-plain, axis=1)[:, :20], atol=1e-4)
        np.testing.assert_allclose(score.sampled_logprobs_T, plain[np.arange(12), item.response_ids_T], atol=1e-4)
        engine.close()


def torch_ids(item):
    import torch

    return torch.from_numpy(item.input_ids.astype(np.int64))[None]
