from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from rgopd.cli.sections import UpConfig
from rgopd.cli.teacher_server import unanswered_yet
from rgopd.common.embedded import free_port
from rgopd.common.errors import ConfigError
from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines.waiting import await_server, unanswered


@contextmanager
def answering(port: int, *codes: int) -> Iterator[None]:
    """A server that answers with each of the codes in turn, with the last for ever."""
    left = list(codes)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(left.pop(0) if len(left) > 1 else left[0])
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield
    server.shutdown()
    thread.join()
    server.server_close()


def config_of(port: int, engine: str = "vllm-server") -> TeacherConfig:
    return TeacherConfig(engine=engine, server_url=f"http://127.0.0.1:{port}/v1", shared_vocab_size=9)


@pytest.mark.parametrize("engine", ["vllm-server", "openai"])
def test_a_server_that_is_up_later_is_waited_for(engine: str) -> None:
    port, told, refused = free_port(), list[str](), threading.Event()

    def tell(text: str) -> None:
        told.append(text)
        refused.set()

    waiting = threading.Thread(target=await_server, args=(config_of(port, engine), 60.0, tell, threading.Event()))
    waiting.start()
    assert refused.wait(120)
    with answering(port, 503, 200):
        waiting.join(120)
        assert not waiting.is_alive()
    assert f"waiting for the server at http://127.0.0.1:{port}/v1: ConnectError" in told[0]
    assert any("it answered 503" in text for text in told)


@pytest.mark.parametrize("code", [200, 401, 404, 500])
def test_what_refuses_has_answered(code: int) -> None:
    port = free_port()
    with answering(port, code):
        assert unanswered(config_of(port)) == ""


def test_it_ends_with_the_reason_or_when_the_service_does() -> None:
    config, ended = config_of(free_port()), threading.Event()
    with pytest.raises(ConfigError, match=r"no server answers at http://127.0.0.1:\d+/v1 after 0 s: ConnectError"):
        await_server(config, 0.1, lambda _: None, ended)
    ended.set()
    await_server(config, 60.0, lambda _: None, ended)
    await_server(TeacherConfig(engine="transformers", model="x"), 0.0, lambda _: None, threading.Event())


def test_up_says_at_once_what_it_waits_for() -> None:
    port = free_port()
    checked = {"teacher": config_of(port), "teachers": {}, "up": UpConfig()}
    [line] = unanswered_yet(checked)
    assert line.startswith(f"teacher: no server answers yet at http://127.0.0.1:{port}/v1 (ConnectError")
    assert "up.ready_timeout_s=300" in line
