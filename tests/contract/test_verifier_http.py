"""POST /verify on a real process: both encodings, every error, and the stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rgopd.common.fleeting import seen
from rgopd.common.wire import PROTOBUF
from rgopd.protos import environment_pb2, verifier_pb2
from rgopd.verifier.app import EXAMPLE, STEP_EXAMPLE
from tests.waiting import eventually

TOKEN = "test-token"
_START = """
import json, sys
from rgopd.verifier.config import VerifierConfig
from rgopd.verifier.main import serve
sys.exit(serve(VerifierConfig(**json.loads(sys.argv[1]))))
"""


def start(repository: Path, **config: Any) -> tuple[subprocess.Popen[str], str]:
    """The service in a process of its own, and its URL once it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", _START, json.dumps(config)],
        cwd=repository,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "ready at" in line, f"the service said {line!r} and ended with {process.wait()}"
    return process, line.split()[-1]


def stop(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    code = process.wait(timeout=120)
    assert process.stdout is not None
    process.stdout.close()
    return code


@pytest.fixture(scope="module")
def client(repository: Path) -> Iterator[httpx.Client]:
    process, url = start(repository, workers=2, math_workers=1, token=TOKEN, max_items=8, max_body_mb=1, queue_size=8)
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as client:
        yield client
    assert stop(process) == 0


def wait_until_accepted(client: httpx.Client, count: int) -> None:
    """Until that many items are in the queue or running."""
    eventually(lambda: f"rgopd_verifier_pending {count}.0" in client.get("/metrics").text)


def as_message(items: list[dict[str, Any]]) -> bytes:
    request = verifier_pb2.VerifyRequest()
    for item in items:
        rest = {k: v for k, v in item.items() if k not in ("id", "kind", "response")}
        check = verifier_pb2.Check(kind=item["kind"], response=item["response"], spec_json=json.dumps(rest))
        request.items.add(id=item["id"], check=check)
    return request.SerializeToString()


def test_the_example_of_the_documentation_passes(client: httpx.Client) -> None:
    answer = client.post("/verify", json=EXAMPLE)
    assert answer.status_code == 200
    verdicts = answer.json()["verdicts"]
    assert [(v["id"], v["status"], v["reward"]) for v in verdicts] == [
        (item["id"], "passed", 1.0) for item in EXAMPLE["items"]
    ], [v["reason"] for v in verdicts]
    assert verdicts[1]["tests"][0]["status"] == "passed"
    documented = client.get("/openapi.json").json()["paths"]["/verify"]["post"]["requestBody"]["content"]
    assert documented["application/json"]["example"] == EXAMPLE


def test_protobuf_says_the_same(client: httpx.Client) -> None:
    body = as_message(EXAMPLE["items"])
    answer = client.post("/verify", content=body, headers={"Content-Type": PROTOBUF})
    assert answer.headers["content-type"] == PROTOBUF
    message = verifier_pb2.VerifyResponse.FromString(answer.content)
    json_verdicts = client.post("/verify", json=EXAMPLE).json()["verdicts"]
    for got, expected in zip(message.verdicts, json_verdicts, strict=True):
        assert got.id == expected["id"]
        assert got.status == verifier_pb2.VERDICT_PASSED
        assert got.reward == expected["reward"]
        assert got.extracted == expected["extracted"]
    mixed = client.post("/verify", content=body, headers={"Content-Type": PROTOBUF, "Accept": "application/json"})
    assert [v["id"] for v in mixed.json()["verdicts"]] == [v["id"] for v in json_verdicts]


def test_an_error_has_no_reward(client: httpx.Client) -> None:
    item = {"id": "t", "kind": "exact", "response": "x", "reference": "x", "truncated": True, "on_truncated": "error"}
    verdict = client.post("/verify", json={"items": [item]}).json()["verdicts"][0]
    assert (verdict["status"], verdict["reward"]) == ("error", None)
    content = client.post("/verify", content=as_message([item]), headers={"Content-Type": PROTOBUF}).content
    message = verifier_pb2.VerifyResponse.FromString(content).verdicts[0]
    assert message.status == verifier_pb2.VERDICT_ERROR
    assert not message.HasField("reward")


MATH = {"id": "m", "kind": "math", "response": "4", "reference": "4"}
REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"content": b"{"}, 400, "not JSON"),
    ({"content": b"\xff\xfe"}, 400, "not JSON"),
    ({"json": {}}, 422, "items"),
    ({"json": {"items": []}}, 422, "items"),
    ({"json": {"items": [MATH], "item": 1}}, 422, "item"),
    ({"json": {"items": [{"id": "a", "kind": "math"}]}}, 422, "response"),
    ({"json": {"items": [MATH, {**MATH, "id": "b", "kind": "maths"}]}}, 422, "item 'b': unknown kind 'maths'; did you mean"),  # noqa: E501
    ({"json": {"items": [{"id": "c", "kind": "math", "response": "4"}]}}, 422, "item 'c': missing field 'reference'"),
    ({"json": {"items": [{**MATH, "refrence": 1}]}}, 422, "did you mean 'reference'"),
    ({"json": {"items": [MATH] * 9}}, 413, "at most 8"),
    ({"content": b"x" * (1 << 21)}, 413, "limit"),
    ({"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "text/plain"),
    ({"content": b"\xff\xff\xff", "headers": {"Content-Type": PROTOBUF}}, 400, "not a"),
    ({"content": b"", "headers": {"Content-Type": PROTOBUF}}, 422, "at least one item"),
    ({"json": {"items": [MATH]}, "headers": {"Authorization": "Bearer wrong"}}, 401, "token"),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "status", "says"), REFUSED, ids=range(len(REFUSED)))
