"""The advantage of a rollout in its group, and the gate: which response tokens the teacher may teach (paper, Eq. 1-2).

In: rewards `[G]` or `[R]`, log-probs of both models `[N]` in nats, which rollout a token belongs to `[N]`.
Out: advantages, and a `GateDecision` with `keep_N` and its counts.
Not imported: anything of the trainer: pure functions over tensors.
"""
