"""The parts of the vLLM engines that need a GPU build to run for real: reading fixed-id answers.

tests/vllm runs the rest on real vLLM. The server here answers vLLM's fixed-id route from a plain forward.
"""

from __future__ import annotations

import base64
import io
import json
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import torch
from transformers import Qwen2ForCausalLM

from rgopd.common.errors import ConfigError, InvalidInput
from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines import EngineFault
from rgopd.teacher.engines.columns import score_from_columns, tail_from_topk
from rgopd.teacher.engines.vllm import _columns_wanted, _read
from rgopd.teacher.engines.vllm_server import VllmServerEngine
from rgopd.teacher.items import PAD_LOGPROB, TAIL_FLOOR
from rgopd.teacher.validation import make_scoring
from tests.unit.teacher.conftest import SHARED, VOCAB, random_item


class FixedIdServer:
    """vLLM 0.32's /inference/v1/generate with prompt_logprob_token_ids, as far as the engine uses it."""

    def __init__(self, model_dir) -> None:
        self.model = Qwen2ForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
        self.scored = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "m", "root": "/m", "max_model_len": 1024}]})
        if request.headers.get("authorization") != "Bearer key":
            return httpx.Response(401, text="no key")
        body = json.loads(request.content)
        params = body["sampling_params"]
        ids_TN, start = np.array(params["prompt_logprob_token_ids"]), params["prompt_logprob_start"]
        if ids_TN.max() >= VOCAB:
            return httpx.Response(400, text="out-of-vocab token ids")
        with torch.inference_mode():
            logits = self.model(torch.tensor(body["token_ids"])[None]).logits[0, start:-1]
        columns = np.take_along_axis(logits.log_softmax(-1).numpy(), ids_TN.clip(0), 1)
        columns[ids_TN < 0] = -np.inf
        self.scored += 1
        buffer = io.BytesIO()
        np.save(buffer, columns, allow_pickle=False)
        encoded = base64.b64encode(buffer.getvalue()).decode()
        return httpx.Response(200, json={"prompt_token_id_logprobs": encoded, "choices": []})


def make_engine(server, **changes) -> VllmServerEngine:
    values = {"engine": "vllm-server", "server_url": "http://gpu", "server_key": "key", "shared_vocab_size": SHARED}
    return VllmServerEngine(TeacherConfig(**{**values, **changes}), transport=httpx.MockTransport(server))


@pytest.fixture(scope="module")
def server(model_dir) -> FixedIdServer:
    return FixedIdServer(model_dir)


def test_fixed_ids_are_renormalised_over_the_shared_vocabulary(server, reference) -> None:
    engine = make_engine(server)
    assert (engine.info.scoring, engine.info.vocab_size, engine.info.max_context) == ("token-ids", SHARED, 1023)
    items = [random_item(np.random.default_rng(n), 4 + n, 6, "student", 5, name=str(n)) for n in range(3)]
    items[1].support_ids_TK[2, 3:] = -1
    for item, score in zip(items, engine.score(items), strict=True):
        exact_TV = reference(item)
        rows = np.arange(6)
        np.testing.assert_allclose(score.sampled_logprobs_T, exact_TV[rows, item.response_ids_T], atol=1e-5)
        expected = np.take_along_axis(exact_TV, item.support_ids_TK.clip(0), 1)
        expected[item.support_ids_TK < 0] = PAD_LOGPROB
        np.testing.assert_allclose(score.topk_logprobs_TK, expected, atol=1e-5)
        np.testing.assert_allclose(np.exp(score.tail_logprob_T), 1 - np.exp(expected).sum(-1), atol=1e-5)
    engine.close()


def test_the_vocabulary_is_found_by_asking(server) -> None:
    engine = make_engine(server, shared_vocab_size=0)
    assert engine.info.vocab_size == VOCAB
    assert engine.info.supports == ("student", "teacher", "none")
    engine.close()


def test_what_the_server_cannot_do_is_refused_up_front(server) -> None:
    engine = make_engine(server)
    with pytest.raises(InvalidInput, match="scores at 1 only"):
        make_scoring("student", 5, 0.7, engine.info)
    with pytest.raises(InvalidInput, match="offers"):
        make_scoring("none", 0, 1.0, engine.info)
    engine.close()


def test_a_server_that_goes_away_is_a_fault_that_may_be_retried(server) -> None:
    engine = make_engine(server)
    engine._client._transport = httpx.MockTransport(lambda _: (_ for _ in ()).throw(httpx.ConnectError("refused")))
    with pytest.raises(EngineFault, match="ConnectError") as fault:
        engine.score([random_item(np.random.default_rng(0), 3, 3)])
    assert fault.value.retryable
    engine.close()


@pytest.mark.parametrize(
    ("server", "changes", "message"),
    [
        (lambda _: httpx.Response(500), {}, "no vLLM answers"),
        (lambda _: httpx.Response(200, json={}), {}, "no vLLM answers"),
        (None, {"shared_vocab_size": 999}, "more than the server's 320"),
        (None, {"server_url": ""}, "give the running vLLM's base URL"),
    ],
)
def test_a_start_that_cannot_work_says_why(model_dir, server, changes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        make_engine(server or FixedIdServer(model_dir), **changes)


def test_fixed_id_columns_of_the_in_process_engine(engine) -> None:
    item = random_item(np.random.default_rng(3), 4, 6, "student", 5)
    wanted = _columns_wanted(item)
    assert wanted["prompt_logprob_token_ids"].shape == (6, 6)
    assert wanted["prompt_logprob_start"] == 3
    (expected,) = engine.score([item])
    columns = np.concatenate([expected.topk_logprobs_TK, expected.sampled_logprobs_T[:, None]], axis=1)
    score = _read(item, SimpleNamespace(prompt_token_id_logprobs=columns))
    np.testing.assert_array_equal(score.sampled_logprobs_T, expected.sampled_logprobs_T)
    np.testing.assert_array_equal(score.topk_logprobs_TK, expected.topk_logprobs_TK)
    np.testing.assert_allclose(np.exp(score.tail_logprob_T), np.exp(expected.tail_logprob_T), atol=1e-5)
    assert _read(item, SimpleNamespace(prompt_token_id_logprobs=None)) is None, "dropped by vLLM: asked again uncached"


def test_nan_and_misfitting_columns_are_faults() -> None:
    item = random_item(np.random.default_rng(4), 4, 6, "student", 5)
    ids = item.support_ids_TK
    with pytest.raises(EngineFault, match="NaN"):
        score_from_columns(item, np.full(6, np.nan, np.float32), ids, np.zeros((6, 5), np.float32))
    with pytest.raises(EngineFault, match="for 6 response ids"):
        score_from_columns(item, np.zeros(5, np.float32), ids, np.zeros((6, 5), np.float32))


def test_tail_never_passes_its_floor() -> None:
    topk = np.log(np.array([[0.5, 0.5], [0.5, 0.5 + 1e-6], [0.25, 0.25]], np.float32))
    tail = tail_from_topk(topk)
    assert (tail >= np.float32(TAIL_FLOOR)).all()
    np.testing.assert_allclose(tail[:2], TAIL_FLOOR, rtol=1e-6)
    assert tail[2] == pytest.approx(np.log(0.5))
