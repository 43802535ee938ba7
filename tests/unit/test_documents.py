"""What the documents name exists: files, links, functions, import paths. Nothing is imported for it, only parsed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

NAMES = re.compile(r"\[(services/\S+\.py)\]\(\.\./(services/\S+\.py)\):((?:,? `[\w.]+`)+)")
LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)\s#]+)(?:#[^)]*)?\)")
# Not after a word or a slash: `/x/tests/a.py` and `my-tests/a.py` are other folders' files.
PATH = re.compile(r"(?<![\w./{<$*~-])([a-z][\w-]*(?:/[\w-]+)*\.(?:py|proto|md))\b")
OTHERS = {
    "services/trainer/objectives/mine.py",  # CONTRIBUTING's example
}
"""Files that are named and are not ours to have."""
DOTTED = re.compile(r"(?<![\w./\"-])(rgopd(?:\.[A-Za-z_]\w*)+)")
ATTRIBUTES = {"rgopd.rollout_id", "rgopd.yaml", "rgopd.schema.json"}
"""Of spans, and the files that `rgopd init` writes: no import paths."""
TEXT = {".py", ".md", ".yaml", ".yml", ".toml", ".sh", ".proto", ".cfg"}


def files(repository: Path) -> list[Path]:
    """The project's own files. Links to folders (`rgopd`) are not followed, so each is there once."""
    places = [repository / name for name in ("benchmarks", "deploy", "docs", "examples", "protos", "services", "tests")]
    return sorted(p for p in [*repository.iterdir(), *(p for f in places for p in f.rglob("*"))] if p.is_file())


def texts(repository: Path) -> Iterator[Path]:
    """Those that people read and write."""
    for path in files(repository):
        if path == Path(__file__):  # its examples are nobody's files
            continue
        if (path.suffix in TEXT or path.name in ("Makefile", "Dockerfile")) and not path.name.endswith("_pb2.py"):
            yield path