def test_refusals_are_problem_documents(client: httpx.Client, request_: dict[str, Any], status: int, says: str) -> None:
    headers = {"Content-Type": "application/json", **request_.pop("headers", {})} if "content" in request_ else None
    answer = client.post("/verify", **{"headers": headers, **request_} if headers else request_)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert says in answer.json()["detail"]


def test_bad_spec_json(client: httpx.Client) -> None:
    for spec, status in (("{", 400), ("[]", 422)):
        request = verifier_pb2.VerifyRequest()
        request.items.add(id="x", check=verifier_pb2.Check(kind="math", response="4", spec_json=spec))
        answer = client.post("/verify", content=request.SerializeToString(), headers={"Content-Type": PROTOBUF})
        assert answer.status_code == status
        assert "item 'x'" in answer.json()["detail"]


def test_a_full_queue_answers_429_and_recovers(client: httpx.Client) -> None:
    # The first two keep both workers busy, however late this process comes to look; the others only wait for them.
    program = "import time\ndef f(n):\n    time.sleep(3 if n < 2 else 0)\n    return n\n"
    items = [
        {"id": str(n), "kind": "code", "response": program + f"# {n}", "tests": [f"assert f({n}) == {n}"]}
        for n in range(8)
    ]
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(client.post("/verify", json={"items": items})))
    thread.start()
    wait_until_accepted(client, 8)
    refused = client.post("/verify", json={"items": [MATH]})
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    thread.join()
    assert [v["status"] for v in answers[0].json()["verdicts"]] == ["passed"] * 8
    assert client.post("/verify", json={"items": [MATH]}).status_code == 200


def test_health_metrics_and_info(client: httpx.Client) -> None:
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
    info = client.get("/info").json()
    assert info["isolation"]["rung"] in (1, 2, 3)
    assert set(info["isolation"]["probes"].values()) == {"held"}
    assert {"math", "code", "choice", "exact"} <= set(info["kinds"])
    client.post("/verify", json={"items": [{**MATH, "response": "4.0"}]})
    assert 'rgopd_verdicts_total{kind="math",status="passed"}' in client.get("/metrics").text


