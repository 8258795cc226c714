"""QLoRA with bitsandbytes on a CPU: what is learnt on a base in 4 bits, and what becomes of it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from atgen_ray.config import (
    EarlyStoppingConfig,
    EngineConfig,
    ModelConfig,
    PromptConfig,
    TrainingConfig,
)
from atgen_ray.core.records import GenerationRequest
from atgen_ray.core.stored import at_path
from atgen_ray.engines.adapter_check import compare_effects, score_outputs
from atgen_ray.engines.transformers_engine import TransformersWorker
from atgen_ray.models.loading import load_tokenizer
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.training import TrainingExample
from atgen_ray.training.batching import build_row, pad_rows
from atgen_ray.training.fine_tune import fine_tune
from atgen_ray.training.methods import find_worker_device, load_trainable
from atgen_ray.training.trainer import find_kept, sum_losses

EXAMPLES = [
    TrainingExample(f"e{index:02d}", "count " * (1 + index % 5), f"answer {index % 3}")
    for index in range(8)
]
DEV = EXAMPLES[:2]
QLORA = TrainingConfig(
    method="qlora",
    epochs=6,
    batch_size=4,
    learning_rate=5e-3,
    early_stopping=EarlyStoppingConfig(from_examples=5, patience=6),
)


@pytest.fixture(scope="module")
def model(tiny_model: str) -> ModelConfig:
    return ModelConfig(id=tiny_model, dtype="float32", max_prompt_tokens=80, max_new_tokens=10)


@pytest.fixture(scope="module")
def trained(model: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    output = tmp_path_factory.mktemp("qlora")
    examples = [asdict(example) for example in EXAMPLES]
    dev = [asdict(example) for example in DEV]
    result = fine_tune(
        examples, model, PromptConfig(), QLORA, 7, 1, lambda *_: None, None, 1, output, dev
    )
    return result, output


def test_the_loss_falls_on_a_base_in_4_bits(trained: tuple[dict, Path]) -> None:
    """Evaluations in between must not cost the gradients below a layer, as repacked weights do."""
    losses = [step["loss"] for step in trained[0]["losses"]]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 1.0
    assert trained[0]["dev_losses"] == sorted(trained[0]["dev_losses"], reverse=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_base_has_4_bits_and_computes_in_what_the_hardware_has(
    model: ModelConfig, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitsandbytes.nn import Linear4bit

    monkeypatch.setattr("atgen_ray.training.methods.has_bfloat16", lambda: False)
    loaded = load_trainable(model.model_copy(update={"dtype": dtype}), QLORA, None, 0)
    layers = [module for module in loaded.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 14
    assert {layer.weight.dtype for layer in layers} == {torch.uint8}
    states: list[Any] = [layer.weight for layer in layers]  # of a class of bitsandbytes
    assert {weight.quant_state.nested for weight in states} == {True}
    assert {layer.compute_dtype for layer in layers} == {torch.float32}
    assert {layer.weight.device.type for layer in layers} == {find_worker_device()}


def test_the_adapter_on_the_same_base_has_the_loss_that_it_was_trained_to(
    model: ModelConfig, trained: tuple[dict, Path]
) -> None:
    result, adapter = trained
    loaded = load_trainable(model, QLORA, adapter, 0)
    builder = PromptBuilder(load_tokenizer(model), PromptConfig(), 80)
    rows = [build_row(builder, example.text, example.answer, 10) for example in DEV]
    with torch.no_grad():
        loss, count = sum_losses(loaded.eval(), pad_rows(rows, 2), find_kept(loaded))
    assert float(loss) / count == pytest.approx(min(result["dev_losses"]), rel=1e-6)


def test_engines_put_the_adapter_on_the_whole_base(
    model: ModelConfig, trained: tuple[dict, Path]
) -> None:
    """So does the adapter check: the evaluation is of what the user takes away."""
    texts = [f"count {'up ' * (index % 7)}to {index}" for index in range(8)]
    engine = EngineConfig(backend="transformers", threads_per_worker=1)
    request = GenerationRequest(10)
    adapter = at_path(trained[1])
    worker = TransformersWorker(model, PromptConfig(), request, adapter, engine)
    rows = {"id": texts, "text": texts, "sample": [0] * 8, "seed": [0] * 8}
    found = worker(pa.table(rows)).sort_by("id").to_pylist()
    pairs = [(row["id"], row["token_ids"]) for row in found]
    base, tuned = score_outputs(pairs, model, PromptConfig(), adapter)
    effect = compare_effects([row["logprobs"] for row in found], base, tuned)
    assert effect.size > 0.5
    assert effect.slope == pytest.approx(1.0, abs=1e-3)
    assert effect.error < 1e-4
