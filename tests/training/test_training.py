"""Fine-tuning alone and under Ray Train: what is learnt, and that the number of workers does not
matter.
"""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from ray.exceptions import RayError
from safetensors.torch import load_file

from atgen_ray.config import ModelConfig, PromptConfig, TrainingConfig
from atgen_ray.core.errors import UserError
from atgen_ray.core.records import Progress
from atgen_ray.core.stored import at_path
from atgen_ray.models.loading import load_model, load_tokenizer
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.training import TrainingExample, TrainingResult, train_adapter
from atgen_ray.training.batching import IGNORED, build_row

Train = Callable[..., tuple[TrainingResult, Path]]
EXAMPLES = [
    TrainingExample(f"e{index:02d}", "count " * (1 + index % 5), f"answer {index % 3}")
    for index in range(12)
]


@pytest.fixture(scope="session")
def model(tiny_model: str) -> ModelConfig:
    return ModelConfig(id=tiny_model, dtype="float32", max_prompt_tokens=80, max_new_tokens=10)


@pytest.fixture
def train(ray_session: None, model: ModelConfig, tmp_path: Path) -> Train:
    def run(
        name: str = "adapter",
        start_from: Path | None = None,
        progress: Progress = lambda *_: None,
        on: ModelConfig = model,
        **training: Any,
    ) -> tuple[TrainingResult, Path]:
        output = tmp_path / name
        output.mkdir()
        config = TrainingConfig(
            **{"epochs": 2, "batch_size": 4, "learning_rate": 5e-3, "threads_per_worker": 1}
            | training
        )
        work = str(tmp_path / f"work-{name}")
        result = train_adapter(
            EXAMPLES,
            on,
            PromptConfig(),
            config,
            7,
            output,
            work,
            progress,
            None if start_from is None else at_path(start_from),
        )
        return result, output

    return run


def test_only_the_answer_and_its_end_are_learnt(model: ModelConfig) -> None:
    builder = PromptBuilder(load_tokenizer(model), PromptConfig(), 80)
    row = build_row(builder, "a question", "an answer", 10)
    learnt = [token for token in row["labels"] if token != IGNORED]
    assert row["input_ids"][-len(learnt) :] == learnt
    assert builder.decode(learnt) == "an answer"
    # Padding and end of turn are the same token here; the end is learnt all the same, once.
    assert load_tokenizer(model).pad_token_id == learnt[-1] == 2
    assert learnt.count(2) == 1
    assert len(row["input_ids"]) == len(row["labels"]) == len(row["attention_mask"])


def test_truncation_shortens_the_prompt_and_keeps_the_answer(model: ModelConfig) -> None:
    builder = PromptBuilder(load_tokenizer(model), PromptConfig(), 80)
    row = build_row(builder, "long " * 500, "the answer", 10)
    assert sum(label == IGNORED for label in row["labels"]) <= 80
    assert builder.decode([token for token in row["labels"] if token != IGNORED]) == "the answer"


def test_loss_falls_and_the_adapter_loads_in_peft(train: Train, model: ModelConfig) -> None:
    result, adapter = train(epochs=6)
    losses = [step["loss"] for step in result.losses]
    assert result.steps == len(losses) == 18
    assert result.examples == 12
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.5
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {
        path.name for path in adapter.iterdir()
    }
    loaded = PeftModel.from_pretrained(load_model(model), str(adapter))
    assert any(
        weight.abs().sum() > 0 for name, weight in loaded.named_parameters() if "lora_B" in name
    )


def test_two_workers_learn_what_one_does(train: Train) -> None:
    one, _ = train("one", batch_size=4, workers=1)
    two, _ = train("two", batch_size=4, workers=2)
    split, _ = train("split", batch_size=4, workers=1, accumulation=2)
    losses = [[step["loss"] for step in result.losses] for result in (one, two, split)]
    np.testing.assert_allclose(losses[1], losses[0], atol=1e-4)
    np.testing.assert_allclose(losses[2], losses[0], atol=1e-4)


def test_warm_start_continues_from_the_last_adapter(train: Train) -> None:
    first, adapter = train("first", epochs=6)
    second, _ = train("second", start_from=adapter, epochs=1)
    assert second.losses[0]["loss"] < first.losses[0]["loss"] - 0.5


@pytest.mark.parametrize(
    ("workers", "method"), [(1, "lora"), (1, "full"), (2, "lora"), (2, "full")]
)
def test_a_lost_worker_goes_on_in_the_middle_of_an_epoch(
    train: Train, tmp_path: Path, workers: int, method: str
) -> None:
    deaths, seen = tmp_path / "deaths", tmp_path / "steps"

    def die_once(done: int, total: int) -> None:
        with seen.open("a") as file:
            file.write(f"{done} ")
        if done == 5 and not deaths.exists():
            deaths.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    calm, adapter = train("calm", workers=workers, method=method)
    killed, other = train(
        "killed", workers=workers, method=method, checkpoint_steps=2, progress=die_once
    )
    steps = [int(step) for step in seen.read_text().split()]
    assert steps[:5] == [1, 2, 3, 4, 5]
    # Of two workers, the last checkpoint that both had reported.
    assert steps[5:] == [5, 6] or (workers == 2 and steps[5:] == [3, 4, 5, 6])
    np.testing.assert_allclose(
        [s["loss"] for s in killed.losses], [s["loss"] for s in calm.losses], atol=1e-4
    )
    assert killed.steps == calm.steps == 6
    name = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    one, two = load_file(adapter / name), load_file(other / name)
    assert all(torch.allclose(one[key], two[key], atol=1e-4) for key in one)


def test_a_worker_that_keeps_dying_ends_the_training_and_the_next_goes_on_from_its_checkpoint(
    train: Train, tmp_path: Path
) -> None:
    mended, seen = tmp_path / "mended", tmp_path / "steps"

    def die(done: int, total: int) -> None:
        with seen.open("a") as file:
            file.write(f"{done} ")
        if done == 3 and not mended.exists():
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RayError):
        train("first", checkpoint_steps=2, progress=die)
    mended.touch()
    (tmp_path / "work-first").rename(tmp_path / "work-second")
    assert train("second", checkpoint_steps=2, progress=die)[0].steps == 6
    assert seen.read_text().split() == [*"123", "3", "3", *"3456"]


def test_a_mistake_is_told_by_the_worker_in_one_line(train: Train, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"^\S+ is '.*empty', expected a checkpoint[^\n]*$"):
        train(on=ModelConfig(id=str(tmp_path / "empty")))


def test_heavier_examples_teach_another_adapter(
    ray_session: None, model: ModelConfig, tmp_path: Path
) -> None:
    config = TrainingConfig(epochs=1, batch_size=4, learning_rate=5e-3, threads_per_worker=1)
    losses = []
    for name, weights in (("alike", [1.0] * 12), ("unlike", [4.0, *[0.5] * 11])):
        examples = [
            replace(each, weight=weight) for each, weight in zip(EXAMPLES, weights, strict=True)
        ]
        output, work = tmp_path / name, str(tmp_path / f"work-{name}")
        output.mkdir()
        result = train_adapter(
            examples, model, PromptConfig(), config, 7, output, work, lambda *_: None
        )
        losses.append([row["loss"] for row in result.losses])
    assert len(losses[0]) == len(losses[1]) == 3
    assert all(abs(one - other) > 0.1 for one, other in zip(*losses, strict=True))