def test_sigterm_finishes_what_was_accepted_and_leaves_nothing(repository: Path) -> None:
    process, url = start(repository, workers=1, math_workers=1)
    program = "import time\ndef f():\n    time.sleep(2)\n    return 1\n"
    item = {"id": "x", "kind": "code", "response": program, "tests": ["assert f() == 1"]}
    answers: list[httpx.Response] = []
    thread = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{url}/verify", json={"items": [item]}, timeout=120))
    )
    thread.start()
    with httpx.Client(base_url=url, timeout=60) as client:
        wait_until_accepted(client, 1)
    children = _descendants(process.pid)
    assert children
    assert stop(process) == 0
    thread.join()
    assert answers[0].json()["verdicts"][0]["status"] == "passed"
    assert not [pid for pid in children if _alive(pid)]


def test_sigkill_leaves_nothing_either(repository: Path) -> None:
    process, _ = start(repository, workers=2, math_workers=1)
    children = _descendants(process.pid)
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    eventually(lambda: not [pid for pid in children if _alive(pid)])


def test_below_the_configured_rung_it_does_not_start(repository: Path) -> None:
    config = {"rung": "3", "python": "/nonexistent/python3"}
    ended = subprocess.run(
        [sys.executable, "-c", _START, json.dumps(config)], cwd=repository, capture_output=True, text=True, timeout=200
    )
    assert ended.returncode != 0
    assert ended.stdout == ""
    assert "no isolation at rung 3 or better" in ended.stderr


def _alive(pid: int) -> bool:
    """Runs; a zombie whose new parent has not looked yet does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _descendants(pid: int) -> list[int]:
    found = []
    for thread in seen(lambda: os.listdir(f"/proc/{pid}/task"), []):
        children = seen(Path(f"/proc/{pid}/task/{thread}/children").read_text, "")
        for child in map(int, children.split()):
            found += [child, *_descendants(child)]
    return found


def test_step_answers_a_conversation_in_both_encodings(client: httpx.Client) -> None:
    answer = client.post("/step", json=STEP_EXAMPLE)
    assert answer.status_code == 200, answer.text
    (said,) = answer.json()["observations"]
    assert said.pop("duration_ms") > 0
    assert "returned -1, expected 3" in said.pop("text")
    assert said == {"id": "e1", "done": False, "reward": 0.0, "error": ""}
    asked = STEP_EXAMPLE["episodes"][0]
    check = {k: v for k, v in asked["check"].items() if k != "kind"}
    episode = environment_pb2.Episode(
        id="e2",
        environment=environment_pb2.Environment(name="feedback"),
        actions=[*asked["actions"], "def add(a, b): return a + b"],
        observations=["no"],
        check=verifier_pb2.Check(kind="code", spec_json=json.dumps(check)),
    )
    body = environment_pb2.StepRequest(episodes=[episode]).SerializeToString()
    answer = client.post("/step", content=body, headers={"Content-Type": PROTOBUF})
    assert answer.headers["content-type"] == PROTOBUF
    (message,) = environment_pb2.StepResponse.FromString(answer.content).observations
    assert (message.id, message.done, message.reward, message.error, message.text) == ("e2", True, 1.0, "", "")


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 400, "not JSON"),
        (b'{"episodes": []}', 422, "episodes"),
        (b'{"episodes": [{"id": "a", "environment": {"name": "feedback"}, "actions": []}]}', 422, "actions"),
        (b'{"episodes": [{"id": "a", "environment": {"name": "nope"}, "actions": ["x"]}]}', 422, "unknown environment"),
        (b'{"episodes": [{"id": "a", "environment": "nope", "actions": ["x"]}]}', 422, "unknown environment 'nope'"),
        (b'{"episodes": [{"id": "a", "environment": {"name": "feedback"}, "actions": ["x", "y"]}]}', 422, "answered"),
        (
            json.dumps({"episodes": [{"id": "a", "environment": {"name": "x"}, "actions": ["x"]}] * 9}).encode(),
            413,
            "at most 8",
        ),
    ],
)
def test_step_refuses_what_does_not_fit(client: httpx.Client, body: bytes, status: int, says: str) -> None:
    answer = client.post("/step", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert says in answer.json()["detail"]