def defined(path: Path) -> set[str]:
    """Classes, functions, module-level names, and `Class.member` of a file."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
            names |= {
                f"{node.name}.{inner.name}"
                for inner in node.body
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
            }
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_every_step_of_a_rollouts_life_names_what_is_there(repository: Path) -> None:
    page = (repository / "docs" / "life-of-a-rollout.md").read_text()
    steps = re.split(r"^\d+\. ", page, flags=re.MULTILINE)[1:]
    assert re.findall(r"^(\d+)\. ", page, flags=re.MULTILINE) == [str(n) for n in range(1, 11)]
    missing = []
    for step in steps:
        found = NAMES.findall(step)
        assert found, f"a step without a file and a name: {step[:60]}"
        for shown, target, names in found:
            assert shown == target
            there = defined(repository / target)
            missing += [f"{target}: {name}" for name in re.findall(r"`([\w.]+)`", names) if name not in there]
    assert not missing
    assert "docs/life-of-a-rollout.md" in (repository / "README.md").read_text()


def test_links_lead_somewhere(repository: Path) -> None:
    broken = [
        f"{path.relative_to(repository)}: {target}"
        for path in texts(repository)
        if path.suffix == ".md"
        for target in LINK.findall(path.read_text())
        if not (path.parent / target).exists()
    ]
    assert not broken


def suffixes(repository: Path) -> set[str]:
    """Every way to name a file of ours: `services/a/b.py`, `a/b.py`, `b.py`."""
    found: set[str] = set()
    for path in files(repository):
        parts = path.relative_to(repository).parts
        found |= {"/".join(parts[start:]) for start in range(len(parts))}
    return found


def test_paths_that_documents_and_comments_name_exist(repository: Path) -> None:
    ours = suffixes(repository)
    stale = []
    for path in texts(repository):
        text = path.read_text()
        named = {name.removeprefix("rgopd/") for name in PATH.findall(text)} - OTHERS
        if path.suffix == ".py":  # a bare name in code may be anybody's file
            named = {name for name in named if "/" in name}
        stale += [f"{path.relative_to(repository)}: {name}" for name in sorted(named - ours)]
    assert not stale


def test_tests_that_the_page_on_faults_names_exist(repository: Path) -> None:
    rows = [line for line in (repository / "docs" / "faults.md").read_text().splitlines() if line.startswith("| ")][1:]
    named = {name for row in rows for name in row.rstrip("| ").rpartition("| ")[2].split(", ") if "test" in name}
    assert len(named) > 5
    assert [name for name in sorted(named) if not (repository / "tests" / f"{name}.py").is_file()] == []


def test_import_paths_that_are_named_exist(repository: Path) -> None:
    """`rgopd.a.b` is a module, or a name in one; further attributes are not followed."""

    def exists(dotted: str) -> bool:
        place = repository / "rgopd"
        for part in dotted.split(".")[1:]:
            if (place / part).is_dir():
                place /= part
            elif (module := place / f"{part}.py").is_file():
                place = module
            else:
                file = place if place.is_file() else place / "__init__.py"
                return not file.exists() or bool(re.search(rf"\b{part}\b", file.read_text()))
        return True

    stale = [
        f"{path.relative_to(repository)}: {name}"
        for path in texts(repository)
        for name in sorted(set(DOTTED.findall(path.read_text())))
        if name not in ATTRIBUTES and not exists(name)
    ]
    assert not stale


def packages(repository: Path) -> list[Path]:
    return sorted(p for p in (repository / "services").rglob("__init__.py") if p.parent.name != "protos")


def test_each_folder_says_what_enters_what_leaves_and_what_it_does_not_import(repository: Path) -> None:
    silent = []
    for path in packages(repository):
        said = ast.get_docstring(ast.parse(path.read_text())) or ""
        wanted = {"enters": r"\bIn: |\benters?\b", "leaves": r"\bOut: |\bleaves?\b", "imports": r"\bimport"}
        missing = [what for what, words in wanted.items() if not re.search(words, said, flags=re.IGNORECASE)]
        if missing or not 4 <= len(said.splitlines()) <= 10:
            silent.append(f"{path.relative_to(repository)}: {missing}, {len(said.splitlines())} lines")
    assert not silent


@pytest.mark.parametrize("most", [60])
def test_a_decision_is_at_most_a_screen(repository: Path, most: int) -> None:
    pages = sorted((repository / "docs" / "decisions").glob("*.md"))
    assert pages
    assert [p.name for p in pages if len(p.read_text().splitlines()) > most] == []
    assert [p.name for p in pages if not re.fullmatch(r"\d{3}-[a-z0-9-]+\.md", p.name)] == []


def test_tests_lie_where_their_modules_lie(repository: Path) -> None:
    """tests/unit/a/test_b.py, or test_b_more.py, is about b somewhere in services/a, or about a as a whole."""
    unit, astray = repository / "tests" / "unit", []
    for path in sorted(unit.rglob("test_*.py")):
        folder = repository / "services" / path.parent.relative_to(unit)
        about = path.stem.removeprefix("test_")
        modules = {folder.name} | {p.stem for p in folder.rglob("*") if p.suffix == ".py" or p.is_dir()}
        if path.parent != unit and not any(about == name or about.startswith(f"{name}_") for name in modules):
            astray.append(str(path.relative_to(repository)))
    assert astray == []


def commands(text: str) -> dict[str, list[str]]:
    """The words of every `rgopd` command of a text, by its first; short options written out, remarks left out."""
    joined = re.sub(r"\\\n#?\s*", "", text)
    lines = [line.lstrip("# ").partition(" #")[0] for line in joined.splitlines() if re.match(r"#?\s*rgopd ", line)]
    long = {"-i": "--input", "-o": "--output"}
    return {words[1]: [long.get(word, word) for word in words[1:]] for words in map(str.split, lines)}


def test_the_papers_run_is_described_alike(repository: Path) -> None:
    """docs/runs.md and the head of the config give the same commands, and so the same data."""
    config = (repository / "services/configs/qwen2.5-1.5b-ultrainteract.yaml").read_text()
    header = commands(config.partition("\ncommon:")[0])
    page = commands((repository / "docs/runs.md").read_text().partition("## Configs")[0])
    assert "--limit" in header["data"]
    assert header["data"].count("--exclude") == 2
    for command in ("data", "plan", "fetch", "doctor"):
        assert header[command] == page[command]
