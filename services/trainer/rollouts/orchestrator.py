"""Prompts -> requests -> join -> rewards and advantages -> a plan for every rank.

The orchestrator handles names, verdicts and scalars. Tensors go from sampler and teacher to the blob store, and from
there to the rank that trains on them.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from rgopd.common.conversation import own_length
from rgopd.common.errors import RgopdError, Unavailable
from rgopd.common.identity import derive_seed, group_id
from rgopd.common.streams import GENERATE, ROLLOUT, SCORE, TEACHER_SCORE, VERDICT, VERIFY, Streams
from rgopd.protos import rollout_pb2, verifier_pb2
from rgopd.trainer.batch.plan import RolloutPlan, StepPlan, cut_micro_batches
from rgopd.trainer.batch.stored import Vanished, read_rollouts, read_verdicts, why_vanished
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.gating.advantage import group_advantage
from rgopd.trainer.gating.gate import GateConfig
from rgopd.trainer.prompts.data import PromptSource
from rgopd.trainer.records.ledger import rollout_digest
from rgopd.trainer.rollouts.dispatch import Dispatch, Interrupted
from rgopd.trainer.rollouts.evaluation import Evaluator
from rgopd.trainer.rollouts.join import Group, Join, forget_turns
from rgopd.trainer.rollouts.observed import NOT_ASKED, Observed
from rgopd.trainer.rollouts.pass_rates import PassRates
from rgopd.trainer.rollouts.patience import patience_of, rows_of
from rgopd.trainer.rollouts.tally import Tally

log = logging.getLogger(__name__)

MAX_VANISHED = 5
"""How often a step may find that a finished result is gone before the store itself is to blame."""


class BrokenStage(RgopdError):
    """So large a share of a stage's answers are errors that training on the rest would train on a biased sample."""

    kind = "broken_stage"
    retryable = False


