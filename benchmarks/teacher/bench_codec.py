"""Encode + decode of one TeacherScore, protobuf against JSON, and the bytes on the wire.

python -m benchmarks.teacher.bench_codec [T] [K]
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import zstandard

from benchmarks.teacher.shapes import machine
from rgopd.common import wire
from rgopd.protos import common_pb2, teacher_pb2
from rgopd.teacher.codec import response_to_json, response_to_proto
from rgopd.teacher.engines import EngineInfo
from rgopd.teacher.items import Score, ScoreItem, Scoring
from rgopd.teacher.schemas import ScoreTopkResponse


def best(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def realistic(rows: int, k: int, vocab: int = 20_000) -> tuple[ScoreItem, Score]:
    """Log-probs of a peaked teacher at the top ids of a student that resembles it."""
    torch.manual_seed(0)
    teacher = torch.randn(rows, vocab) * 2.5
    teacher[torch.arange(rows), torch.randint(0, vocab, (rows,))] += 12
    ids = (teacher + torch.randn(rows, vocab) * 0.5).topk(k).indices
    logprobs = teacher.log_softmax(-1).gather(1, ids)
    tail = torch.log(-torch.expm1(logprobs.logsumexp(-1).clamp(max=-1e-7)))
    support, topk = ids.to(torch.int32).numpy(), logprobs.numpy()
    item = ScoreItem("r", np.zeros(1, np.int32), support[:, 0].copy(), Scoring("student", k), support)
    return item, Score(topk[:, 0].copy(), support, topk, tail.numpy())


def main() -> None:
    rows, k = (int(a) for a in (sys.argv[1:] + ["8192", "50"])[:2])
    item, score = realistic(rows, k)
    info = EngineInfo("transformers", "m", "r", 20_000, 1 << 15, 256, (), "float32", "cpu", "gathered")

    def proto(dtype: int) -> bytes:
        return response_to_proto([item], [score], info, dtype).SerializeToString()

    def read(data: bytes) -> list[np.ndarray]:
        (got,) = wire.parse(teacher_pb2.ScoreResponse, data).scores
        return [wire.from_tensor(t) for t in (got.sampled_logprobs, got.topk_logprobs, got.tail_logprob)]

    def read_json(data: bytes) -> list[np.ndarray]:
        got = json.loads(data)["scores"][0]
        return [np.array(got[name], np.float32) for name in ("sampled_logprobs", "topk_logprobs", "tail_logprob")]

    half, single = common_pb2.DTYPE_FLOAT16, common_pb2.DTYPE_FLOAT32
    json_bytes = response_to_json([item], [score], info)
    print(machine())
    print(f"T={rows}, K={k}; best of 20 (JSON: of 5), milliseconds")
    json_s = best(lambda: read_json(response_to_json([item], [score], info)), 5)
    checked_s = best(lambda: ScoreTopkResponse.model_validate_json(response_to_json([item], [score], info)), 5)
    print(f"  JSON (pydantic writes, json reads)  {json_s * 1e3:8.2f}   {len(json_bytes):>10,} B")
    print(f"  JSON (pydantic both)                {checked_s * 1e3:8.2f}")
    for name, dtype in (("float32", single), ("float16", half)):
        data = proto(dtype)
        seconds = best(lambda d=dtype: read(proto(d)), 20)
        print(
            f"  protobuf {name}                    {seconds * 1e3:8.2f}   {len(data):>10,} B   {json_s / seconds:6.0f}x"
        )
        packed = zstandard.ZstdCompressor(level=1).compress(data)
        packing = best(lambda d=data: zstandard.ZstdCompressor(level=1).compress(d), 20)
        unpacking = best(lambda p=packed: zstandard.ZstdDecompressor().decompress(p), 20)
        print(
            f"    + zstd level 1                    {(seconds + packing + unpacking) * 1e3:8.2f}   {len(packed):>10,} B"
        )
    size = len(proto(half))
    print(f"float16 response: {size / 1e6:.3f} MB = {size / 2**20:.3f} MiB")


if __name__ == "__main__":
    main()
