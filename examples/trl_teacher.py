"""Distillation in a loop of your own, TRL's or verl's: the reverse KL to an rgopd teacher at the student's top K ids.

`rgopd teacher --set model=TEACHER --set port=8001` must run; student and teacher share a tokenizer.
"""

import os

import torch

import rgopd

teacher = rgopd.ScoreClient(os.environ.get("TEACHER", "http://127.0.0.1:8001"))


def distillation_loss(logits_TV, prompt_ids, response_ids, k=20):
    """Mean over T tokens of KL(student || teacher) over the student's top K ids and a bucket for the rest."""
    student_TK, ids_TK = torch.log_softmax(logits_TV, -1).topk(k)
    [score] = teacher.score([rgopd.Rollout(prompt_ids, response_ids, ids_TK.cpu().numpy())])
    teacher_TK = torch.from_numpy(score.topk_logprobs_TK.copy()).to(student_TK)
    rest_T = torch.log1p(-student_TK.exp().sum(-1).clamp(max=1 - 1e-6))
    teacher_rest_T = torch.from_numpy(score.tail_logprob_T.copy()).to(rest_T).clamp(min=-20)
    buckets = (student_TK.exp() * (student_TK - teacher_TK)).sum(-1) + rest_T.exp() * (rest_T - teacher_rest_T)
    return buckets.mean()
