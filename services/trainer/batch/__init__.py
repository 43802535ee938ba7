"""From names to tensors: the plan that rank 0 makes, and what each rank reads of it.

In: ids of rollouts with rewards and advantages; blobs from Redis by those ids.
Out: `StepPlan` (names, cut into micro-batches for every rank) and `MicroBatch` (padded or packed).
Not imported: the student, orchestration, the process: a batch does not know who asked for it.
"""
