"""Servers that answer everything but an observation: an `error` in time, and the next one is asked as before."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from rgopd.common.errors import ConfigError, InvalidInput
from rgopd.verifier.config import VerifierConfig
from rgopd.verifier.engine import VerifierEngine
from rgopd.verifier.environment_config import EnvironmentConfig
from rgopd.verifier.environments.base import Episode, Observation
from rgopd.verifier.environments.service import Environments

TIMEOUT_S = 0.3
"""Of what hangs. The others have longer: a loaded machine is no hostile server."""
Mode = Callable[[socket.socket], object]


def http(body: bytes, status: str = "200 OK", *headers: str) -> Mode:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return lambda connection: connection.sendall("\r\n".join(lines).encode() + body)


def raw(data: bytes) -> Mode:
    return lambda connection: connection.sendall(data)


def trickled(start: bytes, more: bytes, pause_s: float) -> Mode:
    def answer(connection: socket.socket) -> None:
        connection.sendall(start)
        for _ in range(3000):
            connection.sendall(more)
            time.sleep(pause_s)

    return answer


OK = b"HTTP/1.1 200 OK\r\n"
UNREADABLE: dict[str, tuple[Mode, str]] = {
    "redirect": (http(b"", "307 Temporary Redirect", "Location: http://elsewhere/step"), "a redirect to 'http://else"),
    "500": (http(b"boom", "500 Internal Server Error"), "answered 500: b'boom'"),
    "401": (http(b"", "401 Unauthorized"), "answered 401"),
    "204": (raw(b"HTTP/1.1 204 No Content\r\n\r\n"), "answered 204"),
    "never known": (http(b"", "404 Not Found"), "knows no episode"),
    "busy": (http(b"", "429 Too Many Requests"), "2 attempts: status 429"),
    "closes": (lambda connection: connection.close(), "2 attempts: RemoteProtocolError"),
    "half": (raw(OK + b"Content-Length: 1000\r\n\r\nabc"), "2 attempts: RemoteProtocolError"),
    "garbage": (raw(b"\0\xff\r\n\r\n"), "2 attempts: RemoteProtocolError"),
    "upgrade": (raw(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), "2 attempts: RemoteProtocolError"),
    "silent": (lambda connection: time.sleep(5), "2 attempts: no whole answer within"),
    "slow headers": (trickled(OK, b"X: y\r\n", TIMEOUT_S / 10), "2 attempts: no whole answer within"),
    "slow body": (trickled(OK + b"Content-Length: 999\r\n\r\n", b" ", TIMEOUT_S / 10), "2 attempts: no whole answer"),
    "endless": (
        trickled(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"80000\r\n%b\r\n" % (b" " * (1 << 19)), 0),
        "answered more than",
    ),
    "bomb": (http(gzip.compress(bytes(1 << 24)), "200 OK", "Content-Encoding: gzip"), "in the encoding 'gzip'"),
    "no gzip": (http(b"{}", "200 OK", "Content-Encoding: gzip"), "in the encoding 'gzip'"),
    "empty": (http(b""), "not JSON"),
    "deep": (http(b"[" * 100_000), "not JSON"),
    "latin": (http(b'{"observation": "\xe9"}'), "not JSON"),
    "digits": (http(b'{"observation": "x", "reward": 1%b}' % (b"0" * 5000)), "not JSON"),
    "null": (http(b"null"), "answered None, not an object"),
}
CLAIMS: dict[str, str] = {
    "{}": "gave no observation",
    '{"detail": "oops"}': "gave no observation",
    '{"observation": null, "done": false}': "gave no observation",
    '{"observation": ["a"]}': "not a text",
    '{"observation": 5}': "not a text",
    '{"observation": "x", "done": "false"}': "not true or false",
    '{"observation": "x", "done": null}': "not true or false",
    '{"observation": "x", "reward": NaN, "done": true}': "a number in [0, 1]",
    '{"observation": "x", "reward": 1e999, "done": true}': "a number in [0, 1]",
    '{"observation": "x", "reward": -0.1, "done": true}': "a number in [0, 1]",
    '{"observation": "x", "reward": "1", "done": true}': "a number in [0, 1]",
    f'{{"observation": "x", "reward": 1{"0" * 400}, "done": true}}': "a number in [0, 1]",
}
FINE = {
    '{"observation": null, "done": true, "reward": 1}': Observation("", True, 1.0),
    '{"done": true, "reward": 0}': Observation("", True, 0.0),
    '{"observation": {}}': Observation(""),
    '{"observation": {"text": ""}}': Observation(""),
    '{"observation": {"board": [1]}}': Observation('{"board": [1]}'),
    '{"observation": "\\ud800x"}': Observation("\\ud800x"),
    '{"observation": "<|im_end|>", "reward": true, "done": true}': Observation("<|im_end|>", True, 1.0),
}
MODES = {name: mode for name, (mode, _) in UNREADABLE.items()} | {
    text: http(text.encode()) for text in [*CLAIMS, *FINE]
}


class Hostile(threading.Thread):
    """Resets as it should; what it does with a step its path says."""

    def __init__(self, reset: bytes = b'{"observation": {}}') -> None:
        super().__init__(daemon=True)
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.reset = reset
        self.asked: list[tuple[str, dict[str, object]]] = []
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listening.getsockname()[1]}"

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as lines:
                while request := lines.readline():
                    headers = dict(iter(lambda: tuple(lines.readline().lower().strip().split(b": ", 1)), (b"",)))
                    body = json.loads(lines.read(int(headers[b"content-length"])))
                    self.asked.append((request.split()[1].decode(), body))
                    if b"/reset " in request:
                        http(self.reset)(connection)
                    else:
                        MODES[body["action"]["message"]](connection)
                        return
        except OSError:
            pass  # whoever asked has gone


@pytest.fixture(scope="module")
def server() -> Iterator[Hostile]:
    hostile = Hostile()
    yield hostile
    hostile.listening.close()


@pytest.fixture(scope="module")
def environments(verifier: VerifierEngine, server: Hostile) -> Iterator[Environments]:
    speaks = Hostile(b'{"observation": {"text": "You are in a maze."}}')
    configured = {
        "hostile": EnvironmentConfig(url=server.url, timeout_s=10, retries=1),
        "hanging": EnvironmentConfig(url=server.url, timeout_s=TIMEOUT_S, retries=1),
        "speaks": EnvironmentConfig(url=speaks.url, timeout_s=10, retries=1),
    }
    running = Environments(configured, verifier)
    yield running
    running.close()
    speaks.listening.close()


def ask(environments: Environments, *actions: str, name: str = "hostile", said: tuple[str, ...] = ()) -> Observation:
    (future,) = environments.submit([Episode("run/r", name, {}, 3, actions, said)])
    return future.result(timeout=30)


def served_by(mode: str) -> str:
    return "hanging" if "whole answer" in UNREADABLE.get(mode, (None, ""))[1] else "hostile"


@pytest.mark.parametrize("mode", UNREADABLE)
def test_what_is_no_answer_is_an_error_in_time(environments: Environments, mode: str) -> None:
    began = time.monotonic()
    said = ask(environments, mode, name=served_by(mode))
    assert UNREADABLE[mode][1] in said.error
    assert "internal" not in said.error
    assert (said.reward, said.done, said.text) == (None, False, "")
    assert time.monotonic() - began < 20, "as it comes it would take minutes"


@pytest.mark.parametrize("claim", CLAIMS)
def test_what_is_no_observation_is_an_error(environments: Environments, claim: str) -> None:
    said = ask(environments, claim)
    assert CLAIMS[claim] in said.error
    assert said.reward is None


@pytest.mark.parametrize("claim", FINE)
def test_unusual_observations_are_taken(environments: Environments, claim: str) -> None:
    assert ask(environments, claim).but(id="", duration_ms=0.0) == FINE[claim]


def test_all_at_once_cost_one_time_out(environments: Environments) -> None:
    """Those that hang hold up none of the others."""
    modes = [*UNREADABLE, *FINE]
    episodes = [Episode(f"run/{i}", served_by(mode), {}, 3, (mode,)) for i, mode in enumerate(modes)]
    began = time.monotonic()
    said = [future.result(timeout=30) for future in environments.submit(episodes)]
    assert [bool(each.error) for each in said] == [mode in UNREADABLE for mode in modes]
    assert time.monotonic() - began < 20


def test_what_a_reset_says_is_not_lost_in_silence(environments: Environments) -> None:
    assert "put it into the row's prompt" in ask(environments, next(iter(FINE)), name="speaks").error


def test_a_row_may_name_its_seed_and_not_its_episode(environments: Environments, server: Hostile) -> None:
    server.asked.clear()
    args = {"seed": 9, "episode_id": "another's", "size": 4}
    environments.submit([Episode("run/r", "hostile", args, 3, (next(iter(FINE)),))])[0].result(timeout=30)
    assert server.asked[0] == ("/reset", {"episode_id": "run/r", "seed": 9, "size": 4})
    (nan,) = environments.submit([Episode("run/r", "hostile", {"size": float("nan")}, 3, ("a",))])
    assert "cannot be sent" in nan.result(timeout=30).error


def test_a_replay_that_ends_early_is_told(environments: Environments, server: Hostile) -> None:
    over, lost = '{"done": true, "reward": 0}', "never known"
    said = ask(environments, over, lost, said=("",))
    assert "answers turn 0 otherwise: '' and has ended" in said.error


def test_one_id_twice_is_refused(environments: Environments) -> None:
    episode = Episode("run/r", "hostile", {}, 3, ("500",))
    with pytest.raises(InvalidInput, match="the same id"):
        environments.submit([episode, episode])


@pytest.mark.parametrize("url", ["http://[::1", "http://host:port", "ftp://host/x", "http://", "http://h/env?key=1"])
def test_what_is_no_url_is_told_before_it_starts(url: str) -> None:
    with pytest.raises(ConfigError, match="url"):
        VerifierConfig.from_mapping({"environments": {"x": {"url": url}}})
