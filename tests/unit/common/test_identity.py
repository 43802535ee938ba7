from __future__ import annotations

from rgopd.common.identity import derive_seed, group_id, rollout_id


def test_names_and_seeds_are_functions_of_their_parts() -> None:
    assert group_id(3, 7) == "s000003-g0007"
    assert group_id(3, 7, 2) == "s000003-g0007-r2"
    assert rollout_id(group_id(3, 7), 1) == "s000003-g0007-n001"
    # Pinned: a changed derivation would change every run that is resumed across an upgrade.
    assert derive_seed(0, "s000000-g0000") == 3763902573171565009
    assert len({derive_seed(0, i) for i in range(1000)}) == 1000
    assert all(0 <= derive_seed(i) < 1 << 63 for i in range(100))
