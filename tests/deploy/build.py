"""Images for the compose test, on a machine that may or may not reach a registry."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.deploy.engine import ROOT, Engine, say

LOCKS = ("torch/cpu", "verifier-cpu", "teacher-cpu", "sampler-cpu", "trainer-cpu", "build", "attacks")
WHEELS = ROOT / "deploy/docker/wheels"
PUBLIC = {
    "BASE_IMAGE": "python:3.11.14-slim-bookworm",
    "REDIS_IMAGE": "valkey/valkey:8.1.4",
    "HAPROXY_IMAGE": "haproxy:3.0.27-alpine",
}


def choose_images(engine: Engine) -> None:
    """The public images where they can be pulled; else a base by debootstrap, and Debian's Redis and HAProxy."""
    missing = [name for name in PUBLIC.values() if not engine.docker("pull", "--quiet", name, check=False)]
    engine.environment |= PUBLIC
    if not missing:
        return
    say(f"cannot be pulled here: {', '.join(missing)}; making a base with debootstrap")
    engine.run(["sh", "deploy/docker/local/base.sh", "rgopd-base:local"])
    folder = "deploy/docker/local"
    arguments = ["-f", f"{folder}/Dockerfile.tools", "--build-arg", "BASE_IMAGE=rgopd-base:local"]
    engine.docker("build", "--quiet", *arguments, "-t", "rgopd-tools:local", folder)
    local = {"BASE_IMAGE": "rgopd-base:local", "REDIS_IMAGE": "rgopd-tools:local", "HAPROXY_IMAGE": "rgopd-tools:local"}
    engine.environment |= local


def fetch_wheels(engine: Engine) -> None:
    """Every wheel of the locks, by this machine's pip and its settings, so that builds need no network."""
    wanted = [argument for lock in LOCKS for argument in ("-r", f"deploy/docker/locks/{lock}.txt")]
    for lock in wanted[1::2]:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--no-deps"]
        engine.run([*pip, "--python-version", "3.11", "--require-hashes", "-d", str(WHEELS), "-r", lock])


def build(engine: Engine, version: str, source: Path = ROOT, services: Sequence[str] = ()) -> None:
    """The four images, or some of them, with one tag, from the wheels alone."""
    engine.environment["BUILD_ARGS"] = "--build-arg PIP_ARGS=--no-index"
    engine.run(["sh", str(source / "deploy/docker/build.sh"), *services], environment={"VERSION": version})


def build_attacks(engine: Engine, version: str) -> None:
    """The verifier's image plus the attack suite."""
    arguments = ["--build-arg", f"VERIFIER=rgopd-verifier:{version}", "--build-arg", "PIP_ARGS=--no-index"]
    tag = ["-t", f"rgopd-attacks:{version}"]
    engine.docker("build", "--quiet", "-f", "tests/deploy/Dockerfile.attacks", *arguments, *tag, ".")


def build_next(engine: Engine, version: str) -> None:
    """The same services one release on: their messages carry a header field that this release does not know."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for part in ("protos", "services", "deploy", "pyproject.toml", ".dockerignore"):
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(
                    source, copy / part, ignore=shutil.ignore_patterns("__pycache__", "*.whl"), symlinks=True
                )
            else:
                shutil.copy(source, copy / part)
        for wheel in WHEELS.glob("*.whl"):
            os.link(wheel, copy / "deploy/docker/wheels" / wheel.name)
        _add_field(copy, version)
        (copy / "rgopd").symlink_to("services")
        protos = sorted(f"rgopd/protos/{p.name}" for p in (copy / "protos").glob("*.proto"))
        compiler = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(copy), f"--python_out={copy}"]
        engine.run([*compiler, *protos])
        build(engine, version, copy, ("verifier", "teacher", "sampler"))


def _add_field(copy: Path, version: str) -> None:
    proto, wire = copy / "protos/common.proto", copy / "services/common/wire.py"
    text = proto.read_text()
    assert text.count("  string trace_id = 5;") == 1
    proto.write_text(text.replace("  string trace_id = 5;", "  string release = 100;\n  string trace_id = 5;"))
    text = wire.read_text()
    assert text.count("schema_version=SCHEMA_VERSION, ") == 1
    wire.write_text(
        text.replace("schema_version=SCHEMA_VERSION, ", f'schema_version=SCHEMA_VERSION, release="{version}", ')
    )
