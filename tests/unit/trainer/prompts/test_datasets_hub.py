"""Reading from the hub, through the real client, against a server on this machine that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from rgopd.common.errors import ConfigError
from rgopd.trainer.prompts.config import DatasetConfig
from rgopd.trainer.prompts.data import PromptSource
from rgopd.trainer.prompts.datasets import source

FILES = {
    "train.jsonl": b'{"question": "q", "answer": "#### 7"}\n',
    "test.jsonl": b'{"question": "t"}\n',
    "README.md": b"#",
}
COMMIT = "0" * 40


class Hub(BaseHTTPRequestHandler):
    """Two routes: the tree of a dataset repository, and its files."""

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        if self.path.startswith("/api/datasets/some/rows"):
            tree = [
                {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                for n, c in FILES.items()
            ]
            info = {"id": "some/rows", "sha": COMMIT, "siblings": [{"rfilename": n} for n in FILES]}
            self._send(json.dumps(tree if "/tree/" in self.path else info).encode(), "application/json", body)
        elif self.path.startswith("/datasets/some/rows/resolve/"):
            self._send(FILES[self.path.rsplit("/", 1)[1]], "application/octet-stream", body)
        else:
            self.send_error(404)

    def _send(self, content: bytes, kind: str, body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import huggingface_hub.constants as constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", url)
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("hub")
def test_the_split_of_a_repository_is_downloaded_and_read() -> None:
    assert list(source.open_rows("some/rows")) == [{"question": "q", "answer": "#### 7"}]
    assert list(source.open_rows("some/rows", split="test")) == [{"question": "t"}]


@pytest.mark.usefixtures("hub")
def test_a_repository_that_is_not_there_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"(?s)some/other: not a local path, and the hub.*download it"):
        list(source.open_rows("some/other"))


@pytest.mark.usefixtures("hub")
def test_a_hub_id_in_the_config_is_trained_on(student_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(student_folder)

    def prompts(given: dict[str, Any]) -> list[Any]:
        return PromptSource(DatasetConfig.model_validate({"path": "some/rows", **given}), tokenizer).prompts

    [by_layout] = prompts({"split": "train", "layout": "gsm8k"})
    assert json.loads(by_layout.check.spec_json) == {"reference": "7"}
    [by_map] = prompts({"split": "train[:1]", "map": {"prompt": "question", "reference": "answer"}, "kind": "math"})
    assert json.loads(by_map.check.spec_json) == {"reference": "#### 7"}
    [streamed] = [
        PromptSource(
            DatasetConfig(path=Path("some/rows"), split="train", layout="gsm8k", streaming=True), tokenizer
        ).at(0, position)
        for position in (5,)
    ]
    assert streamed == by_layout


@pytest.mark.usefixtures("hub")
def test_a_hub_id_that_is_not_there_is_told_as_a_dataset(student_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(student_folder)
    with pytest.raises(ConfigError, match=r"dataset some/other: not a local path, and the hub"):
        PromptSource(DatasetConfig(path=Path("some/other")), tokenizer)
