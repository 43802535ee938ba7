"""Environments in the real sandbox and over real HTTP: what they may say, and every way to say it wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rgopd.common.errors import ConfigError, InvalidInput
from rgopd.verifier.config import VerifierConfig
from rgopd.verifier.engine import VerifierEngine
from rgopd.verifier.environment_config import EnvironmentConfig, read_sources
from rgopd.verifier.environments.base import Episode, Observation
from rgopd.verifier.environments.service import Environments

STEPS = """
class Counter:
    def reset(self, goal=2, seed=None):
        self.seen, self.goal, self.seed = [], goal, seed

    def step(self, action):
        import random
        self.seen.append(action)
        done = len(self.seen) >= self.goal
        return {"observation": f"{self.seen} {random.random():.6f}", "reward": 1.0 if done else None, "done": done}
"""
TOOLS = """
class Told:
    def reset(self, **row):
        raise TypeError("a base of another is no environment")

class Tools(Told):
    def reset(self, **row):
        self.total, self.reward, self.row = 0, None, row

    def add(self, a: int, b: int = 1) -> int:
        "Add two numbers."
        self.total += a + b
        self.reward = 0.5
        return self.total

    def _hidden(self):
        return "secret"
"""
WRONG = """
import os, time
class Environment:
    def reset(self, how="", text=""):
        self.how = how
        if how == "reset_text":
            return "look around"
        if how == "reset_gymnasium":
            return "look around", {}
        if how == "reset_openenv":
            return {"observation": "look around"}
        if how == "reset_raise":
            raise LookupError("no such level")

    def step(self, action):
        how = self.how
        if how == "hang": time.sleep(99)
        if how == "spin":
            while True: pass
        if how == "fork":
            for _ in range(10_000):
                try: os.fork()
                except OSError: pass
            time.sleep(99)
        if how == "exit": os._exit(0)
        if how == "memory": bytearray(1 << 33)
        if how == "raise": raise KeyError("gone")
        if how == "huge": return "x" * 1_000_000
        if how == "giant": return "x" * (64 << 20)
        if how == "number": return 3.5
        if how == "reward": return "ok", 7, True
        if how == "nan": return "ok", float("nan"), True
        if how == "done": return "ok", 1, "yes"
        if how == "tuple": return ("ok",)
        if how == "none": return None
        if how == "empty": return {}
        if how == "nothing": return {"observation": None, "reward": 1.0}
        if how == "silent_end": return {"done": True, "reward": 1.0}
        if how == "bytes": return b"abc"
        if how == "list": return ["ok"]
        if how == "word": return "ok", "1", True
        if how == "digits": return "ok", 10**400, True
        if how == "leave": raise SystemExit(0)
        if how == "interrupt": raise KeyboardInterrupt
        if how == "deep": return self.step(action)
        if how == "print": print("x" * (1 << 22))
        if how == "chatter": print("looking around")
        if how == "descriptors":
            for number in range(3, 30):
                try: os.write(number, b"junk\\n")
                except OSError: pass
        if how == "surrogate": return "a\\udc80b"
        if how == "async": return self.later()
        if how == "random": return str(time.time_ns())
        if how == "files": return str(os.path.exists("/etc/shadow") and open("/etc/shadow").read())
        if how == "forge": os.write(4, b'{"a":0,"v":null}\\n{"a":1,"v":[["forged",true,1.0]]}\\n'); os._exit(0)
        return "fine", None, False

    async def later(self):
        import asyncio
        await asyncio.sleep(0)
        return "later", 1, True
