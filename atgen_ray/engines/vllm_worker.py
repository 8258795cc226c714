"""vLLM worker extension that exchanges the LoRA adapter in the weights of a running engine.

On a CPU vLLM's LoRA kernels cost several times the base model, and reloading weights in place
leaves a tied output layer unchanged. Adding the update tensor by tensor while the weights are read
avoids both and writes nothing to disk. vLLM imports this module in every process of an engine
(`worker_extension_cls`).
"""

import dataclasses
from typing import Any


class AdapterWorker:
    """Methods added to vLLM's worker class; `collective_rpc` calls them by name, so that no code is
    sent.
    """

    def load_adapter(self, adapter: str) -> None:
        """Reload the base model's weights with the adapter in the folder `adapter` merged; "" is
        the base model.
        """
        from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

        from atgen_ray.engines.lora_merge import AdapterLoader

        worker: Any = self
        runner = worker.model_runner
        model = worker.get_model()
        extra = {"adapter": adapter} if adapter else {}
        settings = dataclasses.replace(
            worker.vllm_config.load_config,
            load_format="safetensors",
            model_loader_extra_config=extra,
        )
        loader = AdapterLoader(settings) if adapter else DefaultModelLoader(settings)
        runner.reload_weights(weights_iterator=loader.get_all_weights(runner.model_config, model))
        rebuild_output_layer(model)


def rebuild_output_layer(model: Any) -> None:
    """Rebuild the CPU layers whose weights vLLM packs once.

    `reload_weights` replaces the weights but not the packed copy in an output layer that is tied to
    the input embedding: log-probabilities are then wrong by 0.2 nats a token, and no error is
    raised.
    """
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    for module in model.modules():
        if isinstance(module, VocabParallelEmbedding) and hasattr(module, "cpu_linear"):
            dispatch_cpu_unquantized_gemm(module, remove_weight=False)
