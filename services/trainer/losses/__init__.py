"""The mathematics from hidden states to a loss: the chunked head, buckets, divergences, the normaliser (Eq. 3-4).

In: hidden states `[N, D]`, the head's weight `[V, D]`, sampled and support ids, the teacher's log-probs in nats.
Out: log-probs and losses `[N]` without `[N, V]` logits, and their gradients.
Start at `head` (two passes) and `fused` (one); `tiles` has the protocol that `torch_tiles` and `triton_tiles` fill.
Not imported: objectives, batches, the student. Functions of tensors; no state, no files.
"""
