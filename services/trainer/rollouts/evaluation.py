"""Validation during training: greedy accuracy and sampled pass@k on held-out prompts, the best student, early stop.

Responses come from the samplers and verdicts from the verifier, as in training: what is measured is the whole loop's
student. A verdict of `error` is neither right nor wrong; it is counted apart.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rgopd.common import wire
from rgopd.common.conversation import own_length
from rgopd.common.errors import Unavailable
from rgopd.common.identity import derive_seed, eval_group_id
from rgopd.common.streams import GENERATE, ROLLOUT, VERDICT, VERIFY, Streams
from rgopd.protos import rollout_pb2, verifier_pb2
from rgopd.trainer.batch.stored import Vanished, read_rollouts, read_verdicts
from rgopd.trainer.config import EvalConfig, TrainConfig
from rgopd.trainer.prompts.data import PromptSource
from rgopd.trainer.rollouts.dispatch import Dispatch, alike, turn_limits
from rgopd.trainer.rollouts.join import Group, Join, forget_turns
from rgopd.trainer.rollouts.patience import patience_of

Verdicts = Mapping[str, verifier_pb2.Verdict | None]
"""By rollout id; None where a stage gave up."""

BEST = "best"
BEST_FILE = "best.json"


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Unbiased estimate of P(at least one of k samples passes) from `passed` of `samples` (Chen et al. 2021, Eq. 1).

    1 - C(n-c, k) / C(n, k), in exact integers up to the one division. 1 - (1 - c/n)^k would be biased downwards.

    Raises:
        ValueError: not 0 <= passed <= samples, or not 1 <= k <= samples.
    """
    if not 0 <= passed <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {passed} of {samples} samples: needs 0 <= passed <= samples, 1 <= k <= samples")
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


