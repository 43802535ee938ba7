"""Every vLLM that a manifest or compose file starts can do what its run asks for: the engine's own probing decides.

The server is scripted: it answers as vLLM does under the flags that the manifest gives it (no GPU is at hand, and only
one gives log-probs at fixed ids). What vLLM answers under which flag is held to the real one by tests/vllm.
"""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from rgopd.common.settings import Settings
from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines.vllm_server import COMPLETIONS, GENERATE, VllmServerEngine
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.run.estimate import redis_bytes
from tests.deploy.manifests import OVERLAYS, ROOT, build, environment, pods

VOCAB = {"/models/Qwen3-235B-A22B": 151_936, "/models/Qwen2.5-14B-Instruct": 152_064}
"""Rows of the embedding, from the models' config.json."""

CASES = [(overlay, more) for overlay in OVERLAYS for more in ("", "length-8k", "as-released")]
CASES = [(overlay, more) for overlay, more in CASES if not more or overlay.name != "cpu-demo"]


class Flagged:
    """A vLLM server under `vllm serve`'s flags."""

    def __init__(self, flags: list[str], vocab: int) -> None:
        self.vocab = vocab
        self.flags = dict(flag.removeprefix("--").partition("=")[::2] for flag in flags if flag.startswith("--"))
        self.max_logprobs = int(self.flags.get("max-logprobs", 20))
        self.context = int(self.flags.get("max-model-len", 40_960))

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "teacher", "max_model_len": self.context}]})
        body = json.loads(request.content)
        if request.url.path == GENERATE:
            if "enable-scale-out" not in self.flags:
                return httpx.Response(404, text="Not Found")
            ids = np.array(body["sampling_params"]["prompt_logprob_token_ids"])
            if ids.max() >= self.vocab:
                return httpx.Response(400, text="out of vocabulary")
            raw = io.BytesIO()
            np.save(raw, np.zeros(ids.shape, np.float32))
            return httpx.Response(200, json={"prompt_token_id_logprobs": base64.b64encode(raw.getvalue()).decode()})
        assert request.url.path == COMPLETIONS
        wanted = body["prompt_logprobs"]
        if self.max_logprobs != -1 and not 0 <= wanted <= self.max_logprobs:
            return httpx.Response(400, text="over max_logprobs")
        row = {str(i): {"logprob": -1.0} for i in range(self.vocab if wanted == -1 else wanted)}
        return httpx.Response(200, json={"choices": [{"prompt_logprobs": [None, row]}]})


def settings(cls: type[Settings], section: str, values: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    with monkeypatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        return cls.from_sources(section, Path(values["CONFIG"]))


def gigabytes(text: str) -> int:
    return int(text.removesuffix("gb")) << 30


def overfull(train: TrainConfig, maxmemory: str) -> str:
    """Why a step's longest rollouts and scores do not fit into Redis: everybody would wait for room; empty: they do."""
    prompt = train.dataset.max_prompt_tokens
    needed = redis_bytes(train, train.sampling.longest, prompt)["at once"]
    return "" if needed < gigabytes(maxmemory) else f"{needed / 1e9:.1f} GB do not fit into {maxmemory}"


def unfit(teacher: TeacherConfig, train: TrainConfig, server: Flagged | None) -> list[str]:
    """What the run asks for and the teacher cannot give."""
    supports, max_k, context = ("student", "teacher", "none"), teacher.max_k, teacher.max_context
    if server is not None:
        config = teacher.model_copy(update={"server_url": "http://vllm"})
        engine = VllmServerEngine(config, httpx.MockTransport(server))
        supports, max_k, context = engine.info.supports, engine.info.max_k, engine.info.max_context
        engine.close()
    wanted, found = train.distillation, []
    if wanted.support not in supports:
        found.append(f"support {wanted.support} is refused")
    if wanted.k > max_k:
        found.append(f"k {wanted.k} is over {max_k}")
    longest = train.dataset.max_prompt_tokens + train.sampling.max_new_tokens
    if context and longest > context:
        found.append(f"{longest} tokens are over the context of {context}")
    if teacher.shared_vocab_size != train.shared_vocab_size:
        found.append(f"shared_vocab_size {teacher.shared_vocab_size} and {train.shared_vocab_size}")
    return found


@pytest.mark.parametrize(("overlay", "more"), CASES, ids=lambda part: part.name if isinstance(part, Path) else part)
def test_every_overlays_teacher_can_score_its_run(overlay: Path, more: str, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = build(overlay)
    commands: dict[str, dict[str, str]] = {}
    servers = []
    for pod in pods(documents):
        for container in pod.containers:
            values = environment(container, documents)
            command = container.get("command", [])
            if command[:2] == ["vllm", "serve"] and "--headless" not in command:
                servers.append(Flagged(command, VOCAB[values["VLLM_MODEL"]]))
            elif container.get("args", [""])[0] in ("teacher", "train"):
                commands[container["args"][0]] = values
    for values in commands.values():
        values["CONFIG"] += f",{more}" if more else ""
    teacher = settings(TeacherConfig, "teacher", commands["teacher"], monkeypatch)
    train = settings(TrainConfig, "train", commands["train"], monkeypatch)
    assert (teacher.engine == "vllm-server") == bool(servers)
    assert unfit(teacher, train, servers[0] if servers else None) == []
    [redis] = [c for pod in pods(documents) for c in pod.containers if c["name"] == "redis"]
    assert overfull(train, environment(redis, documents)["REDIS_MAXMEMORY"]) == ""


@pytest.mark.parametrize("profile", ["teacher", "teacher-gpu"])
def test_composes_teachers_can_score_their_runs(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    trainer = profile.replace("teacher", "trainer")

    def values(name: str) -> dict[str, str]:
        text = compose[name]["command"][2]
        config = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text).replace("/etc/rgopd/", "")
        pairs = {k: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(v)) for k, v in compose[name]["environment"].items()}
        return {"CONFIG": config, **{k: v for k, v in pairs.items() if k.startswith("RGOPD_")}}

    teacher = settings(TeacherConfig, "teacher", values(profile), monkeypatch)
    maxmemory = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", compose["redis"]["environment"]["REDIS_MAXMEMORY"])
    for more in ("", "length-8k", "as-released") if profile == "teacher-gpu" else ("",):
        given = values(trainer)
        given["CONFIG"] += f",{more}" if more else ""
        train = settings(TrainConfig, "train", given, monkeypatch)
        assert more or unfit(teacher, train, None) == []
        assert overfull(train, maxmemory) == ""
    assert overfull(train, "4gb") == ("" if profile == "teacher" else "4.3 GB do not fit into 4gb")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "support student is refused"),
        (["--max-logprobs=256"], "support student is refused"),
        (["--enable-scale-out", "--max-model-len=1024"], "are over the context"),
        (["--enable-scale-out"], ""),
        (["--max-logprobs=-1"], ""),
    ],
)
def test_flags_that_do_not_fit_are_found(flags: list[str], said: str) -> None:
    teacher = TeacherConfig(engine="vllm-server", shared_vocab_size=151_936, max_k=256)
    train = TrainConfig.from_sources("train", Path("qwen2.5-1.5b-ultrainteract"))
    found = "; ".join(unfit(teacher, train, Flagged(flags, 152_064)))
    assert said in found if said else found == ""
