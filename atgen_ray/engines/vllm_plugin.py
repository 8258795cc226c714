"""A vLLM load format that adds a LoRA adapter to the weights while they are read.

On a CPU vLLM's LoRA kernels cost several times the base model, and reloading weights in place
leaves a tied output layer stale. Adding the update tensor by tensor at load time has neither fault
and writes nothing to disk. vLLM finds `register` through the entry point `vllm.general_plugins`, in
every process of an engine.

What a vLLM worker can do beyond vLLM (`worker_extension_cls`): take another adapter into its
weights, in place.

vLLM imports this in every worker process of an engine.
"""

import dataclasses
from typing import Any

LOAD_FORMAT = "atgen_ray_adapter"


def register() -> None:
    """Makes LOAD_FORMAT known to vLLM; may be called many times."""
    from vllm.model_executor.model_loader import _LOAD_FORMAT_TO_MODEL_LOADER, register_model_loader

    if LOAD_FORMAT in _LOAD_FORMAT_TO_MODEL_LOADER:
        return
    from atgen_ray.engines.lora_merge import AdapterLoader

    register_model_loader(LOAD_FORMAT)(AdapterLoader)


class AdapterWorker:
    """Mixed into vLLM's worker class; called by `collective_rpc`, so that no code travels."""

    def load_adapter(self, adapter: str) -> None:
        """Reloads the base model's weights with the adapter in the folder `adapter` added; "" is
        the base model.
        """
        from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

        from atgen_ray.engines.lora_merge import AdapterLoader

        worker: Any = self
        runner = worker.model_runner
        model = worker.get_model()
        extra = {"adapter": adapter} if adapter else {}
        settings = dataclasses.replace(
            worker.vllm_config.load_config, load_format="auto", model_loader_extra_config=extra
        )
        loader = AdapterLoader(settings) if adapter else DefaultModelLoader(settings)
        runner.reload_weights(weights_iterator=loader.get_all_weights(runner.model_config, model))
        rebuild_output_layer(model)


def rebuild_output_layer(model: Any) -> None:
    """Makes CPU layers that vLLM packs once take the new weights.

    `reload_weights` replaces the weights and leaves the packed copy behind an output layer that is
    tied to the input embedding as it was: log-probabilities are then wrong by 0.2 nats a token, and
    nothing says so.
    """
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    for module in model.modules():
        if isinstance(module, VocabParallelEmbedding) and hasattr(module, "cpu_linear"):
            dispatch_cpu_unquantized_gemm(module, remove_weight=False)
