"""Runs inside vLLM's worker processes: the head at the temperature, and new weights.

A rollout needs log-probs at the temperature and before truncation. Scaling the logits where they are made, and sampling
at temperature 1, gives exactly those.
"""

from __future__ import annotations

from rgopd.common.vllm_head import VllmHead, cannot_reload


class SamplingExtension(VllmHead):
    """Mixed into vLLM's worker (`worker_extension_cls`); called through `collective_rpc`."""

    def cannot_reload(self) -> str:
        """Why a policy's weights would not all arrive in this model, as measured; empty: they do."""
        from vllm.platforms import current_platform

        model = self.model_runner.get_model()
        # or a family's own kind of them, as TransformersRoutedExperts
        experts = any("RoutedExperts" in type(module).__name__ for module in model.modules())
        return cannot_reload(type(model).__name__, experts=experts, cpu=current_platform.is_cpu())

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
