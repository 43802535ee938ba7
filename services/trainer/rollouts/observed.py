"""Which rollouts of a step are shown to people, and what rank 0 knows of them: prompt, response, verdict, outcome."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rgopd.common import wire
from rgopd.common.conversation import own_tokens
from rgopd.common.identity import derive_seed
from rgopd.common.run_files.kept_files import FORMAT, pack
from rgopd.common.streams import GENERATE, SCORE, VERIFY
from rgopd.protos import rollout_pb2, verifier_pb2
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.rollouts.join import Entry, Group

NOT_ASKED = "not asked for"
"""`Entry.failed[SCORE]` of a rollout that the teacher was never asked about."""

MAX_TEXT, MAX_LIST = 2_000, 32
MAX_RESPONSE = 1 << 18

_STATUS = {verifier_pb2.VERDICT_PASSED: "passed", verifier_pb2.VERDICT_FAILED: "failed"}
_FINISH = {
    rollout_pb2.FINISH_STOP: "stop",
    rollout_pb2.FINISH_LENGTH: "length",
    rollout_pb2.FINISH_TURNS: "turns",
}


@dataclass(frozen=True)
class _Seen:
    group: Group
    entry: Entry
    index: int
    rollout: rollout_pb2.Rollout | None
    verdict: verifier_pb2.Verdict | None
    advantage: float | None
    outcome: str
    reason: str


class Observed:
    """One step at a time. Whole groups, since an advantage means nothing without the others of its group."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.keep = config.watch.keep
        self._seen: list[_Seen] = []
        self._slots: set[int] = set()
        self._wanted = False
        self._room = self._dropped = 0

    def begin(self, step: int) -> None:
        """A step is collected (perhaps again, since results vanished)."""
        sampling = self.config.sampling
        self._seen = []
        self._wanted = self.keep.rollouts > 0 and step % self.keep.every == 0
        self._room = self.keep.rollouts if self._wanted else 0
        self._dropped = self.keep.dropped if self._wanted else 0
        order = sorted(
            range(sampling.prompts_per_step), key=lambda slot: derive_seed(self.config.seed, "watch", step, slot)
        )
        self._slots = set(order[: -(-self._room // sampling.n)])

    def note(
        self,
        group: Group,
        rollouts: Sequence[rollout_pb2.Rollout | None],
        verdicts: Sequence[verifier_pb2.Verdict | None],
        advantages: Sequence[float] | None,
        trained: Collection[str],
    ) -> None:
        """A group as it was judged. `advantages`: None where it is drawn again."""
        mine = int(group.group_id[9:13]) in self._slots
        if not mine and not self._dropped:
            return
        for index, (entry, rollout, verdict) in enumerate(zip(group.entries.values(), rollouts, verdicts, strict=True)):
            outcome, reason = _outcome(self.config, entry, rollout, verdict, advantages is None, trained)
            advantage = None if advantages is None or outcome in ("lost", "error") else advantages[index]
            if not mine and outcome in ("trained", "unscored"):
                continue
            if mine and outcome == "trained":
                if not self._room:
                    continue
                self._room -= 1
            elif not mine:
                if not self._dropped:
                    return
                self._dropped -= 1
            self._seen.append(_Seen(group, entry, index, rollout, verdict, advantage, outcome, reason))

    def watched(self) -> list[str]:
        """Ids that the ranks add their figures to."""
        return [seen.entry.rollout_id for seen in self._seen if seen.outcome == "trained"]

    def take(
        self, step: int, ranks: int, metrics: dict[str, Any]
    ) -> Callable[[Callable[[list[int]], str]], list[Any]] | None:
        """What another thread may turn into lines of rollouts/step-N.jsonl.gz, given the text of prompt ids; None where
        nothing is kept of this step."""
        if not self._wanted:
            return None
        seen, self._seen = self._seen, []
        header = {**_header(self.config, step, ranks, metrics), "kept_rollouts": len(seen)}
        return lambda text: [header, *_groups(seen, text), *(_rollout(each) for each in seen)]


def _outcome(
    config: TrainConfig,
    entry: Entry,
    rollout: rollout_pb2.Rollout | None,
    verdict: verifier_pb2.Verdict | None,
    redrawn: bool,
    trained: Collection[str],
) -> tuple[str, str]:
    for stage, there in ((GENERATE, rollout), (VERIFY, verdict)):
        if there is None:
            return "lost", f"{stage}: {entry.failed.get(stage, 'no result')}"
    assert verdict is not None
    if not verdict.HasField("reward"):
        return "error", verdict.reason
    if redrawn:
        return "redrawn", f"fewer than fault.min_rollouts={config.fault.min_rollouts} of its group have a reward"
    if entry.rollout_id in trained:
        return "trained", ""
    if (failure := entry.failed.get(SCORE, NOT_ASKED)) != NOT_ASKED:
        return "lost", f"{SCORE}: {failure}"
    return "unscored", "every rollout of its group earned the same reward, which the gate masks (score=after_verdict)"


def _header(config: TrainConfig, step: int, ranks: int, metrics: dict[str, Any]) -> dict[str, Any]:
    gate = config.gate_config()
    return {
        "kind": "step",
        "format": FORMAT,
        "step": step,
        "rank": 0,
        "ranks": ranks,
        "time": round(time.time(), 3),
        "policy_version": step,
        "objective": config.objective.name,
        "gate": gate.model_dump(mode="json"),
        "gate_open": gate.enabled and step < gate.warmup_steps,
        "prefilter": config.gate_prefilter,
        "support": config.distillation.support,
        "tail": config.distillation.tail,
        "k": config.distillation.width,
        "temperature": config.sampling.temperature,
        "max_new_tokens": config.sampling.max_new_tokens,
        "domains": {name: own.model_dump(exclude_none=True) for name, own in config.sampling.domains.items()},
        "groups": config.sampling.prompts_per_step,
        "rollouts": metrics["rollouts"],
        "trained": metrics["trained_rollouts"],
    }


def _groups(seen: Sequence[_Seen], text: Callable[[list[int]], str]) -> list[dict[str, Any]]:
    rows = []
    for group in {each.group.group_id: each.group for each in seen}.values():
        prompt = group.prompt
        ids_C = wire.from_tensor(prompt.prompt_ids, "prompt_ids", dtype="int32", ndim=1)
        rows.append(
            {
                "kind": "group",
                "group_id": group.group_id,
                "prompt_id": prompt.prompt_id,
                "prompt_text": text(ids_C.tolist()),
                "prompt_ids": pack(ids_C, "i4"),
                "domain": prompt.domain,
                "teacher": prompt.teacher,
                "check": {"kind": prompt.check.kind, **_short(json.loads(prompt.check.spec_json or "{}"))},
                "policy_version": group.policy_version,
                "redraw": group.redraw,
            }
        )
    return rows


def _rollout(seen: _Seen) -> dict[str, Any]:
    rollout, verdict = seen.rollout, seen.verdict
    ids_T, own_T = np.zeros(0, np.int32), None
    if rollout is not None:
        own_T = own_tokens(rollout)
        ids_T = wire.from_tensor(rollout.response_ids, "response_ids", dtype="int32", ndim=1)
    return {
        "kind": "rollout",
        "id": seen.entry.rollout_id,
        "group_id": seen.group.group_id,
        "index": seen.index,
        "response_text": "" if rollout is None else rollout.response_text[:MAX_RESPONSE],
        "response_ids": pack(ids_T, "i4"),
        **({} if own_T is None else {"own": pack(own_T, "u1")}),
        "finish": "" if rollout is None else _FINISH.get(rollout.finish_reason, ""),
        "verdict": None if verdict is None else _verdict(verdict),
        "reward": verdict.reward if verdict is not None and verdict.HasField("reward") else None,
        "advantage": seen.advantage,
        "outcome": seen.outcome,
        "reason": seen.reason[:MAX_TEXT],
        "policy_version": seen.group.policy_version if rollout is None else rollout.policy_version,
    }


def _verdict(verdict: verifier_pb2.Verdict) -> dict[str, Any]:
    tests = [
        {
            "status": _STATUS.get(test.status, "error"),
            "reason": test.reason[:MAX_TEXT],
            "duration_ms": round(test.duration_ms, 2),
        }
        for test in verdict.tests[:MAX_LIST]
    ]
    return {
        "status": _STATUS.get(verdict.status, "error"),
        "reason": verdict.reason[:MAX_TEXT],
        "extracted": verdict.extracted[:MAX_TEXT] if verdict.HasField("extracted") else None,
        "tests": tests,
        "tests_in_all": len(verdict.tests),
        "duration_ms": round(verdict.duration_ms, 2),
    }


def _short(value: Any) -> Any:
    """Long texts and lists of a check, cut: a problem may carry megabytes of tests."""
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]} [{len(value) - MAX_TEXT} characters more]"
    if isinstance(value, list):
        rest = [f"[{len(value) - MAX_LIST} more]"] if len(value) > MAX_LIST else []
        return [_short(each) for each in value[:MAX_LIST]] + rest
    if isinstance(value, dict):
        return {key: _short(inner) for key, inner in value.items()}
    return value
