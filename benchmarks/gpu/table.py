"""The benchmark's rows as one markdown table and as compact JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.harness import Row


def machine(device: str) -> dict[str, Any]:
    """What the figures are of."""
    cuda = device == "cuda"
    found: dict[str, Any] = {
        "date": date.today().isoformat(),
        "card": torch.cuda.get_device_name() if cuda else f"no GPU: {platform.processor() or platform.machine()}",
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
    }
    for package in ("triton", "transformers", "rgopd", "liger-kernel", "trl", "flash-attn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def markdown(rows: Sequence[Row], about: dict[str, Any], seconds: float) -> str:
    """One table; the card and the versions above it."""
    versions = ", ".join(f"{name} {value}" for name, value in about.items() if value and name not in ("card", "date"))
    lines = [
        f"**{about['card']}**, {about['date']}; {versions}; {seconds:.0f} s in all",
        "",
        "| section | case | measured | beside | predicted | memory, GB | launches |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        measured = f"**{row.error}**" if row.error else (f"{_number(row.value)} {row.unit}" if row.unit else row.note)
        beside = "; ".join(part for part in (row.relative, row.note if row.unit else "") if part)
        cells = (row.section, row.case, measured, beside, _number(row.predicted), _number(row.memory_gb))
        lines.append("| " + " | ".join((*cells, "" if row.launches is None else f"{row.launches:,}")) + " |")
    return "\n".join(lines) + "\n"


def compact(rows: Sequence[Row], about: dict[str, Any], seconds: float) -> str:
    """The same for programs; what is not there is left out."""
    kept = [{k: v for k, v in asdict(row).items() if v not in (None, "")} for row in rows]
    return json.dumps({**about, "seconds": round(seconds, 1), "rows": kept}, separators=(",", ":")) + "\n"


def write(folder: Path, rows: Sequence[Row], about: dict[str, Any], seconds: float) -> None:
    """table.md and results.json; the earlier ones stay until the new ones are whole."""
    for name, text in (("table.md", markdown), ("results.json", compact)):
        partial = folder / f"{name}.partial"
        partial.write_text(text(rows, about, seconds))
        partial.replace(folder / name)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
