"""What the clients refuse before they ask, and what they say of a service that is none, is full, or is gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

import rgopd
from rgopd.common.errors import InvalidInput, RgopdError, TooLarge, Unauthorized, Unavailable


class _Answers(BaseHTTPRequestHandler):
    """The path before /verify or /score_topk says the status."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(int(self.path.split("/")[1]))
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(b'{"detail": "because"}')

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("address", ["localhost:8002", "127.0.0.1", "", "ftp://x", "http://", None])
@pytest.mark.parametrize("client", [rgopd.VerifyClient, rgopd.ScoreClient])
def test_addresses_that_are_none(client: Any, address: Any) -> None:
    with pytest.raises(InvalidInput, match="write http://HOST:PORT"):
        client(address if client is rgopd.VerifyClient else [address])


STATUSES = [(400, InvalidInput), (401, Unauthorized), (413, TooLarge), (422, InvalidInput), (404, RgopdError)]


@pytest.mark.parametrize(("status", "error"), [*STATUSES, (429, Unavailable), (503, Unavailable)])
def test_answers(url: str, status: int, error: type[RgopdError]) -> None:
    started = time.monotonic()
    with rgopd.VerifyClient(f"{url}/{status}", timeout_s=0.5) as verifier, pytest.raises(error, match="because"):
        verifier.verify_one("math", "4", reference="4")
    if status != 404:
        with rgopd.ScoreClient(f"{url}/{status}", timeout_s=0.5) as teacher, pytest.raises(error):
            teacher.score([rgopd.Rollout([1], [2], [[2]])])
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("items", "told"),
    [
        ({"kind": "math"}, "give a list of mappings"),
        ("4", "give a list of mappings"),
        (["4"], r"items\[0\]: give a mapping"),
        ([{"kind": "math", "response": b"4"}], "cannot be written as JSON"),
        ([{"kind": "math", "response": "4", "tolerance": float("nan")}], "cannot be written as JSON"),
    ],
)
def test_items_that_are_none(items: Any, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        rgopd.VerifyClient("http://127.0.0.1:9").verify(items)


@pytest.mark.parametrize(
    ("rollout", "told"),
    [
        (("text", [1], [[1]]), "prompt_ids must be a list of token ids"),
        (([1], ["a"], [[1]]), "response_ids must be a list of token ids"),
        (([1.5], [1], [[1]]), "prompt_ids must be a list of token ids"),
        (([[1]], [1], [[1]]), "prompt_ids must be a list of token ids"),
        (([1], [2**40], [[1]]), "response_ids must be a list of token ids"),
        (([1], [1], [1]), "support_ids must be a list of K token ids"),
        (([1], [1, 2], [[1], [2, 3]]), "rows of different lengths; pad with -1"),
        (([1], [1], None), "support student needs support_ids"),
    ],
)
def test_rollouts_that_are_none(rollout: Any, told: str) -> None:
    with rgopd.ScoreClient("http://127.0.0.1:9") as teacher, pytest.raises(InvalidInput, match=told):
        teacher.score([rgopd.Rollout(*rollout)])
