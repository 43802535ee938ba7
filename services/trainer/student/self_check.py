"""Before the first step: are the log-probs that the trainer computes the model's own, padded and packed?

The same few random rollouts go through the model's own forward, one by one, and through the trainer's path from ids to
loss. With the model's own log-probs as the teacher's, the loss must be 0.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rgopd.common.errors import ConfigError
from rgopd.trainer.batch.micro_batch import MicroBatch, Part, assemble
from rgopd.trainer.batch.plan import RolloutPlan
from rgopd.trainer.gating.gate import GateConfig
from rgopd.trainer.losses.tiles import Kernels
from rgopd.trainer.objectives import get_objective
from rgopd.trainer.objectives.step import HeadLoss, head_loss
from rgopd.trainer.student.compiled import as_written, explained
from rgopd.trainer.student.model import Student

log = logging.getLogger(__name__)

LENGTHS = ((9, 6), (3, 5), (5, 9))
"""Prompt and response tokens of the rollouts: unequal, so that padding and packing are seen."""
K = 8
_UNUSABLE = (TypeError, ValueError, AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError)
"""What architectures raise that take no padded, or no packed, row."""


@dataclass(frozen=True)
class Agreement:
    """How far the trainer is from the model's own forward."""

    drift: float
    """Mean difference of the sampled tokens' log-probs, in nats; the path of the loss against the model's own."""
    loss: float
    """Of the model against itself, in nats a token."""

    def within(self, dtype: str) -> bool:
        """Rounding alone. In 16 bits the model's own logits are rounded to 0.06 at 16; a wrong head is off by more."""
        drift, loss = (1e-4, 1e-4) if dtype == "float32" else (0.3, 0.1)
        return self.drift < drift and abs(self.loss) < loss


class Unpackable(ConfigError):
    """The student's packed rows do not give what its rollouts give one by one; the text says why."""


def load_checked(
    load: Callable[[bool], Student],
    *,
    packing: bool,
    temperature: float = 1.0,
    dtype: str = "float32",
    kernels: Kernels = "auto",
) -> tuple[Student, Agreement]:
    """A student whose numbers are the model's own: packed where it can be, else padded, which is logged.

    Args:
        load: (packing) -> a student. Asked again where packed rows were tried and failed: a forward that ended in an
            error may have left FSDP's gathering half done.

    Raises:
        ConfigError: padded rows are not right either: names the architecture.
    """
    student = load(packing)
    try:
        found = check_student(student, temperature=temperature, dtype=dtype, kernels=kernels)
    except Unpackable as error:
        student = load(False)
        student.unpacked = str(error)
        found = check_student(student, temperature=temperature, dtype=dtype, kernels=kernels)
    if packing and not student.packing:
        log.warning("%s is trained on padded rows, not packed ones: %s", type(student.hf).__name__, student.unpacked)
    return student, found


def check_student(
    student: Student, *, temperature: float = 1.0, dtype: str = "float32", kernels: Kernels = "auto"
) -> Agreement:
    """How far the trainer's path is from the model's own forward. Collective under FSDP2.

    Compiled layers are checked after those that are written, in forward and backward.

    Raises:
        Unpackable: padded rows are right and packed ones are not.
        ConfigError: padded rows are not right either: names the architecture; or its layers cannot be compiled.
    """
    with torch.no_grad(), as_written():
        found, micro = _check_written(student, temperature, dtype, kernels)
    if student.compiled:
        with torch.enable_grad():
            agreement, loss = _compare(student, micro, temperature, kernels)
            with explained():
                loss.backward()  # type: ignore[no-untyped-call]
        student.zero_grad(set_to_none=True)
        if not agreement.within(dtype):
            raise ConfigError(
                f"compile=layers: compiled, the student's log-probs are off its own by {agreement.drift:.3g} nats a "
                "token; set compile=off"
            )
    return found


