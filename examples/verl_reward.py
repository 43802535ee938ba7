"""verl with rgopd's verifier as its reward: `rgopd verifier --set port=8002` must run. In verl's configuration:

    reward.custom_reward_function.path=examples/verl_reward.py
    reward.custom_reward_function.name=compute_score
"""

import os

import rgopd

verifier = rgopd.VerifyClient(os.environ.get("VERIFIER", "http://127.0.0.1:8002"))


async def compute_score(data_source, solution_str, ground_truth, extra_info=None, **options):
    """One response; verl takes `score` as the reward and logs the rest. A verdict `error` counts as 0, and is told."""
    kind = (extra_info or {}).get("kind", "math")
    needs = "tests" if kind == "code" else "reference"
    verdict = await verifier.averify_one(kind, solution_str, **{needs: ground_truth})
    return {"score": verdict.reward or 0.0, "acc": verdict.status == "passed", "error": verdict.status == "error"}
