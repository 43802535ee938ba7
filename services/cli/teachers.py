"""Several teachers of one run, each a process of its own: section `teacher`, and what `up.teachers` lays over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rgopd.cli.sections import up_config, write_sections


def teacher_sections(sections: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The teacher section of each further teacher, by name. A port is one process's, so it is not handed on."""
    base = {key: value for key, value in sections.get("teacher", {}).items() if key != "port"}
    extra = up_config(sections).teachers
    return {name: {**base, **settings, "teacher_name": name} for name, settings in extra.items()}


def write_teachers(sections: dict[str, Any], folder: Path) -> dict[str, Path]:
    """A config file for each further teacher's process, by the process's name."""
    files = {}
    for name, section in teacher_sections(sections).items():
        files[f"teacher-{name}"] = folder / f"up-teacher-{name}.yaml"
        write_sections(files[f"teacher-{name}"], {**sections, "teacher": section})
    return files
