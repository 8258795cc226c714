"""Training with the weights shared out over two workers (FSDP), on CPUs: what is learnt, what a lost
worker costs, and which weights are kept.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from atgen_ray.config import ModelConfig, PromptConfig, TrainingConfig
from atgen_ray.core.records import Progress
from atgen_ray.core.stored import at_path
from atgen_ray.models.loading import load_tuned
from atgen_ray.training import TrainingExample, TrainingResult, train_adapter

EXAMPLES = [
    TrainingExample(f"e{index:02d}", "count " * (1 + index % 5), f"answer {index % 3}")
    for index in range(12)
]
CONTRARY = [TrainingExample("d0", "count ", "something else entirely")]
FILES = {"lora": "adapter_model.safetensors", "full": "model.safetensors"}
SHARDED = {"workers": 2, "sharding": "fsdp", "checkpoint_steps": 2}


@pytest.fixture(scope="session")
def model(tiny_model: str) -> ModelConfig:
    return ModelConfig(id=tiny_model, dtype="float32", max_prompt_tokens=80, max_new_tokens=10)


@pytest.fixture
def train(
    ray_session: None, model: ModelConfig, tmp_path: Path
) -> Callable[..., tuple[TrainingResult, Path]]:
    def run(
        name: str,
        start_from: Path | None = None,
        progress: Progress = lambda *_: None,
        dev: list[TrainingExample] | None = None,
        **training: Any,
    ) -> tuple[TrainingResult, Path]:
        output = tmp_path / name
        output.mkdir()
        settings = {"epochs": 2, "batch_size": 4, "learning_rate": 5e-3, "threads_per_worker": 1}
        return train_adapter(
            EXAMPLES,
            model,
            PromptConfig(),
            TrainingConfig(**settings | training),
            7,
            output,
            str(tmp_path / f"work-{name}"),
            progress,
            None if start_from is None else at_path(start_from),
            dev or [],
        ), output

    return run


def largest_difference(method: str, one: Path, other: Path) -> float:
    first, second = load_file(one / FILES[method]), load_file(other / FILES[method])
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_shards_learn_what_one_worker_does(
    train: Callable[..., tuple[TrainingResult, Path]],
    model: ModelConfig,
    tmp_path: Path,
    method: str,
) -> None:
    """The whole way: warm start, checkpoints, a worker lost on it, dev losses, the best weights."""
    deaths = tmp_path / "deaths"

    def die_once(done: int, total: int) -> None:
        if done == 3 and method == "full" and not deaths.exists():
            deaths.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    same = {
        "method": method,
        "epochs": 2,
        "dev": CONTRARY,
        "early_stopping": {"from_examples": 5, "patience": 1},
        "start_from": train("start", method=method, epochs=1)[1],
    }
    whole, one = train("whole", **same)
    shared, two = train("shared", progress=die_once, **same, **SHARDED)
    assert deaths.exists() == (method == "full")
    assert shared.steps == whole.steps
    np.testing.assert_allclose(
        [step["loss"] for step in shared.losses], [step["loss"] for step in whole.losses], atol=1e-5
    )
    np.testing.assert_allclose(shared.dev_losses, whole.dev_losses, atol=1e-5)
    assert largest_difference(method, one, two) < 1e-5
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    tuned = load_tuned(model, two)
    assert all(torch.isfinite(weight).all() for weight in tuned.parameters())
