"""The sampled-token teacher against real HTTP servers: every manner of answering, and many of breaking."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
import torch
from prometheus_client import CollectorRegistry
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from rgopd.cli.teacher_server import check_teacher_server
from rgopd.common import wire
from rgopd.common.between import Between
from rgopd.common.errors import ConfigError, InvalidInput
from rgopd.common.streams import RESULTS, ROLLOUT, SCORE, TEACHER_SCORE, Streams
from rgopd.protos import rollout_pb2, teacher_pb2
from rgopd.teacher.alignment import make_aligner
from rgopd.teacher.batching import TeacherService
from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines import EngineFault, SomeFailed
from rgopd.teacher.engines.openai_server import OpenaiServerEngine
from rgopd.teacher.items import Score, ScoreItem, Scoring
from rgopd.teacher.metrics import TeacherMetrics
from rgopd.teacher.validation import make_scoring
from rgopd.teacher.worker import ScoreWorker
from rgopd.trainer.batch.micro_batch import BatchOptions, load_micro_batch
from rgopd.trainer.batch.plan import RolloutPlan
from tests.contract.completion_server import CompletionServer
from tests.unit.teacher.alignment.kinds import MAKERS
from tests.waiting import eventually

TEXTS = ["def f(a, b):\n    return a * b", "so \\boxed{46}.", "Größe 12 + 34"]


class World:
    """One tiny model and its tokenizer on disk, with the servers that were made of them."""

    def __init__(self, kind: str, folder: Any) -> None:
        self.tokenizer = MAKERS[kind]()
        torch.manual_seed(0)
        family = {"qwen": Qwen2Config, "llama": LlamaConfig}[kind]
        config = family(
            vocab_size=len(self.tokenizer) + 10, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256, tie_word_embeddings=False,
        )  # fmt: skip
        self.model = AutoModelForCausalLM.from_config(config).eval()
        self.model.lm_head.weight.data.mul_(10)
        self.folder = str(folder)
        self.tokenizer.save_pretrained(folder)
        self.model.save_pretrained(folder)

    def item(self, text: str, prompt: str = "What is it?", number: int = 0) -> ScoreItem:
        """A rollout as the tokenizer itself writes it."""
        ids = self.tokenizer(prompt + text, add_special_tokens=False)["input_ids"]
        bos = self.tokenizer.bos_token_id
        ids = np.array(ids if bos is None else [bos, *ids], np.int32)
        return ScoreItem(f"r{number}", ids[:5], ids[5:], Scoring("none", 0))

    @torch.inference_mode()
    def exact(self, item: ScoreItem) -> np.ndarray:
        ids = torch.from_numpy(item.input_ids.astype(np.int64))
        rows = self.model(ids[None]).logits[0, :-1].double().log_softmax(-1)
        return rows.gather(1, ids[1:, None])[len(item.prompt_ids_C) - 1 :, 0].numpy()


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    return {kind: World(kind, tmp_path_factory.mktemp(kind)) for kind in ("qwen", "llama")}


def engine_at(url: str, **changes: Any) -> OpenaiServerEngine:
    return OpenaiServerEngine(TeacherConfig(engine="openai", server_url=url, server_retries=2, **changes))


STYLES = {
    "vllm": ("qwen", False, "prompt_logprobs"),
    "sglang": ("qwen", False, "generate"),
    "ids": ("qwen", False, "echo-ids"),
    "ids with names": ("llama", True, "echo-ids"),
    "text": ("qwen", True, "echo-text"),
    "text-bos": ("llama", True, "echo-text"),
}


@pytest.mark.parametrize("style", STYLES)
def test_scores_are_the_servers_models_own(worlds: dict[str, World], style: str) -> None:
    kind, named, dialect = STYLES[style]
    world = worlds[kind]
    server = CompletionServer(world.model, style.partition(" ")[0], world.tokenizer if named else None)
    with server.running() as url:
        known = {"model": world.folder} if named else {"shared_vocab_size": world.model.config.vocab_size}
        engine = engine_at(f"{url}/v1" if named else url, **known)
        assert engine.info.scoring == f"sampled ({dialect})"
        assert (engine.info.supports, engine.info.max_context) == (("none",), 199)
        assert engine.info.reads_text == (dialect == "echo-text")
        items = [world.item(text, number=n) for n, text in enumerate(TEXTS)]
        for item, score in zip(items, engine.score(items), strict=True):
            assert np.abs(score.sampled_logprobs_T - world.exact(item)).max() < 1e-4
        with pytest.raises(InvalidInput, match="offers \\('none',\\)"):
            make_scoring("student", 5, 1.0, engine.info)
        with pytest.raises(InvalidInput, match="scores at 1 only"):
            make_scoring("none", 0, 0.7, engine.info)
        engine.close()


def test_a_text_that_the_server_splits_otherwise_is_refused_alone(worlds: dict[str, World]) -> None:
    """Its neighbours keep their scores, and it is not asked again."""
    world = worlds["qwen"]
    good = world.item(TEXTS[0])
    letters = [i for c in "return" for i in world.tokenizer(c, add_special_tokens=False)["input_ids"]]
    bad = ScoreItem("letters", good.prompt_ids_C, np.array(letters, np.int32), Scoring("none", 0))
    server = CompletionServer(world.model, "text", world.tokenizer)
    with server.running() as url:
        engine = engine_at(url, model=world.folder)
        with pytest.raises(SomeFailed, match="splits the text otherwise") as caught:
            engine.score([good, bad])
        assert isinstance(caught.value.results[0], Score)
        service = TeacherService(
            engine, TeacherMetrics(CollectorRegistry()), max_batch_tokens=512, max_queue_tokens=4096
        )
        asked = server.requests
        futures = service.submit([good, bad])
        service.start()
        assert np.abs(futures[0].result(120).sampled_logprobs_T - world.exact(good)).max() < 1e-4
        with pytest.raises(InvalidInput, match=r"token \d+ is .* there and .* here"):
            futures[1].result(120)
        assert server.requests == asked + 2
        service.close()


@pytest.fixture
def vllm_like(worlds: dict[str, World]) -> Iterator[tuple[World, CompletionServer, str]]:
    world = worlds["qwen"]
    server = CompletionServer(world.model, "vllm", key="sesame")
    with server.running() as url:
        yield world, server, url


def test_limits_and_faults_are_waited_out(vllm_like, monkeypatch: pytest.MonkeyPatch) -> None:
    world, server, url = vllm_like
    monkeypatch.setenv("TINY_KEY", "sesame")
    options = {"server_key_env": "TINY_KEY", "shared_vocab_size": world.model.config.vocab_size}
    engine = engine_at(url, server_timeout_s=2.0, **options)
    item = world.item(TEXTS[1])
    for faults in ([(429, {"retry-after": "0.3"}), (503, {})], [4.0, (500, {})], [(529, {})]):
        server.faults, before = list(faults), time.monotonic()
        [score] = engine.score([item])
        assert np.abs(score.sampled_logprobs_T - world.exact(item)).max() < 1e-4
        assert time.monotonic() - before > 0.2
        assert not engine.trouble()
    server.faults = [(500, {})] * 3
    with pytest.raises(SomeFailed, match="answered 500: not now"):
        engine.score([item])
    assert "500" in engine.trouble()
    server.faults = [(429, {"retry-after": "3600"})]
    with pytest.raises(SomeFailed, match="429"):  # an hour is not waited for
        engine.score([item])
    server.faults = [(402, {})]
    with pytest.raises(SomeFailed, match="no quota left for the key in TINY_KEY"):
        engine.score([item])
    [score] = engine.score([item])  # and it goes on
    assert not engine.trouble()
    engine.close()
    paced = engine_at(url, server_per_minute=600, **options)
    before = time.monotonic()
    paced.score([world.item(text, number=n) for n, text in enumerate(TEXTS)])
    assert time.monotonic() - before > 0.2  # three starts, a tenth of a second apart
    paced.close()


def test_what_cannot_work_is_one_line_at_the_start(vllm_like, worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    world, server, url = vllm_like
    size = {"shared_vocab_size": world.model.config.vocab_size}
    monkeypatch.delenv("TINY_KEY", raising=False)
    with pytest.raises(ConfigError, match="variable TINY_KEY is not set"):
        engine_at(url, server_key_env="TINY_KEY", **size)
    with pytest.raises(ConfigError, match=r"wants a key: set server_key_env, or server_key \(RGOPD_SERVER_KEY\) \(401"):
        engine_at(url, **size)
    monkeypatch.setenv("TINY_KEY", "wrong")
    with pytest.raises(ConfigError, match=r"refuses the key in TINY_KEY \(401\): Incorrect API key"):
        engine_at(url, server_key_env="TINY_KEY", **size)
    server.models = ["small", "large"]
    with pytest.raises(ConfigError, match="server_model: name the model at .*; it has small, large"):
        engine_at(url, server_key="sesame", **size)
    with pytest.raises(ConfigError, match="has no 'medium'; it has small, large"):
        engine_at(url, server_key="sesame", server_model="medium", **size)
    with pytest.raises(ConfigError, match="shared_vocab_size: set it, or name the teacher's tokenizer"):
        engine_at(url, server_key="sesame", server_model="small")
    with pytest.raises(ConfigError, match="server_url: no server answers there"):
        engine_at("http://127.0.0.1:9", **size)
    with pytest.raises(ConfigError, match="is no URL"):
        engine_at("gpu1:8000", **size)
    for style in ("mute", "chat"):
        refused = pytest.raises(ConfigError, match=r"gives no log-probs of a prompt's tokens.*llama-server")
        with CompletionServer(world.model, style, world.tokenizer).running() as other, refused:
            engine_at(other, model=world.folder)


@pytest.mark.parametrize("style", ["vllm", "text"])
def test_scores_of_sampled_tokens_become_a_micro_batch(worlds, streams: Streams, style: str) -> None:
    """Asked in text, they are aligned by their bytes although student and teacher share a tokenizer."""
    world = worlds["qwen"]
    server = CompletionServer(world.model, style, world.tokenizer if style == "text" else None)
    config = TeacherConfig(engine="openai", model=world.folder, student_tokenizer=world.folder)
    with server.running() as url:
        engine = engine_at(url, model=world.folder)
        service = TeacherService(
            engine,
            TeacherMetrics(CollectorRegistry()),
            max_batch_tokens=512,
            max_queue_tokens=4096,
            aligner=make_aligner(config, engine.info.vocab_size, reads_text=engine.info.reads_text),
        )
        service.start()
        plans = [store(streams, world, n, text) for n, text in enumerate(TEXTS)]
        plans.append(store_talk(streams, world))
        worker = ScoreWorker(service, streams, consumer="teacher", registry=CollectorRegistry())
        worker.start()
        eventually(lambda: all(streams.blobs.get(TEACHER_SCORE, p.rollout_id) for p in plans))
        worker.stop(5)
        service.close()
    tokens = load_micro_batch(streams, plans, BatchOptions(True, 1, aligns=True, support=False), step=0).tokens
    assert tokens.teacher_support_NK is None
    assert tokens.support_ids_NK.shape[1] == 0
    assert (tokens.aligned_N is None) == (style == "vllm")
    assert tokens.teacher_sampled_N is not None
    assert (tokens.teacher_sampled_N < 0).all()
    own = plans[-1].response_tokens
    assert len(tokens.teacher_sampled_N) == sum(plan.response_tokens for plan in plans)
    np.testing.assert_allclose(tokens.teacher_sampled_N[-own:].numpy(), talk_logprobs(streams, world), atol=2e-4)
    with pytest.raises(InvalidInput, match="r0: its teacher score has no support"):
        load_micro_batch(streams, plans, BatchOptions(True, 1, aligns=True), step=0)


def store_talk(streams: Streams, world: World) -> RolloutPlan:
    """A conversation of two turns, as the tokenizer itself writes it."""
    tokenizer = world.tokenizer
    asked = [{"role": "user", "content": "What is it?"}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    turns = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in ("f(3, 4)", "so 12")]
    between = Between(tokenizer).ids(turns[0][-1], "12 + 34").tolist()
    own = np.repeat([1, 0, 1], [len(turns[0]), len(between), len(turns[1])]).astype(np.int32)
    rollout = rollout_pb2.Rollout(
        header=wire.header(streams.run_id, "talk"),
        prompt_ids=wire.to_tensor(np.array(tokenizer(prompt)["input_ids"], np.int32)),
        response_ids=wire.to_tensor(np.array([*turns[0], *between, *turns[1]], np.int32)),
        sampled_logprobs=wire.to_tensor(np.where(own, -1, 0).astype(np.float32)),
        support_ids=wire.to_tensor(np.zeros((len(own), 0), np.int32)),
        messages_json=json.dumps(asked),
        own=wire.to_tensor(own),
        told=["12 + 34"],
    )
    streams.blobs.put(ROLLOUT, "talk", rollout.SerializeToString())
    job = teacher_pb2.ScoreJob(header=rollout.header, group_id="g", support=teacher_pb2.SUPPORT_NONE, temperature=1)
    streams.add(SCORE, job.SerializeToString())
    return RolloutPlan("talk", rollout.prompt_ids.shape[0], int(own.sum()), 1.0, 1.0, 0)


def talk_logprobs(streams: Streams, world: World) -> np.ndarray:
    """Of the student's own tokens of that conversation, by one forward pass over all of it."""
    data = streams.blobs.get(ROLLOUT, "talk")
    assert data is not None
    rollout = wire.parse(rollout_pb2.Rollout, data)
    prompt, response = wire.from_tensor(rollout.prompt_ids), wire.from_tensor(rollout.response_ids)
    ids = torch.from_numpy(np.concatenate([prompt, response]).astype(np.int64))[None]
    with torch.no_grad():
        logprobs = world.model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return logprobs.gather(1, ids[0, len(prompt) :, None])[:, 0].numpy()[wire.from_tensor(rollout.own) == 1]


