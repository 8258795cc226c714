"""Real vLLM in the actors of a run, and SGLang's real server, against transformers on the same
weights.
"""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from helpers.process_names import read_command

from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig
from atgen_ray.core.stored import at_path
from atgen_ray.engines.adapter_check import check_adapter
from atgen_ray.engines.choice import choose_backend
from atgen_ray.engines.likelihood import list_references, read_nats
from atgen_ray.engines.output_rows import summarize_step
from atgen_ray.engines.registry import build_engine
from atgen_ray.engines.transformers_engine import TransformersEngine

Generate = Callable[..., pa.Table]
# One engine of vLLM, which takes half a minute to start, is for all tests that it fits: those of
# adapters in its weights and of none, with prompts that are not cut.
REJECT = PromptConfig(overlong="reject")
SHARED = {"vllm": {"adapters": "merged"}, "sglang": {}}


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
    expected = generate(rows, prompt=REJECT, folder="transformers")
    features = generate(
        rows, prompt=REJECT, folder=backend, backend=backend, samples=2, **SHARED[backend]
    )
    assert_same_outputs(features.slice(0, 14), expected.slice(0, 14))
    assert features["error"].to_pylist()[-1] == expected["error"].to_pylist()[-1] is not None
    assert [len(samples) for samples in features["samples"].to_pylist()] == [2] * 14 + [0]
    # Known only from the likeliest tokens, so a lower bound.
    for row, twin in zip(features.slice(0, 14).to_pylist(), expected.to_pylist(), strict=False):
        assert np.all(np.array(row["entropies"]) <= np.array(twin["entropies"]) + 1e-3)


@pytest.mark.parametrize("backend", ["vllm", "sglang"])
def test_references_are_as_likely_as_transformers_has_them(
    generate: Generate, model: ModelConfig, backend: str
) -> None:
    """The engines are those of the test before."""
    texts = {"a": "count to 5", "b": "count " * 20, "c": "long " * 500}
    references = {"a": ["one two three", "five"], "b": ["a reference longer than an answer " * 3]}
    references["c"] = ["never scored"]
    rows = list_references(texts, references, TransformersEngine(model, REJECT, EngineConfig()))
    expected = read_nats(generate(rows, prompt=REJECT, folder="transformers"))
    found = read_nats(
        generate(rows, prompt=REJECT, folder=backend, backend=backend, **SHARED[backend])
    )
    assert found.keys() == expected.keys()
    assert expected["a"][0] > 0
    for id_, values in expected.items():
        assert found[id_] == pytest.approx(values, abs=1e-3)


@pytest.fixture
def other_adapter(adapter: Path, tmp_path: Path) -> Path:
    """An adapter of the same settings with the opposite effect."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "other"
    shutil.copytree(adapter, folder)
    weights = load_file(folder / "adapter_model.safetensors")
    opposite = {name: -tensor if "lora_A" in name else tensor for name, tensor in weights.items()}
    save_file(opposite, folder / "adapter_model.safetensors")
    return folder


def pid_of_engine() -> int:
    """The process of the one vLLM actor that lives on this session's Ray."""
    processes = psutil.Process().children(recursive=True)
    (pid,) = [each.pid for each in processes if "ray::VLLMActor" in "".join(read_command(each))]
    return pid


def test_one_engine_takes_adapter_after_adapter_and_outlives_its_death(
    generate: Generate, adapter: Path, other_adapter: Path
) -> None:
    """The engine is that of the tests before."""
    kept: dict[str, Any] = {"prompt": REJECT, "backend": "vllm", "adapters": "merged"}
    expected = {
        path: generate(adapter=path, folder=f"transformers-{index}")
        for index, path in enumerate((adapter, other_adapter))
    }
    assert expected[adapter]["text"] != expected[other_adapter]["text"]
    assert_same_outputs(generate(adapter=adapter, folder="a", **kept), expected[adapter])
    pid = pid_of_engine()
    assert_same_outputs(
        generate(adapter=other_adapter, folder="b", **kept), expected[other_adapter]
    )
    assert pid_of_engine() == pid
    os.kill(pid, signal.SIGKILL)
    # Ray starts another, which nobody tells what its predecessor had.
    assert_same_outputs(
        generate(adapter=other_adapter, folder="c", **kept), expected[other_adapter]
    )
    assert pid_of_engine() != pid


# The engine of vLLM that is there is "merged": it comes first.
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
    features = generate(
        prompt=REJECT, adapter=adapter, folder=backend, backend=backend, adapters=adapters
    )
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
