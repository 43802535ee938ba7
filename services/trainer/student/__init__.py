"""The student as a module whose forward ends in log-probs: loading, LoRA, FSDP2, the reference, weights' files.

In: a Hugging Face folder or hub id, a device mesh, options.
Out: `Student`, sharded; full weights on rank 0 in the published dtype.
Not imported: configuration, orchestration, the process. What it is trained on comes in as tensors.
"""