def _check_written(student: Student, temperature: float, dtype: str, kernels: Kernels) -> tuple[Agreement, MicroBatch]:
    """And the micro-batch that it is trained on like."""
    device = next(student.parameters()).device
    sequences = _sequences(student.vocab_size)
    name = f"{type(student.hf).__name__} (model_type {student.hf.config.model_type!r})"
    try:
        own = [student.own_logits(s.to(device)).float() / temperature for s in sequences]
        changed = student.own_logits(_with_other_end(sequences[0], student.vocab_size).to(device)).float() / temperature
        micro = _micro_batch(sequences, own, packing=False).to(device)
        padded, _ = _compare(student, micro, temperature, kernels)
    except _UNUSABLE as error:
        raise ConfigError(f"student: {name} cannot be trained: {type(error).__name__}: {error}") from error
    sees = float((changed[:-1].log_softmax(-1) - own[0][:-1].log_softmax(-1)).abs().mean())
    if not Agreement(sees, 0.0).within(dtype):
        raise ConfigError(f"student: {name} lets tokens see those that come after them; choose a causal language model")
    if not padded.within(dtype):
        raise ConfigError(
            f"student: the trainer's log-probs of {name} are not the model's own (off by {padded.drift:.3g} nats a "
            f"token, loss against itself {padded.loss:.3g}): its head or its padding is one that rgopd does not know; "
            "choose another model, and report this one with its config.json"
        )
    if student.packing:
        micro = _micro_batch(sequences, own, packing=True).to(device)
        _check_packed(student, micro, temperature, dtype, kernels)
    return padded, micro


def _check_packed(student: Student, micro: MicroBatch, temperature: float, dtype: str, kernels: Kernels) -> None:
    assert micro.packed is not None
    try:
        packed, _ = _compare(student, micro, temperature, kernels)
    except _UNUSABLE as error:
        raise Unpackable(str(error)) from error
    if not micro.packed.asked:
        raise Unpackable("its attention is not among those that can be exchanged")
    if not packed.within(dtype):
        raise Unpackable(f"its rollouts would see each other in a packed row (off by {packed.drift:.3g} nats a token)")


def _sequences(vocab_size: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.randint(vocab_size, (c + t,), generator=rng) for c, t in LENGTHS]


def _with_other_end(ids_S: Tensor, vocab_size: int) -> Tensor:
    return torch.cat([ids_S[:-1], (ids_S[-1:] + 1) % vocab_size])


def _micro_batch(sequences: list[Tensor], own: list[Tensor], *, packing: bool) -> MicroBatch:
    """The sequences as rollouts that the model itself sampled and scored."""
    parts, plans = [], []
    for index, ((c, t), ids_S, logits_SV) in enumerate(zip(LENGTHS, sequences, own, strict=True)):
        logprobs_TV = logits_SV[c - 1 : -1].double().log_softmax(-1).cpu()
        top = logprobs_TV.topk(min(K, logprobs_TV.shape[1]))
        rest = logprobs_TV.scatter(1, top.indices, -torch.inf).logsumexp(-1)
        sampled_T = logprobs_TV.gather(1, ids_S[c:, None])[:, 0].float().numpy()
        ids = ids_S.numpy().astype(np.int32)
        topk_TK, tail_T = top.values.float().numpy(), rest.float().numpy()
        support_TK = top.indices.numpy().astype(np.int32)
        parts.append(Part(ids[:c], ids[c:], sampled_T, support_TK, sampled_T, topk_TK, tail_T))
        plans.append(RolloutPlan(f"self-check-{index}", c, t, 1.0, 0.0, 0))
    return assemble(parts, plans, step=0, total_steps=1, packing=packing)


def _compare(student: Student, micro: MicroBatch, temperature: float, kernels: Kernels) -> tuple[Agreement, Tensor]:
    """And the loss that it was found by."""

    def head(hidden_ND: Tensor, weight_VD: Tensor) -> tuple[Tensor, HeadLoss]:
        objective, gate = get_objective("reverse_kl"), GateConfig(enabled=False)
        options = student.head_options(temperature)
        result = head_loss(hidden_ND, weight_VD, micro.tokens, objective, gate, kernels=kernels, **options)
        return result.sums.loss, result

    loss, result = student(micro.input_ids_BS, micro.attention_mask_BS, micro.rows_N, head, micro.packed)
    gap_N = result.stats.sampled_logprobs_N - micro.tokens.behaviour_logprobs_N
    return Agreement(float(gap_N.abs().mean()), float(loss / result.sums.count)), loss
