"""The demo's dataset: short arithmetic and one-line functions, made from a seed.

Train and eval are disjoint by construction: a hash of the prompt, not the seed, decides the split.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import sys
import zlib
from typing import Any, Literal

from rgopd.trainer.demo.families import FAMILIES, Problem

Split = Literal["train", "eval"]
EVAL_SHARE = 4
"""One problem in this many is held out for evaluation."""


def split_of(prompt: str) -> Split:
    """The split to which a prompt belongs, for every seed."""
    return "eval" if zlib.crc32(prompt.encode()) % EVAL_SHARE == 0 else "train"


@functools.cache
def problems(split: Split) -> dict[str, tuple[Problem, ...]]:
    """All problems of a split with their worked solutions, by domain."""
    if split not in ("train", "eval"):
        raise ValueError(f"split must be 'train' or 'eval', not {split!r}")
    return {f.domain: tuple(p for p in f.problems() if split_of(p.prompt) == split) for f in FAMILIES}


def sample(seed: int, n: int, split: Split) -> list[Problem]:
    """``n`` problems, the domains in equal shares and in mixed order.

    No prompt repeats until a domain's pool is used up; then that pool is gone through again, reshuffled.
    """
    if n < 0:
        raise ValueError(f"n must be >= 0, not {n}")
    rng = random.Random(f"{split}-{seed}")
    chosen: list[Problem] = []
    pools = problems(split)
    quota = -(-n // len(pools))
    for pool in pools.values():
        drawn: list[Problem] = []
        while len(drawn) < quota:
            drawn += rng.sample(pool, min(len(pool), quota - len(drawn)))
        chosen += drawn
    rng.shuffle(chosen)
    return chosen[:n]


def generate(seed: int, n: int, split: Split) -> list[dict[str, Any]]:
    """``n`` dataset rows ``{"id", "prompt", "kind", "domain", ...}``.

    Math rows carry ``reference``; code rows carry ``entry_point`` and ``tests`` (calls with expected values).
    """
    return [
        {"id": f"{split}-{seed}-{i:05d}", "prompt": p.prompt, "kind": p.kind, "domain": p.domain, **p.answer}
        for i, p in enumerate(sample(seed, n, split))
    ]


def main() -> None:
    """Write rows as JSON lines to standard output."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--split", choices=("train", "eval"), default="train")
    args = parser.parse_args()
    for row in generate(args.seed, args.n, args.split):
        sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
