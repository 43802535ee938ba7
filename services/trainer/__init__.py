"""The trainer: one process a rank, which asks for rollouts, gates them and distils the student with FSDP2.

In: prompts, the student's weights, and through Redis the rollouts, verdicts and teacher scores of a step.
Out: policy versions for the samplers, metrics.jsonl, checkpoints, the distilled student.
Folders as the data flows: prompts, rollouts, batch, gating, losses, objectives, student, records, run.
Not imported: another service. Between the folders arrows point down: run > rollouts > config > student > records >
batch > objectives > losses > gating, prompts.
"""
