"""Real teacher processes: the ready line, draining, being killed while a pool scores, and a token."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import trustme

from rgopd.common import wire
from rgopd.common.errors import Unauthorized
from rgopd.common.teacher_client import PoolSettings, TeacherPool
from rgopd.protos import teacher_pb2
from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines.transformers import TransformersEngine
from tests.contract.teacher_conformance import rollout, save_tiny_qwen2
from tests.waiting import eventually

LAUNCH = (
    "import sys; from rgopd.teacher.config import TeacherConfig; from rgopd.teacher.main import serve; "
    "sys.exit(serve(TeacherConfig.from_sources('teacher', None, sys.argv[1:])))"
)


class Teacher:
    """One process and the URL of its ready line."""

    def __init__(self, repository: Path, *settings: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, *settings],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=repository,
        )  # fmt: skip
        self.errors: list[str] = []
        self.reader = threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True)
        self.reader.start()

    @property
    def url(self) -> str:
        line = self.process.stdout.readline()
        while line and not line.startswith("rgopd"):  # vLLM logs there
            line = self.process.stdout.readline()
        assert line.startswith("rgopd teacher ready at "), (line, self.errors)
        return line.split()[-1]

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)
        self.reader.join(5)
        self.process.stdout.close()
        self.process.stderr.close()


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_qwen2(tmp_path_factory.mktemp("model"))


Start = Callable[..., Teacher]


@pytest.fixture
def start(repository: Path, model_dir: Path) -> Iterator[Start]:
    teachers: list[Teacher] = []

    def start(*settings: str) -> Teacher:
        teachers.append(Teacher(repository, f"model={model_dir}", "dtype=float32", "device=cpu", "port=0", *settings))
        return teachers[-1]

    yield start
    for teacher in teachers:
        teacher.stop()


def as_proto(item) -> teacher_pb2.ScoreItem:
    return teacher_pb2.ScoreItem(
        id=item.id,
        prompt_ids=wire.to_tensor(item.prompt_ids_C),
        response_ids=wire.to_tensor(item.response_ids_T),
        support_ids=wire.to_tensor(item.support_ids_TK),
    )


def test_failover_while_a_replica_is_killed(start, model_dir) -> None:
    """40 calls from 8 threads; one of two replicas is killed -9 in the middle; every score comes once, and right."""
    doomed, survivor = start(), start("max_queue_tokens=20000")
    urls = [doomed.url, survivor.url]
    pool = TeacherPool({"": urls}, settings=PoolSettings(timeout_s=60, hedge_after_s=0.5, breaker_s=0.5))
    rng = np.random.default_rng(0)
    calls = [[rollout(rng, 100, 200) for _ in range(6)] for _ in range(40)]
    answers: dict[int, list[teacher_pb2.TeacherScore]] = {}
    todo = list(enumerate(calls))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not todo:
                    return
                n, items = todo.pop(0)
            answers[n] = pool.score([as_proto(i) for i in items], support=teacher_pb2.SUPPORT_STUDENT)
            if n == 10:
                doomed.process.kill()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(250)
    assert sorted(answers) == list(range(40))
    assert pool.replicas[""][0].calls > 0, "the killed one had its share"
    assert pool.replicas[""][0].lost > 0
    pool.close()
    engine = TransformersEngine.load(TeacherConfig(model=str(model_dir), dtype="float32", device="cpu"))
    for n in (0, 10, 11, 39):
        for item, score, expected in zip(calls[n], answers[n], engine.score(calls[n]), strict=True):
            assert score.id == item.id
            np.testing.assert_allclose(wire.from_tensor(score.topk_logprobs), expected.topk_logprobs_TK, atol=1e-5)


def test_sigterm_finishes_what_was_admitted_and_exits_0(start) -> None:
    teacher = start("max_batch_tokens=900", "threads=1")
    url = teacher.url
    rng = np.random.default_rng(1)
    request = teacher_pb2.ScoreRequest(
        support=teacher_pb2.SUPPORT_STUDENT, rollouts=[as_proto(rollout(rng, 300, 600)) for _ in range(150)]
    )
    answers: list[httpx.Response] = []

    def call() -> None:
        headers = {"Content-Type": wire.PROTOBUF}
        answers.append(
            httpx.post(f"{url}/score_topk", content=request.SerializeToString(), headers=headers, timeout=200)
        )

    thread = threading.Thread(target=call)
    thread.start()
    with httpx.Client(base_url=url, timeout=60) as client:
        eventually(lambda: "rgopd_teacher_queue_tokens 0.0" not in client.get("/metrics").text)
        teacher.process.send_signal(signal.SIGTERM)
        try:
            eventually(lambda: client.get("/readyz").status_code == 503)
            late = client.post("/score_topk", json={"rollouts": []})
            assert (late.status_code, late.headers["retry-after"]) == (503, "1")
        except httpx.TransportError:  # it has left already, which it may once it has answered
            thread.join(60)
            assert answers
    thread.join(200)
    assert answers[0].status_code == 200
    assert len(wire.parse(teacher_pb2.ScoreResponse, answers[0].content).scores) == 150
    assert teacher.process.wait(120) == 0


def test_tls_and_a_token_from_a_file_that_never_shows(start, tmp_path) -> None:
    secret, ca_file = tmp_path / "token", tmp_path / "ca.pem"
    secret.write_text("s3cret-token\n")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(ca_file)
    issued = ca.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    teacher = start(
        f"token_file={secret}",
        f"tls_cert={tmp_path / 'cert.pem'}",
        f"tls_key={tmp_path / 'key.pem'}",
        "log_level=debug",
    )
    url = teacher.url
    assert url.startswith("https://")
    trust = ssl.create_default_context(cafile=str(ca_file))
    with pytest.raises(httpx.ConnectError, match="certificate"):
        httpx.get(f"{url}/readyz")
    with httpx.Client(base_url=url, verify=trust) as client:
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        assert client.get("/info").status_code == 401
        answer = client.get("/readyz", headers={"Origin": "https://elsewhere.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")], "CORS is off"
        refused = client.post("/score_topk", json={}, headers={"Authorization": "Bearer wrong"})
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    item = as_proto(rollout(np.random.default_rng(2), 5, 5))
    wrong, right = (
        TeacherPool({"": [url]}, token="wrong", verify=trust),
        TeacherPool({"": [url]}, token="s3cret-token", verify=trust),
    )
    with pytest.raises(Unauthorized):
        wrong.score([item], support=teacher_pb2.SUPPORT_STUDENT)
    assert len(right.score([item], support=teacher_pb2.SUPPORT_STUDENT)) == 1
    wrong.close()
    right.close()
    teacher.process.terminate()
    assert teacher.process.wait(120) == 0
    teacher.reader.join(5)
    assert not [line for line in teacher.errors if "s3cret" in line]


def test_a_start_that_fails_says_why_and_exits_1(start) -> None:
    teacher = start("model=/nowhere")
    assert teacher.process.wait(200) == 1
    teacher.reader.join(5)
    assert "does not exist" in "".join(teacher.errors)
