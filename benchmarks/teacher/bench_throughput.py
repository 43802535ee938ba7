"""Tokens per second of the same 64 rollouts on the same CPU model, three ways in turn, all warmed.

    python -m benchmarks.teacher.bench_throughput [--vllm-python .venv-vllm/bin/python] [--layers 12] [--rounds 3]

- engine:  TransformersEngine.score in a process of its own: the forward without HTTP, codec or queue;
- service: POST /score_topk as protobuf (one call with all rollouts, and one call for each rollout, 64 at once);
- vllm:    vLLM's own OpenAI server asked for prompt_logprobs=50 in JSON, 64 requests at once. It runs without a
           tokenizer (no detokenisation), float32, its default batching.

The best round of each counts: other work on the machine can only slow a round down.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from benchmarks.teacher.shapes import groups, machine, smollm_135m
from rgopd.common import wire
from rgopd.protos import teacher_pb2
from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines.transformers import TransformersEngine
from rgopd.teacher.items import ScoreItem

VOCAB = 49_152
SERVE = (
    "import sys; from rgopd.teacher.config import TeacherConfig; from rgopd.teacher.main import serve; "
    "sys.exit(serve(TeacherConfig.from_sources('teacher', None, sys.argv[1:])))"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(command: list[str], ready: str, timeout_s: float = 900) -> Iterator[None]:
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ})
    try:
        deadline = time.monotonic() + timeout_s
        while True:
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"did not start: {' '.join(command[:4])}")
            try:
                if httpx.get(ready).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        yield
    finally:
        child.terminate()
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def as_proto(item: ScoreItem) -> teacher_pb2.ScoreItem:
    assert item.support_ids_TK is not None
    return teacher_pb2.ScoreItem(
        id=item.id,
        prompt_ids=wire.to_tensor(item.prompt_ids_C),
        response_ids=wire.to_tensor(item.response_ids_T),
        support_ids=wire.to_tensor(item.support_ids_TK),
    )


async def post_all(url: str, calls: list[tuple[bytes, str]], read: Callable[[bytes], object]) -> None:
    async with httpx.AsyncClient(timeout=600) as client:

        async def one(body: bytes, content_type: str) -> None:
            answer = await client.post(url, content=body, headers={"Content-Type": content_type})
            answer.raise_for_status()
            read(answer.content)

        await asyncio.gather(*(one(*call) for call in calls))


def service(url: str, items: list[ScoreItem], per_call: int) -> None:
    calls = []
    for start in range(0, len(items), per_call):
        part = [as_proto(i) for i in items[start : start + per_call]]
        request = teacher_pb2.ScoreRequest(support=teacher_pb2.SUPPORT_STUDENT, rollouts=part)
        calls.append((request.SerializeToString(), wire.PROTOBUF))

    def read(data: bytes) -> object:
        scores = wire.parse(teacher_pb2.ScoreResponse, data).scores
        return [wire.from_tensor(score.topk_logprobs) for score in scores]

    asyncio.run(post_all(f"{url}/score_topk", calls, read))


def vllm(url: str, model: str, items: list[ScoreItem]) -> None:
    import json

    calls = []
    for item in items:
        body = {
            "model": model, "prompt": item.input_ids.tolist(), "max_tokens": 1, "temperature": 0, "prompt_logprobs": 50,
        }  # fmt: skip
        calls.append((json.dumps(body).encode(), "application/json"))
    asyncio.run(post_all(f"{url}/v1/completions", calls, json.loads))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--vllm-python", default="")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=256, help="length of each group's prompt")
    parser.add_argument("--longest", type=int, default=224, help="longest response; the shortest is a seventh of it")
    parser.add_argument("--batch-tokens", type=int, default=16_384, help="the service's own default")
    arguments = parser.parse_args()
    items = groups(VOCAB, prompt=arguments.prompt, responses=(arguments.longest // 7, arguments.longest))
    tokens = sum(item.tokens for item in items)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        path = smollm_135m(Path(folder), arguments.layers)
        settings = {"model": str(path), "dtype": "float32", "device": "cpu", "max_batch_tokens": arguments.batch_tokens}
        engine = TransformersEngine.load(TeacherConfig(**settings))
        port, vllm_port = free_port(), free_port()
        url, vllm_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{vllm_port}"
        options = [f"{key}={value}" for key, value in settings.items()]
        stack.enter_context(process([sys.executable, "-c", SERVE, *options, f"port={port}"], f"{url}/readyz"))
        ways: dict[str, Callable[[], object]] = {
            "engine": lambda: engine.score(items),
            "service, one call": lambda: service(url, items, len(items)),
            "service, 64 calls": lambda: service(url, items, 1),
        }
        if arguments.vllm_python:
            command = [
                arguments.vllm_python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(path),
                "--port", str(vllm_port), "--host", "127.0.0.1", "--dtype", "float32", "--max-model-len", "4096",
                "--skip-tokenizer-init", "--max-logprobs", "50",
            ]  # fmt: skip
            stack.enter_context(process(command, f"{vllm_url}/health"))
            ways["vLLM, JSON"] = lambda: vllm(vllm_url, str(path), items)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for round_ in range(arguments.rounds + 1):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                took = time.perf_counter() - started
                print(f"round {round_} {name}: {took:.2f} s", file=sys.stderr, flush=True)
                if round_:  # the first warms
                    seconds[name].append(took)
    report(tokens, len(items), arguments.layers, seconds)


def report(tokens: int, rollouts: int, layers: int, seconds: dict[str, list[float]]) -> None:
    print(machine())
    print(f"{rollouts} rollouts, {tokens} tokens, SmolLM2-135M's shape with {layers} layers, float32, K=50")
    best = {name: min(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        rounds = " ".join(f"{t:.2f}" for t in times)
        ratio = best["engine"] / best[name]
        print(f"  {name:20} {tokens / best[name]:8.0f} tokens/s   {ratio:5.2f}x engine   rounds: {rounds} s")
    if "vLLM, JSON" in best:
        ours = min(best["service, one call"], best["service, 64 calls"])
        print(f"service / vLLM: {best['vLLM, JSON'] / ours:.2f}x")


if __name__ == "__main__":
    main()
