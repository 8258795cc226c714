"""Run folders as a run leaves them, made up."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from atgen_ray.core.records import FEATURES_SCHEMA, GOLD_SCHEMA, POOL_SCHEMA, SELECTION_SCHEMA
from atgen_ray.store.run_folder import RunFolder

SENTENCE = (
    "the a model of language data we propose study neural network attention labels training "
    "method results show that "
    "improves over strong baselines while using fewer examples and less compute in summarisation "
    "translation dialogue"
)
WORDS = SENTENCE.split()
STEPS = {
    "generation": 21.5,
    "selection": 0.6,
    "annotation": 0.2,
    "training": 34.0,
    "evaluation": 12.25,
}
PARTS = {
    "random": (),
    "huds": ("nll", "stratum", "distance", "uncertainty", "diversity"),
    "facility_location": ("gain", "nearest_labeled"),
}


@dataclass
class MadeUp:
    """What to make up; every part of it is deterministic."""

    rounds: int = 3
    pool: int = 60
    test: int = 12
    count: int = 4
    strategy: str = "huds"
    seed: int = 42
    lift: float = 0.03  # of the score, each round
    price: float = 0.05
    embeddings: bool = True
    metrics: tuple[str, ...] = ("rouge1", "rougeL", "exact_match")
    texts: dict[int, str] = field(default_factory=dict)  # pool rows that read otherwise
    answer: str | None = None  # what the model says for every test example


def write_run(storage: str, name: str, made: MadeUp) -> RunFolder:
    """A finished run of `made.rounds` rounds after the zero-shot round."""
    folder = RunFolder(storage, name)
    rng = np.random.default_rng(made.seed)
    pool = [made.texts.get(row, write_sentence(rng)) for row in range(made.pool)]
    ids = [f"pool-{row:05d}" for row in range(made.pool)]
    folder.write_text("config.yaml", yaml.safe_dump(make_config(name, made), sort_keys=False))
    folder.write_json(
        "versions.json", {"atgen-ray": "0.1.0", "ray": "2.60.0", "engine": "transformers"}
    )
    duplicates = [ids[0] if row and row % 17 == 0 else None for row in range(made.pool)]
    folder.write_table("pool.parquet", make_examples(ids, pool, duplicates))
    folder.write_table(
        "gold.parquet", pa.table({"id": ids, "references": [["gold"]] * len(ids)}, GOLD_SCHEMA)
    )
    test_ids = [f"test-{row:05d}" for row in range(made.test)]
    if made.test:
        # The same test set whatever the run: that is what makes runs comparable.
        sentences = np.random.default_rng(7)
        folder.write_table(
            "test.parquet", make_examples(test_ids, [write_sentence(sentences) for _ in test_ids])
        )
    if made.embeddings:
        centers = rng.normal(size=(5, 16))
        vectors = centers[rng.integers(5, size=made.pool)] + 0.5 * rng.normal(size=(made.pool, 16))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        columns = {
            "content": [f"hash of {id}" for id in ids],
            "embedding": [*vectors.astype(np.float32)],
        }
        folder.write_table("embeddings/part.parquet", pa.table(columns))
    rows, labels = [], 0
    open_ids = [id for id, duplicate in zip(ids, duplicates, strict=True) if duplicate is None]
    for number in range(made.rounds + 1):
        if number:
            picked = [open_ids.pop(int(rng.integers(len(open_ids)))) for _ in range(made.count)]
            write_round(folder, number, picked, made, rng)
            labels += len(picked)
        metrics = write_predictions(folder, number, test_ids, made)
        seconds = {"pool": 2.0, "embedding": 9.5, "evaluation": 12.25} if number == 0 else STEPS
        rows.append(
            {
                "round": number,
                "labels": labels,
                "dollars": made.price * labels,
                "seconds": seconds,
                "metrics": metrics,
                "dev_metrics": None,
            }
        )
        folder.write_json("metrics.json", rows)
    return folder


def make_config(name: str, made: MadeUp) -> dict[str, Any]:
    return {
        "name": name,
        "seed": made.seed,
        "data": {"pool": "pool.jsonl", "duplicates": {"action": "exclude", "threshold": 0.9}},
        "model": {"id": "HuggingFaceTB/SmolLM2-135M-Instruct"},
        "selection": {"strategy": made.strategy, "count": made.count, "first": {"strategy": None}},
        "evaluation": {"metrics": [*made.metrics]},
        "stopping": {"rounds": made.rounds, "plateau": None, "dev_target": {}},
    }


def make_examples(
    ids: list[str], texts: list[str], duplicates: list[str | None] | None = None
) -> pa.Table:
    columns = {
        "id": ids,
        "row": range(len(ids)),
        "text": texts,
        "content": [f"hash of {id}" for id in ids],
        "duplicate_of": duplicates or [None] * len(ids),
    }
    return pa.table(columns, POOL_SCHEMA)


def write_round(
    folder: RunFolder, number: int, picked: list[str], made: MadeUp, rng: np.random.Generator
) -> None:
    parts = [
        [(part, float(rng.random())) for part in PARTS.get(made.strategy, ("novelty",))]
        for _ in picked
    ]
    scores = sorted(rng.random(len(picked)), reverse=True)
    selection = {"id": picked, "rank": range(1, len(picked) + 1), "score": scores, "parts": parts}
    path = f"rounds/{number:03d}"
    folder.write_table(f"{path}/selection.parquet", pa.table(selection, SELECTION_SCHEMA))
    if made.strategy == "huds":
        features = [{"id": id, "text": f"what the model says about {id}"} for id in picked]
        folder.write_table(
            f"{path}/features.parquet", pa.Table.from_pylist(features, FEATURES_SCHEMA)
        )
    labels = [
        {"id": id, "text": f"the label of {id}", "annotator": "dataset", "dollars": made.price}
        for id in picked
    ]
    folder.write_jsonl(f"{path}/annotations.jsonl", labels)
    losses = [{"step": step, "loss": 3.0 / (step + number)} for step in range(1, 13)]
    training = {
        "losses": losses,
        "examples": number * made.count,
        "tokens": 300 * number,
        "steps": 12,
    }
    folder.write_json(f"{path}/training.json", training)


def write_predictions(
    folder: RunFolder, number: int, ids: list[str], made: MadeUp
) -> dict[str, Any]:
    rng = np.random.default_rng([7, number])
    rows: list[dict[str, Any]] = []
    for row, id in enumerate(ids):
        score = 0.1 + 0.02 * (row % 5) + made.lift * number * (0.2 + row % 3) + 0.01 * rng.random()
        rows.append(
            {
                "id": id,
                "split": "test",
                "prediction": made.answer or f"answer {number} to {id}",
                "references": [f"first reference of {id}", f"second reference of {id}"],
                "scores": {
                    metric: min(1.0, score / (place + 1))
                    for place, metric in enumerate(made.metrics)
                },
            }
        )
    if ids:
        folder.write_jsonl(f"rounds/{number:03d}/predictions.jsonl", rows)
    metrics = {}
    for metric in made.metrics if ids else ():
        mean = float(np.mean([row["scores"][metric] for row in rows]))
        metrics[metric] = {"mean": mean, "low": mean - 0.02, "high": mean + 0.03, "count": len(ids)}
    return metrics


def write_sentence(rng: np.random.Generator) -> str:
    words = [WORDS[place] for place in rng.integers(len(WORDS), size=int(rng.integers(6, 60)))]
    return " ".join(words).capitalize() + "."
