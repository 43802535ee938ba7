"""Conversations on real vLLM: the second turn comes out of the prefix cache, with the model's own log-probs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from prometheus_client import CollectorRegistry
from transformers import AutoModelForCausalLM

from rgopd.common import wire
from rgopd.common.between import Between
from rgopd.common.conversation import OBSERVATION, own_tokens, turn_key
from rgopd.common.deliveries import Delivery
from rgopd.common.streams import ENVIRONMENT, ROLLOUT, Streams
from rgopd.protos import environment_pb2, rollout_pb2
from rgopd.sampler.continuous import ContinuousWorker
from rgopd.sampler.publish import slots_of
from rgopd.sampler.vllm import VllmSampler
from tests.vllm.test_vllm_sampler import ENGINE, STUDENT

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def engine() -> Iterator[VllmSampler]:
    engine = VllmSampler(str(STUDENT), arguments=ENGINE)
    yield engine
    engine.close()


def test_a_conversation_goes_on_in_the_prefix_cache(engine: VllmSampler, streams: Streams, monkeypatch: Any) -> None:
    cached: list[int] = []
    step = engine._step

    def stepped() -> list[Any]:
        outputs = step()
        cached.extend(output.num_cached_tokens or 0 for output in outputs if output.finished)
        return outputs

    monkeypatch.setattr(engine, "_step", stepped)
    prompt = engine.tokenizer.apply_chat_template(
        [{"role": "user", "content": "5+8+6+9+7+5+8+6+9+7+1+2"}], add_generation_prompt=True, return_dict=False
    )
    group = rollout_pb2.GroupRequest(group_id="g", n=3, seed=5)
    group.prompt.prompt_ids.CopyFrom(wire.to_tensor(np.array(prompt, np.int32)))
    group.prompt.environment.name = "game"
    group.prompt.check.kind = "environment"
    request = rollout_pb2.GenerateRequest(
        header=wire.header(streams.run_id),
        request_id="q",
        groups=[group],
        sampling=rollout_pb2.SamplingParams(temperature=0.8, max_new_tokens=48, support_k=4),
        turns=rollout_pb2.TurnLimits(max_turns=2, max_tokens=98, max_observation_tokens=20),
    )
    worker = ContinuousWorker(engine, streams, policy_timeout_s=5, registry=CollectorRegistry())
    worker.policies.announce(0, STUDENT)
    delivery = Delivery("generate", "q", request.SerializeToString(), 1)
    ids = [slot.rollout_id for slot in slots_of(request)]
    try:
        [(stream, data)] = worker.submit(delivery).result(120).announce
        assert stream == ENVIRONMENT
        job = wire.parse(environment_pb2.StepJob, data)
        for episode in job.episodes:
            said = environment_pb2.Observation(id=episode.id, text="not <|end|>", reward=0.5)
            streams.blobs.put(OBSERVATION, turn_key(episode.id, 0), said.SerializeToString())
        first_turns, cached[:] = len(cached), []
        assert first_turns == 3
        [(_, data)] = worker.submit(delivery).result(120).announce
        for episode in wire.parse(environment_pb2.StepJob, data).episodes:
            assert episode.observations == ["not <|end|>"]
            said = environment_pb2.Observation(id=episode.id, text="still not", reward=0.25)
            streams.blobs.put(OBSERVATION, turn_key(episode.id, 1), said.SerializeToString())
        assert cached
        assert min(cached) >= ENGINE["block_size"], "the first turn was computed again"
        assert worker.submit(delivery).result(120).announce == []
    finally:
        worker.close()
    model = AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32).eval()
    between = Between(engine.tokenizer)
    for data in streams.blobs.get_many(ROLLOUT, ids):
        assert data is not None
        rollout = wire.parse(rollout_pb2.Rollout, data)
        own_T = own_tokens(rollout)
        assert own_T is not None
        response_T = wire.from_tensor(rollout.response_ids)
        told = response_T[~own_T]
        assert told.tolist() == between.ids(int(response_T[own_T.argmin() - 1]), "not <|end|>").tolist()
        whole = torch.from_numpy(np.concatenate([prompt, response_T]).astype(np.int64))[None]
        with torch.no_grad():
            logprobs_TV = (model(whole).logits[0, len(prompt) - 1 : -1] / 0.8).log_softmax(-1)
        logprobs_T = logprobs_TV.gather(1, whole[0, len(prompt) :, None])[:, 0].numpy()
        np.testing.assert_allclose(wire.from_tensor(rollout.sampled_logprobs)[own_T], logprobs_T[own_T], atol=1e-4)
        assert rollout.finish_reason in (rollout_pb2.FINISH_TURNS, rollout_pb2.FINISH_LENGTH)
