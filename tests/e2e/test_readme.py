"""What the README shows runs as it stands."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from rgopd.cli.checked import check_sections
from rgopd.cli.sections import override
from tests.e2e.conftest import Rgopd, ready_url


@pytest.fixture(scope="session")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def started(command: str, rgopd: Rgopd) -> str:
    """Start a `rgopd ...` line of the README on a free port; returns its URL."""
    words = re.sub(r"port=\d+", "port=0", command).split()
    assert words[0] == "rgopd"
    return ready_url(rgopd(*words[1:]))


def test_the_rest_examples_answer(readme: str, rgopd: Rgopd) -> None:
    services = next(block for block in blocks(readme, "bash") if "port=8001" in block)
    urls = dict(zip(("8001", "8002"), [started(line, rgopd) for line in services.splitlines()], strict=True))
    answers = {}
    for command in (block for block in blocks(readme, "bash") if block.startswith("curl")):
        port = re.search(r"localhost:(\d+)", command).group(1)  # type: ignore[union-attr]
        run = subprocess.run(
            ["bash", "-c", command.replace(f"localhost:{port}", urls[port])],
            capture_output=True,
            timeout=600,
            check=True,
        )
        answers[port] = json.loads(run.stdout)
    [score] = answers["8001"]["scores"]
    assert len(score["sampled_logprobs"]) == len(score["topk_logprobs"]) == len(score["tail_logprob"]) == 2
    assert all(value <= 0 for value in score["sampled_logprobs"])
    verdicts = {v["id"]: v for v in answers["8002"]["verdicts"]}
    assert {v["status"] for v in verdicts.values()} == {"passed"}
    assert verdicts["m"]["reward"] == verdicts["c"]["reward"] == 1.0


def test_the_example_config_is_accepted(readme: str) -> None:
    [example] = [block for block in blocks(readme, "yaml") if "teacher:" in block]
    check_sections(override(yaml.safe_load(example), []))


def test_every_path_it_links_to_is_there(readme: str, repository: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", readme) if "://" not in link]
    assert len(links) > 10
    missing = [link for link in links if not (repository / link.partition("#")[0]).exists()]
    # The map writes `verifier/` below `services/teacher/`: those links are relative to the repository too.
    assert missing == []


def test_every_make_target_it_names_exists(readme: str, repository: Path) -> None:
    targets = set(re.findall(r"make ([a-z][a-z-]+)", readme))
    known = set(re.findall(r"^([a-z][a-z-]*):", (repository / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "install"} <= targets <= known
