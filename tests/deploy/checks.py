"""What the compose test asserts about running containers."""

from __future__ import annotations

import ast
import json
import threading
import urllib.request
from collections import Counter
from typing import Any

from tests.deploy.engine import Engine, say

SCORE = {
    "k": 3,
    "support": "student",
    "rollouts": [
        {"id": "r-1", "prompt_ids": [3, 14, 15], "response_ids": [9, 2], "support_ids": [[9, 8, 7], [2, 1, 0]]}
    ],
}
VERIFY = {
    "items": [
        {"id": "m", "kind": "math", "response": "so it is \\boxed{0.5}", "reference": "\\frac{1}{2}"},
        {"id": "c", "kind": "code", "response": "def f(x):\n    return x + 1", "tests": ["assert f(1) == 2"]},
        {"id": "w", "kind": "code", "response": "def f(x):\n    return x", "tests": ["assert f(1) == 2"]},
    ]
}


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """POST JSON; an HTTP error raises."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.load(answer))


def call_both_doors() -> None:
    """The README's two calls, through the gateway's published ports."""
    [score] = post("http://127.0.0.1:8001/score_topk", SCORE)["scores"]
    assert len(score["sampled_logprobs"]) == 2, score
    assert all(p < 0 for p in score["sampled_logprobs"]), score
    # id 9 and id 2 were sampled and are in their own support: both ways of asking must agree
    for position in (0, 1):
        assert abs(score["topk_logprobs"][position][0] - score["sampled_logprobs"][position]) < 1e-5, score
    verdicts = {v["id"]: v["status"] for v in post("http://127.0.0.1:8002/verify", VERIFY)["verdicts"]}
    assert verdicts == {"m": "passed", "c": "passed", "w": "failed"}, verdicts
    say(f"/score_topk {score['sampled_logprobs']}, /verify {verdicts}")


def assert_hardened(engine: Engine, service: str) -> None:
    """Read off the container and off its process: no root, no capability, nothing to write but /tmp."""
    for container in engine.containers(service):
        host = engine.inspect(container)["HostConfig"]
        assert (host["ReadonlyRootfs"], host["Privileged"], host["CapDrop"]) == (True, False, ["ALL"]), (service, host)
        assert (host["CapAdd"] or [], host["Memory"] > 0, host["PidsLimit"] > 0) == ([], True, True), (service, host)
        status = engine.docker("exec", container, "cat", "/proc/self/status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["Uid"].split()[0] != "0", (service, fields["Uid"])
        for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"):
            assert int(fields[name], 16) == 0, (service, name, fields[name])
        assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2"), (service, fields)
    say(f"{service}: uid {fields['Uid'].split()[0]}, no capabilities, no new privileges, seccomp, read-only root")


def assert_rung(engine: Engine) -> None:
    """Every verifier withstood its own attacks at rung 3 before it became ready."""
    for container in engine.containers("verifier"):
        info = json.loads(fetch_inside(engine, container, "/info", 8002))
        isolation = info["isolation"]
        assert (isolation["rung"], set(isolation["probes"].values())) == (3, {"held"}), isolation
    say(f"verifier: rung 3, {len(isolation['probes'])} probes held: {', '.join(isolation['probes'])}")


def fetch_inside(engine: Engine, container: str, path: str, port: int) -> str:
    """GET from within a container: one replica, past the gateway."""
    program = (
        f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}{path}', timeout=10).read().decode())"
    )
    return engine.python(container, program)


REACH = """
import socket
def reach(host, port):
    try:
        socket.create_connection((host, port), timeout=2).close()
        return "reached"
    except OSError as error:
        return type(error).__name__
