"""Labels that count unequally: how heavy each is, and that the loss minds it."""

import numpy as np
import pytest
import torch

from atgen_ray.config import ModelConfig, PromptConfig
from atgen_ray.models.loading import load_model, load_tokenizer
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.selection import Embeddings
from atgen_ray.selection.kernels.mean_matching import find_width, match_means, measure_discrepancy
from atgen_ray.training import TrainingExample
from atgen_ray.training.batching import IGNORED, build_row, pad_rows
from atgen_ray.training.reweighting import weigh_examples
from atgen_ray.training.trainer import sum_losses


def draw_unit(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, 6))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_weights_bring_a_biased_set_near_its_pool() -> None:
    pool = draw_unit(500, 0)
    biased = np.concatenate([pool[pool[:, 0] > 0.2][:60], pool[pool[:, 0] < -0.2][:12]])
    width = find_width(pool)
    weights = match_means(biased, pool, width, 10.0)
    before = measure_discrepancy(biased, pool, width)
    assert measure_discrepancy(biased, pool, width, weights) < before / 2
    assert weights.mean() == pytest.approx(1.0)
    assert (
        weights[60:].mean() > 2 * weights[:60].mean()
    )  # what is rare among the labels counts for more
    assert weights.max() / weights.min() <= 100.1


def test_a_set_like_its_pool_is_left_alone() -> None:
    pool = draw_unit(300, 1)
    weights = match_means(pool, pool, find_width(pool), 5.0)
    assert weights == pytest.approx(np.ones(300), abs=0.02)


def test_an_example_without_embedding_weighs_one() -> None:
    vectors = draw_unit(40, 2).astype(np.float32)
    vectors[3] = np.nan
    ids = [f"e{row:02d}" for row in range(40)]
    weights = weigh_examples(ids[:10], ids, Embeddings(ids, vectors), 5.0)
    assert weights["e03"] == 1.0
    assert set(weights) == set(ids[:10])
    assert np.mean([weights[id_] for id_ in ids[:10] if id_ != "e03"]) == pytest.approx(1.0)


def test_the_loss_is_the_weighted_sum_over_answer_tokens(tiny_model: str) -> None:
    config = ModelConfig(id=tiny_model, dtype="float32", max_prompt_tokens=80, max_new_tokens=10)
    builder = PromptBuilder(load_tokenizer(config), PromptConfig(), 80)
    examples = [
        TrainingExample("a", "one", "red blue"),
        TrainingExample("b", "two words", "green green green"),
    ]
    rows = [build_row(builder, each.text, each.answer, 10) for each in examples]
    model = load_model(config).eval()
    alone = []
    for row in rows:
        inputs = {name: torch.tensor([values]) for name, values in row.items()}
        alone.append(model(**inputs).loss.item() * sum(label != IGNORED for label in row["labels"]))
    tokens = sum(label != IGNORED for row in rows for label in row["labels"])

    def measure(*weights: float) -> float:
        weighed = [
            row | {"weights": [weight] * len(row["labels"])}
            for row, weight in zip(rows, weights, strict=True)
        ]
        loss, count = sum_losses(
            model, pad_rows(weighed, filler=builder.stop_ids[0]), kept="chosen"
        )
        assert count == tokens
        return float(loss.detach())

    assert measure(1.0, 1.0) == pytest.approx(sum(alone), rel=1e-4)
    assert measure(2.0, 0.5) == pytest.approx(2 * alone[0] + 0.5 * alone[1], rel=1e-4)
    alike, _ = sum_losses(model, pad_rows(rows, filler=builder.stop_ids[0]), kept="chosen")
    assert float(alike.detach()) == pytest.approx(sum(alone), rel=1e-4)
