"""Runs inside vLLM's worker processes: what the vocabulary head does before vLLM samples from it.

vLLM reports log-probs either before the temperature or after truncation; a rollout needs them at the temperature and
before truncation. Scaling the logits where they are made, and sampling at temperature 1, gives exactly those.
"""

from __future__ import annotations

from typing import Any


class SamplingExtension:
    """Mixed into vLLM's worker (`worker_extension_cls`); called through `collective_rpc`."""

    model_runner: Any

    def set_sampling_head(self, temperature: float, vocab_size: int) -> int:
        """Divide logits by `temperature` and cut them at `vocab_size`; returns how many heads were set."""
        from vllm.model_executor.layers.logits_processor import LogitsProcessor

        heads = [m for m in self.model_runner.get_model().modules() if isinstance(m, LogitsProcessor)]
        for head in heads:
            if not hasattr(head, "as_loaded"):
                head.as_loaded = (head.scale, head.org_vocab_size)
            scale, vocab = head.as_loaded
            head.scale = scale / temperature
            head.org_vocab_size = min(vocab, vocab_size)
        return len(heads)

    def load_policy(self, folder: str) -> None:
        """Read a folder's safetensors into the running model, its head too where that is the embedding.

        vLLM finds no weights for a tied head ("Failed to load weights") and puts the old ones back. Where the head
        computes on a copy in another layout, as on a CPU, it would go on with the old policy's without an error.
        """
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

        self.model_runner.reload_weights(weights_path=folder)
        if not self.model_runner.model_config.hf_text_config.tie_word_embeddings:
            return
        modules = list(self.model_runner.get_model().modules())
        embeddings = [m for m in modules if isinstance(m, VocabParallelEmbedding) and not isinstance(m, ParallelLMHead)]
        for head in modules:
            if isinstance(head, ParallelLMHead):
                head.tie_weights(embeddings[0])
                head.quant_method.process_weights_after_loading(head)
