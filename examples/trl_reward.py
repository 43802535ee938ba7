"""TRL's GRPOTrainer with rgopd's verifier as its reward: `rgopd verifier --set port=8002` must run.

    python examples/trl_reward.py MODEL rows.jsonl        # rows: prompt, kind, reference (docs/verifier.md)
"""

import os
import sys

import rgopd

verifier = rgopd.VerifyClient(os.environ.get("VERIFIER", "http://127.0.0.1:8002"))


def verified(completions, kind, reference, **columns):
    """TRL hands over the rows' columns as lists; None (a verdict `error`) is no reward, and TRL leaves it out."""
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    fields = zip(texts, kind, reference, strict=True)
    verdicts = verifier.verify([{"response": t, "kind": k, "reference": r} for t, k, r in fields])
    return [verdict.reward for verdict in verdicts]


if __name__ == "__main__":
    from datasets import load_dataset
    from trl import GRPOConfig, GRPOTrainer

    options = {"max_steps": 1, "per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 16}
    config = GRPOConfig("trl-run", report_to=[], use_cpu=os.environ.get("CPU") == "1", **options)
    rows = load_dataset("json", data_files=sys.argv[2], split="train")
    GRPOTrainer(sys.argv[1], reward_funcs=verified, args=config, train_dataset=rows).train()
