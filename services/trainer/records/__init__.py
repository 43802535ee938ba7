"""What a run writes down: metrics.jsonl, timings.jsonl, the ledger, TensorBoard and its like, the state in Redis.

In: rows of numbers, plans of steps that were taken.
Out: files that two runs of one seed share byte by byte (timings apart), cut back at a resume.
Not imported: the student, orchestration, the process. Nothing here decides anything.
"""
