"""examples/verl_reward.py through verl's own loader of custom reward functions."""

from __future__ import annotations

import asyncio
import inspect

from omegaconf import OmegaConf

from tests.examples.conftest import EXAMPLES


def test_verl_loads_and_calls_it() -> None:
    from verl.trainer.ppo.reward import get_custom_reward_fn

    given = {"path": str(EXAMPLES / "verl_reward.py"), "name": "compute_score", "reward_kwargs": {}}
    reward = get_custom_reward_fn(OmegaConf.create({"reward": {"custom_reward_function": given}}))
    assert reward is not None

    async def scores() -> list[object]:
        asked = [("\\boxed{2}", "2", None), ("3", "2", None), ("2", "\\frac{1", None)]
        asked += [("def f(x): return x", ["assert f(1) == 1"], {"kind": "code"})]
        made = []
        for solution, truth, extra in asked:
            call = reward(data_source="d", solution_str=solution, ground_truth=truth, extra_info=extra)
            made.append(await call if inspect.isawaitable(call) else call)
        return made

    right, wrong, unknown, program = asyncio.run(scores())
    assert right == {"score": 1.0, "acc": True, "error": False}
    assert wrong == {"score": 0.0, "acc": False, "error": False}
    assert unknown == {"score": 0.0, "acc": False, "error": True}
    assert program == {"score": 1.0, "acc": True, "error": False}
