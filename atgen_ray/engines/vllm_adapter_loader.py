"""A vLLM load format that adds a LoRA adapter to the weights while they are read.

On a CPU vLLM's LoRA kernels cost several times the base model, and reloading weights in place leaves a tied output
layer stale. Adding the update tensor by tensor at load time has neither fault and writes nothing to disk. vLLM finds
`register` through the entry point `vllm.general_plugins`, in every process of an engine.
"""

LOAD_FORMAT = "atgen_ray_adapter"


def register() -> None:
    """Makes LOAD_FORMAT known to vLLM; may be called many times."""
    from vllm.model_executor.model_loader import _LOAD_FORMAT_TO_MODEL_LOADER, register_model_loader

    if LOAD_FORMAT in _LOAD_FORMAT_TO_MODEL_LOADER:
        return
    from atgen_ray.engines.merged_weights import AdapterLoader

    register_model_loader(LOAD_FORMAT)(AdapterLoader)