class Evaluator:
    """Asks for greedy and sampled responses to held-out prompts and sums up the verdicts. Runs on rank 0.

    Seeds depend on the run's seed and the prompt alone, not on the policy version: two students meet the same random
    numbers, so that their difference is less noisy than either figure.
    """

    def __init__(self, config: TrainConfig, streams: Streams, join: Join, dispatch: Dispatch) -> None:
        self.config = config
        self.eval: EvalConfig = config.eval
        self.streams = streams
        self.join = join
        self.dispatch = dispatch

    def run(self, prompts: PromptSource, policy_version: int, name: str = "eval") -> dict[str, Any]:
        """One evaluation of a published policy version: a row for metrics.jsonl.

        Returns `accuracy` (greedy), `problems` and `errors` of it, `by_domain`, `response_length_mean` and
        `truncated_fraction` of the greedy responses; with `eval.samples` also `pass_at` ({"1": ..., ...}, mean over
        problems) and `sample_errors`.

        Raises:
            Unavailable: over `fault.max_error_fraction` of the responses could not be judged: a figure would lie.
            Vanished: the store lost a verdict that was there; call again.
        """
        chosen = prompts.prompts[: self.eval.n]
        greedy = self._groups(chosen, policy_version, name, 1)
        sampled = self._groups(chosen, policy_version, f"{name}-sampled", self.eval.samples)
        self._send(greedy, temperature=0.0, top_p=1.0)
        self._send(sampled, temperature=self.eval.temperature, top_p=self.eval.top_p)
        groups = [*greedy, *sampled]
        patience = patience_of(self.config, self.eval.groups_per_request)
        list(self.join.wait(groups, tend=self.dispatch.tend, **patience.waits()))
        verdicts = self._verdicts(groups)
        self._check_errors(groups, verdicts, policy_version)
        row = {
            "policy_version": policy_version,
            **accuracy(_passed(greedy, verdicts)),
            **self._lengths(greedy),
            **(sampled_accuracy(_passed(sampled, verdicts), self.eval.k) if sampled else {}),
        }
        self._release(groups)
        return row

    def _groups(self, prompts: Sequence[rollout_pb2.Prompt], version: int, name: str, n: int) -> list[Group]:
        if n == 0:
            return []
        seed = self.config.seed
        return [
            Group(eval_group_id(version, name, i), p, n, derive_seed(seed, name, i), version, {GENERATE, VERIFY})
            for i, p in enumerate(prompts)
        ]

    def _send(self, groups: Sequence[Group], *, temperature: float, top_p: float) -> None:
        """The cut into requests is by position, whatever is already there: a batch is part of the numbers."""
        size = max(1, self.eval.groups_per_request // max((g.n for g in groups), default=1))
        for batch in alike(groups, self._length, size):
            request = rollout_pb2.GenerateRequest(
                header=wire.header(self.config.run_id),
                request_id=batch[0].group_id,
                groups=[
                    rollout_pb2.GroupRequest(group_id=g.group_id, prompt=g.prompt, n=g.n, seed=g.seed) for g in batch
                ],
                policy_version=batch[0].policy_version,
                sampling=rollout_pb2.SamplingParams(
                    temperature=temperature, top_p=top_p, max_new_tokens=self._length(batch[0])
                ),
                purpose="eval",
                verify=True,
                turns=turn_limits(self.config, batch),
            )
            self.dispatch.send(batch, request)

    def _length(self, group: Group) -> int:
        return self.config.sampling.length_of(group.prompt.domain)

    def _verdicts(self, groups: Sequence[Group]) -> Verdicts:
        entries = [entry for group in groups for entry in group.entries.values()]
        without = {entry.rollout_id for entry in entries if not entry.failed.keys().isdisjoint({GENERATE, VERIFY})}
        verdicts = read_verdicts(self.streams, [entry.rollout_id for entry in entries], without)
        for entry, verdict in zip(entries, verdicts, strict=True):
            if verdict is None and entry.rollout_id not in without:
                raise Vanished(
                    f"the verdict of {entry.rollout_id} was stored and is gone from {self.streams.blobs.where}"
                )
        return {entry.rollout_id: verdict for entry, verdict in zip(entries, verdicts, strict=True)}

    def _check_errors(self, groups: Sequence[Group], verdicts: Verdicts, version: int) -> None:
        why: Counter[str] = Counter()
        for entry in (entry for group in groups for entry in group.entries.values()):
            verdict = verdicts[entry.rollout_id]
            if _outcome(verdict) is None:
                why[verdict.reason if verdict is not None else next(iter(entry.failed.values()))] += 1
        if why.total() > self.config.fault.max_error_fraction * len(verdicts):
            common = "; ".join(f"{count}x {text[:200]}" for text, count in why.most_common(3))
            raise Unavailable(
                f"evaluation of policy {version}: {why.total()} of {len(verdicts)} could not be judged: {common}"
            )

    def _lengths(self, groups: Sequence[Group]) -> dict[str, float]:
        entries = [entry for group in groups for entry in group.entries.values() if GENERATE not in entry.failed]
        rollouts = []
        for entry, rollout in zip(
            entries, read_rollouts(self.streams, [entry.rollout_id for entry in entries]), strict=True
        ):
            if rollout is None:
                raise Vanished(f"rollout {entry.rollout_id} was stored and is gone from {self.streams.blobs.where}")
            rollouts.append(rollout)
        count = max(1, len(rollouts))
        return {
            "response_length_mean": sum(map(own_length, rollouts)) / count,
            "truncated_fraction": sum(r.finish_reason == rollout_pb2.FINISH_LENGTH for r in rollouts) / count,
        }

    def _release(self, groups: Iterable[Group]) -> None:
        ids = [item for group in groups for item in group.entries]
        groups = list(groups)
        for group in groups:
            self.join.forget(group)
        self.dispatch.forget(groups)
        for stage in (ROLLOUT, VERDICT):
            self.streams.blobs.delete(stage, ids)
        forget_turns(self.streams.blobs, groups, self.config.turns.max_turns)


def _passed(groups: Sequence[Group], verdicts: Verdicts) -> list[tuple[str, list[bool | None]]]:
    """(domain, one entry a sample: passed, failed, or None for an error) of every group."""
    return [(group.prompt.domain, [_outcome(verdicts[item]) for item in group.entries]) for group in groups]


def _outcome(verdict: verifier_pb2.Verdict | None) -> bool | None:
    if verdict is None or verdict.status not in (verifier_pb2.VERDICT_PASSED, verifier_pb2.VERDICT_FAILED):
        return None
    return bool(verdict.status == verifier_pb2.VERDICT_PASSED)


def accuracy(outcomes: Sequence[tuple[str, Sequence[bool | None]]]) -> dict[str, Any]:
    """Share of right answers among those that could be judged, in all and by domain."""
    right: dict[str, list[bool]] = defaultdict(list)
    for domain, results in outcomes:
        right[domain] += [r for r in results if r is not None]
    flat = [r for rs in right.values() for r in rs]
    return {
        "accuracy": sum(flat) / max(1, len(flat)),
        "problems": len(flat),
        "errors": sum(r is None for _, results in outcomes for r in results),
        "by_domain": {d: {"accuracy": sum(r) / len(r), "problems": len(r)} for d, r in sorted(right.items()) if r},
    }


def sampled_accuracy(outcomes: Sequence[tuple[str, Sequence[bool | None]]], ks: Sequence[int]) -> dict[str, Any]:
    """Mean pass@k over problems. A problem with fewer than k judged samples says nothing about pass@k and is left
    out of that mean; how many were is in `pass_at_short`."""
    judged = [[r for r in results if r is not None] for _, results in outcomes]
    row: dict[str, Any] = {"pass_at": {}, "pass_at_short": {}}
    for k in ks:
        values = [pass_at_k(len(r), sum(r), k) for r in judged if len(r) >= k]
        row["pass_at"][str(k)] = math.fsum(values) / len(values) if values else 0.0
        row["pass_at_short"][str(k)] = len(judged) - len(values)
    row["sample_errors"] = sum(r is None for _, results in outcomes for r in results)
    return row


class BestTracker:
    """Which evaluation was the best, and for how many evaluations none has been better.

    Made from rows alone, so a resumed run decides as the uninterrupted one would have.
    """

    def __init__(self, config: EvalConfig, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self.config = config
        self.best: float | None = None
        self.best_step = -1
        self.since = 0
        for row in rows:
            self.update(row)

    def update(self, row: Mapping[str, Any]) -> bool:
        """Take in one evaluation; True where it is the best so far. One without judged answers does not count."""
        if not row["problems"]:
            return False
        value = self.value(row)
        if self.best is None or value > self.best + self.config.min_delta:
            self.best, self.best_step, self.since = value, int(row["step"]), 0
            return True
        self.since += 1
        return False

    def value(self, row: Mapping[str, Any]) -> float:
        """The configured metric of a row."""
        kind, _, k = self.config.best.partition("@")
        return float(row["pass_at"][k] if kind == "pass" else row["accuracy"])

    @property
    def exhausted(self) -> bool:
        """`eval.patience` evaluations in a row were no better: stop."""
        return bool(self.config.patience) and self.since >= self.config.patience


def keep_best(run: Path, policy: Path, tokenizer: Any, generation_config: Any, row: Mapping[str, Any]) -> Path:
    """Copy a published policy folder to `run/best`, whole or not at all, with what makes it loadable on its own."""
    target = run / BEST
    partial = target.with_name(BEST + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(policy, partial)
    tokenizer.save_pretrained(partial)
    if generation_config is not None:
        generation_config.save_pretrained(partial)
    (partial / BEST_FILE).write_text(json.dumps(dict(row)) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return target
