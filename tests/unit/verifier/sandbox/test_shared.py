"""Shared objects: what the other side has forgotten is known anew, also while an older message is being read."""

from __future__ import annotations

from rgopd.verifier.sandbox.shared import Shared


def test_a_number_that_the_other_side_forgot_is_not_used_again() -> None:
    shared, kept = Shared(-1), [1, 2]
    number = shared.add(kept)
    shared.settle(number)
    shared.leave([number])
    assert shared.number(kept) is None
    assert shared[number] is kept  # the message that is being read may still speak of it
    kept.append(3)
    assert list(shared.changed()) == []  # nobody is told of a change to what nobody knows
    again = shared.add(kept)
    shared.left()
    assert again != number
    assert shared.number(kept) == again


def test_what_has_left_is_gone() -> None:
    shared, kept = Shared(1), {"a": 1}
    number = shared.add(kept)
    shared.leave([number])
    shared.left()
    assert shared.number(kept) is None
    assert number not in shared.unused()
