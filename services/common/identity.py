"""Names and seeds. Everything random or named in a run is a function of (run seed, step, slot, index)."""

from __future__ import annotations

import hashlib


def group_id(step: int, slot: int, redraw: int = 0) -> str:
    """The group in a step's slot; a redraw is another group for the same prompt."""
    return f"s{step:06d}-g{slot:04d}" + (f"-r{redraw}" if redraw else "")


def eval_group_id(version: int, name: str, slot: int) -> str:
    """The group of an evaluation prompt."""
    return f"e{version:06d}-{name}-g{slot:05d}"


def rollout_id(group: str, index: int) -> str:
    """The rollout at an index of its group."""
    return f"{group}-n{index:03d}"


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from any printable parts: the same on every machine and Python version."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
