"""Admission, cache, lanes, and what happens when the machinery breaks."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from rgopd.common.errors import InvalidInput, Overloaded, TooLarge, Unavailable
from rgopd.verifier.engine import VerifierEngine
from rgopd.verifier.graders import default_registry
from rgopd.verifier.schemas import Item
from rgopd.verifier.verdict import Status, Verdict
from tests.unit.verifier.conftest import Judge


def code(item_id: str, body: str = "return 1", **fields: Any) -> Item:
    return Item(item_id, "code", f"def f():\n    {body}\n", {"tests": ["assert f() == 1"], **fields})


def second(verifier: VerifierEngine, **options: Any) -> VerifierEngine:
    """Another engine on the same tools; never closed, since the tools are not its own."""
    return VerifierEngine(default_registry(), verifier.tools, **options)


def test_verdicts_come_in_order_with_their_ids(verifier: VerifierEngine) -> None:
    items = [code(f"c{n}", f"return {n % 2}") for n in range(10)]
    items.insert(3, Item("m", "math", "4", {"reference": "4"}))
    verdicts = verifier.check(items)
    assert [v.id for v in verdicts] == [i.id for i in items]
    assert [v.status.value for v in verdicts if v.id != "m"] == ["failed", "passed"] * 5


def test_identical_items_are_run_once(verifier: VerifierEngine) -> None:
    metrics = CollectorRegistry()
    engine = second(verifier, metrics=metrics)
    verdicts = engine.check([code(str(n), "return 1  # same") for n in range(20)])
    verdicts += engine.check([code("again", "return 1  # same")])
    assert {v.status for v in verdicts} == {Status.passed}
    assert [v.id for v in verdicts][-1] == "again"
    assert metrics.get_sample_value("rgopd_verdicts_total", {"kind": "code", "status": "passed"}) == 1
    assert engine.cache.hits == 20


def test_the_cache_is_bounded_and_holds_no_errors(verifier: VerifierEngine) -> None:
    engine = second(verifier, cache_size=3)
    engine.check([Item(str(n), "exact", str(n), {"reference": "1"}) for n in range(10)])
    assert len(engine.cache) == 3
    engine.check([Item("t", "exact", "t", {"reference": "1", "truncated": True, "on_truncated": "error"})])
    assert len(engine.cache) == 3


def test_all_or_nothing_admission(verifier: VerifierEngine) -> None:
    engine = second(verifier, queue_size=4)
    with pytest.raises(TooLarge, match="5 items are more than the queue holds"):
        engine.submit_many([code(str(n)) for n in range(5)])
    with pytest.raises(InvalidInput, match="item 'bad'"):
        engine.submit_many([code("good"), Item("bad", "cod", "", {})])
    assert engine.pending == 0
    seconds = (1.5, 1.6, 0)  # both workers are busy for as long as this one may take to come back
    slow = engine.submit_many([code(f"s{s}", f"import time; time.sleep({s}); return 1") for s in seconds])
    with pytest.raises(Overloaded) as full:
        engine.submit_many([code("a", "return 1 # a"), code("b", "return 1 # b")])
    assert full.value.retry_after >= 1
    assert [f.result().status for f in slow] == [Status.passed] * 3
    assert engine.pending == 0
    assert engine.check([code("b", "return 1 # b")])[0].status is Status.passed


def test_draining_finishes_what_was_accepted(verifier: VerifierEngine) -> None:
    engine = second(verifier)
    future = engine.submit(code("slow", "import time; time.sleep(0.3); return 1"))
    assert engine.drain(120)
    assert future.result().status is Status.passed
    with pytest.raises(Unavailable, match="draining"):
        engine.submit(code("late"))


def test_a_slow_kind_does_not_hold_up_a_fast_one(verifier: VerifierEngine) -> None:
    slow = [verifier.submit(code(f"w{n}", f"import time; time.sleep(2 + {n}e-6); return 1")) for n in range(3)]
    assert verifier.check([Item("e", "exact", "fast", {"reference": "fast"})])[0].status is Status.passed
    assert not all(f.done() for f in slow)
    assert all(f.result().status is Status.passed for f in slow)


@pytest.mark.parametrize(("treatment", "status"), [("failed", "failed"), ("error", "error"), ("grade", "passed")])
def test_truncated_responses(verifier: VerifierEngine, treatment: str, status: str) -> None:
    fields = {"reference": "4", "truncated": True}
    assert second(verifier, truncated=treatment).check([Item("t", "exact", "4", fields)])[0].status == status
    item = Item("t", "exact", "4", {**fields, "on_truncated": treatment})
    assert verifier.check([item])[0].status == status


def test_a_killed_zygote_is_replaced_and_its_item_run_again(verifier: VerifierEngine) -> None:
    running = verifier.submit(code("k", "import time; time.sleep(0.6); return 1"))
    time.sleep(0.2)
    for slot in list(verifier.tools.sandbox._all):
        os.kill(slot.process.pid, signal.SIGKILL)
    assert running.result().status is Status.passed
    assert all(
        v.status is Status.passed for v in verifier.check([code(f"after{n}", f"return 1 # {n}") for n in range(6)])
    )


def test_math_bombs_are_errors_and_cost_nobody_else(verifier: VerifierEngine, judge: Judge) -> None:
    bomb = threading.Thread(target=lambda: results.append(judge("math", "$9^{9^{9^9}}$", reference="4")))
    results: list[Verdict] = []
    bomb.start()
    assert judge("exact", "x", reference="x").status is Status.passed
    bomb.join()
    assert results[0].status is Status.error
    assert "deadline" in results[0].reason
    assert judge("math", "$4$", reference="4").status is Status.passed


def test_a_killed_math_worker_is_an_error_and_is_replaced(verifier: VerifierEngine, judge: Judge) -> None:
    pool = verifier.tools.symbolic
    worker = pool._free.get()
    assert worker is not None
    os.kill(worker.pid, signal.SIGKILL)
    pool._free.put(worker)
    assert judge("math", "5", reference="5.0").status is Status.error
    assert judge("math", "6", reference="6.0").status is Status.passed


def test_a_verdict_has_a_reward_unless_it_is_an_error() -> None:
    with pytest.raises(ValueError, match="exactly when"):
        Verdict(Status.error, 0.0)
    with pytest.raises(ValueError, match="exactly when"):
        Verdict(Status.failed, None)


def test_a_reference_that_cannot_be_read_is_an_error_not_a_wrong_answer(judge: Judge) -> None:
    verdict = judge("math", r"\boxed{0.5}", reference=r"\frac{1")
    assert (verdict.status, verdict.reward) == (Status.error, None)
    assert judge("math", r"\boxed{\{1,2\}}", reference=r"\{1,2\}").status is Status.passed