"""


class Server(BaseHTTPRequestHandler):
    """An OpenEnv-like server that loses its episodes when told to."""

    episodes: dict[str, list[str]] = {}
    seen: list[tuple[str, str | None]] = []
    busy = 0

    def do_POST(self) -> None:
        cls = type(self)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        cls.seen.append((self.path, self.headers.get("Authorization")))
        if cls.busy:
            cls.busy -= 1
            self.answer(503, {})
        elif self.path == "/reset":
            cls.episodes[body["episode_id"]] = []
            self.answer(200, {"observation": {}, "done": False})
        elif body["episode_id"] not in cls.episodes:
            self.answer(404, {"detail": "no such episode"})
        else:
            said = cls.episodes[body["episode_id"]]
            said.append(body["action"]["message"])
            text = "/".join(said)
            if text == "bad":
                self.answer(200, ["not", "an", "object"])
            elif text == "html":
                self.answer(200, None)
            elif text == "forbidden":
                self.answer(403, {"detail": "no"})
            else:
                self.answer(200, {"observation": {"text": text}, "reward": len(said) / 2, "done": len(said) == 2})

    def answer(self, status: int, body: Any) -> None:
        data = b"<html>" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def environments(
    verifier: VerifierEngine, tmp_path_factory: pytest.TempPathFactory, url: str
) -> Iterator[Environments]:
    folder = tmp_path_factory.mktemp("environments")
    configured: dict[str, EnvironmentConfig] = {}
    for name, source in (("steps", STEPS), ("tools", TOOLS), ("wrong", WRONG), ("two", STEPS + TOOLS)):
        (folder / f"{name}.py").write_text(source)
        configured[name] = EnvironmentConfig(path=folder / f"{name}.py", max_chars=1000)
    shipped = Path(__file__).parents[4] / "examples" / "environments" / "calculator.py"
    configured["calculator"] = EnvironmentConfig(path=shipped)
    configured["server"] = EnvironmentConfig(url=url, timeout_s=1, retries=2, token_env="HOME")
    configured["nobody"] = EnvironmentConfig(url="http://127.0.0.1:9", retries=1)
    running = Environments(configured, verifier)
    yield running
    running.close()


def ask(environments: Environments, name: str, *actions: str, **fields: Any) -> Observation:
    said = tuple(fields.pop("observations", ()))
    known = {key: fields.pop(key) for key in ("kind", "check", "seed") if key in fields}
    episode = Episode("run/r1", name, fields, known.pop("seed", 3), actions, said, **known)
    return environments.submit([episode])[0].result(timeout=60)


def call(name: str, **arguments: Any) -> str:
    return f"so <tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def test_a_conversation_is_played_again_and_goes_on(environments: Environments) -> None:
    first = ask(environments, "steps", "a")
    assert not first.error
    assert not first.done
    assert first.reward is None
    assert first.text.startswith("['a'] 0.")
    assert first.text == ask(environments, "steps", "a").text != ask(environments, "steps", "a", seed=4).text
    second = ask(environments, "steps", "a", "b", observations=[first.text])
    assert (second.done, second.reward) == (True, 1.0)
    assert second.text.startswith("['a', 'b'] 0.")
    other = ask(environments, "steps", "a", "b", observations=["not what it said"])
    assert "played again, it answers turn 0 otherwise" in other.error
    assert other.reward is None


def test_public_methods_are_tools(environments: Environments) -> None:
    said = ask(environments, "tools", call("add", a=2, b=3), column="of the row")
    assert (said.text, said.done, said.reward) == ("5", False, 0.5)
    both = ask(environments, "tools", call("add", a=1) + call("add", a=1))
    assert both.text == "2\n4"
    end = ask(environments, "tools", call("add", a=2), "the sum is 3", observations=["3"])
    assert (end.text, end.done, end.reward) == ("", True, 0.5)
    deep = f"<tool_call>{'[' * 100_000}</tool_call>"
    listed = '<tool_call>{"name": "add", "arguments": [1]}</tool_call>'
    for bad in (
        deep,
        listed,
        call("__class__"),
        call("total"),
        call("_hidden"),
        call("reset"),
        call("sub", a=1),
        "<tool_call>{</tool_call>",
        call("add", c=1),
    ):
        said = ask(environments, "tools", bad)
        assert said.text.startswith("error: ")
        assert not said.error, "a student's mistake is its own to repair"


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("reset_text", "put it into the prompt"),
        ("exit", "ended before it had answered"),
        ("memory", "MemoryError"),
        ("raise", "gone"),
        ("number", "not a text"),
        ("reward", "a number in [0, 1]"),
        ("nan", "a number in [0, 1]"),
        ("done", "not true or false"),
        ("tuple", "a tuple of 1"),
        ("reset_gymnasium", "put it into the prompt"),
        ("reset_openenv", "put it into the prompt"),
        ("reset_raise", "no such level"),
        ("none", "step returned None"),
        ("empty", "gave no observation"),
        ("nothing", "gave no observation"),
        ("bytes", "not a text"),
        ("list", "not a text"),
        ("word", "a number in [0, 1]"),
        ("digits", "a number in [0, 1]"),
        ("leave", "exited"),
        ("interrupt", "exited"),
        ("deep", "RecursionError"),
        ("print", "printed more than"),
        ("descriptors", "ended before it had answered"),
    ],
)
def test_what_an_environment_does_wrong_is_an_error(environments: Environments, how: str, says: str) -> None:
    said = ask(environments, "wrong", "a", how=how)
    assert says in said.error
    assert said.reward is None
    assert not said.text


@pytest.mark.parametrize("how", ["hang", "spin", "fork", "giant"])
def test_what_hangs_or_grows_is_ended(verifier: VerifierEngine, tmp_path: Path, how: str) -> None:
    (tmp_path / "wrong.py").write_text(WRONG)
    before = verifier.tools.default_limits
    object.__setattr__(verifier.tools, "default_limits", before._replace(wall_s=1.0, cpu_s=0.5))
    running = Environments({"wrong": EnvironmentConfig(path=tmp_path / "wrong.py")}, verifier)
    try:
        said = ask(running, "wrong", "a", how=how)
        assert said.error if how != "giant" else len(said.text) < 17_000
        assert not ask(running, "wrong", "a").error, "the slot serves the next one"
    finally:
        running.close()
        object.__setattr__(verifier.tools, "default_limits", before)


def test_observations_are_cut_printable_and_of_a_sealed_process(environments: Environments) -> None:
    assert ask(environments, "wrong", "a", how="huge").text == "x" * 1000 + " [999000 characters more]"
    assert ask(environments, "wrong", "a", how="async").reward == 1.0
    assert ask(environments, "wrong", "a", how="silent_end").reward == 1.0
    assert ask(environments, "wrong", "a", how="chatter").text == "fine"
    assert ask(environments, "wrong", "a", seed=(1 << 63) - 1).text == "fine"
    assert ask(environments, "wrong", "a", how="surrogate").text.encode() == b"a\\udc80b"
    assert ask(environments, "wrong", "a", how="files").text == "False"
    forged = ask(environments, "wrong", "a", how="forge")
    assert forged.text == "forged" or forged.error, "it can say of itself what it likes, and nothing else"
    first = ask(environments, "wrong", "a", how="random").text
    assert "otherwise" in ask(environments, "wrong", "a", "b", how="random", observations=[first]).error


def test_unknown_names_and_histories_are_refused(environments: Environments) -> None:
    with pytest.raises(InvalidInput, match=r"unknown environment 'step'.*steps"):
        ask(environments, "step", "a")
    with pytest.raises(InvalidInput, match="2 actions and 0 observations"):
        ask(environments, "steps", "a", "b")
    assert "one class with reset" in ask(environments, "two", "a").error
    assert "unexpected keyword" in ask(environments, "steps", "a", aim=3).error


def test_feedback_is_the_checks_own_verdict(environments: Environments) -> None:
    check = {"entry_point": "add", "tests": [{"args": [1, 2], "expected": 3}]}
    wrong = ask(environments, "feedback", "def add(a, b): return a - b", kind="code", check=check)
    assert (wrong.done, wrong.reward, wrong.error) == (False, 0.0, "")
    assert "returned -1, expected 3" in wrong.text
    assert wrong.text.endswith("Repair it and answer again.")
    actions = "def add(a, b): return a - b", "def add(a, b): return a + b"
    right = ask(environments, "feedback", *actions, kind="code", check=check, observations=[wrong.text])
    assert (right.done, right.reward, right.text) == (True, 1.0, "")
    told = ask(environments, "feedback", "x", kind="exact", check={"reference": "y"}, message="No: {reason}!")
    assert told.text.startswith("No: ")
    assert told.text.endswith("!")
    assert "unknown kind" in ask(environments, "feedback", "x", kind="cod").error


def test_a_server_is_asked_and_told_again_what_it_lost(environments: Environments) -> None:
    Server.seen.clear()
    first = ask(environments, "server", "a")
    assert (first.text, first.reward, first.done, first.error) == ("a", 0.5, False, "")
    Server.episodes.clear()  # the server was started anew
    second = ask(environments, "server", "a", "b", observations=["a"])
    assert (second.text, second.reward, second.done) == ("a/b", 1.0, True)
    assert [path for path, _ in Server.seen] == ["/reset", "/step", "/step", "/reset", "/step", "/step"]
    assert all(token and token.startswith("Bearer /") for _, token in Server.seen)
    Server.busy = 2
    assert ask(environments, "server", "a").text == "a", "a busy server is asked again"


@pytest.mark.parametrize(
    ("action", "says"), [("bad", "not an object"), ("html", "not JSON"), ("forbidden", "answered 403")]
)
def test_a_server_that_answers_nonsense_is_an_error(environments: Environments, action: str, says: str) -> None:
    said = ask(environments, "server", action)
    assert says in said.error
    assert said.reward is None


def test_a_server_that_is_not_there_is_an_error(environments: Environments) -> None:
    said = ask(environments, "nobody", "a")
    assert "could not be reached in 2 attempts" in said.error
    assert said.reward is None


def test_settings_name_files_and_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "env.py"
    path.write_text(STEPS)
    config = VerifierConfig.from_mapping({"environments": {"a": str(path), "b": "http://host:1/env"}})
    assert config.environments["a"].path == path
    assert config.environments["b"].url == "http://host:1/env"
    assert list(read_sources(config.environments)) == ["a"]
    for wrong, says in (
        ({"feedback": EnvironmentConfig(path=path)}, "built-in"),
        ({"x": EnvironmentConfig(path=tmp_path / "none.py")}, "No such file"),
        ({"x": EnvironmentConfig(url="http://h", token_env="RGOPD_NO_SUCH")}, "RGOPD_NO_SUCH is not set"),
    ):
        with pytest.raises(ConfigError, match=says):
            read_sources(wrong)
    path.write_text("x = (")
    with pytest.raises(ConfigError, match="never closed"):
        read_sources({"x": EnvironmentConfig(path=path)})


def test_the_shipped_calculator(environments: Environments) -> None:
    said = ask(environments, "calculator", call("calculate", expression="17*(23-3)//2"), prompt="of the row")
    assert (said.text, said.done, said.error) == ("170", False, "")
    for wrong in ("9**9**9", "__import__('os')", "a", "1" * 201, "(", "1/0", "'a'*9"):
        said = ask(environments, "calculator", call("calculate", expression=wrong))
        assert said.text.startswith("error: ")
        assert not said.error
    deep = ask(environments, "calculator", call("calculate", expression="(" * 99 + "1" + ")" * 99))
    assert deep.text == "1" or deep.text.startswith("error: ")
    end = ask(environments, "calculator", call("calculate", expression="1+1"), "It is 2.", observations=["2"])
    assert (end.done, end.reward) == (True, None)
