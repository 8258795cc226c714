"""What a vLLM worker can do beyond vLLM (`worker_extension_cls`): take another adapter into its weights, in place.

vLLM imports this in every worker process of an engine.
"""

import dataclasses
from typing import Any


class AdapterWorker:
    """Mixed into vLLM's worker class; called by `collective_rpc`, so that no code travels."""

    def load_adapter(self, adapter: str) -> None:
        """Reloads the base model's weights with the adapter in the folder `adapter` added; "" is the base model."""
        from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

        from atgen_ray.engines.merged_weights import AdapterLoader

        worker: Any = self
        runner, model = worker.model_runner, worker.get_model()
        extra = {"adapter": adapter} if adapter else {}
        settings = dataclasses.replace(
            worker.vllm_config.load_config, load_format="auto", model_loader_extra_config=extra
        )
        loader = AdapterLoader(settings) if adapter else DefaultModelLoader(settings)
        runner.reload_weights(weights_iterator=loader.get_all_weights(runner.model_config, model))
        rebuild_output_layer(model)


def rebuild_output_layer(model: Any) -> None:
    """Makes CPU layers that vLLM packs once take the new weights.

    `reload_weights` replaces the weights and leaves the packed copy behind an output layer that is tied to the input
    embedding as it was: log-probabilities are then wrong by 0.2 nats a token, and nothing says so.
    """
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    for module in model.modules():
        if isinstance(module, VocabParallelEmbedding) and hasattr(module, "cpu_linear"):
            dispatch_cpu_unquantized_gemm(module, remove_weight=False)
