"""What an engine computes is the adapter that the user takes away, whatever model.dtype is.

The measure is the effect on the log-probabilities of 64 answers, against peft unmerged in float32,
with the smallest adapter that occurs. In 16 bits, merged or not, most of that effect is rounded
away.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig, ServiceConfig
from atgen_ray.core.records import FEATURES_SCHEMA
from atgen_ray.core.stored import at_path
from atgen_ray.engines.adapter_check import Effect, compare_effects, score_outputs
from atgen_ray.engines.base import TokenRequest
from atgen_ray.engines.hidden_states import StateReader
from atgen_ray.models.loading import load_model, load_unmerged
from atgen_ray.serving.replicas.adapter_cache import AdapterCache
from atgen_ray.serving.replicas.adapter_directory import Adapter

Generate = Callable[..., pa.Table]

TEXTS = [f"count {'up ' * (index % 7)}to {index}" for index in range(64)]
ANSWERS = pa.table({"id": [f"a{index:02}" for index in range(64)], "text": TEXTS})
DTYPES = ["float32", "bfloat16", "float16"]


def measure(
    model: ModelConfig, adapter: Path, tokens: list[list[int]], logprobs: list[list[float]]
) -> Effect:
    """An engine's `logprobs` of its 64 answers `tokens`, beside those of peft in float32."""
    base, tuned = score_outputs(
        list(zip(TEXTS, tokens, strict=True)), model, PromptConfig(), at_path(adapter)
    )
    return compare_effects(logprobs, base, tuned)


def assert_whole(effect: Effect) -> None:
    assert effect.size > 1e-4  # there is something to lose
    assert effect.slope == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(
    ("dtype", "settings"),
    [
        *((dtype, {"backend": "transformers"}) for dtype in DTYPES),
        # A tuned model is float32 in every engine; `model.dtype` is what must not matter.
        *(
            ("bfloat16", {"backend": backend, "adapters": how})
            for backend in ("vllm", "sglang")
            for how in ("name", "merged")
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value.values()),
)
def test_an_engine_keeps_the_whole_effect(
    generate: Generate,
    model: ModelConfig,
    slight_adapter: Path,
    dtype: str,
    settings: dict[str, str],
) -> None:
    features = generate(ANSWERS, adapter=slight_adapter, dtype=dtype, **settings)
    assert features.schema == FEATURES_SCHEMA
    assert_whole(
        measure(
            model,
            slight_adapter,
            features["token_ids"].to_pylist(),
            features["logprobs"].to_pylist(),
        )
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_replica_of_transformers_keeps_the_whole_effect(
    model: ModelConfig, slight_adapter: Path, dtype: str
) -> None:
    shelf = AdapterCache(ServiceConfig(model=model.model_copy(update={"dtype": dtype})))
    shelf.load_model()
    adapter = Adapter("run-1", at_path(slight_adapter), slight_adapter, "digest")
    shelf.load(adapter)
    prompts = StateReader(model, PromptConfig(), None, EngineConfig(threads_per_worker=1)).prompts
    requests = [TokenRequest(prompts.encode(text), 10, adapter=adapter.key) for text in TEXTS]
    tokens: list[list[int]] = [[] for _ in TEXTS]
    logprobs: list[list[float]] = [[] for _ in TEXTS]
    for steps in shelf.decode(requests, prompts.stop_ids, lambda row: True):
        for row, step in steps.items():
            tokens[row].append(step.token)
            logprobs[row].append(step.logprob)
    assert_whole(measure(model, slight_adapter, tokens, logprobs))


@pytest.mark.parametrize("dtype", DTYPES)
def test_hidden_states_keep_the_whole_effect(
    model: ModelConfig, slight_adapter: Path, dtype: str
) -> None:
    reader = StateReader(
        model.model_copy(update={"dtype": dtype}),
        PromptConfig(),
        at_path(slight_adapter),
        EngineConfig(threads_per_worker=1),
    )
    answer = [5, 9, 200, 17, 3]
    rows = reader(ANSWERS.append_column("token_ids", pa.array([answer] * len(TEXTS))))
    found = np.stack(rows["state"].to_pylist())

    def read(scorer: torch.nn.Module) -> np.ndarray:
        states = []
        for text in TEXTS:
            prompt = reader.prompts.encode(text)
            hidden = scorer(
                input_ids=torch.tensor([prompt + answer]), output_hidden_states=True
            ).hidden_states[-1]
            states.append(hidden[0, len(prompt) :].mean(0).numpy())
        return np.stack(states)

    with torch.inference_mode():
        without = read(load_model(model, "float32"))
        effect = read(load_unmerged(model, slight_adapter)) - without
    slope = ((found - without) * effect).sum() / (effect**2).sum()
    assert slope == pytest.approx(1.0, abs=0.03)


def test_a_small_adapter_that_is_missing_is_seen() -> None:
    """Its log-probabilities are those of the base model, within any tolerance in nats that rounding
    asks for.
    """
    rng = np.random.default_rng(0)
    base = [rng.normal(-2, 1, 10) for _ in range(4)]
    effects = [rng.normal(0, 0.01, 10) for _ in range(4)]
    tuned = [logprobs + effect for logprobs, effect in zip(base, effects, strict=True)]
    assert compare_effects(tuned, base, tuned).is_within(0.03)
    assert not compare_effects(base, base, tuned).is_within(0.03)
    partly = [logprobs + 0.79 * effect for logprobs, effect in zip(base, effects, strict=True)]
    assert not compare_effects(partly, base, tuned).is_within(0.03)
    # A stale output layer beside the right effect, and an adapter that changes nothing.
    assert not compare_effects([each + 0.22 for each in tuned], base, tuned).is_within(0.03)
    assert compare_effects(base, base, base).is_within(0.03)
