"""Construction of the engine that a configuration asks for."""

from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig, TrainingConfig
from atgen_ray.config.plugins import ENGINE_PLUGINS
from atgen_ray.engines.base import Engine
from atgen_ray.engines.choice import choose_on_nodes
from atgen_ray.store.run_folder import RunFolder


def build_engine(
    model: ModelConfig,
    prompt: PromptConfig,
    engine: EngineConfig,
    folder: RunFolder | None = None,
    training: TrainingConfig | None = None,
) -> Engine:
    """Return the engine that the configuration asks for. Whoever asks for it closes it.

    Args:
        folder: of the run; with `model.host: serve`, replicas read its adapters.
        training: for which the engine makes room in `Engine.released`.
    """
    if model.host == "serve":
        from atgen_ray.engines.serve_engine import ServeEngine

        if folder is None:
            raise ValueError("model.host is 'serve', which needs the folder of a run")
        return ServeEngine(model, prompt, engine, folder)
    backend = choose_on_nodes(engine)
    if backend in ENGINE_PLUGINS:
        built: Engine = ENGINE_PLUGINS[backend](model, prompt, engine)
        return built
    if backend == "vllm":
        from atgen_ray.engines.vllm_engine import VLLMEngine

        return VLLMEngine(model, prompt, engine, training)
    if backend == "sglang":
        from atgen_ray.engines.sglang_engine import SGLangEngine

        return SGLangEngine(model, prompt, engine, training)
    from atgen_ray.engines.transformers_engine import TransformersEngine

    return TransformersEngine(model, prompt, engine)
