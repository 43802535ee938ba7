"""Every attack: the verdict is right and the host is unharmed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from rgopd.verifier.schemas import Item
from rgopd.verifier.verdict import Verdict
from tests.attacks import host
from tests.attacks.answers import answers
from tests.attacks.breaking import VALUES, escapes, resources
from tests.attacks.case import Case
from tests.attacks.conftest import AVAILABLE, Arena
from tests.attacks.doors import DOORS
from tests.attacks.ending import ENDING
from tests.attacks.forging import FORGING
from tests.attacks.honest import HONEST
from tests.attacks.lying import LYING
from tests.attacks.sharing import SHARED_FILES, SHARING

os.environ["RGOPD_ATTACK_CANARY"] = host.SECRET  # before the zygotes start: must not reach them


# How verdicts are made does not depend on the rung; what gets out of the sandbox does.
best_rung = pytest.mark.parametrize("arena", sorted(AVAILABLE)[:1], indirect=True, ids=lambda rung: f"rung{rung}")


def judge(arena: Arena, fields: dict[str, object]) -> Verdict:
    rest = {k: v for k, v in fields.items() if k not in ("kind", "response")}
    [verdict] = arena.engine.check([Item("x", str(fields["kind"]), str(fields["response"]), rest)])
    return verdict


def zygotes(arena: Arena) -> frozenset[int]:
    """The processes that belong there: each slot's own, and what it has forked as a zygote."""
    found = {slot.process.pid for slot in arena.sandbox._all}
    for pid in list(found):
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            found.update(map(int, file.read().split()))
    return frozenset(found)


def prove(arena: Arena, case: Case) -> None:
    """Judge, and compare the host before and after."""
    if case.follows:
        assert judge(arena, case.follows).status == "passed"
    known = zygotes(arena)
    before = host.take(arena.canary, arena.uids, known)
    space = host.free_bytes()
    verdict = judge(arena, case.fields)
    after = host.take(arena.canary, arena.uids, known)
    assert verdict.status in case.expected, verdict
    assert (verdict.reward is None) == (verdict.status == "error")
    if case.fields.get("partial"):
        assert [number for number, test in enumerate(verdict.tests) if test.status == "passed"] == []
    assert case.reason in verdict.reason, verdict.reason
    assert host.SECRET not in f"{verdict.reason}{[t.reason for t in verdict.tests]}"
    assert not [m for m in after.mounts - before.mounts if " sandbox " in m or "rgopd" in m or "tmpfs tmp " in m]
    assert after.descriptors <= before.descriptors + 2  # a killed math worker's are made again when it is needed
    assert after == replace(before, mounts=after.mounts, descriptors=after.descriptors)  # others unmount theirs
    assert zygotes(arena) == known, "a zygote died or was replaced"
    assert not after.strangers
    assert not arena.listeners.reached
    # Others may write to the disk meanwhile; a disk bomb that got through would take all of it.
    assert host.free_bytes() > space - (4 << 30)


def test_this_machine_has_a_rung() -> None:
    assert AVAILABLE, "no rung of the isolation ladder works on this machine"


@best_rung
@pytest.mark.parametrize("case", FORGING, ids=lambda case: case.name)
def test_forging(arena: Arena, case: Case) -> None:
    prove(arena, case)


@best_rung
@pytest.mark.parametrize("case", LYING, ids=lambda case: case.name)
def test_lying(arena: Arena, case: Case) -> None:
    prove(arena, case)


@best_rung
@pytest.mark.parametrize("case", DOORS, ids=lambda case: case.name)
def test_doors(arena: Arena, case: Case) -> None:
    prove(arena, case)


@best_rung
@pytest.mark.parametrize("case", ENDING, ids=lambda case: case.name)
def test_ending(arena: Arena, case: Case) -> None:
    prove(arena, case)


@best_rung
@pytest.mark.parametrize("case", VALUES, ids=lambda case: case.name)
def test_values(arena: Arena, case: Case) -> None:
    prove(arena, case)


@pytest.mark.parametrize("case", HONEST, ids=lambda case: case.name)
def test_honest(arena: Arena, case: Case) -> None:
    prove(arena, case)


@best_rung
@pytest.mark.parametrize("case", SHARING, ids=lambda case: case.name)
def test_sharing(arena: Arena, case: Case) -> None:
    prove(arena, case)


@pytest.mark.parametrize("case", SHARED_FILES, ids=lambda case: case.name)
def test_shared_files(arena: Arena, case: Case) -> None:
    prove(arena, case)


# What depends on the arena (paths, ports, pids) is made from placeholders at collection and again with the real ones.
_ESCAPES = [case.name for case in escapes("/c", 1, "\0a", 1)]
_RESOURCES = [case.name for case in resources("/c")]
_ANSWERS = [case.name for case in answers("/c")]


@pytest.mark.parametrize("name", _ESCAPES)
def test_escapes(arena: Arena, name: str) -> None:
    cases = escapes(str(arena.canary), arena.listeners.port, arena.listeners.abstract, os.getpid())
    prove(arena, next(case for case in cases if case.name == name))


@pytest.mark.parametrize("name", _RESOURCES)
def test_resources(arena: Arena, name: str) -> None:
    prove(arena, next(case for case in resources(str(arena.canary)) if case.name == name))


@best_rung
@pytest.mark.parametrize("name", _ANSWERS)
def test_answers(arena: Arena, name: str) -> None:
    prove(arena, next(case for case in answers(str(arena.canary)) if case.name == name))


@pytest.fixture(scope="module", autouse=True)
def every_rung_is_usable_afterwards(arena: Arena) -> Iterator[None]:
    yield
    for number in range(20):
        fields = {"kind": "code", "response": f"def f(): return {number}", "tests": [f"assert f() == {number}"]}
        assert judge(arena, fields).status == "passed"
