"""What is shipped: the wheel and the source distribution, installed as a user would, beside foreign packages too."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import textwrap
import venv
import zipfile
from pathlib import Path

import pytest


def run(*argv: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command away from the checkout, so that nothing is imported from there."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "RGOPD", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(word) for word in argv], cwd=cwd, env={**kept, **environment}, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def checkout(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is checked in (or will be), so that building writes nothing into the real one."""
    checkout = tmp_path_factory.mktemp("source") / "checkout"
    files = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=repository).split("\0")
    for name in filter(None, files):
        if name.startswith(("rgopd", "services", "protos", "pyproject", "README", "LICENSE", "CHANGELOG", "MANIFEST")):
            target = checkout / name
            target.parent.mkdir(parents=True, exist_ok=True)
            source = repository / name
            if source.is_symlink():
                target.symlink_to(os.readlink(source))
            elif source.is_file():
                target.write_bytes(source.read_bytes())
    return checkout


@pytest.fixture(scope="module")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution of this checkout, and the wheel made from it alone."""
    folder = tmp_path_factory.mktemp("dist")
    hook = "from setuptools import build_meta as b; import sys; print(b.{}(sys.argv[1]))"
    name = run(sys.executable, "-c", hook.format("build_sdist"), folder, cwd=checkout).split()[-1]
    sdist = folder / name
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    [unpacked] = (folder / "unpacked").iterdir()
    name = run(sys.executable, "-c", hook.format("build_wheel"), folder, cwd=unpacked).split()[-1]
    return sdist, folder / name


def environment(folder: Path, *, foreign: bool = False) -> Path:
    """An empty virtual environment that sees this one's dependencies (not its editable rgopd); returns its python."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    [site] = folder.glob("lib/python*/site-packages")
    # A .pth that appends: what is installed in the new environment comes first. `addsitedir` is not used, since it
    # would run the .pth of the editable installation as well.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    if foreign:
        for name in ("services", "protos", "configs", "tests"):
            package = site / name
            package.mkdir()
            (package / "__init__.py").write_text("WHOSE = 'somebody else'\n")
        (site / "services" / "common.py").write_text("WHOSE = 'somebody else'\n")
    return folder / "bin" / "python"


def install(python: Path, what: Path, cwd: Path, *options: str) -> None:
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index",
        "--no-build-isolation", *options, what, cwd=cwd,
    )  # fmt: skip


def test_the_wheel_holds_one_package(built: tuple[Path, Path]) -> None:
    _, wheel = built
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(n for n in names if n.endswith("METADATA"))).decode()
    assert {name.split("/")[0] for name in names} == {"rgopd", wheel.name.split("-")[0] + "-0.1.0.dist-info"}
    for needed in (
        "rgopd/py.typed",
        "rgopd/configs/schema.json",
        "rgopd/configs/demo.yaml",
        "rgopd/protos/rollout.proto",
        "rgopd/protos/rollout_pb2.pyi",
        "rgopd/trainer/demo/checkpoints/student/model.safetensors",
    ):
        assert needed in names
    assert "Typing :: Typed" in metadata
    assert "Project-URL: Paper, https://arxiv.org/abs/2607.04037" in metadata
    assert not [name for name in names if "/tests/" in name or name.endswith((".pyc", "Dockerfile"))]


def test_the_source_distribution_has_what_a_build_needs(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "rgopd/cli/main.py"} <= names


SCRIPT = textwrap.dedent(
    """
    import sys, pathlib
    import rgopd
    assert "torch" not in sys.modules and "pydantic" not in sys.modules, "import rgopd stays cheap"
    from rgopd.protos import rollout_pb2
    from rgopd.common.settings import Settings
    from rgopd.trainer.config import TrainConfig
    assert rollout_pb2.Rollout(policy_version=3).policy_version == 3
    where = sys.modules["rgopd"].__file__
    assert pathlib.Path(where).is_relative_to(pathlib.Path(sys.argv[1]).resolve()), where
    print(rgopd.__version__)
    """
)


@pytest.mark.parametrize("foreign", [False, True], ids=["empty", "foreign services and protos"])
def test_the_wheel_in_an_environment_of_its_own(built: tuple[Path, Path], tmp_path: Path, *, foreign: bool) -> None:
    python = environment(tmp_path / "venv", foreign=foreign)
    install(python, built[1], tmp_path)
    assert run(python, "-c", SCRIPT, tmp_path / "venv", cwd=tmp_path).strip() == "0.1.0"
    rgopd = python.parent / "rgopd"
    assert run(rgopd, "--version", cwd=tmp_path) == "rgopd 0.1.0\n"
    assert '"$schema"' in run(rgopd, "config", "schema", cwd=tmp_path)
    if foreign:
        theirs = "import services, services.common, protos, configs; print(services.WHOSE, services.common.WHOSE)"
        assert run(python, "-c", theirs, cwd=tmp_path) == "somebody else somebody else\n"
        assert run(python, "-c", f"{theirs}\n{SCRIPT}", tmp_path / "venv", cwd=tmp_path).endswith("0.1.0\n")


def test_an_editable_installation(checkout: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", foreign=True)
    install(python, checkout, tmp_path, "--editable")
    code = "import sys, rgopd, services, rgopd.trainer.config; print(sys.modules['rgopd'].__file__, services.WHOSE)"
    where, *theirs = run(python, "-c", code, cwd=tmp_path).split()
    assert Path(where).samefile(checkout / "services" / "__init__.py")
    assert theirs == ["somebody", "else"]
    assert run(python.parent / "rgopd", "--version", cwd=tmp_path) == "rgopd 0.1.0\n"


USER = textwrap.dedent(
    """
    from rgopd.common.settings import Settings
    from rgopd.trainer.gating.gate import GateConfig, gate_preset

    gate: GateConfig = gate_preset("released")
    delta: float = gate.delta
    wrong: str = gate.delta
    """
)


def test_a_users_type_checker_sees_our_types(built: tuple[Path, Path], tmp_path: Path) -> None:
    """py.typed for real: mypy follows the installed wheel, and finds the one mistake of this file."""
    python = environment(tmp_path / "venv")
    install(python, built[1], tmp_path)
    (tmp_path / "user.py").write_text(USER)
    options = ["--follow-imports=silent", "--cache-dir", tmp_path / "cache", "--python-executable", python]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", *map(str, options), "user.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=800,
    )  # fmt: skip
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(errors) == 1, done.stdout
    assert 'user.py:7: error: Incompatible types in assignment (expression has type "float"' in errors[0]
