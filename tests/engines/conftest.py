"""Examples and helpers for engine tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig
from atgen_ray.core.records import GenerationRequest
from atgen_ray.core.stored import at_path
from atgen_ray.engines.base import Engine
from atgen_ray.engines.generation import generate_features
from atgen_ray.engines.kept_actors import KeptActors
from atgen_ray.engines.registry import build_engine
from atgen_ray.engines.sglang_engine import SGLangEngine
from atgen_ray.store.run_folder import RunFolder

Generate = Callable[..., pa.Table]
KEPT: list[tuple[str, Engine]] = []  # the engine of vLLM that lives, with its settings


def end_kept() -> None:
    while KEPT:
        KEPT.pop()[1].close()


@pytest.fixture(scope="module", autouse=True)
def _end_vllm() -> Iterator[None]:
    """No engine of vLLM holds CPUs and memory beside the tests of another file."""
    yield
    end_kept()


@pytest.fixture(scope="session")
def examples() -> pa.Table:
    """Texts of many lengths."""
    texts = ["count " * (1 + 3 * index % 11) + f"to {index}" for index in range(14)]
    return pa.table({"id": [f"e{index:02d}" for index in range(14)], "text": texts})


@pytest.fixture(scope="session")
def model(tiny_model: str) -> ModelConfig:
    """In float32, where engines agree to rounding."""
    return ModelConfig(id=tiny_model, dtype="float32", max_prompt_tokens=80, max_new_tokens=10)


@pytest.fixture(scope="package")
def open_engine(ray_session: None) -> Iterator[Callable[..., Engine]]:
    """Makes engines. The last one of vLLM is kept, for tests that need the same one after another;
    SGLang's server stays for all tests that fit it.
    """
    servers = KeptActors()

    def open_one(model: ModelConfig, prompt: PromptConfig, config: EngineConfig) -> Engine:
        key = "".join(part.model_dump_json() for part in (model, prompt, config))
        if config.backend == "sglang":
            return SGLangEngine(model, prompt, config, servers=servers)
        if config.backend == "transformers":  # which holds nothing between two passes
            return build_engine(model, prompt, config)
        if not KEPT or KEPT[-1][0] != key:
            end_kept()
            KEPT.append((key, build_engine(model, prompt, config)))
        return KEPT[-1][1]

    yield open_one
    servers.close()


@pytest.fixture
def generate(
    open_engine: Callable[..., Engine], model: ModelConfig, examples: pa.Table, tmp_path: Path
) -> Generate:
    """Features of the examples (or `rows`) from an engine set up by keyword."""

    def run(
        rows: pa.Table | None = None,
        *,
        prompt: PromptConfig | None = None,
        adapter: Path | None = None,
        samples: int = 0,
        seed: int = 0,
        dtype: str = model.dtype,
        folder: str = "run",
        **engine: object,
    ) -> pa.Table:
        config = EngineConfig.model_validate(
            {"backend": "transformers", "batch_size": 8, "threads_per_worker": 1} | engine
        )
        return generate_features(
            open_engine(
                model.model_copy(update={"dtype": dtype}), prompt or PromptConfig(), config
            ),
            examples if rows is None else rows,
            GenerationRequest(model.max_new_tokens, samples=samples, seed=seed),
            None if adapter is None else at_path(adapter),
            RunFolder(str(tmp_path), folder),
            "parts",
            config.batch_size,
            lambda done, total: None,
        )

    return run


@pytest.fixture(params=["transformers", "sglang"])
def backend(request: pytest.FixtureRequest) -> str:
    """The engines that answer to what a test says of every engine; vLLM has tests of its own, as
    it starts anew for each.
    """
    return str(request.param)


@pytest.fixture(scope="session")
def adapter(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter with large random weights: its answers are plainly not the base model's."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        init_lora_weights=False,
    )
    peft_model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config)
    with torch.no_grad():
        for name, weight in peft_model.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.3)
    folder = tmp_path_factory.mktemp("adapter")
    peft_model.save_pretrained(folder)
    return folder
