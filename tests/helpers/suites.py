"""A suite whose runs are made up: their files and journal as a sweep leaves them, with scores that
are known.
"""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from atgen_ray.bench.analysis.curves import Curve, read_curves
from atgen_ray.bench.config import BenchConfig
from atgen_ray.bench.grid import Trial, list_trials
from atgen_ray.core.records import GOLD_SCHEMA, POOL_SCHEMA, Annotation
from atgen_ray.embedding.pool import EMBEDDING_SCHEMA, store_embeddings
from atgen_ray.store.journal import Journal, open_journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder

ROUNDS, BATCH, POOL, TEST = 6, 5, 60, 12
Score = Callable[[Trial, int], float]  # of a run after a round
WORDS = ("river", "stone", "cloud", "night", "green", "house", "light", "tree")


def make_suite(storage: Path, metric: str = "rougeL", **changes: Any) -> BenchConfig:
    """Random, `good` (better) and `same` (as random), on two tasks with five seeds."""
    data = {"data": {"pool": "pool.jsonl", "test": "test.jsonl", "references": "answer"}}
    tree = {
        "name": "made-up",
        "storage": str(storage),
        "run": {
            "selection": {"strategy": "huds", "count": BATCH},
            "annotator": {"price_per_label": 2.0},
            "evaluation": {"metrics": [metric]},
        },
        "tasks": {name: {"metric": metric, "run": data} for name in ("one", "two")},
        "models": {"tiny": {"model": {"id": "some/model"}}},
        "strategies": {"random": {"selection": {"strategy": "random"}}, "good": {}, "same": {}},
        "analysis": {"resamples": 300},
    }
    return BenchConfig.model_validate(tree | changes)


def make_up(
    suite: BenchConfig, score: Score, picks: Callable[[Trial], list[int]] | None = None
) -> list[Curve]:
    """Writes every run of `suite` as finished and reads the curves; `picks` are rows of the pool,
    in order.
    """
    trials = list_trials(suite)
    with closing(open_journal(suite.storage)) as journal:
        for trial in trials:
            _write_run(trial, score, picks(trial) if picks else [*range(ROUNDS * BATCH)], journal)
        return read_curves(
            trials, {name: task.metric for name, task in suite.tasks.items()}, journal
        )


def _write_run(trial: Trial, score: Score, rows: list[int], journal: Journal) -> None:
    name = trial.run.name
    journal.create_run(name, {}, "")
    lease = journal.acquire(name, ProcessIdentity("test"), 60)
    folder = RunFolder(trial.run.storage, name)
    texts = [
        " ".join(WORDS[(row + step) % 8] for step in range(1 + row // 6)) for row in range(POOL)
    ]
    _write_examples(folder, "pool", texts)
    _write_examples(folder, "test", texts[:TEST])
    ids = {"pool": POOL, "test": TEST}
    gold = {
        f"{split}-{row:02d}": [WORDS[row % 8]]
        for split, count in ids.items()
        for row in range(count)
    }
    folder.write_table(
        "gold.parquet", pa.table({"id": [*gold], "references": [*gold.values()]}, GOLD_SCHEMA)
    )
    (metric,) = trial.run.evaluation.metrics or []
    curve: list[dict[str, Any]] = []
    for round in range(ROUNDS + 1):
        seconds = {"training": 10.0, "evaluation": 5.0} if round else {"evaluation": 5.0}
        if round and trial.strategy != "random":
            seconds |= {"generation": 20.0, "selection": 1.0}
        for step, spent in seconds.items():
            reused = {"reused_seconds": 3.0} if (round, step) == (0, "evaluation") else {}
            journal.append(lease, "step", round, step, reused, spent)
        value = score(trial, round)
        metrics = {metric: {"mean": value, "low": value, "high": value, "count": TEST}}
        curve.append({"round": round, "labels": round * BATCH, "dollars": 2.0 * round * BATCH})
        curve[-1] |= {"seconds": seconds, "metrics": metrics, "dev_metrics": None}
    folder.write_json("metrics.json", curve)
    labels = [(1 + at // BATCH, f"pool-{row:02d}") for at, row in enumerate(rows)]
    for round, id_ in labels:
        journal.record_annotations(lease, round, [Annotation(id_, gold[id_][0], "dataset", 2.0)])
    folder.write_jsonl(
        "labeled.jsonl",
        [{"round": round, "id": id_, "text": gold[id_][0]} for round, id_ in labels],
    )
    last = f"rounds/{ROUNDS:03d}/predictions.jsonl"
    tests = [{"id": f"test-{row:02d}", "split": "test"} for row in range(TEST)]
    folder.write_jsonl(last, [row | {"scores": {metric: score(trial, ROUNDS)}} for row in tests])
    if trial.strategy != "random":
        angles = np.linspace(0, 1.5, POOL)
        vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).tolist()
        contents = [f"content-pool-{row}" for row in range(POOL)]
        store_embeddings(
            folder, pa.table({"content": contents, "embedding": vectors}, EMBEDDING_SCHEMA)
        )
    journal.set_status(lease, "finished")


def _write_examples(folder: RunFolder, split: str, texts: list[str]) -> None:
    rows = [
        {
            "id": f"{split}-{row:02d}",
            "row": row,
            "text": text,
            "content": f"content-{split}-{row}",
            "duplicate_of": None,
        }
        for row, text in enumerate(texts)
    ]
    folder.write_table(f"{split}.parquet", pa.Table.from_pylist(rows, POOL_SCHEMA))
