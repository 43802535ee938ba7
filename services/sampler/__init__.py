"""The sampler, a process of its own: the student, as of some policy version, answers prompts.

In: `GenerateRequest` from the stream `generate`; weights of the version it names, announced by the trainer.
Out: `Rollout` blobs (ids, log-probs before truncation, top-K ids), and the jobs for verifier and teacher on them.
Not imported: the trainer and every other service; names, seeds and policies are in `rgopd.common`.
"""