def store(streams: Streams, world: World, number: int, text: str) -> RolloutPlan:
    """A rollout and its job in the streams."""
    item = world.item(text, number=number)
    ids_T = item.response_ids_T
    rollout = rollout_pb2.Rollout(
        header=wire.header(streams.run_id, item.id),
        prompt_ids=wire.to_tensor(item.prompt_ids_C),
        response_ids=wire.to_tensor(ids_T),
        sampled_logprobs=wire.to_tensor(np.full(len(ids_T), -1, np.float32)),
        support_ids=wire.to_tensor(np.zeros((len(ids_T), 0), np.int32)),
        messages_json=json.dumps([{"role": "user", "content": "What is it?"}]),
    )
    streams.ensure(SCORE)
    streams.ensure(RESULTS)
    streams.blobs.put(ROLLOUT, item.id, rollout.SerializeToString())
    job = teacher_pb2.ScoreJob(header=rollout.header, group_id="g", support=teacher_pb2.SUPPORT_NONE, temperature=1)
    streams.add(SCORE, job.SerializeToString())
    return RolloutPlan(item.id, len(item.prompt_ids_C), len(ids_T), 1.0, 1.0, 0)


def test_a_server_that_lies_about_its_numbers_is_a_fault(worlds: dict[str, World]) -> None:
    world = worlds["qwen"]
    server = CompletionServer(world.model, "ids")
    with server.running() as url:
        engine = engine_at(url, shared_vocab_size=world.model.config.vocab_size)
        for lie in (float("nan"), 0.5):
            server._logprobs = lambda ids, lie=lie: [None, *[lie] * (len(ids) - 1)]
            with pytest.raises(SomeFailed, match="is no log-prob"):
                engine.score([world.item(TEXTS[0])])
        server._logprobs = lambda ids: [None] * (len(ids) - 2)
        with pytest.raises(EngineFault, match="log-probs for"):
            engine.score([world.item(TEXTS[0])])
        engine.close()


def test_doctor_asks_the_server(worlds: dict[str, World], tmp_path: Any) -> None:
    student_folder = files("rgopd.trainer.demo") / "checkpoints" / "student"
    world = worlds["qwen"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "1+1=", "kind": "math", "reference": "2"}\n')
    train = {"student": str(student_folder), "dataset": {"path": str(rows)}, "distillation": {"support": "none"}}
    for style, says in (("vllm", "sampled (prompt_logprobs)"), ("text", "aligned by their bytes")):
        with CompletionServer(world.model, style, world.tokenizer).running() as url:
            teacher = {"model": world.folder, "engine": "openai", "server_url": url}
            sections = {"teacher": teacher, "sampler": {"student": str(student_folder)}, "train": train}
            assert says in check_teacher_server(sections)
            with pytest.raises(ConfigError, match="set train.distillation.support=none"):
                check_teacher_server({**sections, "train": {**train, "distillation": {}}})
            if style == "text":
                with pytest.raises(ConfigError, match="compared by their bytes, and objective 'kdrl' cannot"):
                    check_teacher_server({**sections, "train": {**train, "objective": "kdrl"}})
