from __future__ import annotations

import pytest
from fastapi import Request
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry, Counter
from pydantic import BaseModel

from rgopd.common.errors import InvalidInput, Overloaded, RgopdError, TooLarge, Unavailable
from rgopd.common.http import PROBLEM_JSON, ServiceState, create_app


class Body(BaseModel):
    number: int


def client(state: ServiceState | None = None, **options: object) -> TestClient:
    registry = CollectorRegistry()
    Counter("requests_seen", "x", registry=registry).inc()
    app = create_app("test", state or ServiceState(ready=True), registry, **options)  # type: ignore[arg-type]
    errors: dict[str, Exception] = {
        "invalid": InvalidInput("ids[3] is over the vocabulary"),
        "large": TooLarge("too much"),
        "full": Overloaded("queue is full", retry_after=7),
        "down": Unavailable("draining"),
        "bug": RuntimeError("secret detail"),
    }

    @app.get("/raise/{name}")
    async def fail(name: str) -> None:
        raise errors[name]

    @app.post("/echo")
    async def echo(body: Body) -> Body:
        return body

    @app.post("/raw")
    async def raw(request: Request) -> int:
        return len(await request.body())

    return TestClient(app, raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [
        ("invalid", 422, "invalid_input"),
        ("large", 413, "too_large"),
        ("full", 429, "overloaded"),
        ("down", 503, "unavailable"),
        ("bug", 500, "internal"),
    ],
)
def test_errors_are_problem_documents(name: str, status: int, kind: str) -> None:
    answer = client().get(f"/raise/{name}")
    assert answer.status_code == status
    assert answer.headers["content-type"] == PROBLEM_JSON
    body = answer.json()
    assert (body["status"], body["type"]) == (status, f"urn:rgopd:problem:{kind}")
    assert "secret" not in answer.text


def test_a_full_queue_says_when_to_come_back() -> None:
    assert client().get("/raise/full").headers["retry-after"] == "7"


def test_probes_follow_the_state() -> None:
    state = ServiceState()
    probe = client(state)
    assert probe.get("/healthz").status_code == 200
    assert probe.get("/readyz").status_code == 503
    state.ready = True
    assert probe.get("/readyz").status_code == 200
    state.draining = True
    assert probe.get("/readyz").json()["detail"].startswith("draining")
    assert probe.get("/healthz").status_code == 200


def test_malformed_json_is_400_and_a_wrong_field_is_422() -> None:
    http = client()
    assert http.post("/echo", content=b"{", headers={"content-type": "application/json"}).status_code == 400
    answer = http.post("/echo", json={"number": "x"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["body", "number"]


def test_bodies_over_the_limit_are_refused_by_their_claim_and_by_their_bytes() -> None:
    http = client(max_body_bytes=100)
    assert http.post("/raw", content=b"x" * 100).json() == 100
    claimed = http.post("/raw", content=b"x" * 101)
    assert claimed.status_code == 413
    assert claimed.headers["content-type"] == PROBLEM_JSON
    streamed = http.post("/raw", content=iter([b"x" * 60, b"x" * 60]))
    assert streamed.status_code == 413


def test_the_token_guards_all_but_the_probes() -> None:
    http = client(token="s3cret")
    assert http.get("/readyz").status_code == 200
    assert http.get("/info").status_code == 401
    assert http.get("/info", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert http.get("/info", headers={"authorization": "Bearer s3cret"}).status_code == 200
    assert http.get("/metrics").headers["www-authenticate"] == "Bearer"


def test_metrics_are_prometheus_text() -> None:
    assert "requests_seen_total 1.0" in client().get("/metrics").text


def test_unknown_routes_are_problems_too() -> None:
    answer = client().get("/nope")
    assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM_JSON)


def test_every_error_names_a_kind_and_a_status() -> None:
    def tree(cls: type[RgopdError]) -> list[type[RgopdError]]:
        return [cls, *[c for sub in cls.__subclasses__() for c in tree(sub)]]

    for cls in tree(RgopdError):
        assert 400 <= cls.status < 600
        assert cls.kind