class Orchestrator:
    """Runs on rank 0."""

    def __init__(
        self,
        config: TrainConfig,
        streams: Streams,
        prompts: PromptSource,
        ranks: int,
        join: Join,
        dispatch: Dispatch,
        rates: PassRates | None = None,
    ) -> None:
        self.config = config
        self.streams = streams
        self.prompts = prompts
        self.ranks = ranks
        self.gate: GateConfig = config.gate_config()
        self.objective = config.build_objective()
        self.join = join
        self.dispatch = dispatch
        self.requested: dict[int, list[Group]] = {}
        self.rates = rates
        self.patience = patience_of(config, rows_of(config))
        self.observed = Observed(config)

    # -- asking ---------------------------------------------------------------------------------------------------

    def request(self, step: int, policy_version: int) -> None:
        """Ask for the rollouts of a step, once; what an earlier life of this trainer made is taken over."""
        if step in self.requested:
            return
        prompts = self._prompts_of(step)
        groups = [self._group(step, slot, prompt, policy_version) for slot, prompt in enumerate(prompts)]
        self.requested[step] = groups
        self._send(groups)

    def _prompts_of(self, step: int) -> list[rollout_pb2.Prompt]:
        """With pass rates of steps that are done whenever this one is asked for, whatever the staleness."""
        before = step - self.config.max_staleness
        return self.prompts.of_step(self.config.seed, step, self.config.sampling.prompts_per_step, before)

    def _group(self, step: int, slot: int, prompt: rollout_pb2.Prompt, policy_version: int, redraw: int = 0) -> Group:
        name = group_id(step, slot, redraw)
        return Group(
            name,
            prompt,
            self.config.sampling.n,
            derive_seed(self.config.seed, name),
            policy_version,
            wanted={GENERATE, VERIFY} | ({SCORE} if self._score_at_once else set()),
            redraw=redraw,
        )

    @property
    def _score_at_once(self) -> bool:
        return self.objective.needs_teacher and self.config.score == "immediately"

    def _send(self, groups: Sequence[Group]) -> None:
        self.dispatch.generate(groups, self.config.sampling.groups_per_request)

    def _complete(self, groups: list[Group]) -> Iterator[Group]:
        """Each group as it becomes complete; what is lost or late meanwhile is asked for again."""
        return self.join.wait(groups, tend=self.dispatch.tend, **self.patience.waits())

    # -- collecting -----------------------------------------------------------------------------------------------

    def collect(self, step: int) -> StepPlan:
        """Wait for a step's rollouts and plan the step. The same again when called again: for results that vanished.

        Raises:
            BrokenStage: more than `fault.max_error_fraction` of the rollouts ended in errors.
            Unavailable: a stage fell silent; names it. Or the store keeps losing what was put there.
        """
        for _ in range(MAX_VANISHED):
            try:
                return self._collect(step)
            except Vanished as gone:
                log.warning("%s; it is made again", gone)
                self.recheck(step)
        raise Unavailable(
            f"step {step}: finished results vanished from {self.streams.blobs.where} {MAX_VANISHED} times; "
            + why_vanished(self.streams)
        )

    def wait_for_idle_samplers(self) -> None:
        """Until no request is in work or waiting: a colocated sampler acknowledges one when it sleeps.

        Raises:
            Unavailable: not within `fault.wait_for_services_s`, longer for long responses: a twin may be in work.
            Interrupted: asked to stop meanwhile.
        """
        deadline = time.monotonic() + self.patience.in_work_s
        while self.streams.depth(GENERATE)["backlog"]:
            if self.dispatch.should_stop():
                raise Interrupted
            if time.monotonic() >= deadline:
                raise Unavailable(
                    "a sampler still holds the device: its request is not acknowledged; see `rgopd queues`"
                )
            time.sleep(0.02)

    def recheck(self, step: int) -> None:
        """A result of this step is gone: look at what is left before collecting again."""
        self.join.recheck(self.requested[step])

    def _collect(self, step: int) -> StepPlan:
        tally = Tally()
        self.observed.begin(step)
        rollouts: list[RolloutPlan] = []
        waiting = [group for group in self.requested[step] if not group.redraw]
        finished: list[Group] = []
        while waiting:
            again: list[Group] = []
            for group in self._wait(waiting):
                finished.append(group)
                usable, retry = self._evaluate_group(group, tally)
                rollouts += usable
                again += retry
            waiting = again
        if tally.error_fraction > self.config.fault.max_error_fraction:
            raise BrokenStage(self._why_broken(step, tally, finished))
        rollouts.sort(key=lambda r: r.rollout_id)
        micro = cut_micro_batches(
            rollouts,
            self.ranks,
            self.config.batch.micro_batch_tokens,
            self.config.batch.micro_batch_rollouts,
            packing=self.config.batch.packing,
        )
        ages = [step - r.policy_version for r in rollouts]
        metrics = {
            **tally.metrics(),
            "staleness_max": max(ages, default=0),
            "staleness_mean": sum(ages) / max(1, len(ages)),
            "trained_rollouts": len(rollouts),
        }
        return StepPlan(step, micro, metrics, self.observed.watched())

    def _wait(self, groups: list[Group]) -> list[Group]:
        """The groups, complete, in the order they were asked for: results must not depend on who was faster."""
        scoring: list[Group] = []
        for group in self._complete(groups):
            if self.objective.needs_teacher and not self._score_at_once:
                scoring += self._score_after_verdict(group)
        list(self._complete(scoring))
        return groups

    def _score_after_verdict(self, group: Group) -> list[Group]:
        """Ask the teacher only about groups of which the gate may keep something."""
        rewards = [_reward(verdict) for verdict in self._verdicts(group)]
        known = {reward for reward in rewards if reward is not None}
        # While it warms up the gate keeps everything, so everything needs a score.
        gate = self.gate
        masks = gate.enabled and gate.zero_advantage == "mask" and _step_of(group) >= gate.warmup_steps
        if masks and len(known) < 2:
            return []
        group.wanted.add(SCORE)
        self.join.sweep([group])
        wanted = [i for i, r in zip(group.entries, rewards, strict=True) if r is not None and i in group.open(SCORE)]
        for item in group.entries.keys() - set(wanted):
            group.entries[item].failed.setdefault(SCORE, NOT_ASKED)
        self.dispatch.announce(group, SCORE, wanted)
        return [group]

    def _verdicts(self, group: Group) -> list[verifier_pb2.Verdict | None]:
        """A complete group's verdicts; None where a stage gave up.

        Raises:
            Vanished: one was there and is gone.
        """
        without = {e.rollout_id for e in group.entries.values() if not e.failed.keys().isdisjoint({GENERATE, VERIFY})}
        verdicts = read_verdicts(self.streams, list(group.entries), without)
        for entry, verdict in zip(group.entries.values(), verdicts, strict=True):
            if verdict is None and entry.rollout_id not in without:
                raise Vanished(
                    f"the verdict of {entry.rollout_id} was stored and is gone from {self.streams.blobs.where}"
                )
        return verdicts

    def _evaluate_group(self, group: Group, tally: Tally) -> tuple[list[RolloutPlan], list[Group]]:
        """Rewards and advantages of one group; or another draw where too few rollouts are usable."""
        ids = list(group.entries)
        rollouts = read_rollouts(self.streams, ids, {i for i in ids if GENERATE in group.entries[i].failed})
        for item, rollout in zip(ids, rollouts, strict=True):
            entry = group.entries[item]
            if rollout is None and GENERATE not in entry.failed:
                raise Vanished(f"rollout {item} was stored and is gone from {self.streams.blobs.where}")
            # Redis may have come back empty while the step waited for another group: then this one is open again.
            if GENERATE not in entry.failed and group.wanted - entry.done - entry.failed.keys():
                raise Vanished(f"a result of rollout {item} was stored and is gone from {self.streams.blobs.where}")
        verdicts = self._verdicts(group)
        rewards = [_reward(verdict) for verdict in verdicts]
        self._count(group, rollouts, verdicts, tally)
        if self.rates is not None:
            self.rates.note(_step_of(group), group.prompt.prompt_id, rewards)
        valid = [o is not None and r is not None for o, r in zip(rollouts, rewards, strict=True)]
        if sum(valid) < min(self.config.fault.min_rollouts, group.n):
            self.observed.note(group, rollouts, verdicts, None, ())
            return [], self._redraw(group, tally)
        advantages = group_advantage(
            torch.tensor([r or 0.0 for r in rewards], dtype=torch.float64),
            torch.tensor(valid),
            scale_by_std=self.config.scale_advantage_by_std,
        ).tolist()
        usable = []
        for item, rollout, reward, advantage in zip(ids, rollouts, rewards, advantages, strict=True):
            if rollout is None or reward is None:
                continue
            tokens = own_length(rollout)
            if self.objective.needs_teacher and SCORE not in group.entries[item].done:
                tally.unscored += 1
                tally.unscored_tokens += tokens
                continue
            prompt_tokens = rollout.prompt_ids.shape[0]
            version, digest, at = rollout.policy_version, rollout_digest(rollout), rollout.temperature or None
            between = rollout.response_ids.shape[0] - tokens
            usable.append(RolloutPlan(item, prompt_tokens, tokens, reward, advantage, version, digest, at, between))
        self.observed.note(group, rollouts, verdicts, advantages, {plan.rollout_id for plan in usable})
        return usable, []

    def _count(
        self,
        group: Group,
        rollouts: Sequence[rollout_pb2.Rollout | None],
        verdicts: Sequence[verifier_pb2.Verdict | None],
        tally: Tally,
    ) -> None:
        statuses = {verifier_pb2.VERDICT_PASSED: "passed", verifier_pb2.VERDICT_FAILED: "failed"}
        for entry, rollout, verdict in zip(group.entries.values(), rollouts, verdicts, strict=True):
            if rollout is None or verdict is None:
                tally.failures[GENERATE if GENERATE in entry.failed else VERIFY] += 1
                continue
            tally.verdicts[statuses.get(verdict.status, "error")] += 1
            if entry.failed.get(SCORE, NOT_ASKED) != NOT_ASKED:
                tally.failures[SCORE] += 1
            tally.note(rollout)
            reward = _reward(verdict)
            if reward is not None:
                tally.rewards.append(reward)
                tally.by_domain[group.prompt.domain].append(reward)

    def _redraw(self, group: Group, tally: Tally) -> list[Group]:
        if group.redraw >= self.config.fault.max_redraws:
            tally.dropped_groups += 1
            log.error("group %s dropped after %d redraws", group.group_id, group.redraw)
            return []
        tally.redraws += 1
        step, slot = _step_of(group), int(group.group_id[9:13])
        again = self._group(step, slot, group.prompt, group.policy_version, group.redraw + 1)
        known = next((g for g in self.requested[step] if g.group_id == again.group_id), None)
        if known is not None:  # this step is collected a second time
            return [known]
        self.requested[step].append(again)
        self._send([again])
        return [again]

    def _why_broken(self, step: int, tally: Tally, groups: list[Group]) -> str:
        entries = [entry for group in groups for entry in group.entries.values()]
        # Without the names in them, or every reason would be another.
        reasons = Counter(why.replace(e.rollout_id, "it") for e in entries for why in e.failed.values())
        ids = [i for g in groups for i in g.entries]
        for verdict in read_verdicts(self.streams, ids, ids):
            if verdict is not None and verdict.status == verifier_pb2.VERDICT_ERROR:
                reasons[verdict.reason.replace(verdict.id, "it") if verdict.id else verdict.reason] += 1
        common = "; ".join(f"{count}x {why[:200]}" for why, count in reasons.most_common(3))
        return (
            f"step {step}: {tally.error_fraction:.0%} of {tally.total} rollouts ended in errors, over "
            f"fault.max_error_fraction={self.config.fault.max_error_fraction:.0%}. Nothing was trained on them. "
            f"{common}"
        )

    def release(self, step: int) -> None:
        """A step is done: forget its groups and free their blobs."""
        if self.rates is not None:
            self.rates.release(step)
        groups = self.requested.pop(step, [])
        ids = [item for group in groups for item in group.entries]
        for group in groups:
            self.join.forget(group)
        self.dispatch.forget(groups)
        for stage in (ROLLOUT, VERDICT, TEACHER_SCORE):
            self.streams.blobs.delete(stage, ids)
        forget_turns(self.streams.blobs, groups, self.config.turns.max_turns)
        self.streams.blobs.expire()

    # -- evaluation -----------------------------------------------------------------------------------------------

    def evaluate(self, prompts: PromptSource, policy_version: int, name: str = "eval") -> dict[str, Any]:
        """Greedy accuracy, and pass@k where `eval.samples` is set, on held-out prompts; see `Evaluator.run`."""
        evaluator = Evaluator(self.config, self.streams, self.join, self.dispatch)
        for _ in range(MAX_VANISHED):
            try:
                return evaluator.run(prompts, policy_version, name)
            except Vanished as gone:
                log.warning("%s; it is made again", gone)
        raise Unavailable(
            f"evaluation of policy {policy_version}: finished results keep vanishing from {self.streams.blobs.where}"
        )


def _step_of(group: Group) -> int:
    return int(group.group_id[1:7])


def _reward(verdict: verifier_pb2.Verdict | None) -> float | None:
    """None: no verdict, or `error`, which is never a reward."""
    return verdict.reward if verdict is not None and verdict.HasField("reward") else None
