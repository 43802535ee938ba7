"""The loss against a teacher that gives the log-probs of the sampled tokens alone."""

from __future__ import annotations

from torch import Tensor


def sampled_log_ratio(student_sampled_N: Tensor, teacher_sampled_N: Tensor) -> Tensor:
    """A sample of the reverse KL of each next-token distribution.

    With ``d = log pi_theta(y) - log pi_T(y)`` of the sampled token ``y`` the value is ``d`` and the gradient
    ``d * grad log pi_theta(y)``: over ``y ~ pi_theta`` their means are ``KL(pi_theta || pi_T)`` and its gradient, since
    the mean of ``grad log pi_theta(y)`` is 0. Differentiating ``d`` itself would leave only that, and no teacher.
    """
    gap_N = (student_sampled_N - teacher_sampled_N.to(student_sampled_N.dtype)).detach()
    return gap_N + gap_N * (student_sampled_N - student_sampled_N.detach())
