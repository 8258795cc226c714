"""Real vLLM through Ray's LLM layer, and SGLang's real server, against transformers on the same
weights.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig
from atgen_ray.core.stored import at_path
from atgen_ray.engines.adapter_check import check_adapter
from atgen_ray.engines.choice import choose_backend
from atgen_ray.engines.output_rows import summarize_step
from atgen_ray.engines.registry import build_engine

Generate = Callable[..., pa.Table]


def assert_same_outputs(one: pa.Table, other: pa.Table) -> None:
    assert one["token_ids"].to_pylist() == other["token_ids"].to_pylist()
    assert one["text"].to_pylist() == other["text"].to_pylist()
    assert one["finish_reason"].to_pylist() == other["finish_reason"].to_pylist()
    assert one["prompt_tokens"].to_pylist() == other["prompt_tokens"].to_pylist()
    for row, twin in zip(one.to_pylist(), other.to_pylist(), strict=True):
        np.testing.assert_allclose(row["logprobs"], twin["logprobs"], atol=1e-3)
        np.testing.assert_allclose(row["top_logprobs"], twin["top_logprobs"], atol=1e-3)


@pytest.mark.parametrize("backend", ["vllm", "sglang"])
def test_base_model_samples_and_bad_rows(
    generate: Generate, examples: pa.Table, backend: str
) -> None:
    rows = pa.concat_tables([examples, pa.table({"id": ["zz"], "text": ["long " * 500]})])
    prompt = PromptConfig(overlong="reject")
    expected = generate(rows, prompt=prompt, folder="transformers")
    features = generate(rows, prompt=prompt, folder=backend, backend=backend, samples=2)
    assert_same_outputs(features.slice(0, 14), expected.slice(0, 14))
    assert features["error"].to_pylist()[-1] == expected["error"].to_pylist()[-1] is not None
    assert [len(samples) for samples in features["samples"].to_pylist()] == [2] * 14 + [0]
    # Known only from the likeliest tokens, so a lower bound.
    for row, twin in zip(features.slice(0, 14).to_pylist(), expected.to_pylist(), strict=False):
        assert np.all(np.array(row["entropies"]) <= np.array(twin["entropies"]) + 1e-3)


@pytest.mark.parametrize("adapters", ["merged", "name"])
@pytest.mark.parametrize("backend", ["vllm", "sglang"])
def test_adapter_answers_are_the_adapters(
    generate: Generate,
    examples: pa.Table,
    model: ModelConfig,
    adapter: Path,
    backend: str,
    adapters: str,
) -> None:
    expected = generate(adapter=adapter, folder="transformers")
    features = generate(adapter=adapter, folder=backend, backend=backend, adapters=adapters)
    assert_same_outputs(features, expected)
    effect = check_adapter(
        examples, features, model, PromptConfig(), EngineConfig(), at_path(adapter), 4
    )
    assert effect is not None
    assert effect.error < 1e-3


def test_vllm_is_the_choice_where_it_is_installed(model: ModelConfig) -> None:
    assert choose_backend("auto") == "vllm"
    assert build_engine(model, PromptConfig(), EngineConfig()).name == "vllm"
    assert (
        build_engine(model, PromptConfig(), EngineConfig(backend="transformers")).name
        == "transformers"
    )


def test_entropy_from_the_likeliest_tokens_is_a_close_lower_bound() -> None:
    logits = np.random.default_rng(0).normal(0, 3, 1000)
    logprobs = logits - np.log(np.exp(logits).sum())
    order = np.argsort(-logprobs)[:20]
    step = {int(token): float(logprobs[token]) for token in order}
    chosen, entropy, top = summarize_step(step, int(order[3]), 2)
    exact = -(np.exp(logprobs) * logprobs).sum()
    assert chosen == pytest.approx(logprobs[order[3]])
    assert top == pytest.approx(list(logprobs[order[:2]]))
    assert 0.8 * exact < entropy <= exact
