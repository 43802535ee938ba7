"""Facts read off docker-compose.yml, the Dockerfiles and the locks, without an engine."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rgopd.sampler.config import SamplerConfig
from rgopd.teacher.config import TeacherConfig
from rgopd.trainer.config import TrainConfig
from rgopd.verifier.config import VerifierConfig
from tests.deploy.manifests import ROOT

SETTINGS = {"teacher": TeacherConfig, "verifier": VerifierConfig, "sampler": SamplerConfig, "train": TrainConfig}
DOCKERFILES = sorted(ROOT.glob("services/*/Dockerfile"))
LOCKS = ROOT / "deploy/docker/locks"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))


def test_every_service_is_confined(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & service.keys(), name
        assert {"mem_limit", "pids_limit"} <= service.keys(), name


def test_the_verifier_is_on_internal_networks_alone(compose: dict[str, Any]) -> None:
    for name in ("verifier", "verifier-gpu"):
        for network in compose["services"][name]["networks"]:
            assert compose["networks"][network]["internal"] is True
        assert "ports" not in compose["services"][name]
        assert compose["services"][name]["environment"]["RGOPD_RUNG"] == "3"


def test_every_service_of_a_run_gets_the_same_blob_store(compose: dict[str, Any]) -> None:
    commands = {name: service.get("command", [""])[0] for name, service in compose["services"].items()}
    names = [name for name, command in commands.items() if command in SETTINGS]
    assert len(names) == 8
    for name in names:
        given, service = compose["services"][name]["environment"], commands[name]
        # No value: passed on where it is set, absent where not. An empty one would overrule the config's.
        assert given["RGOPD_BLOB_URL"] is None, name
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            assert given[key] == (f"${{{key}_VERIFIER:-}}" if service == "verifier" else None), name
        assert "blobs:/blobs" in compose["services"][name]["volumes"], name
        folder = {"train": "trainer"}.get(service, service)
        text = (ROOT / "services" / folder / "Dockerfile").read_text()
        assert "install -d -o 10001 -g 10001 -m 2775 /blobs" in text, "the volume's owner: two users of one group"
    assert "# RGOPD_BLOB_URL=file:///blobs" in (ROOT / ".env.example").read_text()


def test_only_the_gateway_is_published_and_on_loopback_by_default(compose: dict[str, Any]) -> None:
    published = {name: s["ports"] for name, s in compose["services"].items() if "ports" in s}
    assert list(published) == ["gateway"]
    assert all(port.startswith("${BIND:-127.0.0.1}:") for port in published["gateway"])


def test_variables_are_settings_and_have_a_line_in_the_example(compose: dict[str, Any]) -> None:
    example = (ROOT / ".env.example").read_text()
    for name, service in compose["services"].items():
        command = service.get("command", [""])[0]
        for key in service.get("environment", {}):
            if key.startswith("RGOPD_") and command in SETTINGS:
                head = key.removeprefix("RGOPD_").lower().split("__")[0]
                assert head in SETTINGS[command].model_fields, (name, key)
    used = set(re.findall(r"\$\{(\w+):?-", (ROOT / "docker-compose.yml").read_text()))
    limits = {u for u in used if u.endswith(("_MEM_LIMIT", "_CPUS"))}
    assert {u for u in used - limits if u not in example} == set()


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.parent.name)
def test_dockerfiles_hold_to_the_rules(path: Any) -> None:
    text = path.read_text()
    assert re.search(r"^ARG BASE_IMAGE=\S+:\d+\.\d+\.\d+\S*$", text, re.MULTILINE), "a pinned default base"
    assert len(re.findall(r"^FROM ", text, re.MULTILINE)) >= 2
    assert re.search(r"^USER 1000\d:10001$", text, re.MULTILINE)
    assert "HEALTHCHECK" in text
    assert all(f"image.{label}=" in text for label in ("title", "description", "licenses", "version", "revision"))
    assert not re.search(r"^ADD |curl |latest", text, re.MULTILINE)


@pytest.mark.parametrize("service", ["verifier", "teacher", "sampler", "trainer"])
def test_locks_hold_what_pyproject_asks_for(service: str) -> None:
    """A requirement added to pyproject.toml and not to the locks would be missing in the image."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = {"sampler": "teacher"}.get(service, service)
    wanted = [Requirement(r) for r in [*project["dependencies"], *project["optional-dependencies"][extra]]]
    text = (LOCKS / f"{service}-cpu.txt").read_text()
    if service != "verifier":
        text += (LOCKS / "torch/cpu.txt").read_text()
    pinned = dict(re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", text, re.MULTILINE))
    for requirement in wanted:
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name}: run deploy/docker/lock.sh"
        assert requirement.specifier.contains(version.partition("+")[0]), (requirement, version)
    assert text.count("--hash=sha256:") >= len(pinned)


def test_the_evaluations_lock_adds_to_the_environment_and_changes_nothing_in_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", (LOCKS / "eval.txt").read_text(), re.MULTILINE)
    # What dev.txt has for Windows alone is not there on Linux, so the other lock has to bring it.
    lines = (LOCKS / "dev.txt").read_text().splitlines()
    on_linux = "\n".join(line for line in lines if "sys_platform == 'win32'" not in line)
    there = dict(re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", on_linux, re.MULTILINE))
    assert not {name for name, _ in found} & set(there)
    pinned = {**there, **dict(found)}
    for requirement in map(Requirement, project["optional-dependencies"]["eval"]):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name}: run deploy/docker/lock.sh"
        assert requirement.specifier.contains(version), (requirement, version)


def test_the_verifier_is_locked_without_torch() -> None:
    assert not re.search(r"^(torch|transformers|triton)==", (LOCKS / "verifier-cpu.txt").read_text(), re.MULTILINE)


def test_the_attack_suite_needs_no_more_than_its_image_holds() -> None:
    """`make test-compose` runs it in the verifier's image, which has no torch and none of the other tests."""
    recipe = (ROOT / "tests/deploy/Dockerfile.attacks").read_text()
    copied = [
        ROOT / source
        for sources in re.findall(r"^COPY (.*) /suite/\S+$", recipe, re.MULTILINE)
        for source in sources.split()
    ]
    files = [file for source in copied for file in ([source] if source.is_file() else source.rglob("*.py"))]
    assert len(files) > 10
    ours = ("rgopd.common", "rgopd.verifier", "rgopd.protos", "tests.attacks")
    locks = (LOCKS / "verifier-cpu.txt").read_text() + (LOCKS / "attacks.txt").read_text()
    held = {name.replace("-", "_") for name in re.findall(r"^([a-z0-9-]+)==", locks, re.MULTILINE)}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in names:
                top = name.partition(".")[0]
                assert top in sys.stdlib_module_names | held or name.startswith(ours), (file, name)
