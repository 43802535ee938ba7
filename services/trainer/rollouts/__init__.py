"""Rank 0's side of the streams: from prompts to a plan for every rank.

In: prompts, a policy version, completions from the stream `results`.
Out: requests for samplers, verifier and teacher, asked again where lost; rewards, advantages, a `StepPlan`.
Handles names, verdicts and scalars; tensors go to the ranks past it.
Not imported: `run`, the student: who samples is another process.
"""
