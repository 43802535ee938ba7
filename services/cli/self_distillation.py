"""The check behind `rgopd doctor`: sampler, teacher engine and trainer must agree about one model."""

from __future__ import annotations

import numpy as np
import torch

from rgopd.sampler.engine import Sample, SampleSpec, SamplingOptions
from rgopd.sampler.transformers import TransformersSampler
from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines import make_engine
from rgopd.teacher.items import ScoreItem, Scoring
from rgopd.trainer.batch.micro_batch import Part, assemble
from rgopd.trainer.batch.plan import RolloutPlan
from rgopd.trainer.gating.gate import gate_preset
from rgopd.trainer.objectives import get_objective
from rgopd.trainer.objectives.step import HeadLoss, head_loss
from rgopd.trainer.student.model import Student

K = 8
TOKENS = 12


def loss_against_itself(model: str, shared_vocab_size: int = 0) -> float:
    """Sample from a model, score with the same model as teacher, and return the trainer's loss in nats a token.

    The real code of all three services, in float32. 0 up to rounding when they agree.
    """
    prompt_ids_C, sample = _one_sample(model, shared_vocab_size)
    engine = make_engine(TeacherConfig(model=model, dtype="float32", device="cpu", shared_vocab_size=shared_vocab_size))
    scoring = Scoring("student", sample.support_ids_TK.shape[1])
    [score] = engine.score([ScoreItem("doctor", prompt_ids_C, sample.response_ids_T, scoring, sample.support_ids_TK)])
    engine.close()
    part = Part(
        prompt_ids_C,
        sample.response_ids_T,
        sample.sampled_logprobs_T,
        sample.support_ids_TK,
        score.sampled_logprobs_T,
        score.topk_logprobs_TK,
        score.tail_logprob_T,
    )
    plan = RolloutPlan("doctor", len(prompt_ids_C), len(sample.response_ids_T), 1.0, 0.0, 0)
    micro = assemble([part], [plan], step=0, total_steps=1)
    student = Student.load(model, shared_vocab_size=shared_vocab_size).eval()

    def head(hidden_ND: torch.Tensor, weight_VD: torch.Tensor) -> tuple[torch.Tensor, HeadLoss]:
        objective, gate = get_objective("reverse_kl"), gate_preset("off")
        result = head_loss(hidden_ND, weight_VD, micro.tokens, objective, gate, **student.head_options(1.0))
        return result.sums.loss, result

    with torch.no_grad():
        loss, result = student(micro.input_ids_BS, micro.attention_mask_BS, micro.rows_N, head)
    return float(loss / result.sums.count)


def _one_sample(model: str, shared_vocab_size: int) -> tuple[np.ndarray[tuple[int], np.dtype[np.int32]], Sample]:
    sampler = TransformersSampler(model, device="cpu", shared_vocab_size=shared_vocab_size)
    prompt_ids_C = np.array(sampler.tokenizer("1+1=")["input_ids"], dtype=np.int32)
    samples: list[Sample] = []
    options = SamplingOptions(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=TOKENS, support_k=K)
    sampler.generate([SampleSpec(prompt_ids_C, seed=0)], options, lambda _, sample: samples.append(sample))
    return prompt_ids_C, samples[0]