print({{name: reach(*address) for name, address in {targets}.items()}})
"""


def assert_no_way_out(engine: Engine) -> None:
    """The verifier reaches Redis; neither the outside, nor a teacher, nor this host's published ports."""
    [teacher, *_] = engine.containers("teacher")
    networks = engine.inspect(teacher)["NetworkSettings"]["Networks"]
    teacher_ip = next(n["IPAddress"] for n in networks.values())
    targets = {
        "redis": ("redis", 6379),
        "public address": ("1.1.1.1", 443),
        "public DNS": ("8.8.8.8", 53),
        "name outside": ("pypi.org", 443),
        "teacher by name": ("teacher", 8001),
        "teacher by address": (teacher_ip, 8001),
    }
    container = engine.containers("verifier")[0]
    found = ast.literal_eval(engine.python(container, REACH.format(targets=targets)))
    assert found.pop("redis") == "reached", found
    assert "reached" not in found.values(), found
    say(f"verifier reaches Redis and nothing else: {found}")


FORBIDDEN = """
import os, redis
client = redis.Redis.from_url(os.environ["RGOPD_REDIS_URL"])
def denied(call):
    try:
        call()
        return False
    except redis.exceptions.ResponseError as error:
        return "NOPERM" in str(error) or "permissions" in str(error)
print([denied(c) for c in (
    lambda: client.get("rgopd:{demo}:blob:rollout:x"), lambda: client.set("rgopd:{demo}:policy:latest", b"x"),
    lambda: client.xlen("rgopd:{demo}:stream:score"), lambda: client.flushall(), lambda: client.config_get("*"))])
"""


def assert_redis_users(engine: Engine) -> None:
    """The verifier's user may not read rollouts, replace a policy, see the teacher's stream, or rule the server."""
    denied = engine.python(engine.containers("verifier")[0], FORBIDDEN).strip()
    assert denied == str([True] * 5), denied
    say("verifier's Redis user: rollouts, policies, the teacher's stream, FLUSHALL and CONFIG are refused")


def assert_doctor(engine: Engine) -> None:
    """`rgopd doctor --cluster`, from inside the trainer's container."""
    urls = ["--url", "teacher=http://teacher:8001", "--url", "verifier=http://gateway:8002"]
    [trainer] = engine.containers("trainer")
    output = engine.docker("exec", trainer, "rgopd", "doctor", "--cluster", *urls)
    assert "all checks passed" in output, output
    for line in output.strip().splitlines():
        say(f"doctor: {line}")


def report_traffic(engine: Engine, tokens: float) -> None:
    """What passed Redis for each trained token: the number that docs/scaling.md calculates with."""
    [redis] = engine.containers("redis")
    ask = "REDISCLI_AUTH=$TRAINER_PASSWORD $(command -v valkey-cli || command -v redis-cli) --user trainer info stats"
    stats = dict(line.split(":") for line in engine.docker("exec", redis, "sh", "-c", ask).split() if ":" in line)
    received, sent = int(stats["total_net_input_bytes"]), int(stats["total_net_output_bytes"])
    commands = int(stats["total_commands_processed"])
    say(
        f"Redis: {received / tokens:.0f} bytes in, {sent / tokens:.0f} bytes out and {commands / tokens:.3f} commands "
        f"a response token ({tokens:.0f} tokens, K=16, evaluations and idle polling included)"
    )


def counter(engine: Engine, service: str, port: int, name: str) -> list[float]:
    """A counter of every replica of a service."""
    values = []
    for container in engine.containers(service):
        lines = fetch_inside(engine, container, "/metrics", port).splitlines()
        values.append(sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)))
    return values


def assert_balanced(engine: Engine, service: str, port: int, name: str) -> None:
    """Every replica had a share; none had twice its fair one."""
    shares = counter(engine, service, port, name)
    assert min(shares) > 0, (service, shares)
    assert max(shares) <= 2 * sum(shares) / len(shares), (service, shares)
    say(f"{service}: {name} by replica {[round(s) for s in shares]}")


class Client:
    """Calls both doors all the time, and counts what does not answer 200."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._call)

    def __enter__(self) -> Client:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _call(self) -> None:
        while not self._stop.wait(0.1):
            for url, body in (("http://127.0.0.1:8001/score_topk", SCORE), ("http://127.0.0.1:8002/verify", VERIFY)):
                try:
                    post(url, body)
                    self.outcomes["ok"] += 1
                except OSError as error:
                    self.outcomes[f"{url}: {error}"] += 1
