"""Runs inside vLLM's worker processes: sets what the vocabulary head does before the softmax.

vLLM's prompt log-probs know neither temperature nor a shared vocabulary. Its own logits layer has a scale and a
cut, both applied outside the compiled graph, so setting them on every worker makes every path exact.
"""

from __future__ import annotations

from typing import Any


class ScoringExtension:
    """Mixed into vLLM's worker (`worker_extension_cls`); called through `collective_rpc`."""

    model_runner: Any

    def set_scoring_head(self, temperature: float, vocab_size: int) -> int:
        """Divide logits by `temperature` and cut them at `vocab_size`; returns how many heads were set."""
        from vllm.model_executor.layers.logits_processor import LogitsProcessor

        heads = [m for m in self.model_runner.get_model().modules() if isinstance(m, LogitsProcessor)]
        for head in heads:
            if not hasattr(head, "unscored"):
                head.unscored = (head.scale, head.org_vocab_size)
            own_scale, own_vocab = head.unscored
            head.scale = own_scale / temperature
            head.org_vocab_size = min(own_vocab, vocab_size)
        return len(heads)
